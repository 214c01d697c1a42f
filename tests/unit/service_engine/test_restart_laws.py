"""What holds for every restart, whatever programs ask, people say and computers do, in any order."""

import contextlib
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pcm.model.assignment import State as Stage
from pcm.model.errors import RequestError
from pcm.model.instruction import Deferral, Instruction, Notify
from pcm.model.schedule import Window, open_span
from pcm.service import restart
from pcm.service.journal import Journal
from pcm.service.restart_record import Row, read_open
from pcm.service.restart_rules import LEAST_NOTICE, MOST_TRIES
from pcm.service.state import State
from tests.unit.service_engine.making import NOON, instruction
from tests.unit.service_engine.restarting import Restarting

PEOPLE = st.sampled_from(("alice", "bob"))
SPANS = st.sampled_from((1, 30, 61, 300, 601, 601, 1801, 1801, 4000))
WINDOWS = tuple(
    Window(days=("wed", "thu", "fri"), start=f"{hour}:30", minutes=40, clock="utc") for hour in range(10, 24)
)


class Restarts(RuleBasedStateMachine):
    """A client on which anything happens. Each time its computer is asked to restart, the laws are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._state = State.open(Path(self._folder.name) / "var", NOON)
        self.client = Restarting(self._state)
        self.number = 0
        self.tries = 0  # that nobody here chose, since the last program asked or the last restart
        self.told: dict[str, Any] = {}  # who was told, and when, in this boot

    def teardown(self) -> None:
        self._state.close()
        self._folder.cleanup()

    @initialize(windows=st.booleans(), people=st.sets(PEOPLE), obeys=st.booleans())
    def set_up(self, windows: bool, people: set[str], obeys: bool) -> None:
        self.client.windows = WINDOWS if windows else ()
        self.client.computer.people = dict.fromkeys(people, False)
        self.client.computer.obeys = obeys

    def pending(self) -> list[Instruction]:
        boot = self.client.computer.boot_id()
        return [
            record.instruction
            for record in Journal(self._state).records()
            if record.state is Stage.RESTART_PENDING and record.restart_boot_id == boot
        ]

    @precondition(lambda self: len(self.pending()) < 3)
    @rule(
        policy=st.sampled_from(("never", "ask", "force", "force")),
        ignore=st.integers(0, 3).map(lambda number: number == 0),
        countdown=st.sampled_from((0, 30, 600)),
        times=st.integers(0, 2),
        budget=st.sampled_from((60, 3600)),
    )
    def a_program_asks(self, policy: Any, ignore: bool, countdown: int, times: int, budget: int) -> None:
        self.number += 1
        order = instruction(
            self.number,
            restart_policy=policy,
            window_policy="ignore" if ignore else "respect",
            notify=Notify(countdown_s=countdown),
            deferral=Deferral(times=times, max_s=budget),
        )
        row = read_open(self._state)
        if row is None or row.begun is None:  # nothing runs any more while the computer goes down
            self.client.ask_for_restart(order)
            self.tries = 0

    @rule(seconds=SPANS, checks=st.integers(1, 6))
    def time_passes(self, seconds: int, checks: int) -> None:
        for _ in range(checks):
            self.client.pass_time(seconds=seconds)
            self.the_service_checks()

    @rule(name=PEOPLE)
    def somebody_comes_or_goes(self, name: str) -> None:
        if self.client.computer.people.pop(name, None) is None:
            self.client.computer.people[name] = False

    @rule(name=PEOPLE, hours=st.integers(1, 5))
    def somebody_postpones(self, name: str, hours: int) -> None:
        until = self.client.now + timedelta(hours=hours)
        with contextlib.suppress(RequestError):
            restart.postpone(self._state, until, name, self.client.computer.sessions(), self.client.now)

    @rule(name=st.sampled_from(("alice", "bob", "root")))
    def somebody_chooses_now(self, name: str) -> None:
        with contextlib.suppress(RequestError):
            sessions = self.client.computer.sessions()
            restart.ask_now(self._state, name, sessions, self.client.now, administrator=name == "root")

    @precondition(lambda self: self.number % 3 == 2)
    @rule()
    def somebody_else_restarts_it(self) -> None:
        self.client.computer.boot += 1
        self.told, self.tries = {}, 0

    @rule()
    def the_service_checks(self) -> None:
        client, computer = self.client, self.client.computer
        wanted, before, row = self.pending(), len(computer.asked), read_open(self._state)
        shown, boot = len(computer.shown), computer.boot
        client.check()
        if len(computer.shown) > shown:
            self.told.update({name: client.now for name in computer.people if name not in self.told})
        if len(computer.asked) == before:
            return
        assert len(computer.asked) == before + 1
        self.check_laws(wanted, row)
        if computer.boot != boot:
            self.told, self.tries = {}, 0

    def check_laws(self, wanted: list[Instruction], row: Row | None) -> None:
        """The computer was just asked to restart."""
        client = self.client
        assert wanted, "nobody wanted it"
        if row is not None and row.requested_by is not None:
            return  # somebody here chose it, and was asked whether they may
        self.tries += 1
        assert self.tries <= MOST_TRIES, "it loops"
        strictest = "force" if any(order.restart_policy == "force" for order in wanted) else "ask"
        deciding = [order for order in wanted if order.restart_policy == strictest]
        assert deciding, "all of them leave it to people"
        if client.windows and open_span(client.windows, client.now, NOON.tzinfo) is None:  # type: ignore[arg-type]
            assert any(order.window_policy == "ignore" for order in deciding), "outside of every window"
        for name in client.computer.people:
            assert strictest == "force", "somebody was logged on, and nobody forces it"
            assert client.now >= self.told[name] + LEAST_NOTICE, "somebody was not told in time"
        if row is not None and row.deferred_until is not None and row.announced is not None:
            budget = min(order.deferral.max_s for order in wanted if order.restart_policy != "never")
            assert client.now >= min(row.deferred_until, row.announced + timedelta(seconds=budget)), "it was postponed"

    @invariant()
    def there_is_one_open_row_at_most_and_its_wishes_are_not_lost(self) -> None:
        assert self._state.rows("SELECT count(*) FROM restarts WHERE ended IS NULL")[0][0] <= 1
        known = len(Journal(self._state).records())
        assert known == len(self.client.orders)

    @invariant()
    def who_postponed_stayed_within_the_smallest_budget(self) -> None:
        row = read_open(self._state)
        wanted = [order for order in self.pending() if order.restart_policy != "never"]
        if row is not None and wanted and row.boot_id == self.client.computer.boot_id():
            assert row.deferrals <= max(order.deferral.times for order in self.client.orders.values())


Restarts.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestRestarts = Restarts.TestCase
