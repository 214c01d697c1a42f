"""Floors only rise, are forgotten for revoked keys only; the clock is not put back."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import PcmError, TransferError, TrustError
from pcm.trust import clock, codes, floors
from pcm.trust.floors import Floor, Floors

ROLES = st.sampled_from(["root", "timestamp", "snapshot", "targets", "apps"])
SOME = st.dictionaries(
    ROLES,
    st.builds(Floor, st.integers(1, 50), st.sets(st.sampled_from("abc"), min_size=1).map(lambda s: tuple(sorted(s)))),
)


def make(**versions: int) -> Floors:
    return Floors({role: Floor(version, ("k",)) for role, version in versions.items()})


@given(SOME, SOME)
def test_accepted_floors_never_fall_but_for_a_lost_key(before: dict[str, Floor], after: dict[str, Floor]) -> None:
    stored, offered = Floors(before), Floors(after)
    kept = floors.forget_revoked(stored, offered)
    try:
        floors.check(kept, offered, "x")
    except TrustError as error:
        assert error.code == "trust.rollback"
        return
    raised = floors.raise_floors(kept, offered)
    for role, floor in stored.roles.items():
        lost_key = role in offered.roles and not set(floor.keys) <= set(offered.roles[role].keys)
        assert raised.version(role) >= floor.version or (lost_key and role != "root")


@given(SOME)
def test_floors_are_kept_as_they_are(some: dict[str, Floor]) -> None:
    assert Floors.from_json(Floors(some).to_json()) == Floors(some)


def test_the_root_floor_is_never_forgotten() -> None:
    stored = Floors({"root": Floor(5, ("old",))})
    with pytest.raises(TrustError):
        floors.check(
            floors.forget_revoked(stored, Floors({"root": Floor(4, ("new",))})),
            Floors({"root": Floor(4, ("new",))}),
            "x",
        )


@pytest.mark.parametrize(
    ("stored", "offered", "now", "expected"),
    [
        (1_000_000, 1_000_000, 9_000_000, None),
        (1_000_000, 1_000_001, 9_000_000, None),
        (1_000_000, 880_001, 9_000_000, TransferError),
        (1_000_000, 880_000, 9_000_000, TrustError),
        (1_000_000, 1, 1_119_999, TransferError),
        (1_000_000, 1, 1_120_000, TrustError),
        (1_000_000, 1, 880_001, TransferError),
        (1_000_000, 1, 880_000, TrustError),
    ],
)
def test_two_minutes(stored: int, offered: int, now: int, expected: type[PcmError] | None) -> None:
    for role in ("timestamp", "snapshot", "targets"):
        before, after = make(**{role: stored}), make(**{role: offered})
        if expected is None:
            floors.check_dated(before, after, now, "x")
        else:
            with pytest.raises(expected):
                floors.check_dated(before, after, now, "x")


def test_a_stale_timestamp_does_not_excuse_an_old_root() -> None:
    with pytest.raises(TrustError):
        floors.check_dated(make(root=3, timestamp=10**6), make(root=2, timestamp=10**6), 9 * 10**6, "x")


def test_least_versions() -> None:
    floors.least_versions({"root": 1, "snapshot": 4}, make(root=1, snapshot=4), "x")
    with pytest.raises(TrustError) as caught:
        floors.least_versions({"snapshot": 5}, make(snapshot=4), "x")
    assert caught.value.code == "trust.freeze"


def test_proven_time() -> None:
    assert floors.dated_floor_s(Floors()) == 0
    assert floors.dated_floor_s(make(timestamp=5000, targets=7000, root=99_000)) == 7.0
    datetime.fromtimestamp(floors.dated_floor_s(make(timestamp=2**53)), UTC)  # never beyond what datetime can hold


@pytest.mark.parametrize(("behind", "fine"), [(-60, True), (0, True), (120, True), (121, False), (86_400, False)])
def test_the_clock_may_be_two_minutes_behind(behind: int, fine: bool) -> None:
    floor = datetime(2026, 1, 1, tzinfo=UTC)
    now = (floor - timedelta(seconds=behind)).astimezone(timezone(timedelta(hours=5)))
    if fine:
        clock.check_clock(now, floor)
    else:
        with pytest.raises(TrustError) as caught:
            clock.check_clock(now, floor)
        assert caught.value.code == "trust.clock"


def test_what_was_valid_until_then() -> None:
    until = datetime(2026, 1, 1, tzinfo=UTC)
    clock.check_validity(until - timedelta(seconds=1), until)
    with pytest.raises(TrustError) as caught:
        clock.check_validity(until, until)
    assert caught.value.code == "trust.expired"


def test_every_code_says_what_it_means() -> None:
    for code, sentence in {**codes.REFUSALS, **codes.TRANSFERS}.items():
        assert code.split(".")[0] in {"trust", "transfer"}
        assert sentence.endswith(".")
        assert len(sentence) > 30
    with pytest.raises(KeyError):
        codes.refuse("trust.no_such_code", "x")
