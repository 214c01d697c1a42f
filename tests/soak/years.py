"""Years of one client in minutes: the engine on a clock that runs ahead, real programs, and what this process holds meanwhile.

    python -m tests.soak.years DIR TICKS

A tick is three hours. Orders recur every three hours, by the day and each Monday, one program fails each time it is tried, one writes
much, one asks to be tried later. As a service that starts a worker for each check, it opens its state anew now and then, and what
was reported counts as acknowledged. After each tenth of the ticks it prints one JSON line of what it holds by then.
"""

import gc
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

from pcm.model.instruction import Instruction
from pcm.model.program import ExitCodes, Program
from tests.integration.service_engine.trivial import Client

TICK = timedelta(hours=3)
REOPENED_EVERY = 8  # a day
_NOISE = 'i=0; while [ $i -lt 3000 ]; do echo "line $i of what an installer tells nobody"; i=$((i+1)); done'


class Life:
    """One client, and how often its programs ran."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._shift = timedelta()
        self.client = self._open()
        self.orders = self._orders()

    def tick(self) -> None:
        """Three hours later, one check."""
        self._shift += TICK
        self.client.shift = self._shift
        self.client.check(*self.orders)

    def reopen(self) -> None:
        """As another worker finds it, after everything was acknowledged."""
        journal = self.client.context.journal
        while waiting := journal.unreported():
            journal.mark_reported([seq for seq, _ in waiting], 1)
        self.client.close()
        self.client = self._open()

    def _open(self) -> Client:
        counter = str(self._home / "counter")
        client = Client(
            self._home,
            {
                "quick": Program(argv=("/bin/sh", "-c", 'echo x >> "$0"', counter), timeout_s=20),
                "loud": Program(argv=("/bin/sh", "-c", _NOISE), timeout_s=20),
                "failing": Program(argv=("/bin/sh", "-c", "exit 7"), timeout_s=20),
                "later": Program(argv=("/bin/sh", "-c", "exit 9"), exit_codes=ExitCodes(retry=(9,)), timeout_s=20),
            },
        )
        client.shift = self._shift
        return client

    def _orders(self) -> tuple[Instruction, ...]:
        first = self.client.now().replace(microsecond=0)
        rules = {
            "quick": "FREQ=HOURLY;INTERVAL=3",
            "loud": "FREQ=DAILY",
            "failing": "FREQ=DAILY",
            "later": "FREQ=WEEKLY;BYDAY=MO",
        }
        return tuple(
            self.client.instruction(number, program=program, recurrence=rule, offer_after=first)
            for number, (program, rule) in enumerate(rules.items(), start=1)
        )

    def held(self, tick: int) -> dict[str, int]:
        """What there is by now. Memory in KiB, the database in bytes; the ledger is kept for ever."""
        gc.collect()
        [[ledger]] = self.client.state.rows("SELECT count(*) FROM ledger")
        rows = sum(
            self.client.state.rows(f"SELECT count(*) FROM {table}")[0][0]
            for table in ("runs", "steps", "outcomes", "refusals")
        )
        status = Path("/proc/self/status").read_text()
        return {
            "tick": tick,
            "runs": self.client.counted(),
            "ledger": ledger,
            "rows": rows,
            "memory": int(status.split("VmRSS:")[1].split()[0]),
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
            "files": sum(len(files) for _, _, files in os.walk(self._home)),
            "children": len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
        }


def main(arguments: list[str]) -> int:
    """Process entry."""
    home, ticks = Path(arguments[0]), int(arguments[1])
    life = Life(home)
    for tick in range(1, ticks + 1):
        life.tick()
        if tick % REOPENED_EVERY == 0:
            life.reopen()
        if tick % (ticks // 10) == 0:
            sys.stdout.write(json.dumps(life.held(tick)) + "\n")
            sys.stdout.flush()
    life.client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
