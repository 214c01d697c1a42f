"""The planner's rules about people: busy ones, programs in the way, countdowns, and programs that run for each user."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.instruction import Deferral, Notify
from pcm.model.program import Program
from pcm.model.schedule import Window
from pcm.service.plan import Action, Hold, Line, Presence, Situation
from pcm.service.planner import plan
from pcm.service.planner_people import LOOK_AGAIN
from pcm.service.records import InstructionRecord, UserRun
from tests.unit.service_engine.making import NOON, instruction, manifest, record, situation

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
ADA = Presence(("ada",), "ada")
BUDGET = Deferral(times=2, max_s=7200)
TOLD = Notify(countdown_s=600)


def decide(wanted: InstructionRecord, around: Situation | None = None, now: Any = NOON) -> Line:
    [line] = plan([wanted], around or situation(wanted.instruction), now, explain=True).lines
    [short] = plan([wanted], around or situation(wanted.instruction), now).lines
    assert replace(line, trace=()) == short
    return line


def mandatory(**fields: Any) -> InstructionRecord:
    return record(instruction(**{"mandatory_after": NOON, **fields}))


def around(wanted: InstructionRecord, program: dict[str, Any] | None = None, **fields: Any) -> Situation:
    order = wanted.instruction
    its = Program(argv=("./setup",), timeout_s=600, **(program or {}))
    return situation((order, manifest(order, {order.program: its})), **fields)


# -- busy -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["full_screen", "presentation", "call", "battery", "metered"])
def test_somebody_busy_delays_what_has_a_budget_and_never_longer_than_that(reason: str) -> None:
    wanted = mandatory(deferral=BUDGET)
    here = situation(wanted.instruction, presence=Presence(("ada",), "ada", busy=(reason,)))
    line = decide(wanted, here)
    assert (line.action, line.state, line.code, line.until) == (
        Action.WAIT,
        Stage.WAITING,
        "wait.busy",
        NOON + LOOK_AGAIN,
    )
    assert "14:00" in line.reason
    near = decide(wanted, here, NOON + 2 * HOUR - MINUTE)
    assert (near.code, near.until) == ("wait.busy", NOON + 2 * HOUR)
    assert decide(wanted, here, NOON + 2 * HOUR).action is Action.RUN


@pytest.mark.parametrize(
    "fields", [{}, {"deferral": BUDGET, "busy_policy": "ignore"}, {"purpose": "optional", "mandatory_after": None}]
)
def test_without_a_budget_or_when_asked_for_it_starts_although_somebody_is_busy(fields: dict[str, Any]) -> None:
    wanted = replace(mandatory(**fields), requested_at=NOON, requested_by="ada")
    here = situation(wanted.instruction, presence=Presence(("ada",), "ada", busy=("call",)))
    assert decide(wanted, here).action is Action.RUN


def test_on_battery_or_a_metered_network_nothing_is_brought_early_until_it_may_wait_no_longer() -> None:
    for reason, policy, early in (
        ("battery", "delay", Action.WAIT),
        ("metered", "delay", Action.WAIT),
        ("metered", "ignore", Action.FETCH),
        ("call", "delay", Action.FETCH),
    ):
        wanted = replace(mandatory(busy_policy=policy, mandatory_after=NOON + HOUR), fetched=False)
        here = situation(wanted.instruction, presence=Presence(busy=(reason,)))
        assert decide(wanted, here).action is early
    late = replace(mandatory(mandatory_after=NOON - HOUR), fetched=False)
    tonight = Window(days=("wed",), start="22:00", minutes=60, clock="utc")
    here = situation(late.instruction, presence=Presence(busy=("metered",)), windows=(tonight,))
    line = decide(late, here)
    assert (line.action, line.code) == (Action.FETCH, "wait.window")
    assert (
        decide(replace(late, instruction=instruction(mandatory_after=NOON - HOUR, deferral=BUDGET)), here).action
        is Action.WAIT
    )


# -- programs in the way ----------------------------------------------------------------------------------------------


def test_programs_in_its_way_are_waited_for_and_named() -> None:
    wanted = mandatory(deferral=BUDGET)
    here = situation(wanted.instruction, blocking={wanted.id: ("soffice", "thunderbird")})
    line = decide(wanted, here)
    assert (line.action, line.state, line.code, line.until) == (
        Action.WAIT,
        Stage.WAITING,
        "wait.blocking",
        NOON + LOOK_AGAIN,
    )
    assert "soffice, thunderbird" in line.reason
    late = decide(wanted, here, NOON + 3 * HOUR)
    assert late.code == "wait.blocking"
    assert "overdue since 2026-03-04 14:00:00 UTC" in late.reason
    assert "closes no programs" in late.reason
    assert decide(wanted).action is Action.RUN


def test_a_job_that_closes_programs_goes_on() -> None:
    wanted = mandatory(blocking_policy="close")
    line = decide(wanted, situation(wanted.instruction, blocking={wanted.id: ("soffice",)}))
    assert line.action is Action.RUN
    assert any("soffice" in finding.text for finding in line.trace)


# -- countdown --------------------------------------------------------------------------------------------------------


def test_q187287_who_is_logged_on_is_told_before_mandatory_work_starts() -> None:
    wanted = mandatory(notify=TOLD)
    here = situation(wanted.instruction, presence=ADA)
    line = decide(wanted, here)
    assert (line.action, line.state, line.code) == (Action.WAIT, Stage.ASKED, "wait.countdown")
    assert (line.announced, line.until) == (NOON, NOON + 10 * MINUTE)
    announced = replace(wanted, announced_at=NOON)
    assert decide(announced, here, NOON + 10 * MINUTE - timedelta(microseconds=1)).until == NOON + 10 * MINUTE
    due = decide(announced, here, NOON + 10 * MINUTE)
    assert (due.action, due.announced) == (Action.RUN, NOON)


@pytest.mark.parametrize(
    ("fields", "users"),
    [
        ({"notify": TOLD}, ()),  # nobody is there to be told
        ({"notify": Notify(show=False, countdown_s=600)}, ("ada",)),
        ({"notify": Notify()}, ("ada",)),
        ({"notify": TOLD, "purpose": "optional", "mandatory_after": None}, ("ada",)),
    ],
)
def test_where_nobody_is_to_be_told_there_is_no_countdown(fields: dict[str, Any], users: tuple[str, ...]) -> None:
    wanted = replace(mandatory(**fields), requested_at=NOON, requested_by="ada")
    assert decide(wanted, situation(wanted.instruction, presence=Presence(users))).action is Action.RUN


def test_a_countdown_that_was_announced_is_not_shortened_by_who_logs_off() -> None:
    wanted = replace(mandatory(notify=TOLD), announced_at=NOON)
    line = decide(wanted, situation(wanted.instruction), NOON + MINUTE)
    assert (line.code, line.until, line.announced) == ("wait.countdown", NOON + 10 * MINUTE, NOON)


def test_q185805_a_countdown_follows_the_order_and_later_runs_in_it() -> None:
    """The length is the administrator's, also while it runs; the user may put the start off within the budget."""
    wanted = replace(mandatory(notify=TOLD, deferral=BUDGET), announced_at=NOON)
    here = situation(wanted.instruction, presence=ADA)
    longer = replace(wanted, instruction=replace(wanted.instruction, notify=Notify(countdown_s=1800)))
    assert decide(longer, here, NOON + 11 * MINUTE).until == NOON + 30 * MINUTE
    later = replace(wanted, announced_at=None, deferred_until=NOON + HOUR, deferrals=1)
    line = decide(later, here, NOON + MINUTE)
    assert (line.state, line.code, line.until, line.announced) == (Stage.DEFERRED, "wait.deferred", NOON + HOUR, None)
    again = decide(later, here, NOON + HOUR)
    assert (again.code, again.announced, again.until) == ("wait.countdown", NOON + HOUR, NOON + HOUR + 10 * MINUTE)


def test_q160853_a_countdown_ends_although_nobody_answers_and_holds_up_nothing_else() -> None:
    told, other = mandatory(notify=TOLD), record(instruction(2))
    here = situation(told.instruction, other.instruction, presence=ADA)
    made = plan([told, other], here, NOON)
    assert {line.id: line.action for line in made.lines} == {told.id: Action.WAIT, other.id: Action.RUN}
    announced = replace(told, announced_at=NOON)
    assert len(plan([announced], here, NOON + 10 * MINUTE).due()) == 1


def test_a_clock_that_went_back_begins_the_countdown_anew_instead_of_for_ever() -> None:
    wanted = replace(mandatory(notify=TOLD), announced_at=NOON + 99 * HOUR)
    line = decide(wanted, situation(wanted.instruction, presence=ADA))
    assert (line.announced, line.until) == (NOON, NOON + 10 * MINUTE)


def test_what_does_not_come_to_its_start_after_all_is_announced_anew() -> None:
    wanted = replace(mandatory(notify=TOLD), announced_at=NOON)
    held = situation(wanted.instruction, presence=ADA, hold=Hold("wait.paused", "An administrator paused it."))
    assert decide(wanted, held, NOON + MINUTE).announced is None
    running = replace(wanted, state=Stage.RUNNING)
    assert decide(running, None, NOON + MINUTE).announced == NOON


def test_a_countdown_counts_in_what_fits_into_a_window() -> None:
    wanted = mandatory(notify=Notify(countdown_s=1800))
    hour = Window(days=("wed",), start="12:00", minutes=60, clock="utc")
    here = around(wanted, presence=ADA, windows=(hour,))
    assert decide(wanted, here, NOON + 20 * MINUTE).code == "wait.countdown"  # 12:50 + 10 minutes
    late = NOON + 21 * MINUTE
    line = decide(wanted, here, late)
    assert line.code == "wait.window"
    assert "after its countdown" in line.reason
    assert decide(wanted, replace(here, presence=Presence()), late).action is Action.RUN


def test_q160853_a_countdown_costs_no_window_however_short_the_window_is() -> None:
    """It is announced so much ahead that it starts when the window opens: who never logs off holds nothing up."""
    wanted = mandatory(mandatory_after=NOON - 5 * HOUR, notify=Notify(countdown_s=7200))
    short = Window(days=("wed",), start="12:00", minutes=15, clock="utc")
    here = around(wanted, presence=ADA, windows=(short,))
    line = decide(wanted, here, NOON - 3 * HOUR)
    assert (line.code, line.until) == ("wait.window", NOON - 2 * HOUR)
    assert "opens at 2026-03-04 12:00:00 UTC" in line.reason
    told = decide(wanted, here, NOON - 2 * HOUR)
    assert (told.code, told.until) == ("wait.countdown", NOON)
    assert decide(replace(wanted, announced_at=NOON - 2 * HOUR), here).action is Action.RUN
    missed = decide(replace(wanted, announced_at=NOON - 2 * HOUR), here, NOON + 6 * MINUTE)
    assert (missed.code, missed.announced) == ("wait.window", None)


# -- observed durations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimated", "seen", "minute", "code"),
    [
        (60, 0, 58, "due"),
        (60, 300, 58, "wait.window"),  # it took five minutes lately
        (60, 300, 55, "due"),
        (300, 60, 58, "wait.window"),  # one fast run proves nothing
        (60, 9999, 50, "due"),  # never longer than its time limit
        (None, 60, 51, "wait.window"),
    ],
)
def test_what_took_longer_here_than_estimated_is_expected_to_again(
    estimated: int | None, seen: int, minute: int, code: str
) -> None:
    wanted = mandatory()
    hour = Window(days=("wed",), start="12:00", minutes=60, clock="utc")
    took = {(wanted.manifest_sha256, "install"): seen}
    here = around(wanted, {"estimated_s": estimated}, windows=(hour,), durations=took)
    assert decide(wanted, here, NOON + minute * MINUTE).code == code


# -- each user --------------------------------------------------------------------------------------------------------


def ran(wanted: InstructionRecord, user: str, state: Stage = Stage.SUCCEEDED, **fields: Any) -> UserRun:
    values = {"instruction": wanted.id, "generation": 1, "user": user, "state": state, "changed": NOON, **fields}
    return UserRun(**values)


def each_user(wanted: InstructionRecord, users: tuple[str, ...], *runs: UserRun, **fields: Any) -> Line:
    here = Presence(users, users[-1] if users else None, ("root",))
    return decide(wanted, around(wanted, {"run_as": "each_user"}, presence=here, user_runs={wanted.id: runs}, **fields))


def test_q172872_it_runs_once_for_each_user_who_is_logged_on_in_the_foreground_first() -> None:
    wanted = mandatory()
    first = each_user(wanted, ("root", "ada", "bob"))
    assert (first.action, first.run_as) == (Action.RUN, "bob")
    second = each_user(wanted, ("root", "ada", "bob"), ran(wanted, "bob"))
    assert (second.action, second.run_as) == (Action.RUN, "ada")
    done = each_user(wanted, ("root", "ada", "bob"), ran(wanted, "bob"), ran(wanted, "ada"))
    assert (done.action, done.state, done.code, done.until) == (Action.WAIT, Stage.WAITING, "wait.next_logon", None)
    assert done.reason == "Done for ada, bob; it runs for each other user at their next logon."


def test_what_became_of_it_is_said_for_each_user() -> None:
    wanted = mandatory()
    line = each_user(wanted, ("ada",), ran(wanted, "ada", Stage.FAILED), ran(wanted, "eve"))
    assert line.reason == "Done for eve; failed for ada; it runs for each other user at their next logon."
    nobody = each_user(wanted, ("root",))
    assert (nobody.code, nobody.reason) == ("wait.next_logon", "It runs for each user at their next logon.")


def test_a_try_that_waits_for_one_user_holds_up_no_other() -> None:
    wanted = mandatory()
    busy = ran(wanted, "ada", Stage.WAITING, not_before=NOON + HOUR, attempts=1)
    assert each_user(wanted, ("ada", "bob"), busy).run_as == "bob"
    line = each_user(wanted, ("ada", "bob"), busy, ran(wanted, "bob"))
    assert (line.action, line.code, line.until) == (Action.WAIT, "wait.retry", NOON + HOUR)
    ended = replace(busy, not_before=NOON)
    assert each_user(wanted, ("ada",), ended).run_as == "ada"


def test_only_users_whom_the_order_means_are_run_for() -> None:
    wanted = record(instruction(purpose="optional", allowed_users=("ada",)), requested_at=NOON, requested_by="ada")
    assert each_user(wanted, ("ada", "bob")).run_as == "ada"
    again = each_user(wanted, ("ada", "bob"), ran(wanted, "ada"))
    assert (again.code, again.reason) == ("wait.request", "It has run for ada; another user may ask for it.")
    gone = each_user(wanted, ("bob",))
    assert (gone.code, "ada, who asked for it" in gone.reason) == ("wait.presence", True)


def test_its_files_come_while_it_waits_for_the_next_logon() -> None:
    wanted = replace(mandatory(), fetched=False)
    assert each_user(wanted, ()).action is Action.FETCH
