"""Approvals on the client: M of N, by keys of the site policy, for this order, this client, this time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from pcm.model.audience import audience_proofs, audience_root
from pcm.model.errors import TrustError
from pcm.model.instruction import Approval, Instruction
from pcm.protocol.approval import PAYLOAD_TYPE, ApprovalOrder, recurrence_told, write_approval
from pcm.protocol.policy import Approver, SitePolicy
from pcm.trust import envelopes
from pcm.trust.approvals import Agreement, check_approvals
from pcm.trust.approving import carry, sign_approval
from tests.unit.trust.simulated import ME, OTHER, SITE, a_manifest, instruction_for, named, utc_now

ANN, BEN, CAT, EVE = named("ann"), named("ben"), named("cat"), named("eve")


def policy(**changes: Any) -> SitePolicy:
    people = tuple(
        Approver(name, key.public_key.keyval["public"]) for name, key in (("ann", ANN), ("ben", BEN), ("cat", CAT))
    )
    return SitePolicy(site=SITE, approvers=people, **changes)


def an_instruction(*approvals: Approval) -> Instruction:
    return instruction_for(a_manifest(), parameters={"mode": "small"}, approvals=approvals)


def an_order(**changes: Any) -> ApprovalOrder:
    instruction = an_instruction()
    values: dict[str, Any] = {
        "site": SITE,
        "job": instruction.job,
        "generation": 1,
        "package": instruction.package,
        "release": instruction.release,
        "program": instruction.program,
        "manifest_sha256": instruction.manifest.sha256,
        "parameters": {"mode": "small"},
        "expires": utc_now() + timedelta(days=1),
    }
    return ApprovalOrder(**{**values, **changes})


def signed(order: ApprovalOrder, *people: CryptoSigner, proof: tuple[str, ...] = ()) -> Approval:
    envelope: bytes | None = None
    for person in people:
        envelope = sign_approval(order, envelope, person)
    assert envelope is not None
    return carry(envelope, proof)


def count(*approvals: Approval, demanded: int = 0, client: str = ME, **changes: Any) -> Agreement:
    return check_approvals(an_instruction(*approvals), demanded, policy(**changes), client, utc_now())


def refused(*approvals: Approval, demanded: int = 1, **changes: Any) -> bool:
    with pytest.raises(TrustError) as caught:
        count(*approvals, demanded=demanded, **changes)
    assert caught.value.code == "trust.approval"
    return True


def test_nothing_demanded_nothing_needed() -> None:
    assert count() == Agreement()


def test_two_of_three() -> None:
    assert refused(signed(an_order(), ANN), demanded=2)
    assert count(signed(an_order(), ANN, BEN), demanded=2).approvers == {"ann", "ben"}


def test_signatures_may_come_in_several_envelopes() -> None:
    assert count(signed(an_order(), ANN), signed(an_order(), CAT), demanded=2).approvers == {"ann", "cat"}


def test_one_person_counts_once() -> None:
    later = an_order(expires=utc_now() + timedelta(days=2))
    assert refused(signed(an_order(), ANN), signed(later, ANN), demanded=2)


def test_one_key_under_two_names_counts_once() -> None:
    key = ANN.public_key.keyval["public"]
    twice = SitePolicy(site=SITE, approvers=(Approver("ann", key), Approver("anna", key)))
    with pytest.raises(TrustError):
        check_approvals(an_instruction(signed(an_order(), ANN)), 2, twice, ME, utc_now())


def test_strangers_do_not_count() -> None:
    assert refused(signed(an_order(), EVE))


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "other"},
        {"job": "j9999999999"},
        {"generation": 2},
        {"package": "other"},
        {"release": 6},
        {"program": "uninstall"},
        {"manifest_sha256": "0" * 64},
        {"parameters": {}},
        {"parameters": {"mode": "full"}},
        {"recurrence": "FREQ=DAILY"},
        {"expires": utc_now() - timedelta(seconds=1)},
        {"expires": datetime(2999, 1, 1)},
    ],
)
def test_an_approval_for_another_order_or_time_does_not_count(changes: dict[str, Any]) -> None:
    assert refused(signed(an_order(**changes), ANN))


def test_an_approval_for_three_clients_is_not_one_for_the_fleet() -> None:
    clients = [f"{number:032x}" for number in range(5)] + [ME]
    order, proofs = an_order(audience=audience_root(clients), audience_size=6), audience_proofs(clients)
    assert count(signed(order, ANN, proof=tuple(proofs[ME])), demanded=1).approvers == {"ann"}
    assert refused(signed(order, ANN, proof=tuple(proofs[ME])), client="f" * 32)
    assert refused(signed(order, ANN))
    assert refused(signed(order, ANN, proof=tuple(proofs[clients[0]])))
    assert OTHER in clients  # another member's proof does not help a stranger either
    assert refused(signed(order, ANN, proof=tuple(proofs[OTHER])), client="f" * 32)


def test_a_signature_over_other_bytes_does_not_count() -> None:
    good = write_approval(an_order())
    signature = bytes.fromhex(ANN.sign(envelopes.pae(PAYLOAD_TYPE, good + b" ")).signature)
    assert refused(carry(envelopes.write(PAYLOAD_TYPE, good, {ANN.public_key.keyid: signature})))
    wrong_type = bytes.fromhex(ANN.sign(envelopes.pae("text/plain", good)).signature)
    assert refused(carry(envelopes.write(PAYLOAD_TYPE, good, {ANN.public_key.keyid: wrong_type})))


@pytest.mark.parametrize("text", ["", "%%%", "AAAA", "e30=", "W10="])
def test_a_damaged_approval_harms_no_other(text: str) -> None:
    assert count(Approval(text), signed(an_order(), BEN), demanded=1).approvers == {"ben"}


def test_an_emergency_needs_its_own_number_and_a_policy_that_has_one() -> None:
    urgent = signed(an_order(emergency=True), ANN, BEN)
    assert not count(urgent).emergency
    assert count(urgent, emergency_approvals=2).emergency
    assert not count(urgent, emergency_approvals=3).emergency
    mixed = [signed(an_order(emergency=True), ANN), signed(an_order(), BEN)]
    agreement = count(*mixed, emergency_approvals=2, demanded=2)
    assert agreement.approvers == {"ann", "ben"}
    assert not agreement.emergency
    assert not count(*reversed(mixed), emergency_approvals=2, demanded=2).emergency


# -- what a thief of the policy key makes of an order that was agreed to ---------------------------------------------------

DAILY = "FREQ=DAILY"


def is_approved(order: ApprovalOrder, **changes: Any) -> bool:
    instruction = instruction_for(
        a_manifest(), **{"parameters": {"mode": "small"}, "approvals": (signed(order, ANN),), **changes}
    )
    try:
        return bool(check_approvals(instruction, 1, policy(), ME, utc_now()).approvers)
    except TrustError:
        return False


def test_an_approval_to_run_once_is_none_to_run_every_hour() -> None:
    assert is_approved(an_order())
    assert not is_approved(an_order(), recurrence="FREQ=HOURLY")


def test_an_approval_to_run_every_day_is_none_for_another_rule_first_day_or_clock() -> None:
    first = datetime(2026, 11, 22, 22, tzinfo=UTC)
    order = an_order(recurrence=recurrence_told(DAILY, first, "utc"))
    assert is_approved(order, recurrence=DAILY, offer_after=first)
    assert not is_approved(order, recurrence="FREQ=HOURLY", offer_after=first)
    assert not is_approved(order, recurrence=DAILY, offer_after=first + timedelta(minutes=1))
    assert not is_approved(order, recurrence=DAILY, offer_after=first, clock="client")
    assert not is_approved(order, offer_after=first)


def test_an_approval_is_for_one_assignment_whatever_else_the_same_order_is_called() -> None:
    assert not is_approved(an_order(), id="j0000000001.again")
