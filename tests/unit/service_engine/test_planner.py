"""The planner's rules, one after the other, and the recorded failures that they keep away."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.detection import FileDetection
from pcm.model.errors import RequestError
from pcm.model.facts import Facts
from pcm.model.instruction import Deferral
from pcm.model.package import PackageReference
from pcm.model.program import Program
from pcm.model.schedule import Window
from pcm.protocol.policy import SitePolicy
from pcm.service.plan import Action, Approved, Hold, Line, Presence, Situation
from pcm.service.planner import plan
from pcm.service.planner_rules import place_of
from pcm.service.records import InstalledRelease, InstructionRecord
from tests.unit.service_engine.making import (
    CLIENT,
    INSTALL,
    NOON,
    PAST,
    instruction,
    job_id,
    manifest,
    record,
    situation,
)

HOUR = timedelta(hours=1)
AT_NOON = Window(days=("wed",), start="12:00", minutes=60, clock="utc")
TONIGHT = Window(days=("wed",), start="22:00", minutes=60, clock="utc")


def decide(wanted: InstructionRecord, around: Situation | None = None, now: datetime = NOON) -> Line:
    [line] = plan([wanted], around or situation(wanted.instruction), now, explain=True).lines
    return line


def with_program(wanted: InstructionRecord, **fields: object) -> Situation:
    program = Program(**{"argv": ("./setup",), "timeout_s": 600, **fields})  # type: ignore[arg-type]
    order = wanted.instruction
    return situation((order, manifest(order, {order.program: program})))


def test_what_is_due_runs_as_system_with_a_reason_for_each_rule() -> None:
    line = decide(record())
    assert (line.action, line.run_as, line.code) == (Action.RUN, "system", "due")
    assert {finding.topic for finding in line.trace} >= {
        "target",
        "schedule",
        "window",
        "presence",
        "dependency",
        "brake",
    }
    assert all(finding.holds and finding.text for finding in line.trace)


def test_it_waits_for_its_offer_and_then_for_its_deadline() -> None:
    early = record(instruction(offer_after=NOON + HOUR, mandatory_after=NOON + 2 * HOUR))
    assert [(line := decide(early, now=NOON + hours * HOUR)).action for hours in (0, 1, 2)] == [
        Action.WAIT,
        Action.WAIT,
        Action.RUN,
    ]
    line = decide(early)
    assert (line.code, line.until, line.state) == ("wait.offer", NOON + HOUR, Stage.WAITING)
    line = decide(early, now=NOON + HOUR)
    assert (line.code, line.until) == ("wait.deadline", NOON + 2 * HOUR)


def test_q163488_times_fire_although_no_file_changes() -> None:
    """The same journal, asked again at another time, gives another answer."""
    waiting = record(instruction(offer_after=NOON, mandatory_after=NOON + HOUR))
    around = situation(waiting.instruction)
    first = plan([waiting], around, NOON)
    assert first.due() == ()
    assert first.next_change(NOON) == NOON + HOUR
    assert len(plan([waiting], around, NOON + HOUR).due()) == 1


def test_q225056_what_expired_does_not_run_even_if_it_is_overdue() -> None:
    late = record(instruction(expires_after=NOON))
    assert decide(late, now=NOON - timedelta(microseconds=1)).action is Action.RUN
    line = decide(late)
    assert (line.action, line.state, line.code) == (Action.EXPIRE, Stage.EXPIRED, "expired")


def test_q188042_an_expiry_wakes_nobody_up() -> None:
    waiting = record(instruction(purpose="optional", expires_after=NOON + HOUR))
    assert plan([waiting], situation(waiting.instruction), NOON).next_change(NOON) is None


def test_q173388_overdue_work_runs_by_deadline_then_priority_then_id_with_dependencies_first() -> None:
    first = instruction(5, mandatory_after=PAST - HOUR)
    urgent = instruction(4, priority=90)
    needed = instruction(9, mandatory_after=PAST + HOUR)
    behind = instruction(1, after=(job_id(9),), mandatory_after=PAST - 2 * HOUR)
    plain = [instruction(2), instruction(3)]
    every = [first, urgent, needed, behind, *plain]
    made = plan([record(each) for each in every], situation(*every), NOON)
    numbers = [int(line.instruction.job[1:]) for line in made.lines]
    assert numbers == [5, 4, 2, 3, 9, 1]


def test_q122320_one_mandatory_command_does_not_hide_the_others() -> None:
    every = [instruction(number) for number in range(1, 6)]
    records = [record(each) for each in every]
    records[0] = record(every[0], state=Stage.RUNNING)
    made = plan(records, situation(*every), NOON)
    assert [line.action for line in made.lines] == [Action.WAIT, *[Action.RUN] * 4]


@pytest.mark.parametrize("state", [Stage.FAILED, Stage.UNKNOWN, Stage.REFUSED])
def test_a_dependent_says_for_whom_it_waits_and_what_became_of_it(state: Stage) -> None:
    first, second = instruction(1), instruction(2, after=(job_id(1),))
    made = plan([record(first, state=state, verdict_code="trust.x"), record(second)], situation(first, second), NOON)
    line = made.lines[1]
    assert line.code == "wait.dependency"
    assert job_id(1) in line.reason
    assert {Stage.FAILED: "which failed", Stage.REFUSED: "which was refused"}.get(state, "unknown") in line.reason


def test_dependencies_are_named_by_job_or_by_instruction_and_may_be_withdrawn_once_done() -> None:
    done = record(instruction(1), state=Stage.SUCCEEDED, present=False)
    for name in (done.id, job_id(1)):
        behind = record(instruction(2, after=(name,)))
        made = plan([done, behind], situation(behind.instruction), NOON)
        assert [line.action for line in made.lines] == [Action.RUN]


def test_a_dependency_that_nobody_ordered_is_named() -> None:
    line = decide(record(instruction(after=(job_id(77),))))
    assert (line.code, job_id(77) in line.reason) == ("wait.dependency", True)


def test_what_waits_in_a_circle_is_refused_and_the_rest_goes_on() -> None:
    """KB Q168130: one bad item never stops the queue."""
    one, two = instruction(1, after=(job_id(2),)), instruction(2, after=(job_id(1),))
    behind, free = instruction(3, after=(job_id(1),)), instruction(4)
    every = [one, two, behind, free]
    made = plan([record(each) for each in every], situation(*every), NOON)
    actions = {line.instruction.job: line.action for line in made.lines}
    assert actions == {
        job_id(4): Action.RUN,
        job_id(1): Action.REFUSE,
        job_id(2): Action.REFUSE,
        job_id(3): Action.REFUSE,
    }


def test_opposite_orders_without_an_order_between_them_are_refused_by_name() -> None:
    on = instruction(1, package="tool")
    off = instruction(2, package="tool", program="uninstall")
    other = instruction(3)
    around = situation(
        (on, manifest(on, {"install": INSTALL, "uninstall": INSTALL})),
        (off, manifest(off, {"install": INSTALL, "uninstall": INSTALL})),
        other,
    )
    made = plan([record(on), record(off), record(other)], around, NOON)
    assert {line.instruction.job: line.code for line in made.lines} == {
        job_id(1): "request.contradiction",
        job_id(2): "request.contradiction",
        job_id(3): "due",
    }
    assert job_id(2) in next(line.reason for line in made.lines if line.instruction is on)


@pytest.mark.parametrize(
    "ordered",
    [
        {"mandatory_after": PAST + HOUR},
        {"priority": 10},
        {"after": (job_id(1),)},
        {"purpose": "optional"},
    ],
)
def test_opposite_orders_with_an_order_between_them_are_no_contradiction(ordered: dict[str, object]) -> None:
    on = instruction(1, package="tool")
    off = instruction(2, package="tool", program="uninstall", **ordered)
    programs = {"install": INSTALL, "uninstall": INSTALL}
    made = plan(
        [record(on), record(off)], situation((on, manifest(on, programs)), (off, manifest(off, programs))), NOON
    )
    assert "request.contradiction" not in {line.code for line in made.lines}


def test_two_records_of_one_id_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(RequestError) as caught:
        plan([record(), record()], situation(instruction()), NOON)
    assert caught.value.code == "request.duplicate"


def test_an_optional_one_waits_for_a_wish_and_needs_no_window_and_no_brake() -> None:
    wanted = record(instruction(purpose="optional"))
    around = replace(situation(wanted.instruction), windows=(TONIGHT,), policy=SitePolicy(site="s", spread_s=86_400))
    line = decide(wanted, around)
    assert (line.action, line.code, line.until) == (Action.WAIT, "wait.request", None)
    asked = replace(wanted, requested_at=NOON, requested_by="ada")
    assert decide(asked, around).action is Action.RUN


def test_an_optional_one_that_failed_runs_again_only_if_somebody_asks_again() -> None:
    failed = record(
        instruction(purpose="optional"),
        state=Stage.FAILED,
        changed=NOON - HOUR,
        requested_at=NOON - 2 * HOUR,
        requested_by="ada",
    )
    assert decide(failed).action is Action.DONE
    assert decide(replace(failed, requested_at=NOON)).action is Action.RUN


@pytest.mark.parametrize(
    "state", [Stage.SUCCEEDED, Stage.ALREADY_INSTALLED, Stage.FAILED, Stage.UNKNOWN, Stage.CANCELLED, Stage.EXPIRED]
)
def test_q166765_a_settled_generation_is_done_and_keeps_its_state(state: Stage) -> None:
    line = decide(record(state=state, code="c", reason="r"))
    assert (line.action, line.state, line.code, line.reason) == (Action.DONE, state, "c", "r")


def test_what_asked_for_a_restart_waits_for_it() -> None:
    line = decide(record(state=Stage.RESTART_PENDING, code="wait.restart", restart_boot_id="b"))
    assert (line.action, line.state) == (Action.WAIT, Stage.RESTART_PENDING)


def test_what_is_absent_is_withdrawn_and_what_was_done_before_is_left_out() -> None:
    gone = record(instruction(1), present=False)
    done = record(instruction(2), present=False, state=Stage.SUCCEEDED)
    running = record(instruction(3), present=False, state=Stage.RUNNING)
    made = plan([gone, done], situation(gone.instruction), NOON)
    assert [(line.action, line.state) for line in made.lines] == [(Action.WITHDRAW, Stage.WITHDRAWN)]
    assert decide(running).state is Stage.RUNNING


def test_q156250_another_platform_is_not_applicable_with_its_reason() -> None:
    wanted = record()
    around = replace(situation(wanted.instruction), facts=Facts(host_name="h", platform="windows-x86_64"))
    line = decide(wanted, around)
    assert (line.action, line.state, line.code) == (
        Action.NOT_APPLICABLE,
        Stage.NOT_APPLICABLE,
        "not_applicable.platform",
    )
    assert "linux-any" in line.reason


def test_a_refusal_of_the_inbox_stands_until_it_is_taken_back() -> None:
    refused = record(verdict_code="trust.mix_and_match", verdict_reason="The hashes differ.")
    line = decide(refused)
    assert (line.action, line.state, line.code, line.reason) == (
        Action.REFUSE,
        Stage.REFUSED,
        "trust.mix_and_match",
        "The hashes differ.",
    )
    assert decide(replace(refused, verdict_code="", state=Stage.REFUSED)).action is Action.RUN


def test_without_its_signed_manifest_or_program_nothing_runs() -> None:
    wanted = record()
    nothing = situation(wanted.instruction, manifests={})
    other = situation((wanted.instruction, manifest(wanted.instruction, {"repair": INSTALL})))
    assert [(line.action, line.code) for line in (decide(wanted, nothing), decide(wanted, other))] == [
        (Action.WAIT, "wait.source"),
        (Action.REFUSE, "trust.unsigned_program"),
    ]


@pytest.mark.parametrize(("offered", "allowed"), [(5, True), (6, True), (4, True), (3, True), (2, False)])
def test_a_release_goes_back_only_as_far_as_the_signed_minimum(offered: int, allowed: bool) -> None:
    wanted = record(instruction(release=offered))
    package = wanted.instruction.package
    here = InstalledRelease(package, release=5, min_release=3, version="5", installed=5, changed=PAST)
    line = decide(wanted, situation(wanted.instruction, releases={package: here}))
    assert (line.action is Action.RUN) is allowed
    assert allowed or line.code == "trust.downgrade"


@pytest.mark.parametrize(("count", "action"), [(0, Action.REFUSE), (1, Action.REFUSE), (2, Action.RUN)])
def test_a_program_that_demands_approvals_gets_them_or_is_refused(count: int, action: Action) -> None:
    wanted = record()
    around = replace(with_program(wanted, approvals=2), approvals={wanted.id: Approved(count)})
    line = decide(wanted, around)
    assert line.action is action
    assert action is Action.RUN or line.code == "trust.approval"


def test_required_packages_come_first_and_conflicting_ones_are_named() -> None:
    wanted = record()
    needs = manifest(wanted.instruction, requires=(PackageReference("base", 3),))
    clash = manifest(wanted.instruction, conflicts=(PackageReference("base", 3),))
    base = InstalledRelease("base", release=9, min_release=1, version="3", installed=3, changed=PAST)
    for its, releases, code in (
        (needs, {}, "wait.requires"),
        (needs, {"base": replace(base, installed=2)}, "wait.requires"),
        (needs, {"base": replace(base, installed=None)}, "wait.requires"),
        (needs, {"base": base}, "due"),
        (clash, {"base": base}, "wait.conflict"),
        (clash, {"base": replace(base, installed=None)}, "due"),
    ):
        assert decide(wanted, situation((wanted.instruction, its), releases=releases)).code == code


def test_a_hold_stops_everything_that_is_due_and_says_why() -> None:
    wanted = record()
    line = decide(
        wanted, replace(situation(wanted.instruction), hold=Hold("wait.paused", "An administrator paused it."))
    )
    assert (line.action, line.code, line.reason) == (Action.WAIT, "wait.paused", "An administrator paused it.")


def test_q229809_after_a_lost_history_only_detection_lets_old_orders_run() -> None:
    lost = record(history_lost=True)
    line = decide(lost)
    assert (line.action, line.state, line.code) == (Action.DONE, Stage.UNKNOWN, "store.history_lost")
    assert decide(lost, with_program(lost, detect=FileDetection(path="/x"))).action is Action.RUN


# -- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minute", "timeout", "code"),
    [
        (-1, 600, "wait.window"),
        (0, 600, "due"),
        (50, 600, "due"),
        (51, 600, "wait.window"),
        (0, 3600, "due"),
        (0, 3601, "wait.window_too_short"),
    ],
)
def test_mandatory_work_fits_into_its_window_or_says_why_not(minute: int, timeout: int, code: str) -> None:
    wanted = record()
    around = replace(with_program(wanted, timeout_s=timeout), windows=(AT_NOON,))
    line = decide(wanted, around, NOON + timedelta(minutes=minute))
    assert line.code == code
    if code == "wait.window":
        assert line.until in {NOON, NOON + timedelta(days=7)}


def test_an_estimate_counts_instead_of_the_time_limit_and_a_job_may_ignore_windows() -> None:
    wanted = record()
    quick = replace(with_program(wanted, timeout_s=86_400, estimated_s=60), windows=(AT_NOON,))
    assert decide(wanted, quick).action is Action.RUN
    ignoring = record(instruction(window_policy="ignore"))
    assert decide(ignoring, situation(ignoring.instruction, windows=(TONIGHT,))).action is Action.RUN


@pytest.mark.parametrize(
    ("wall", "utc_hour"),
    [
        (datetime(2026, 1, 15, 12, 0, tzinfo=UTC), 11),  # winter in Berlin: one hour ahead
        (datetime(2026, 7, 15, 12, 0, tzinfo=UTC), 10),  # summer: two
    ],
)
def test_q169474_a_clients_own_clock_is_meant_where_the_order_says_so(wall: datetime, utc_hour: int) -> None:
    wanted = record(instruction(offer_after=wall, mandatory_after=wall, clock="client"))
    around = situation(wanted.instruction, zone=ZoneInfo("Europe/Berlin"))
    sharp = wall.replace(hour=utc_hour)
    assert decide(wanted, around, sharp).action is Action.RUN
    assert decide(wanted, around, sharp - timedelta(seconds=1)).code == "wait.offer"


def test_q186132_a_window_of_the_clients_clock_moves_with_its_zone() -> None:
    wanted = record()
    local = Window(days=("wed",), start="13:00", minutes=60, clock="client")  # noon in UTC, in winter
    around = situation(wanted.instruction, windows=(local,), zone=ZoneInfo("Europe/Berlin"))
    assert decide(wanted, around).action is Action.RUN
    assert decide(wanted, replace(around, zone=UTC)).code == "wait.window"


def test_q151648_years_after_2037_are_ordinary_years() -> None:
    far = datetime(2099, 12, 30, 12, 0, tzinfo=UTC)
    wanted = record(instruction(mandatory_after=far))
    assert decide(wanted).until == far
    assert decide(wanted, now=far).action is Action.RUN


# -- presence, postponing, retries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted_presence", "users", "code"),
    [
        ("any", (), "due"),
        ("logged_on", (), "wait.presence"),
        ("logged_on", ("ada",), "due"),
        ("logged_off", ("ada",), "wait.presence"),
        ("logged_off", (), "due"),
    ],
)
def test_presence_is_as_the_program_wants_it(wanted_presence: str, users: tuple[str, ...], code: str) -> None:
    wanted = record()
    around = replace(with_program(wanted, presence=wanted_presence), presence=Presence(users, None))
    assert decide(wanted, around).code == code


def test_q172872_a_users_program_runs_in_that_users_session_or_waits() -> None:
    mandatory = record()
    around = with_program(mandatory, run_as="user")
    here = replace(around, presence=Presence(("ada", "bob"), "bob"))
    assert decide(mandatory, around).code == "wait.presence"
    assert decide(mandatory, here).run_as == "bob"
    asked = record(instruction(purpose="optional"), requested_at=NOON, requested_by="ada")
    assert decide(asked, here).run_as == "ada"
    gone = decide(replace(asked, requested_by="eve"), here)
    assert (gone.code, gone.reason) == (
        "wait.presence",
        "It runs as eve, who asked for it: it is waiting for this user to log on.",
    )


def test_a_users_program_runs_as_the_one_user_who_is_logged_on_and_meant() -> None:
    def runs_as(users: tuple[str, ...], active: str | None, **fields: Any) -> str:
        mandatory = record(instruction(**fields))
        around = replace(with_program(mandatory, run_as="user"), presence=Presence(users, active, ("root",)))
        line = decide(mandatory, around)
        return line.run_as if line.action is Action.RUN else line.reason

    assert runs_as(("ada",), None) == "ada"
    assert runs_as((), None) == "It runs as a user: it is waiting for a user to log on."
    assert runs_as(("root",), "root") == "It runs as a user: it is waiting for a user to log on."
    assert runs_as(("root", "ada"), "root") == "ada"
    assert runs_as(("ada", "bob"), "bob") == "bob"
    assert "none of them is in the foreground" in runs_as(("ada", "bob"), None)
    assert runs_as(("ada", "bob"), "bob", allowed_users=("ada",)) == "ada"
    assert "waiting for a user" in runs_as(("bob",), "bob", allowed_users=("ada",))


def test_q122202_postponed_work_comes_back_within_its_budget() -> None:
    order = instruction(deferral=Deferral(times=2, max_s=7200), mandatory_after=NOON - HOUR)
    postponed = record(order, deferred_until=NOON + 5 * HOUR, deferrals=1)
    line = decide(postponed)
    assert (line.state, line.code, line.until) == (Stage.DEFERRED, "wait.deferred", NOON + HOUR)
    assert decide(postponed, now=NOON + HOUR).action is Action.RUN


def test_a_back_off_is_kept_with_what_the_last_try_ended_with() -> None:
    waiting = record(state=Stage.WAITING, code="transfer.slow", reason="All were slow.", not_before=NOON + HOUR)
    line = decide(waiting)
    assert (line.action, line.code, line.reason, line.until) == (
        Action.WAIT,
        "transfer.slow",
        "All were slow.",
        NOON + HOUR,
    )
    assert decide(replace(waiting, code="wait.window")).code == "wait.retry"
    refused = decide(replace(waiting, state=Stage.REFUSED, code="trust.content"))
    assert (refused.action, refused.state) == (Action.REFUSE, Stage.REFUSED)
    assert decide(waiting, now=NOON + HOUR).action is Action.RUN


# -- the brake --------------------------------------------------------------------------------------------------------


def braked(**policy: float) -> SitePolicy:
    return SitePolicy(site="s", **policy)  # type: ignore[arg-type]


def test_the_brake_spreads_mandatory_work_from_when_this_client_saw_it() -> None:
    wanted = record(first_seen=NOON)
    around = replace(situation(wanted.instruction), policy=braked(spread_s=86_400))
    start = NOON + timedelta(seconds=86_400 * place_of(CLIENT, wanted.instruction))
    line = decide(wanted, around)
    assert (line.code, line.until) == ("wait.brake", start)
    assert plan([wanted], around, NOON).next_change(NOON) == start
    assert decide(wanted, around, start).action is Action.RUN


def test_the_pilot_share_starts_at_once_and_young_manifests_wait_outside_it() -> None:
    wanted = record(first_seen=NOON)
    young = manifest(wanted.instruction, signed_at=NOON - HOUR)
    around = situation((wanted.instruction, young), policy=braked(min_age_s=7200, pilot_share=1.0))
    assert decide(wanted, around).action is Action.RUN
    line = decide(wanted, replace(around, policy=braked(min_age_s=7200)))
    assert (line.code, line.until) == ("wait.brake", NOON + HOUR)


def test_an_emergency_lifts_the_brake_and_ordinary_approvals_do_not() -> None:
    wanted = record(first_seen=NOON)
    around = replace(situation(wanted.instruction), policy=braked(spread_s=86_400, emergency_approvals=1))
    assert decide(wanted, replace(around, approvals={wanted.id: Approved(5)})).code == "wait.brake"
    assert decide(wanted, replace(around, approvals={wanted.id: Approved(1, emergency=True)})).action is Action.RUN


def test_no_name_of_a_job_moves_a_client_into_the_pilot_share() -> None:
    """Whoever holds the policy key chooses job names, for each client another; what runs is the packagers' choice."""
    places = {place_of(CLIENT, replace(instruction(1), job=job_id(number))) for number in range(50)}
    assert len(places) == 1
    assert place_of(CLIENT, instruction(1)) != place_of(CLIENT[::-1], instruction(1))


# -- early content ----------------------------------------------------------------------------------------------------


def test_content_may_come_while_an_offered_order_waits_but_not_before_its_offer() -> None:
    order = instruction(mandatory_after=NOON + HOUR)
    assert decide(record(order, fetched=False)).action is Action.FETCH
    assert decide(record(order, fetched=True)).action is Action.WAIT
    assert decide(record(order, fetched=False, not_before=NOON + HOUR)).action is Action.WAIT
    assert decide(record(instruction(purpose="optional"), fetched=False)).action is Action.WAIT
    later = record(instruction(offer_after=NOON + HOUR, mandatory_after=NOON + HOUR), fetched=False)
    assert decide(later).action is Action.WAIT


def test_a_package_without_files_needs_no_fetch() -> None:
    wanted = record(instruction(mandatory_after=NOON + HOUR), fetched=False)
    around = situation((wanted.instruction, manifest(wanted.instruction, files=())))
    assert decide(wanted, around).action is Action.WAIT


def test_a_full_trace_tells_what_else_stands_in_the_way() -> None:
    wanted = record(instruction(mandatory_after=NOON + HOUR))
    around = situation(wanted.instruction, windows=(TONIGHT,))
    short, whole = (plan([wanted], around, NOON, explain=explain).lines[0] for explain in (False, True))
    assert (short.action, short.code) == (whole.action, whole.code) == (Action.WAIT, "wait.deadline")
    assert [finding.code for finding in whole.trace if not finding.holds] == ["wait.deadline", "wait.window"]
    assert short.trace == ()


def test_whom_it_contradicts_does_not_depend_on_the_order_of_the_records() -> None:
    orders = [instruction(number, package="tool") for number in (1, 2, 3)]
    orders.append(instruction(4, package="tool", program="uninstall"))
    around = situation(*((each, manifest(each, {"install": INSTALL, "uninstall": INSTALL})) for each in orders))
    there, back = (plan(map(record, each), around, NOON) for each in (orders, orders[::-1]))
    assert there == back
    assert {line.code for line in there.lines} == {"request.contradiction"}
