"""Merkle audiences and the client's own brake."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pcm.model.audience import audience_proofs, audience_root, in_audience
from pcm.model.brake import earliest_start, slot

clients = st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), min_size=1, max_size=40, unique=True)


@given(clients)
def test_every_member_proves_itself_and_nobody_else(names: list[str]) -> None:
    root = audience_root(names)
    proofs = audience_proofs(names)
    assert set(proofs) == set(names)
    for name in names:
        assert in_audience(name, proofs[name], root)
        stranger = ("0" if name[0] != "0" else "1") + name[1:]
        if stranger not in names:
            assert not in_audience(stranger, proofs[name], root)


@given(clients, st.lists(st.text(max_size=70), max_size=50))
def test_a_made_up_proof_is_false_and_never_an_error(names: list[str], proof: list[str]) -> None:
    if proof and not in_audience(names[0], audience_proofs(names)[names[0]], audience_root(names)):
        raise AssertionError
    in_audience("f" * 32, proof, audience_root(names))


def test_an_inner_node_cannot_pose_as_a_client() -> None:
    # second-preimage: leaves and nodes are hashed apart (RFC 6962, 2.1)
    names = [f"{i:032x}" for i in range(4)]
    proof = audience_proofs(names)[names[0]]
    assert not in_audience(proof[0][1:], proof[1:], audience_root(names))


@given(clients)
def test_order_and_doubles_do_not_matter(names: list[str]) -> None:
    assert audience_root(names) == audience_root([*reversed(names), names[0]])


def test_slots_are_even_and_fixed() -> None:
    places = [slot(f"{i:032x}", "j0123456789") for i in range(4000)]
    assert slot("0" * 32, "j0123456789") == places[0]
    assert all(0 <= place < 1 for place in places)
    assert 900 < sum(place < 0.25 for place in places) < 1100
    assert slot("0" * 32, "j0123456789") != slot("0" * 32, "j0123456788")


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_pilot_share_starts_at_once_the_rest_is_spread() -> None:
    rules: dict[str, Any] = {"spread_s": 1000, "pilot_share": 0.1, "min_age_s": 0}
    assert earliest_start(NOW, NOW, 0.05, **rules) == (NOW, "pilot")
    assert earliest_start(NOW, NOW, 0.5, **rules) == (NOW + timedelta(seconds=500), "spread")


def test_a_young_manifest_waits_outside_the_pilot_share() -> None:
    rules: dict[str, Any] = {"spread_s": 0, "pilot_share": 0.1, "min_age_s": 3600}
    assert earliest_start(NOW, NOW - timedelta(seconds=600), 0.5, **rules) == (NOW + timedelta(seconds=3000), "min_age")
    assert earliest_start(NOW, NOW - timedelta(days=1), 0.5, **rules) == (NOW, "spread")
    assert earliest_start(NOW, NOW, 0.01, **rules) == (NOW, "pilot")
