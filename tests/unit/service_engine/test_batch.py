"""How far one plan reaches: as far as a new one after each program would say the same, and not a step further."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.package import PackageReference
from pcm.model.program import Program
from pcm.model.schedule import Window
from pcm.service.batch import FRESH, is_fresh, is_plain, stands
from pcm.service.journal import Change
from pcm.service.plan import Action, Plan, Presence, Situation
from pcm.service.planner import plan
from pcm.service.planner_case import removes
from pcm.service.records import InstalledRelease, InstructionRecord
from tests.unit.service_engine.making import NOON, instruction, job_id, manifest, record, situation

PACKAGES = ("tool", "library", "shared")


@st.composite
def clients(draw: st.DrawFn) -> tuple[list[InstructionRecord], Situation]:
    """Orders that have much to do with each other: few packages, some releases, what requires and takes the place of what."""
    records, pairs = [], []
    numbers = list(range(1, draw(st.integers(2, 5)) + 1))
    for number in numbers:
        after = [draw(st.sampled_from(numbers))] if draw(st.integers(0, 7)) == 0 else []
        order = instruction(
            number,
            package=draw(st.sampled_from(PACKAGES)),
            release=draw(st.integers(1, 3)),
            program=draw(st.sampled_from(("install", "install", "uninstall", "repair"))),
            priority=draw(st.sampled_from((10, 50))),
            mandatory_after=NOON - timedelta(hours=draw(st.integers(-1, 3))),
            after=tuple(job_id(each) for each in after if each != number),
        )
        related: dict[str, Any] = {}
        for kind in ("requires", "conflicts"):
            if draw(st.integers(0, 7)) == 0:
                related[kind] = (PackageReference(draw(st.sampled_from(PACKAGES)), draw(st.integers(1, 3))),)
        if draw(st.integers(0, 7)) == 0:
            related["supersedes"] = (draw(st.sampled_from(PACKAGES)),)
        program = Program(argv=("./setup",), run_as="user" if draw(st.integers(0, 7)) == 0 else "system")
        pairs.append((order, manifest(order, dict.fromkeys(("install", "uninstall", "repair"), program), **related)))
        state = draw(
            st.sampled_from((Stage.OFFERED, Stage.WAITING, Stage.SUCCEEDED, Stage.FAILED, Stage.NOT_APPLICABLE))
        )
        records.append(
            record(order, state=state, first_seen=NOON - timedelta(hours=2), changed=NOON - timedelta(hours=1))
        )
    here = draw(st.lists(st.sampled_from(PACKAGES), unique=True))
    releases = {
        name: InstalledRelease(name, draw(st.integers(1, 3)), draw(st.integers(1, 3)), "1.0", 1, NOON) for name in here
    }
    return records, situation(*pairs, releases=releases, presence=Presence(("ada",), "ada"))


def after_success(
    records: list[InstructionRecord], around: Situation, done: InstructionRecord
) -> tuple[list[InstructionRecord], Situation]:
    """The same client once a program has succeeded, as the journal and `releases` then have it."""
    order = done.instruction
    known = around.releases.get(order.package)
    release = InstalledRelease(
        order.package,
        max(order.release, known.release if known else 0),
        known.min_release if known and known.release > order.release else 0,
        order.version,
        None if removes(order.program) else order.release,
        NOON,
    )
    changed = replace(done, state=Stage.SUCCEEDED, code="", reason="", changed=NOON)
    return (
        [changed if each.id == done.id else each for each in records],
        replace(around, releases={**around.releases, order.package: release}),
    )


def due(made: Plan) -> list[tuple[str, str]]:
    return [(line.id, line.run_as) for line in made.due()]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(clients())
def test_a_plan_that_stands_is_what_a_new_plan_after_each_success_would_be(
    drawn: tuple[list[InstructionRecord], Situation],
) -> None:
    records, around = drawn
    made = plan(records, around, NOON)
    assume(len(made.due()) > 1)
    assume(stands(made, around))
    left = due(made)
    for line in made.due():
        left = left[1:]
        records, around = after_success(records, around, next(each for each in records if each.id == line.id))
        fresh = plan(records, around, NOON)
        allowed = [each for each in left if each in due(fresh)]
        refused = {each.id: each.code for each in fresh.lines if each.action is not Action.RUN}
        assert due(fresh) == allowed
        # what the launch itself refuses needs no new plan
        assert all(refused[name] == "trust.downgrade" for name, _ in left if (name, "system") not in allowed)


def plain(*numbers: int, **related: Any) -> tuple[list[InstructionRecord], Situation]:
    orders = [instruction(number) for number in numbers]
    return [record(each) for each in orders], situation(*((each, manifest(each, **related)) for each in orders))


def test_what_has_nothing_to_do_with_each_other_runs_by_one_plan() -> None:
    records, around = plain(1, 2, 3)
    made = plan(records, around, NOON)
    assert len(made.due()) == 3
    assert stands(made, around)


@pytest.mark.parametrize("kind", ["requires", "conflicts"])
def test_what_requires_or_bars_another_package_needs_a_plan_of_its_own(kind: str) -> None:
    records, around = plain(1, 2, **{kind: (PackageReference("pkg9", 1),)})
    assert not stands(plan(records, around, NOON), around)


def test_what_waits_for_another_needs_a_new_plan_after_each_program() -> None:
    orders = [instruction(1), instruction(2), instruction(3, after=(job_id(1),))]
    around = situation(*((each, manifest(each)) for each in orders))
    made = plan([record(each) for each in orders], around, NOON)
    assert (len(made.due()), stands(made, around)) == (2, False)


def test_in_a_window_each_program_is_planned_anew() -> None:
    records, around = plain(1, 2)
    always = Window(days=("mon", "tue", "wed", "thu", "fri", "sat", "sun"), start="00:00", minutes=1440)
    around = replace(around, windows=(always,))
    made = plan(records, around, NOON)
    assert (len(made.due()), stands(made, around)) == (2, False)


def test_a_users_program_is_planned_anew() -> None:
    orders = [instruction(1), instruction(2)]
    user = Program(argv=("./setup",), run_as="user")
    around = situation(
        (orders[0], manifest(orders[0])),
        (orders[1], manifest(orders[1], {"install": user})),
        presence=Presence(("ada",), "ada"),
    )
    made = plan([record(each) for each in orders], around, NOON)
    assert (len(made.due()), stands(made, around)) == (2, False)


@pytest.mark.parametrize("state", sorted(set(Stage) - {Stage.SUCCEEDED, Stage.ALREADY_INSTALLED}, key=str))
def test_only_success_is_plain(state: Stage) -> None:
    assert not is_plain(Change(state=state))
    assert is_plain(Change(state=Stage.SUCCEEDED))


def test_a_plan_is_fresh_for_a_moment_by_a_clock_that_goes_forward() -> None:
    assert is_fresh(NOON, NOON)
    assert is_fresh(NOON, NOON + FRESH - timedelta(microseconds=1))
    assert not is_fresh(NOON, NOON + FRESH)
    assert not is_fresh(NOON, NOON - timedelta(microseconds=1))
