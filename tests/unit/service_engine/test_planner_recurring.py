"""Recurring orders: each time of them runs at most once, and what is missed is made up for once (KB Q141192)."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.brake import slot
from pcm.model.instruction import Deferral
from pcm.model.program import Program
from pcm.model.schedule import Window
from pcm.protocol.policy import SitePolicy
from pcm.service.plan import Action, Line, Presence, Situation
from pcm.service.planner import plan
from pcm.service.planner_case import times_of
from pcm.service.records import InstructionRecord, UserRun
from tests.unit.service_engine.making import NOON, instruction, manifest, record, situation

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BERLIN = ZoneInfo("Europe/Berlin")


def daily(**fields: Any) -> InstructionRecord:
    """Offered daily at noon since Wednesday, mandatory after 8 hours, expired after 20."""
    known = {name: fields.pop(name) for name in ("state", "occurrence", "code", "reason", "changed") if name in fields}
    order = {
        "recurrence": "FREQ=DAILY",
        "offer_after": NOON,
        "mandatory_after": NOON + 8 * HOUR,
        "expires_after": NOON + 20 * HOUR,
        **fields,
    }
    return record(instruction(**order), **known)


def decide(wanted: InstructionRecord, now: datetime, around: Situation | None = None) -> Line:
    [line] = plan([wanted], around or situation(wanted.instruction), now).lines
    return line


def test_before_its_first_time_it_waits_for_that() -> None:
    line = decide(daily(), NOON - HOUR)
    assert (line.code, line.until, line.begins) == ("wait.offer", NOON, False)
    fridays = daily(recurrence="FREQ=WEEKLY;BYDAY=FR", expires_after=NOON + HOUR, mandatory_after=NOON)
    line = decide(fridays, NOON + 9 * HOUR)  # the first time is two days after the order's own expiry
    assert (line.code, line.until) == ("wait.offer", NOON + 2 * DAY)


def test_q141192_deadline_and_expiry_keep_their_distance_from_each_time() -> None:
    settled = daily(state=Stage.SUCCEEDED, occurrence=NOON)
    third = NOON + 3 * DAY
    offered = decide(settled, third + HOUR)
    assert (offered.begins, offered.record.occurrence, offered.record.state) == (True, third, Stage.OFFERED)
    assert (offered.code, offered.until) == ("wait.deadline", third + 8 * HOUR)
    assert (offered.deadline, offered.expires, offered.next_occurrence) == (
        third + 8 * HOUR,
        third + 20 * HOUR,
        third + DAY,
    )
    assert decide(settled, third + 8 * HOUR).action is Action.RUN
    expired = decide(settled, third + 20 * HOUR)
    assert (expired.action, expired.until) == (Action.EXPIRE, third + DAY)


def test_each_time_runs_at_most_once_and_says_when_it_comes_again() -> None:
    done = daily(state=Stage.SUCCEEDED, occurrence=NOON)
    line = decide(done, NOON + 9 * HOUR)
    assert (line.action, line.state, line.begins) == (Action.DONE, Stage.SUCCEEDED, False)
    assert (line.until, line.next_occurrence) == (NOON + DAY, NOON + DAY)
    assert plan([done], situation(done.instruction), NOON + 9 * HOUR).next_change(NOON + 9 * HOUR) == NOON + DAY


@pytest.mark.parametrize(
    "state", [Stage.FAILED, Stage.EXPIRED, Stage.UNKNOWN, Stage.CANCELLED, Stage.WAITING, Stage.REFUSED]
)
def test_whatever_became_of_one_time_the_next_begins_anew(state: Stage) -> None:
    before = replace(
        daily(state=state, occurrence=NOON, code="c", reason="r"),
        attempts=5,
        not_before=NOON + 26 * HOUR,
        deferred_until=NOON + 30 * HOUR,
        deferrals=2,
        announced_at=NOON,
    )
    line = decide(before, NOON + DAY)
    assert line.begins
    fresh = line.record
    assert (fresh.attempts, fresh.not_before, fresh.deferred_until, fresh.deferrals, fresh.announced_at) == (
        0,
        None,
        None,
        0,
        None,
    )
    assert (fresh.first_seen, line.code) == (before.first_seen, "wait.deadline")


def test_what_is_missed_is_made_up_for_once() -> None:
    off_for_a_week = daily(state=Stage.SUCCEEDED, occurrence=NOON)
    line = decide(off_for_a_week, NOON + 7 * DAY + 9 * HOUR)
    assert (line.action, line.record.occurrence) == (Action.RUN, NOON + 7 * DAY)


@pytest.mark.parametrize("state", [Stage.RUNNING, Stage.RESTART_PENDING])
def test_what_is_at_work_comes_to_its_end_first(state: Stage) -> None:
    line = decide(daily(state=state, occurrence=NOON), NOON + 2 * DAY)
    assert (line.begins, line.record.occurrence, line.state) == (False, NOON, state)


def test_what_is_gone_does_not_come_again() -> None:
    gone = replace(daily(state=Stage.WAITING, occurrence=NOON), present=False)
    line = decide(gone, NOON + 2 * DAY)
    assert (line.action, line.begins, line.next_occurrence) == (Action.WITHDRAW, False, None)


def test_a_clock_that_goes_back_brings_no_time_a_second_time() -> None:
    done = daily(state=Stage.SUCCEEDED, occurrence=NOON + 5 * DAY)
    line = decide(done, NOON + 2 * DAY)
    assert (line.action, line.begins, line.next_occurrence) == (Action.DONE, False, NOON + 6 * DAY)
    waiting = daily(state=Stage.WAITING, occurrence=NOON + 5 * DAY)
    assert decide(waiting, NOON + 2 * DAY).code == "wait.offer"


def test_a_rule_that_ends_ends() -> None:
    twice = daily(recurrence="FREQ=DAILY;COUNT=2", state=Stage.SUCCEEDED, occurrence=NOON + DAY)
    line = decide(twice, NOON + 9 * DAY)
    assert (line.action, line.until, line.next_occurrence) == (Action.DONE, None, None)
    never = daily(recurrence="FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30")
    line = decide(never, NOON)
    assert (line.code, line.until) == ("wait.offer", None)
    assert "no time any more" in line.reason


def test_the_clients_clock_counts_where_the_order_says_so_in_summer_and_winter() -> None:
    order = daily(clock="client", mandatory_after=NOON + 8 * HOUR)
    here = situation(order.instruction, zone=BERLIN)
    winter, summer = datetime(2026, 3, 28, 11, tzinfo=UTC), datetime(2026, 3, 29, 10, tzinfo=UTC)  # noon in Berlin
    for noon in (winter, summer):
        line = decide(order, noon, here)
        assert line.record.occurrence == noon.replace(hour=12)
    assert decide(order, winter, here).deadline == datetime(2026, 3, 28, 19, tzinfo=UTC)
    assert decide(order, summer, here).deadline == datetime(2026, 3, 29, 18, tzinfo=UTC)
    # across the night on which the clocks change, the reading counts, not the hours
    assert times_of(order.instruction, winter.replace(hour=12), BERLIN).expires == datetime(2026, 3, 29, 6, tzinfo=UTC)


def test_each_time_has_its_own_budget_and_nobody_is_counted_from_the_time_before() -> None:
    order = daily(deferral=Deferral(times=1, max_s=3600), state=Stage.SUCCEEDED, occurrence=NOON)
    postponed = replace(
        order, state=Stage.DEFERRED, occurrence=NOON + DAY, deferrals=1, deferred_until=NOON + DAY + 8.5 * HOUR
    )
    assert decide(postponed, NOON + DAY + 8 * HOUR).code == "wait.deferred"
    assert decide(postponed, NOON + 2 * DAY + 8 * HOUR).action is Action.RUN


def test_after_a_lost_history_the_present_time_may_have_run_and_the_next_has_not() -> None:
    lost = replace(daily(mandatory_after=NOON), history_lost=True)
    line = decide(lost, NOON)
    assert (line.action, line.state, line.begins) == (Action.DONE, Stage.UNKNOWN, True)
    kept = replace(line.record, state=Stage.UNKNOWN)
    assert decide(kept, NOON + DAY).action is Action.RUN


# -- the brake: each time of an order is spread as its first one is -------------------------------------------------------

SPANS = st.integers(0, 48).map(lambda hours: hours * HOUR)


def client_number(number: int) -> str:
    return f"{number:032x}"


def starts(wanted: InstructionRecord, around: Situation, occurrence: datetime) -> datetime | None:
    """When this time of an order starts if the service looks whenever the plan may change; None: it does not."""
    now, known = occurrence, wanted
    for _ in range(12):
        line = decide(known, now, around)
        if line.record.occurrence != occurrence:
            return None
        if line.action is Action.RUN:
            return now
        if line.until is None or line.action in {Action.EXPIRE, Action.DONE}:
            return None
        now, known = line.until, line.record
    return None


def test_the_fleet_does_not_start_each_later_time_at_once() -> None:
    """The order was seen long ago: its own spread is over, and each time has one of its own, from when it is mandatory."""
    settled = replace(daily(state=Stage.SUCCEEDED, occurrence=NOON), first_seen=NOON - 9 * DAY)
    brake = SitePolicy(site="s", spread_s=3600, pilot_share=0.1)
    third, found = NOON + 3 * DAY, []
    for number in range(200):
        around = situation(settled.instruction, policy=brake, client_id=client_number(number))
        start = starts(settled, around, third)
        assert start is not None
        found.append(start - third - 8 * HOUR)
    at_once = sum(1 for each in found if not each)
    assert 8 <= at_once <= 36  # a tenth of them are pilots
    assert max(found) <= HOUR
    for quarter in range(4):
        assert sum(1 for each in found if quarter * HOUR / 4 < each <= (quarter + 1) * HOUR / 4) >= 20


@given(
    number=st.integers(0, 2**64),
    spread=SPANS,
    pilot_share=st.sampled_from((0.0, 0.3, 1.0)),
    every=st.sampled_from((1, 2, 6, 24, 72)),
    minutes=st.sampled_from((60, 180, 600)),
    windows=st.booleans(),
    ago=st.integers(0, 4),
)
def test_no_time_of_an_order_is_lost_to_its_spread_and_none_is_before_it_is_due(
    number: int, spread: timedelta, pilot_share: float, every: int, minutes: int, windows: bool, ago: int
) -> None:
    """Whatever the spread: longer than the distance between times, than the window, than what is left until it expires."""
    order = instruction(
        offer_after=NOON,
        mandatory_after=NOON + HOUR / 4,
        expires_after=None,
        recurrence=f"FREQ=HOURLY;INTERVAL={every}",
    )
    known = record(order, state=Stage.SUCCEEDED, occurrence=NOON, first_seen=NOON - ago * 3 * DAY)
    policy = SitePolicy(site="s", spread_s=int(spread.total_seconds()), pilot_share=pilot_share, min_age_s=1)
    opening = Window(
        days=("mon", "tue", "wed", "thu", "fri", "sat", "sun"), start="12:00", minutes=minutes, clock="utc"
    )
    around = situation(order, policy=policy, client_id=client_number(number), windows=(opening,) if windows else ())
    come = NOON + 9 * DAY  # a multiple of every distance, and long after the order's own brake
    found = starts(known, around, come)
    assert found is not None, "its spread has cost it the time"
    due = come + HOUR / 4
    assert due <= found <= due + spread
    place = slot(client_number(number), f"{order.package}/{order.release}/{order.program}")
    if place < pilot_share or not spread:
        assert found == due
    assert found < come + every * HOUR
    # and it is the same whenever the service happens to look
    for share in (0.3, 0.7):
        line = decide(known, due + share * (found - due), around)
        assert (line.code, line.until) == ("wait.brake", found) or found <= due + share * (found - due)


@given(ago=st.integers(0, 72), spread=st.integers(1, 96))
def test_a_recurring_order_never_starts_before_its_whole_brake_lets_it(ago: int, spread: int) -> None:
    """A rule that comes each hour must not be a way around a spread of days: a stolen policy key could write one."""
    order = instruction(offer_after=NOON, mandatory_after=NOON, recurrence="FREQ=HOURLY")
    seen = NOON + 5 * DAY - ago * HOUR
    policy = SitePolicy(site="s", spread_s=spread * 3600)
    around = situation(order, policy=policy)
    place = slot(around.client_id, f"{order.package}/{order.release}/{order.program}")
    whole = seen + timedelta(hours=place * spread)
    for hour in range(spread + 1):
        now = NOON + 5 * DAY + hour * HOUR
        line = decide(record(order, first_seen=seen), now, around)
        assert line.action is not Action.RUN or now >= whole


# -- programs that run once for each user ---------------------------------------------------------------------------------


def for_each_user(order: InstructionRecord, *runs: tuple[str, Stage]) -> Situation:
    program = Program(argv=("./setup",), run_as="each_user")
    done = tuple(
        UserRun(instruction=order.id, generation=1, user=user, state=state, changed=NOON) for user, state in runs
    )
    return situation((order.instruction, manifest(order.instruction, {"install": program})), user_runs={order.id: done})


@pytest.mark.parametrize(
    ("runs", "state", "told"),
    [
        ((("ada", Stage.SUCCEEDED), ("bob", Stage.RESTART_PENDING)), Stage.SUCCEEDED, "done for ada, bob"),
        ((("ada", Stage.SUCCEEDED), ("bob", Stage.FAILED)), Stage.FAILED, "done for ada; failed for bob"),
        ((("ada", Stage.SUCCEEDED), ("bob", Stage.WAITING)), Stage.FAILED, "done for ada; not done for bob"),
    ],
)
def test_a_time_that_expires_is_what_it_came_to_for_its_users(
    runs: tuple[tuple[str, Stage], ...], state: Stage, told: str
) -> None:
    order = daily(mandatory_after=NOON, state=Stage.WAITING, occurrence=NOON)
    line = decide(order, NOON + 20 * HOUR, for_each_user(order, *runs))
    assert (line.action, line.state, line.until) == (Action.DONE, state, NOON + DAY)
    assert told in line.reason
    nobody = decide(order, NOON + 20 * HOUR, for_each_user(order))
    assert (nobody.action, nobody.state) == (Action.EXPIRE, Stage.EXPIRED)


def test_users_of_the_time_before_do_not_count_for_the_next() -> None:
    order = daily(mandatory_after=NOON, state=Stage.WAITING, occurrence=NOON)
    program = Program(argv=("./setup",), run_as="each_user")
    runs = (UserRun(instruction=order.id, generation=1, user="ada", state=Stage.SUCCEEDED, changed=NOON),)
    here = situation(
        (order.instruction, manifest(order.instruction, {"install": program})),
        presence=Presence(("ada",), "ada"),
        user_runs={order.id: runs},
    )
    assert decide(order, NOON + HOUR, here).code == "wait.next_logon"
    line = decide(order, NOON + DAY, here)
    assert (line.action, line.run_as) == (Action.RUN, "ada")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"recurrence": "FREQ=SECONDLY"}, "recurrence: FREQ=SECONDLY is too often"),
        ({"expires_after": NOON + 400 * DAY}, "within a year"),
        ({"mandatory_after": NOON - HOUR}, "within a year"),
    ],
)
def test_an_instruction_that_could_not_be_planned_is_refused_when_it_is_read(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        daily(**fields)
