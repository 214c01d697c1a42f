"""The laws of the planner, held while anything happens in any order: hypothesis drives the plan, the real journal and a runner.

The runner here is a model: it takes the first due line and ends it as hypothesis likes. Everything that a law needs (times of
an order, who was told when, what ran already) is worked out here a second time, from the order itself.
"""

import shutil
import tempfile
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.errors import RequestError
from pcm.model.instruction import Deferral, Instruction, Notify
from pcm.model.program import Program
from pcm.model.schedule import Window, open_span
from pcm.protocol.manifest import Manifest
from pcm.protocol.policy import SitePolicy
from pcm.service.history import History
from pcm.service.journal import Change, Journal, Verified
from pcm.service.plan import Action, Hold, Line, Plan, Presence, Situation
from pcm.service.planner import plan
from pcm.service.planner_case import AT_WORK, DONE_WELL
from pcm.service.records import InstalledRelease, InstructionRecord, LedgerEntry, RunRecord
from pcm.service.state import State
from tests.unit.service_engine.making import instruction, job_id, manifest, situation

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
ZONES: list[tzinfo] = [UTC, *map(ZoneInfo, ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe"))]
STARTS = [
    datetime(2026, 3, 28, 22, tzinfo=UTC),
    datetime(2026, 10, 24, 20, tzinfo=UTC),
    datetime(2026, 3, 7, 12, tzinfo=UTC),
]
"""Shortly before some of these zones change their clocks."""
STEPS = {"FREQ=DAILY": timedelta(days=1), "FREQ=HOURLY;INTERVAL=8": 8 * HOUR, "FREQ=WEEKLY;BYDAY=SU": timedelta(days=1)}
WINDOWS = [
    Window(days=("mon", "wed", "sun"), start="02:30", minutes=180),
    Window(rule="FREQ=DAILY", start="22:00", minutes=240, clock="utc"),
    Window(rule="FREQ=DAILY;BYDAY=SA,SU,TU", start="01:00", minutes=90),
]
PROGRAMS = [
    Program(argv=("./setup",), timeout_s=600),
    Program(argv=("./setup",), timeout_s=7200, estimated_s=1200),
    Program(argv=("./setup",), timeout_s=3600),
    Program(argv=("./setup",), timeout_s=600, run_as="user"),
    Program(argv=("./setup",), timeout_s=600, run_as="each_user"),
    Program(argv=("./setup",), timeout_s=600, presence="logged_off"),
]
ENDS = {
    "works": Change(state=Stage.SUCCEEDED),
    "fails": Change(state=Stage.FAILED, code="run.exit_code"),
    "restart": Change(state=Stage.RESTART_PENDING, code="wait.restart", restart_boot_id="boot-1"),
    "unknown": Change(state=Stage.UNKNOWN, code="run.interrupted"),
}
HOURS = st.integers(-6, 10).map(lambda hours: hours * HOUR)


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    """What an administrator orders; times count from the moment of the order."""
    mandatory = draw(st.integers(0, 4)) > 0
    recurrence = draw(st.sampled_from((None, None, *STEPS))) if mandatory else None
    deadline = draw(st.integers(0, 5)) * HOUR
    deferral = Deferral(2, 7200) if mandatory and draw(st.booleans()) else Deferral()
    lasts = deadline + timedelta(seconds=deferral.max_s) + draw(st.integers(1, 3)) * HOUR / 2
    return {
        "offset": draw(HOURS),
        "deadline": deadline if mandatory else None,
        "expires": lasts if draw(st.integers(0, 2)) == 0 else None,
        "recurrence": recurrence,
        "deferral": deferral,
        "clock": draw(st.sampled_from(("utc", "client"))),
        "priority": draw(st.sampled_from((10, 50))),
        "window_policy": draw(st.sampled_from(("respect", "respect", "ignore"))),
        "notify": Notify(countdown_s=draw(st.sampled_from((0, 1800)))) if mandatory else Notify(),
        "blocking_policy": draw(st.sampled_from(("wait", "close"))),
        "program": "uninstall" if draw(st.integers(0, 7)) == 7 else "install",
        "package": draw(st.sampled_from(("", "shared"))),
        "release": draw(st.integers(1, 3)),
        "behind": draw(st.integers(1, 8)) if draw(st.integers(0, 3)) == 3 else None,
        "runs": draw(st.sampled_from(PROGRAMS)),
    }


class AnyOrder(RuleBasedStateMachine):
    """One client to which anything happens."""

    orders = Bundle("orders")

    def __init__(self) -> None:
        super().__init__()
        shared = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="pcm-laws-", dir=shared if shared.is_dir() else None))
        self.wanted: dict[str, Instruction] = {}
        self.manifests: dict[str, Manifest] = {}
        self.settled: set[tuple[str, int, datetime | None, str]] = set()
        self.told: dict[str, datetime] = {}
        self.made = 0
        self.runs = 0

    @initialize(
        zone=st.sampled_from(ZONES),
        start=st.sampled_from(STARTS),
        windows=st.lists(st.sampled_from(WINDOWS), max_size=2, unique=True),
        policy=st.sampled_from((None, None, SitePolicy(site="s", spread_s=7200, pilot_share=0.3))),
        some=st.lists(wishes(), min_size=1, max_size=4),
        target=orders,
    )
    def begin(
        self,
        zone: tzinfo,
        start: datetime,
        windows: list[Window],
        policy: SitePolicy | None,
        some: list[dict[str, Any]],
    ) -> Any:
        self.now, self.zone, self.policy, self.windows = start, zone, policy, tuple(windows)
        self.state = State.open(self.folder / "var", start)
        self.journal, self.history = Journal(self.state), History(self.state)
        self.presence, self.hold = Presence(), False
        self.blocked: frozenset[str] = frozenset()
        return multiple(*(self._order(wish) for wish in some))

    def teardown(self) -> None:
        if hasattr(self, "state"):
            self.state.close()
        shutil.rmtree(self.folder)

    # -- what happens -------------------------------------------------------------------------------------------------

    @rule(target=orders, wish=wishes())
    def order(self, wish: dict[str, Any]) -> str:
        return self._order(wish)

    def _order(self, wish: dict[str, Any]) -> str:
        self.made += 1
        offer = (self.now + wish["offset"]).replace(second=0, microsecond=0)
        deadline, expires = (None if wish[name] is None else offer + wish[name] for name in ("deadline", "expires"))
        behind = wish["behind"]
        order = instruction(
            self.made,
            purpose="optional" if deadline is None else "mandatory",
            offer_after=offer,
            mandatory_after=deadline,
            expires_after=expires,
            package=wish["package"] or f"pkg{self.made}",
            after=(job_id(behind),) if behind is not None and behind < self.made else (),
            **{name: wish[name] for name in ("recurrence", "deferral", "clock", "priority", "window_policy", "notify")},
            **{name: wish[name] for name in ("blocking_policy", "program", "release")},
        )
        its = manifest(order, dict.fromkeys(("install", "uninstall"), wish["runs"]))
        self.manifests.setdefault(order.manifest.sha256, its)
        self.wanted[order.id] = order
        self._take_in()
        return order.id

    @rule(
        name=orders,
        what=st.sampled_from(("withdraw", "anew", "clock", "clock", "zone", "pause", "resume", "resume")),
        zone=st.sampled_from(ZONES),
        by=st.integers(1, 30) | st.integers(1, 36 * 60),
    )
    def something_rare(self, name: str, what: str, zone: tzinfo, by: int) -> None:
        if what == "withdraw":
            self.wanted.pop(name, None)
        elif what == "anew" and name in self.wanted:
            self.wanted[name] = replace(self.wanted[name], generation=self.wanted[name].generation + 1)
        elif what == "clock":
            self.now -= by * MINUTE
        elif what == "zone":
            self.zone = zone
        else:
            self.hold = what == "pause"
        self._take_in()

    @rule(
        users=st.sampled_from(((), ("ada",), ("ada", "bob"), ("root",))),
        busy=st.sampled_from(((), ("call",), ("battery",))),
    )
    def people_come_and_go(self, users: tuple[str, ...], busy: tuple[str, ...]) -> None:
        self.presence = Presence(users, users[0] if users else None, ("root",), busy)

    @rule(names=st.frozensets(orders, max_size=2))
    def programs_are_in_the_way(self, names: frozenset[str]) -> None:
        self.blocked = names

    @rule(name=orders, user=st.sampled_from(("ada", "bob")))
    def a_user_asks(self, name: str, user: str) -> None:
        try:
            self.journal.request(name, user, self.now)
        except RequestError as error:
            assert error.code in {"not_allowed", "not_found"}

    @rule(name=orders, by=st.integers(1, 5))
    def a_user_puts_it_off(self, name: str, by: int) -> None:
        line = self._plan().line(name)
        if line is None or line.deadline is None:
            return
        try:
            until = self.journal.defer(name, self.now + by * HOUR, line.deadline, self.now)
        except RequestError as error:
            assert error.code in {"not_allowed", "not_found"}
        else:
            assert until <= line.deadline + timedelta(seconds=line.instruction.deferral.max_s)
            self.told.pop(name, None)

    @rule(hours=st.lists(st.sampled_from((1, 2, 3, 5, 8, 24, 50)), min_size=1, max_size=8), chance=st.randoms())
    def hours_pass(self, hours: list[int], chance: Random) -> None:
        for each in hours:
            self.now += each * HOUR / 2
            self.look(chance)

    @rule(minutes=st.lists(st.integers(1, 100), min_size=1, max_size=8), chance=st.randoms())
    def minutes_pass(self, minutes: list[int], chance: Random) -> None:
        for each in minutes:
            self.now += each * MINUTE
            self.look(chance)

    def look(self, chance: Random) -> None:
        """What one check does: what waited for a restart ends; plan, adopt, run the first line that is due, again and again."""
        if chance.random() < 0.5:
            self._restart()
        for _ in range(5):
            made = self._plan()
            for line in made.lines:
                assert not line.begins or self.journal.record(line.id).state not in AT_WORK
            self.journal.adopt(made, self.now)
            self._note_who_was_told(made)
            for line in made.lines:
                event(line.code)
                self._is_adopted(line)
            if not made.due():
                return
            tries_again = chance.random() < 0.2
            end = chance.choice(["works", "works", "works", *sorted(ENDS)])
            self._run(made.due()[0], made, end, tries_again=tries_again)

    def _restart(self) -> None:
        for record in self.journal.records():
            if record.state is Stage.RESTART_PENDING:
                self.journal.change(record.id, Change(state=Stage.SUCCEEDED, code="restarted"), self.now)

    # -- how it is done -----------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        self.journal.take_in([Verified(each) for each in self.wanted.values()], self.now)

    def _situation(self) -> Situation:
        return situation(
            zone=self.zone,
            presence=self.presence,
            windows=self.windows,
            policy=self.policy,
            manifests=self.manifests,
            releases=self.state.releases(),
            hold=Hold("wait.paused", "Somebody paused it.") if self.hold else None,
            blocking=dict.fromkeys(self.blocked, ("soffice",)),
            user_runs=self.journal.user_runs(),
        )

    def _plan(self) -> Plan:
        return plan(self.journal.records(), self._situation(), self.now)

    def _note_who_was_told(self, made: Plan) -> None:
        for line in made.lines:
            if line.code == "wait.countdown":
                self.told.setdefault(line.id, self.now)
                # a clock that went back begins it anew
                self.told[line.id] = min(self.told[line.id], self.now) if line.announced != self.now else self.now
            elif line.action is not Action.RUN:
                self.told.pop(line.id, None)

    def _is_adopted(self, line: Line) -> None:
        kept = self.journal.record(line.id)
        assert kept.occurrence == line.record.occurrence
        assert kept.announced_at == line.announced
        if line.action is not Action.RUN:
            assert (kept.state, kept.code) == (line.state, line.code)

    def _run(self, line: Line, made: Plan, end: str, *, tries_again: bool) -> None:
        self._may_run(line, made)
        self.runs += 1
        kept = self.journal.record(line.id)
        before = self.history.runs(kept.id, kept.generation)
        run = RunRecord(
            run=f"{self.runs:032x}",
            instruction=kept.id,
            generation=kept.generation,
            attempt=len(before) + 1,
            program=line.instruction.program,
            manifest_sha256=kept.manifest_sha256,
            argv=("./setup",),
            run_as=line.run_as,
            started=self.now,
            reference={},
            boot_id="boot-1",
            occurrence=kept.occurrence,
        )
        self.history.begin_run(run)
        assert not self._plan().line(kept.id) or self._plan().line(kept.id) not in self._plan().due()
        change = ENDS[end]
        if tries_again:
            change = Change(
                state=Stage.WAITING,
                code="retry.exit_code",
                not_before=self.now + min(self.history.tries(run), 6) * HOUR,
                attempts=kept.attempts + 1,
            )
        each_user = self._program(line.instruction).run_as == "each_user"
        self.history.end_run(
            run,
            change,
            self._entry(run, line.instruction, change),
            self._release(line, change),
            self.now,
            for_user=each_user,
        )
        if change.state is not Stage.WAITING:
            self.settled.add((kept.id, kept.generation, kept.occurrence, line.run_as if each_user else ""))
        self.told.pop(kept.id, None)

    def _entry(self, run: RunRecord, order: Instruction, change: Change) -> LedgerEntry:
        return LedgerEntry(
            run=run.run, instruction=run.instruction, job=order.job, generation=run.generation, package=order.package,
            version=order.version, release=order.release, program=run.program, argv=run.argv, run_as=run.run_as,
            manifest_path="m", manifest_sha256=run.manifest_sha256, started=run.started, ended=self.now, state=change.state.value,
        )  # fmt: skip

    def _release(self, line: Line, change: Change) -> InstalledRelease | None:
        order = line.instruction
        if change.state not in {Stage.SUCCEEDED, Stage.RESTART_PENDING}:
            return None
        installed = order.release if order.program == "install" else None
        return InstalledRelease(order.package, order.release, 1, order.version, installed, self.now)

    def _program(self, order: Instruction) -> Program:
        return self.manifests[order.manifest.sha256].programs[order.program]

    # -- the laws -----------------------------------------------------------------------------------------------------

    def _may_run(self, line: Line, made: Plan) -> None:
        order, record = line.instruction, line.record
        assert record.present
        assert not self.hold
        self._its_time_has_come(order, record)
        self._it_has_not_run(line)
        self._a_window_is_open(order)
        self._what_it_comes_after_is_done(line, made)
        self._nothing_newer_is_about_to_come(line, made)
        self._people_were_asked_and_told(line)

    def _to_utc(self, reading: datetime, order: Instruction) -> datetime:
        if order.clock == "utc":
            return reading.replace(tzinfo=UTC)
        return reading.replace(tzinfo=self.zone, fold=0).astimezone(UTC)

    def _its_time_has_come(self, order: Instruction, record: InstructionRecord) -> None:
        """Never before its offer or deadline, never after its expiry; a recurring one as the latest time that has come."""
        first = order.offer_after.replace(tzinfo=None)
        reading = first
        if order.recurrence is not None:
            assert record.occurrence is not None
            reading = record.occurrence.replace(tzinfo=None)
            assert self._recurs_at(order, reading)
            later = reading + STEPS[order.recurrence]
            while not self._recurs_at(order, later):
                later += STEPS[order.recurrence]
            gap = timedelta(hours=3)  # readings around a change of the clock are not in the order of their times
            assert self._to_utc(later, order) + gap > self.now
        assert self._to_utc(reading, order) <= self.now
        if order.mandatory_after is not None:
            due = self._to_utc(reading + (order.mandatory_after.replace(tzinfo=None) - first), order)
            assert due <= self.now
        if order.expires_after is not None:
            assert self.now < self._to_utc(reading + (order.expires_after.replace(tzinfo=None) - first), order)

    def _recurs_at(self, order: Instruction, reading: datetime) -> bool:
        passed = reading - order.offer_after.replace(tzinfo=None)
        assert order.recurrence is not None
        if passed < timedelta() or passed % STEPS[order.recurrence]:
            return False
        return order.recurrence != "FREQ=WEEKLY;BYDAY=SU" or reading.weekday() == 6

    def _it_has_not_run(self, line: Line) -> None:
        """Never twice for one generation (and time of it, and user), but where somebody asks again after a failure."""
        record = line.record
        each_user = self._program(line.instruction).run_as == "each_user"
        key = (record.id, record.generation, record.occurrence, line.run_as if each_user else "")
        asked_again = line.instruction.purpose == "optional" and record.state is Stage.FAILED
        assert asked_again or key not in self.settled

    def _a_window_is_open(self, order: Instruction) -> None:
        if order.purpose == "mandatory" and order.window_policy == "respect" and self.windows:
            span = open_span(self.windows, self.now, self.zone)
            assert span is not None
            program = self._program(order)
            assert self.now + timedelta(seconds=program.estimated_s or program.timeout_s) <= span[1]

    def _what_it_comes_after_is_done(self, line: Line, made: Plan) -> None:
        records = {record.instruction.job: record for record in self.journal.records()}
        place = {each.id: number for number, each in enumerate(made.lines)}
        for job in line.instruction.after:
            other = records[job]
            done = other.state in DONE_WELL
            assert done or other.code == "superseded"
            assert other.id not in place or place[other.id] < place[line.id]

    def _nothing_newer_is_about_to_come(self, line: Line, made: Plan) -> None:
        mine = line.instruction
        for other in made.lines:
            order = other.instruction
            if (
                order.package == mine.package == "shared"
                and mine.program == order.program == "install"
                and order.release > mine.release
                and other.action in {Action.RUN, Action.FETCH}
            ):
                assert line.instruction.job in self._ahead_of(order, made)

    def _ahead_of(self, order: Instruction, made: Plan) -> set[str]:
        by_job = {each.instruction.job: each.instruction for each in made.lines}
        found: set[str] = set()
        ahead = list(order.after)
        while ahead:
            job = ahead.pop()
            if job not in found:
                found.add(job)
                ahead += by_job[job].after if job in by_job else ()
        return found

    def _people_were_asked_and_told(self, line: Line) -> None:
        order, program = line.instruction, self._program(line.instruction)
        users = set(self.presence.users) - {"root"}
        if program.run_as == "system":
            assert line.run_as == "system"
        else:
            assert line.run_as in users
        if order.purpose == "optional":
            assert line.record.requested_at is not None
        assert order.blocking_policy == "close" or line.id not in self.blocked
        if order.notify.countdown_s and self.presence.users:
            assert line.id in self.told
            assert self.told[line.id] + timedelta(seconds=order.notify.countdown_s) <= self.now

    @invariant()
    @precondition(lambda self: hasattr(self, "state"))
    def nobody_can_hold_it_up_for_ever(self) -> None:
        """Whatever people do, their delays end with the budget, and a countdown is never longer than it says."""
        for line in self._plan().lines:
            if line.code in {"wait.busy", "wait.deferred"}:
                assert line.deadline is not None
                assert self.now < line.deadline + timedelta(seconds=line.instruction.deferral.max_s)
            if line.code == "wait.countdown":
                assert line.until is not None
                assert self.now < line.until <= self.now + timedelta(seconds=line.instruction.notify.countdown_s)

    @invariant()
    @precondition(lambda self: hasattr(self, "state"))
    def the_plan_depends_on_nothing_else(self) -> None:
        """Deterministic, explained alike, and unchanged by an order that has nothing to do with the others."""
        records, around = self.journal.records(), self._situation()
        made = plan(records, around, self.now)
        assert plan(records[::-1], around, self.now) == made
        explained = plan(records, around, self.now, explain=True).lines
        assert tuple(replace(line, trace=()) for line in explained) == made.lines
        stranger = instruction(99, package="stranger", offer_after=self.now, mandatory_after=self.now)
        other = InstructionRecord(
            id=stranger.id,
            generation=1,
            instruction=stranger,
            state=Stage.OFFERED,
            first_seen=self.now,
            changed=self.now,
            manifest_sha256=stranger.manifest.sha256,
        )
        wider = replace(around, manifests={**around.manifests, stranger.manifest.sha256: manifest(stranger)})
        lines = plan([*records, other], wider, self.now).lines
        assert tuple(line for line in lines if line.id != stranger.id) == made.lines


AnyOrder.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestAnyOrder = AnyOrder.TestCase
