"""What takes the place of what: greater releases, packages that say so, and when the older one opens again."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.instruction import Instruction
from pcm.model.package import PackageReference
from pcm.protocol.manifest import Manifest
from pcm.service.plan import Action, Line, Situation
from pcm.service.planner import plan
from pcm.service.records import InstalledRelease, InstructionRecord
from tests.unit.service_engine.making import INSTALL, NOON, PAST, instruction, job_id, manifest, record, situation

HOUR = timedelta(hours=1)
Pair = tuple[Instruction, Manifest]


def decide(records: list[InstructionRecord], around: Situation) -> dict[str, Line]:
    forwards, backwards = (plan(each, around, NOON).lines for each in (records, records[::-1]))
    assert forwards == backwards
    explained = plan(records, around, NOON, explain=True).lines
    assert [replace(line, trace=()) for line in explained] == list(forwards)
    return {line.instruction.job: line for line in forwards}


def codes(records: list[InstructionRecord], around: Situation) -> list[str]:
    made = decide(records, around)
    return [made[each.instruction.job].code for each in records]


def release(number: int, **fields: Any) -> Instruction:
    return instruction(number, **{"package": "tool", "release": number, **fields})


def replacing(number: int, *packages: str, **fields: Any) -> Pair:
    order = instruction(number)
    return order, manifest(order, supersedes=packages, **fields)


def here(order: Instruction, **fields: Any) -> InstalledRelease:
    values = {"release": order.release, "min_release": 1, "version": "1", "installed": order.release, "changed": PAST}
    return InstalledRelease(order.package, **{**values, **fields})


def test_only_the_greatest_release_of_a_package_is_put_on() -> None:
    orders = [release(1), release(3), release(2)]
    made = decide([record(each) for each in orders], situation(*orders))
    first = made[job_id(1)]
    assert (first.action, first.state, first.code) == (Action.NOT_APPLICABLE, Stage.NOT_APPLICABLE, "superseded")
    assert job_id(3) in first.reason
    assert job_id(3) in made[job_id(2)].reason
    assert made[job_id(3)].action is Action.RUN


def test_a_package_that_says_so_takes_the_place_of_another() -> None:
    old, new = instruction(1), replacing(2, "pkg1")
    assert codes([record(old), record(new[0])], situation(old, new)) == ["superseded", "due"]


@pytest.mark.parametrize("state", [Stage.FAILED, Stage.REFUSED, Stage.UNKNOWN, Stage.EXPIRED, Stage.CANCELLED])
def test_what_came_to_nothing_takes_no_place(state: Stage) -> None:
    old, new = release(1), release(2)
    assert codes([record(old), record(new, state=state)], situation(old, new))[0] == "due"


@pytest.mark.parametrize(
    "fields",
    [
        {"present": False},
        {"verdict_code": "trust.content", "verdict_reason": "It was changed."},
        {"instruction": release(2, offer_after=NOON + HOUR, mandatory_after=NOON + HOUR)},
        {"instruction": release(2, expires_after=NOON)},
        {"instruction": release(2, purpose="optional", mandatory_after=None)},
        {"instruction": release(2, program="repair")},
        {"instruction": release(2, program="uninstall", mandatory_after=NOON - HOUR)},
    ],
)
def test_what_is_not_about_to_happen_takes_no_place(fields: dict[str, Any]) -> None:
    old, new = release(1), fields.pop("instruction", release(2))
    programs = {"install": INSTALL, "repair": INSTALL, "uninstall": INSTALL}
    around = situation((old, manifest(old, programs)), (new, manifest(new, programs)))
    made = decide([record(old), replace(record(new), **fields)], around)
    assert made[job_id(1)].code == "due"


def test_what_is_made_for_another_platform_takes_no_place() -> None:
    old, new = release(1), release(2)
    assert codes([record(old), record(new)], situation(old, (new, manifest(new, platforms=("windows-any",))))) == [
        "due",
        "not_applicable.platform",
    ]


def test_an_optional_one_takes_the_place_once_it_is_asked_for() -> None:
    old, new = release(1, mandatory_after=NOON), release(2, purpose="optional", mandatory_after=None)
    asked = record(new, requested_at=NOON, requested_by="ada")
    assert codes([record(old), asked], situation(old, new)) == ["superseded", "due"]


def test_who_asks_for_a_newer_one_and_lets_nothing_come_of_it_keeps_no_mandatory_one_away() -> None:
    """A user can ask, and then run what the newer one waits for: for a day after the older one's deadline, and no longer."""
    new = release(2, purpose="optional", mandatory_after=None)
    asked = record(new, requested_at=NOON, requested_by="ada")
    for late, code in ((23 * HOUR, "superseded"), (25 * HOUR, "due")):
        old = release(1, mandatory_after=NOON - late)
        assert codes([record(old), asked], situation(old, new))[0] == code
        assert codes([record(old), record(release(2))], situation(old, release(2)))[0] == "superseded"
    old = release(1, mandatory_after=NOON - 23 * HOUR)
    kept_away = plan([record(old), asked], situation(old, new, blocking={asked.id: ("editor",)}), NOON)
    assert kept_away.next_change(NOON) is not None
    line = kept_away.line(record(old).id)
    assert line is not None
    assert line.until == NOON + HOUR


def test_it_opens_again_when_the_other_fails_and_the_site_hears_why() -> None:
    old, new = release(1), release(2)
    around = situation(old, new)
    superseded = record(old, state=Stage.NOT_APPLICABLE, code="superseded")
    assert codes([superseded, record(new, state=Stage.RUNNING)], around)[0] == "superseded"
    assert codes([superseded, record(new, state=Stage.FAILED)], around)[0] == "due"


def test_what_is_done_keeps_the_place_against_what_was_ordered_before_and_no_later_order() -> None:
    old, new = release(1), release(2)
    around = situation(old, new, releases={"tool": here(new)})
    done = record(new, state=Stage.SUCCEEDED, changed=NOON - HOUR, present=False)
    before, after = record(old, first_seen=NOON - 2 * HOUR), record(old, first_seen=NOON - HOUR / 2)
    assert decide([before, done], around)[job_id(1)].code == "superseded"
    assert decide([after, done], around)[job_id(1)].code == "due"  # somebody wants the older one back
    removed = replace(around, releases={"tool": here(new, installed=None)})
    assert decide([before, done], removed)[job_id(1)].code == "due"


def test_two_that_take_each_others_place_take_none() -> None:
    one, two = replacing(1, "pkg2"), replacing(2, "pkg1")
    assert codes([record(one[0]), record(two[0])], situation(one, two)) == ["due", "due"]


def test_in_a_longer_circle_the_newest_signature_stays() -> None:
    ring = [
        replacing(1, "pkg2", signed_at=PAST - HOUR),
        replacing(2, "pkg3", signed_at=PAST),
        replacing(3, "pkg1", signed_at=PAST - 2 * HOUR),
    ]
    # 1 takes 2's place, 2 takes 3's, 3 takes 1's; 2 is the newest, so 3 goes, and then nothing stands above 1
    assert codes([record(order) for order, _ in ring], situation(*ring)) == ["due", "due", "superseded"]


def test_what_is_superseded_itself_supersedes_nothing() -> None:
    chain = [replacing(1), replacing(2, "pkg1"), replacing(3, "pkg2")]
    assert codes([record(order) for order, _ in chain], situation(*chain)) == ["due", "superseded", "due"]


def test_what_needs_the_other_first_does_not_take_its_place() -> None:
    old, new = release(1), release(2, after=(job_id(1),))
    assert codes([record(old), record(new)], situation(old, new)) == ["due", "wait.dependency"]
    between = instruction(5, after=(job_id(1),))
    far = release(2, after=(job_id(5),))
    assert codes([record(old), record(between), record(far)], situation(old, between, far))[0] == "due"
    base, needs = instruction(1), replacing(2, "pkg1", requires=(PackageReference("pkg1"),))
    assert codes([record(base), record(needs[0])], situation(base, needs)) == ["due", "wait.requires"]


def test_what_waits_for_the_superseded_one_waits_for_what_takes_its_place() -> None:
    old, new, behind = release(1), release(2), instruction(3, after=(job_id(1),))
    around = situation(old, new, behind, releases={"tool": here(new)})
    made = decide([record(old), record(new), record(behind)], around)
    assert (made[job_id(3)].code, job_id(2) in made[job_id(3)].reason) == ("wait.dependency", True)
    done = record(new, state=Stage.SUCCEEDED, changed=NOON)
    made = decide([record(old, first_seen=PAST), done, record(behind)], around)
    assert made[job_id(3)].action is Action.RUN


def test_what_failed_stays_in_the_way_of_what_comes_after_it_although_something_took_its_place() -> None:
    old, new, behind = release(1), release(2), instruction(3, after=(job_id(1),))
    around = situation(old, new, behind, releases={"tool": here(new)})
    records = [record(old, state=Stage.FAILED), record(new, state=Stage.SUCCEEDED, changed=NOON), record(behind)]
    line = decide(records, around)[job_id(3)]
    assert (line.code, job_id(1) in line.reason, "which failed" in line.reason) == ("wait.dependency", True, True)


def test_what_is_settled_or_at_work_keeps_its_state() -> None:
    old, new = release(1), release(2)
    for state in (Stage.SUCCEEDED, Stage.RUNNING):
        assert decide([record(old, state=state), record(new)], situation(old, new))[job_id(1)].state is state
