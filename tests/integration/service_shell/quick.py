"""A check as the supervisor starts it, and what came of it: the line, the connection, and how much was loaded for it."""

import select
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pcm.service.check_process import read_pause, read_wake, reads
from tests.integration.service_shell.static_site import Client

_CODE = (
    "import sys; from pcm.service.quick_check import main; code = main(); "
    "sys.stderr.write('WHOLE' if 'msgspec' in sys.modules else 'QUICK'); sys.exit(code)"
)


@dataclass
class Done:
    """One check. `whole`: it looked at everything."""

    code: int
    line: bytes
    whole: bool
    parked: socket.socket | None
    errors: str

    @property
    def pause(self) -> float | None:
        return read_pause(self.line)

    @property
    def wake_s(self) -> float:
        return read_wake(self.line)

    def says(self, name: bytes) -> bool:
        return reads(self.line, name)

    def stirs_within(self, seconds: float) -> bool:
        assert self.parked is not None
        return bool(select.select([self.parked], [], [], seconds)[0])

    def close(self) -> None:
        if self.parked is not None:
            self.parked.close()


def check(client: Client) -> Done:
    """One check by the process that the supervisor starts, with its end of the socket."""
    mine, its = socket.socketpair()
    with mine:
        with its:
            process = subprocess.run(
                [sys.executable, "-I", "-c", _CODE, "check", "--home", str(client.home)],
                check=False,
                stdout=its.fileno(),
                stderr=subprocess.PIPE,
                timeout=60,
            )
        line, descriptors, _, _ = socket.recv_fds(mine, 4096, 1)
    parked = socket.socket(fileno=descriptors[0]) if descriptors else None
    errors = process.stderr.decode()
    return Done(process.returncode, line, errors.endswith("WHOLE"), parked, errors)


def note_of(client: Client) -> Path:
    return client.places.state / "rest"


def until_quick(client: Client) -> None:
    """Check until nothing is left to do but to ask: news, then its report."""
    for _ in range(4):
        done = check(client)
        done.close()
        if not done.whole:
            return
    raise AssertionError(f"{done.errors} {list(client.places.state.iterdir())}")
