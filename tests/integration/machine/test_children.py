"""Children of our own: who they are, what they have lost, and that runs do not mistake them for their own."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.service.machine.interface import Account, Launch, Limits, OwnChild, OwnProgram
from pcm.service.machine.linux.accounts import account_named, groups_of, transfer_account
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.machine.linux.proctable import read_process
from pcm.service.machine.linux.tree import TreeProcesses

MODULE = "tests.integration.machine.child_programs"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[LinuxMachine]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))
    made = ClosingMachine()
    yield made
    for child in made.children:
        child.close()


class ClosingMachine(LinuxMachine):
    """Closes its children when a test ends, however it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[OwnChild] = []

    def spawn(self, program: OwnProgram) -> OwnChild:
        child = super().spawn(program)
        self.children.append(child)
        return child


def program(function: str, **more: object) -> OwnProgram:
    return OwnProgram(MODULE, function, pipes=True, **more)  # type: ignore[arg-type]


def read_line(child: OwnChild) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([child.stdout], [], [], 10)[0], "the child said nothing for ten seconds"
        chunk = os.read(child.stdout, 65536)
        assert chunk, f"the child ended after {line!r}"
        line += chunk
    return line


def told_by(machine: LinuxMachine, **more: object) -> dict[str, object]:
    child = machine.spawn(program("tell", **more))
    try:
        told: dict[str, object] = json.loads(read_line(child))
        assert child.wait(10) == 3
        return told
    finally:
        child.close()


@pytest.mark.needs("users")
def test_the_network_side_has_lost_every_right(machine: LinuxMachine) -> None:
    account = machine.transfer_account("_nobody-of-that-name")
    told = told_by(machine, account=account, arguments=("a b", "$c"))
    number = account.user_id
    assert 61184 <= number <= 65519
    assert told == {
        "arguments": ["a b", "$c"],
        "ids": [number] * 6,
        "groups": [],
        "no_new_privileges": "1",
        "capabilities": "0" * 16,
        "descriptors": [0, 1, 2],
        "environment": ["LANG", "PATH"],
        "directory": "/",
        "files": Limits().open_files,
        "memory": Limits().memory_bytes,
        "core": 0,
        "can_become_root": False,
        "can_write": False,
        "can_read_shadow": False,
        "can_use_sockets": True,
    }


def test_without_an_account_a_child_keeps_its_rights_and_nothing_else(machine: LinuxMachine) -> None:
    left, right = os.pipe()
    try:
        told = told_by(machine, kept_descriptors=(right,), environment={"PCM_X": "1"})
        assert told["ids"] == [*os.getresuid(), *os.getresgid()]
        assert told["descriptors"] == [0, 1, 2, right]
        assert told["environment"] == ["LANG", "PATH", "PCM_X"]
        assert told["no_new_privileges"] == "0"
    finally:
        os.close(left)
        os.close(right)


def test_bytes_go_in_and_out_and_the_end_is_noticed(machine: LinuxMachine) -> None:
    child = machine.spawn(program("echo"))
    os.write(child.stdin, b"hello\n")
    assert read_line(child) == b"HELLO\n"
    assert child.wait(0) is None
    child.kill()
    assert select.select([child.descriptor], [], [], 10)[0]
    assert child.wait(10) == -9
    assert child.wait() == -9
    child.close()
    child.close()
    assert (child.stdin, child.stdout, child.descriptor) == (-1, -1, -1)


@pytest.mark.needs("users")
def test_memory_of_the_network_side_is_bounded(machine: LinuxMachine) -> None:
    account = machine.transfer_account("_nobody-of-that-name")
    child = machine.spawn(program("eat", account=account, limits=Limits(memory_bytes=300 << 20)))
    try:
        assert child.wait(30) == 9
    finally:
        child.close()


@pytest.mark.needs("users")
def test_the_network_side_ends_with_its_parent(machine: LinuxMachine) -> None:
    script = (
        "import os, sys, time; from pcm.service.machine.interface import *; "
        "from pcm.service.machine.linux.computer import LinuxMachine; m = LinuxMachine(); "
        f"child = m.spawn(OwnProgram({MODULE!r}, 'hang', account=m.transfer_account('_none'), pipes=True)); "
        "os.read(child.stdout, 5); print(child.process_id, flush=True); time.sleep(60)"
    )
    path = ":".join([str(Path(__file__).parents[3]), *sys.path])
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env={"PYTHONPATH": path})
    assert parent.stdout is not None
    child_id = int(parent.stdout.readline())
    assert read_process(child_id) is not None
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 10
    while (process := read_process(child_id)) is not None and process.alive:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_neither_waits_for_nor_kills_our_own_children(machine: LinuxMachine, tmp_path: Path) -> None:
    before = machine.spawn(program("hang"))
    read_line(before)
    runs = TreeProcesses()
    launch = Launch("ab" * 16, ("/bin/sh", "-c", "sleep 0.2"), Path("/"), tmp_path / "run" / "output", 20)
    running = runs.start(launch)
    during = machine.spawn(program("hang"))
    read_line(during)
    ended = running.wait()
    assert ended.exit_code == 0
    assert ended.duration_s < 10
    again = Launch("cd" * 16, ("/bin/sleep", "60"), Path("/"), tmp_path / "other" / "output", 0.2, grace_s=0.2)
    assert runs.start(again).wait().survivors_killed == 1
    for child in (before, during):
        assert child.wait(0) is None
        child.close()


def test_a_child_that_cannot_begin_says_so_by_its_exit_code(
    machine: LinuxMachine, capfd: pytest.CaptureFixture[str]
) -> None:
    child = machine.spawn(OwnProgram("pcm.service.machine.nowhere", pipes=True))
    try:
        assert child.wait(10) == 1
    finally:
        child.close()
    assert "pcm.service.machine.nowhere" in capfd.readouterr().err


def test_accounts_by_name_number_and_role() -> None:
    assert account_named("root").user_id == 0
    assert account_named("0").name == "root"
    assert account_named("system").user_id == os.geteuid()
    assert account_named("4000000000") == Account(4000000000, 4000000000)
    assert groups_of(Account(4000000000, 4000000000)) == [4000000000]
    assert transfer_account("nobody", "x") == account_named("nobody")
    unnamed = transfer_account("_nobody-of-that-name", "one")
    assert unnamed == transfer_account("_nobody-of-that-name", "one")
    assert unnamed != transfer_account("_nobody-of-that-name", "two")
