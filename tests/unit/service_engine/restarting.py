"""A computer that can be restarted, as far as the restart of a client is concerned: people, boots, and whether it obeys."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from pcm.model.assignment import State as Stage
from pcm.model.errors import MachineError
from pcm.model.instruction import Instruction
from pcm.model.schedule import Window
from pcm.service.journal import Change, Journal, Verified
from pcm.service.machine.interface import Session
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.restart_record import read_open, settle
from pcm.service.restart_start import Desk, restart_if_due
from pcm.service.state import State
from tests.unit.service_engine.making import NOON


class Computer(LinuxMachine):
    """This computer, but for people and restarts.

    `asked`: the moments at which it was asked to restart, with what was said; `obeys`: it then comes back with another boot id.
    `blocked`: who holds a lock on shutting down; `heeded`: whether each call heeded such locks. `silent`: it does not say whether
    it obeys.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__()
        self.clock = clock
        self.boot = 1
        self.people: dict[str, bool] = {}  # name: remote
        self.obeys = True
        self.blocked = ""
        self.broken = False
        self.silent = False
        self.asked: list[datetime] = []
        self.heeded: list[bool] = []
        self.shown: list[str] = []

    def boot_id(self) -> str:
        """Its number."""
        return f"boot-{self.boot}"

    def sessions(self) -> Sequence[Session]:
        """Who was put there."""
        return [Session(name, 1000, not remote, remote) for name, remote in sorted(self.people.items())]

    def tell_users(self, text: str) -> None:
        """Keep what people were shown."""
        self.shown.append(text)

    def restart(self, reason: str, *, ignore_inhibitors: bool = False) -> None:
        """Obey, or not."""
        assert reason
        self.heeded.append(not ignore_inhibitors)
        if self.broken:
            raise MachineError("It cannot restart.", code="machine.cannot_restart")
        if self.blocked and not ignore_inhibitors:
            raise MachineError(f"{self.blocked} holds it up.", code="machine.restart_inhibited")
        self.asked.append(self.clock())
        if self.obeys:
            self.boot += 1
        if self.silent:
            raise MachineError("It gave no answer.", code="machine.restart_unanswered")


class Restarting:
    """One client whose programs ask for restarts. `now` moves by hand; `check` is what a check does about restarts."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.now = NOON
        self.windows: tuple[Window, ...] = ()
        self.computer = Computer(lambda: self.now)
        self.orders: dict[str, Instruction] = {}
        self.said: list[str] = []

    def pass_time(self, **span: float) -> None:
        """Let time pass."""
        self.now += timedelta(**span)

    def ask_for_restart(self, order: Instruction) -> None:
        """Its program ends now, and asks for a restart."""
        self.orders[order.id] = order
        journal = Journal(self.state)
        journal.take_in([Verified(each) for each in self.orders.values()], self.now)
        change = Change(
            state=Stage.RESTART_PENDING,
            code="wait.restart",
            restart_boot_id=self.computer.boot_id(),
            reason="exit code 3010",
        )
        journal.change(order.id, change, self.now)

    def check(self) -> datetime | None:
        """Settle what is over, then decide, as `service.check` and `service.recovery` do. None also while it goes down."""
        settle(self.state, self.computer.boot_id(), self.now)
        row = read_open(self.state)
        if row is not None and row.begun is not None:
            return None
        journal = Journal(self.state)
        for record in journal.records():
            if record.state is Stage.RESTART_PENDING and record.restart_boot_id != self.computer.boot_id():
                journal.change(record.id, Change(state=Stage.SUCCEEDED, code="restarted"), self.now)
        desk = Desk(self.state, self.computer, self.windows, UTC, lambda: self.now, self.said.append)
        return restart_if_due(desk)

    def states(self) -> list[str]:
        """Of all instructions."""
        return [record.state.value for record in Journal(self.state).records()]

    def outcomes(self) -> list[str]:
        """How the restarts ended, oldest first."""
        return [
            str(row[0]) for row in self.state.rows("SELECT outcome FROM restarts WHERE ended IS NOT NULL ORDER BY seq")
        ]
