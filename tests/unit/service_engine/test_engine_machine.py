"""The planner and the journal together, over days of anything that may happen: a state machine with the rules of a client.

Programs are not started; their ends are drawn. What must hold is about when they would have been, and how often.
"""

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.instruction import Instruction
from pcm.model.program import ExitCodes
from pcm.model.schedule import Window, open_span
from pcm.protocol.report import RunResult
from pcm.service.history import History
from pcm.service.journal import Journal, Verified
from pcm.service.plan import Plan, Situation
from pcm.service.planner import plan
from pcm.service.records import LedgerEntry, RunRecord
from pcm.service.state import State
from pcm.service.verdicts import Detected, judge_end, judge_unseen
from tests.unit.service_engine.making import NOON, instruction, job_id, manifest, situation

NUMBERS = st.integers(1, 4)
NIGHTLY = Window(days=("mon", "tue", "wed", "thu", "fri", "sat", "sun"), start="22:00", minutes=120, clock="utc")


class ClientDays(RuleBasedStateMachine):
    """Days in the life of a client."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.now = NOON
        self.state = State.open(Path(self.folder.name), self.now)
        self.journal, self.history = Journal(self.state), History(self.state)
        self.orders: dict[int, Instruction] = {}
        self.windows: tuple[Window, ...] = ()
        self.excused: set[tuple[str, int, int]] = set()
        self.counter = 0

    def teardown(self) -> None:
        self.state.close()
        self.folder.cleanup()

    def situation(self) -> Situation:
        every = [record.instruction for record in self.journal.records()]
        return situation(*((each, manifest(each)) for each in every), windows=self.windows)

    def take_in(self) -> None:
        self.journal.take_in([Verified(each) for each in self.orders.values()], self.now)

    def look(self) -> Plan:
        made = plan(self.journal.records(), self.situation(), self.now)
        self.journal.adopt(made, self.now)
        return made

    @initialize(windows=st.sampled_from(((), (NIGHTLY,))))
    def begin(self, windows: tuple[Window, ...]) -> None:
        self.windows = windows

    @rule(
        number=NUMBERS,
        offer=st.integers(-24, 24),
        until=st.none() | st.integers(1, 48),
        optional=st.booleans(),
        ignore=st.booleans(),
        after=st.none() | NUMBERS,
    )
    def order(
        self, number: int, offer: int, until: int | None, optional: bool, ignore: bool, after: int | None
    ) -> None:
        """The site orders something new, or anew."""
        start = self.now + timedelta(hours=offer)
        old = self.orders.get(number)
        self.orders[number] = instruction(
            number,
            generation=1 if old is None else old.generation + 1,
            offer_after=start,
            expires_after=None if until is None else start + timedelta(hours=until),
            purpose="optional" if optional else "mandatory",
            window_policy="ignore" if ignore else "respect",
            after=() if after in {None, number} else (job_id(after or 0),),
            **({} if optional else {"mandatory_after": start + timedelta(hours=1)}),
        )
        self.take_in()

    @rule(number=NUMBERS)
    def withdraw(self, number: int) -> None:
        """The site takes an order back; it never gives the same generation out again."""
        if self.orders.pop(number, None) is not None:
            self.take_in()
            self.look()

    @rule()
    def poll(self) -> None:
        """The same file again."""
        self.take_in()

    @rule(minutes=st.integers(1, 60 * 30))
    def pass_time(self, minutes: int) -> None:
        """Time goes on."""
        self.now += timedelta(minutes=minutes)

    @rule(number=NUMBERS)
    def wish(self, number: int) -> None:
        """A user asks."""
        record = next((each for each in self.journal.records() if each.instruction.job == job_id(number)), None)
        if (
            record is not None
            and record.present
            and record.instruction.purpose == "optional"
            and record.state in {Stage.OFFERED, Stage.WAITING, Stage.FAILED}
        ):
            self.now += timedelta(seconds=1)
            self.journal.request(record.id, "ada", self.now)
            if record.state is Stage.FAILED:
                self.excused.add((record.id, record.generation, len(self.history.runs(record.id, record.generation))))

    @rule(code=st.sampled_from((0, 0, 1, 1618, 1602, None)), killed=st.booleans())
    def run_what_is_due(self, code: int | None, killed: bool) -> None:
        """The first due line runs, ends somehow, or the service is killed meanwhile."""
        due = self.look().due()
        if not due:
            return
        line = due[0]
        order = line.instruction
        self.check_time(order)
        self.counter += 1
        earlier = self.history.runs(line.id, line.record.generation)
        run = RunRecord(
            run=f"{self.counter:032x}",
            instruction=line.id,
            generation=line.record.generation,
            attempt=len(earlier) + 1,
            program="install",
            manifest_sha256=order.manifest.sha256,
            argv=("/x",),
            run_as="system",
            started=self.now,
            reference={},
            boot_id="b",
        )
        self.history.begin_run(run)
        self.now += timedelta(minutes=5)
        result = RunResult(run.run, run.started, self.now, code, ExitCodes().classify(code).value)
        if killed:
            change = judge_unseen(result, Detected.NO, "Killed.")
        else:
            change = judge_end(line.record, result, Detected.NOT_ASKED, len(earlier) + 1, "b")
        if change.code in {"retry.exit_code", "run.cancelled"}:
            self.excused.add((run.instruction, run.generation, run.attempt))
        entry = LedgerEntry(
            run=run.run, instruction=line.id, job=order.job, generation=run.generation, package=order.package,
            version="1.0", release=1, program="install", argv=run.argv, run_as="system",
            manifest_path=order.manifest.path, manifest_sha256=run.manifest_sha256, started=run.started,
            ended=self.now, state=change.state.value,
        )  # fmt: skip
        self.history.end_run(run, change, entry, None, self.now)

    def check_time(self, order: Instruction) -> None:
        """What runs is offered, due, not expired, still ordered, and in a window if it must be."""
        assert order.offer_after <= self.now
        assert order.expires_after is None or self.now < order.expires_after
        assert order in self.orders.values()
        if order.mandatory_after is not None:
            assert order.mandatory_after <= self.now
            if self.windows and order.window_policy == "respect":
                span = open_span(self.windows, self.now, self.situation().zone)
                assert span is not None
                assert self.now + timedelta(seconds=600) <= span[1]
        for job in order.after:
            states = {record.instruction.job: record.state for record in self.journal.records()}
            assert states[job] in {Stage.SUCCEEDED, Stage.ALREADY_INSTALLED}

    @invariant()
    def no_generation_runs_again_without_a_reason(self) -> None:
        """A second attempt follows a recorded wish for one: of the program, or of a user."""
        for record in self.journal.records():
            for run in self.history.runs(record.id, record.generation):
                if run.attempt > 1:
                    assert (record.id, record.generation, run.attempt - 1) in self.excused

    @invariant()
    def every_run_has_ended_once(self) -> None:
        """The ledger has one entry for each run, and none is open."""
        assert self.history.open_runs() == []
        assert self.state.rows("SELECT count(*) FROM ledger") == [(self.counter,)]

    @invariant()
    def planning_again_at_the_same_time_changes_nothing(self) -> None:
        """Once adopted, a plan is stable."""
        first = self.look()
        records = self.journal.records()
        assert self.journal.adopt(plan(records, self.situation(), self.now), self.now) == 0
        assert [line.id for line in first.due()] == [
            line.id for line in plan(records, self.situation(), self.now).due()
        ]

    @invariant()
    def it_looks_again_in_time(self) -> None:
        """Nothing that is due by time alone is forgotten between now and the next look."""
        made = self.look()
        change = made.next_change(self.now)
        if change is None or change <= self.now:
            return
        just_before: datetime = change - timedelta(seconds=1)
        if just_before > self.now:
            assert plan(self.journal.records(), self.situation(), just_before).due() == ()


ClientDaysTest = ClientDays.TestCase
ClientDaysTest.settings = settings(max_examples=40, stateful_step_count=30)


def test_the_machine_itself_can_run_something() -> None:
    """Or else its invariants would hold of nothing."""
    days = ClientDays()
    try:
        days.order(1, -5, None, optional=False, ignore=False, after=None)
        days.run_what_is_due(0, killed=False)
        assert days.counter == 1
        days.orders[1] = replace(days.orders[1], priority=1)
        days.poll()
        days.run_what_is_due(0, killed=False)
        assert days.counter == 1
    finally:
        days.teardown()
