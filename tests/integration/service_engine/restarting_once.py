"""One check of a client whose program asks for a restart, on a computer that only notes that it was asked; `PCM_FAULT` kills it.

    python tests/integration/service_engine/restarting_once.py DIR MINUTES

MINUTES later than now. The computer has another boot id after each time that it was asked. Prints what is known at the end.
"""

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, timedelta
from pathlib import Path

from pcm.service import faults, recovery, runner
from pcm.service.machine.interface import Session
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.restart_record import seconds_down, settle
from pcm.service.restart_start import Desk, restart_if_due
from tests.integration.service_engine.trivial import Client


class Noting(LinuxMachine):
    """Nobody is logged on; each restart is a line of a file."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.file = home / "asked"

    def asked(self) -> int:
        """How often."""
        return len(self.file.read_text().splitlines()) if self.file.exists() else 0

    def boot_id(self) -> str:
        """Another one after each restart."""
        return f"boot-{self.asked()}"

    def sessions(self) -> Sequence[Session]:
        """Nobody."""
        return []

    def restart(self, reason: str, *, ignore_inhibitors: bool = False) -> None:
        """Note it."""
        with self.file.open("a") as file:
            file.write(f"{reason} {ignore_inhibitors}\n")


def check(client: Client, machine: Noting) -> None:
    """As `service.check` does it."""
    settle(client.state, machine.boot_id(), client.now())
    if seconds_down(client.state, client.now()) is not None:
        return
    recovery.reconcile(client.context)
    client.take_in(client.instruction(program="restart"))
    runner.drain(client.context, client.situation)
    restart_if_due(Desk(client.state, machine, (), UTC, client.now, lambda _: None))


def main(arguments: Sequence[str]) -> int:
    """One check in this process."""
    faults.arm(os.environ, home_given=True)
    home = Path(arguments[0])
    home.mkdir(exist_ok=True)
    machine = Noting(home)
    client = Client(home, machine=machine)
    client.shift = timedelta(minutes=float(arguments[1]))
    check(client, machine)
    told = {
        "asked": machine.asked(),
        "counter": client.counted(),
        "states": [(record.state.value, record.code) for record in client.context.journal.records()],
        "outcomes": [
            (outcome.state.value, outcome.result is not None) for _, outcome in client.context.journal.unreported()
        ],
        "ledger": client.state.rows("SELECT count(*) FROM ledger")[0][0],
        "restarts": [row[0] for row in client.state.rows("SELECT outcome FROM restarts ORDER BY seq")],
    }
    client.close()
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
