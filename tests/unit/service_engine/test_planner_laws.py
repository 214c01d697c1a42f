"""What holds for every plan, whatever the instructions, the windows and the time are."""

from datetime import datetime, timedelta
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.assignment import can_move
from pcm.model.program import Program
from pcm.model.schedule import Window, open_span
from pcm.protocol.policy import SitePolicy
from pcm.service.plan import Action, Line, Plan, Presence, Situation
from pcm.service.planner import plan
from pcm.service.planner_case import DONE_WELL, SETTLED
from pcm.service.planner_people import LONGEST_PAUSE
from pcm.service.records import InstructionRecord
from tests.unit.service_engine.making import NOON, instruction, job_id, manifest, record, situation

HOURS = st.integers(-72, 72).map(lambda hours: NOON + timedelta(hours=hours))
MAYBE_HOURS = st.none() | HOURS
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WINDOWS = st.lists(
    st.builds(
        Window,
        days=st.sets(st.sampled_from(DAYS), min_size=1).map(lambda days: tuple(sorted(days))),
        start=st.integers(0, 23).map(lambda hour: f"{hour:02}:00"),
        minutes=st.integers(10, 2000),
        clock=st.sampled_from(("utc", "client")),
    ),
    max_size=2,
).map(tuple)


@st.composite
def orders(draw: st.DrawFn, number: int, others: list[int]) -> dict[str, Any]:
    """An instruction's fields. Times may contradict each other; the planner must stand it."""
    offer = draw(HOURS)
    after = draw(st.lists(st.sampled_from(others), max_size=2, unique=True)) if others else []
    fields: dict[str, Any] = {
        "offer_after": offer,
        "expires_after": draw(MAYBE_HOURS),
        "purpose": draw(st.sampled_from(("mandatory", "optional"))),
        "clock": draw(st.sampled_from(("utc", "client"))),
        "priority": draw(st.sampled_from((10, 50))),
        "window_policy": draw(st.sampled_from(("respect", "ignore"))),
        "after": tuple(job_id(each) for each in after),
        "program": draw(st.sampled_from(("install", "uninstall"))),
        "package": draw(st.sampled_from((f"pkg{number}", "shared"))),
    }
    if fields["purpose"] == "mandatory":
        fields["mandatory_after"] = draw(HOURS)
    return fields


@st.composite
def journals(draw: st.DrawFn, size: int = 6) -> tuple[list[InstructionRecord], Situation]:
    """Some records and their situation."""
    numbers = list(range(1, draw(st.integers(1, size)) + 1))
    records = []
    pairs = []
    for number in numbers:
        order = instruction(number, **draw(orders(number, [each for each in numbers if each != number])))
        asked = draw(MAYBE_HOURS)
        records.append(
            record(
                order,
                state=draw(st.sampled_from(Stage)),
                changed=draw(HOURS),
                first_seen=draw(HOURS),
                not_before=draw(st.none() | HOURS),
                requested_at=asked,
                requested_by=None if asked is None else "ada",
                deferred_until=draw(MAYBE_HOURS),
                present=draw(st.integers(0, 4)) > 0,
                fetched=draw(st.booleans()),
            )
        )
        program = Program(
            argv=("./setup",),
            timeout_s=draw(st.sampled_from((60, 3600, 7200))),
            run_as=draw(st.sampled_from(("system", "user"))),
            presence=draw(st.sampled_from(("any", "logged_on", "logged_off"))),
        )
        pairs.append((order, manifest(order, {"install": program, "uninstall": program})))
    users = draw(st.sampled_from(((), ("ada",), ("ada", "bob"))))
    policy = draw(st.none() | st.just(SitePolicy(site="s", spread_s=36_000, pilot_share=0.2, min_age_s=3600)))
    around = situation(
        *pairs,
        windows=draw(WINDOWS),
        presence=Presence(users, users[0] if users else None),
        policy=policy,
    )
    return records, around


EVENTS = frozenset({"wait.presence", "wait.busy", "wait.blocking", "wait.next_logon"})


def actions(made: Plan) -> dict[str, tuple[Action, str]]:
    return {line.id: (line.action, line.code) for line in made.lines}


def needed(line: Line, around: Situation) -> timedelta:
    program = around.manifests[line.instruction.manifest.sha256].programs[line.instruction.program]
    return timedelta(seconds=program.timeout_s)


@given(journals(), HOURS)
def test_nothing_runs_before_its_offer_or_deadline_or_after_its_expiry(
    drawn: tuple[list[InstructionRecord], Situation], now: datetime
) -> None:
    records, around = drawn
    for line in plan(records, around, now).due():
        order = line.instruction
        assert order.offer_after <= now
        assert order.expires_after is None or now < order.expires_after
        if order.purpose == "mandatory":
            assert order.mandatory_after is not None
            assert order.mandatory_after <= now
        else:
            assert line.record.requested_at is not None
        pause = line.record.not_before
        assert pause is None or pause <= now or pause > now + LONGEST_PAUSE  # no pause is so long: another clock's


@given(journals(), HOURS)
def test_mandatory_work_runs_inside_a_window_to_its_end_unless_it_ignores_them(
    drawn: tuple[list[InstructionRecord], Situation], now: datetime
) -> None:
    records, around = drawn
    for line in plan(records, around, now).due():
        order = line.instruction
        if around.windows and order.purpose == "mandatory" and order.window_policy == "respect":
            span = open_span(around.windows, now, around.zone)
            assert span is not None
            assert now + needed(line, around) <= span[1]


@given(journals(), HOURS)
def test_what_is_settled_or_gone_never_runs_and_every_state_follows_from_the_one_before(
    drawn: tuple[list[InstructionRecord], Situation], now: datetime
) -> None:
    records, around = drawn
    for line in plan(records, around, now).lines:
        known = line.record
        assert can_move(known.state, line.state), (known.state, line.state)
        if line.action in {Action.RUN, Action.FETCH}:
            assert known.present
            again = (
                known.state is Stage.FAILED and known.requested_at is not None and known.requested_at > known.changed
            )
            assert known.state not in SETTLED or again
            assert can_move(known.state, Stage.RUNNING)
        assert line.reason


@given(journals(), HOURS)
def test_dependencies_come_first_and_are_done_before_anything_behind_them_runs(
    drawn: tuple[list[InstructionRecord], Situation], now: datetime
) -> None:
    records, around = drawn
    made = plan(records, around, now)
    place = {line.instruction.job: number for number, line in enumerate(made.lines)}
    states = {known.instruction.job: known.state for known in records}
    for line in made.due():
        for job in line.instruction.after:
            assert states[job] in DONE_WELL
            assert place.get(job, -1) < place[line.instruction.job]


@given(journals(), HOURS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter_and_the_same_input_gives_the_same_plan(
    drawn: tuple[list[InstructionRecord], Situation], now: datetime, chance: Any
) -> None:
    records, around = drawn
    shuffled = list(records)
    chance.shuffle(shuffled)
    assert plan(shuffled, around, now) == plan(records, around, now)


@given(journals(), HOURS, orders(99, []))
def test_an_unrelated_instruction_changes_nothing_else(
    drawn: tuple[list[InstructionRecord], Situation], now: datetime, fields: dict[str, Any]
) -> None:
    records, around = drawn
    stranger = instruction(99, **{**fields, "package": "stranger"})
    wider = replace(around, manifests={**around.manifests, stranger.manifest.sha256: manifest(stranger)})
    before = plan(records, around, now).lines
    after = plan([*records, record(stranger)], wider, now).lines
    assert tuple(line for line in after if line.instruction is not stranger) == before


@given(journals(), HOURS)
def test_explaining_decides_the_same(drawn: tuple[list[InstructionRecord], Situation], now: datetime) -> None:
    records, around = drawn
    short, whole = (plan(records, around, now, explain=explain) for explain in (False, True))
    assert [replace(line, trace=()) for line in short.lines] == [replace(line, trace=()) for line in whole.lines]


@settings(max_examples=200)
@given(journals(size=3), HOURS, st.floats(0, 0.999))
def test_until_the_time_of_the_next_change_nothing_but_an_expiry_changes(
    drawn: tuple[list[InstructionRecord], Situation], now: datetime, share: float
) -> None:
    records, around = drawn
    # a pause that a wrong clock wrote counts only once it is no longer than any pause can be
    assume(all(known.not_before is None or known.not_before <= now + LONGEST_PAUSE for known in records))
    made = plan(records, around, now)
    change = made.next_change(now)
    if any(line.action is Action.RUN for line in made.lines):
        assert change == now
        return
    later = now + (timedelta(days=3) if change is None else change - now) * share
    before, after = actions(made), actions(plan(records, around, later))
    changed = {name for name in before if before[name] != after[name] and after[name][0] is not Action.EXPIRE}
    # a window may close meanwhile over what waits for an event alone: it waits for both then, and is fetched all the same
    waits = {name for name in changed if before[name][1] in EVENTS and after[name] == (before[name][0], "wait.window")}
    assert changed - waits == set()
