"""A transfer process that somebody has taken over: what it gains from its account, its descriptors and its parent's end."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.model.errors import MachineError
from pcm.service.machine.interface import OwnChild, OwnProgram
from pcm.service.machine.linux import accounts
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.machine.linux.proctable import read_process

pytestmark = pytest.mark.needs("users")

TREE = Path(__file__).parents[3]
MODULE = "tests.integration.attacks_service.confined_programs"
# a worker that starts the function named by its argument, tells the child's number and what it says, and waits
_WORKER = f"""
import os, sys, time
sys.path.insert(0, {str(TREE)!r})
from pcm.service.machine.interface import OwnProgram
from pcm.service.machine.linux.computer import LinuxMachine
machine = LinuxMachine()
account = machine.transfer_account("_nobody-of-that-name")
child = machine.spawn(OwnProgram({MODULE!r}, sys.argv[1], account=account, pipes=True))
out = int(sys.argv[2])
os.write(out, b"%d\\n" % child.process_id)
while piece := os.read(child.stdout, 4096):
    os.write(out, piece)
child.wait()
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> LinuxMachine:
    monkeypatch.syspath_prepend(str(TREE))
    return LinuxMachine()


def spawn(machine: LinuxMachine, function: str, *arguments: str) -> OwnChild:
    account = machine.transfer_account("_nobody-of-that-name")
    return machine.spawn(OwnProgram(MODULE, function, arguments, account=account, pipes=True))


def read_line(descriptor: int) -> str:
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([descriptor], [], [], 20)[0], f"nothing came after {line!r}"
        piece = os.read(descriptor, 1)
        assert piece, f"it ended after {line!r}"
        line += piece
    return line.decode().strip()


@contextlib.contextmanager
def worker(function: str, **more: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", _WORKER, function, str(writing)], pass_fds=(writing,), **more)  # type: ignore[call-overload]
    os.close(writing)
    try:
        yield process, reading
    finally:
        process.kill()
        process.wait()
        os.close(reading)


def test_it_cannot_read_what_the_administrator_types() -> None:
    """`sudo pcmsvc once` at a terminal: the next thing typed there may be a password."""
    keyboard, terminal = pty.openpty()
    try:
        with worker("read_terminal", stdin=terminal, stderr=terminal) as (_, said):
            read_line(said)
            assert read_line(said) == "ready"
            os.write(keyboard, b"the next password\n")
            assert "password" not in read_line(said)
    finally:
        os.close(keyboard)
        os.close(terminal)


def test_it_ends_with_its_worker_whatever_it_does() -> None:
    with worker("outlive") as (process, said):
        number = int(read_line(said))
        assert read_line(said) == "-1 -1 -1"
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 10
        while (left := read_process(number)) is not None and left.alive and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left is None or not left.alive


def test_it_cannot_end_another_process_of_its_account(machine: LinuxMachine) -> None:
    neighbour = spawn(machine, "stay")
    try:
        assert read_line(neighbour.stdout) == "ready"
        striker = spawn(machine, "strike", str(neighbour.process_id))
        try:
            assert read_line(striker.stdout) == "refused"
        finally:
            striker.close()
        assert neighbour.wait(0.1) is None
    finally:
        neighbour.close()


def test_it_never_gets_an_administrators_account(machine: LinuxMachine) -> None:
    with pytest.raises(MachineError, match="administrator's") as refused:
        machine.transfer_account("root")
    assert refused.value.code == "machine.account"


def test_it_never_shares_a_number_with_another_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd hands the same numbers out to units with DynamicUser=; not every computer can tell by their names."""
    monkeypatch.setattr(accounts, "_HANDED_OUT", tmp_path)
    wanted = accounts.transfer_account("_nobody-of-that-name", "x").user_id
    (tmp_path / str(wanted)).touch()
    assert accounts.transfer_account("_nobody-of-that-name", "x").user_id != wanted
