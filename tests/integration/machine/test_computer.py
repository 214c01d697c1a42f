"""The Linux computer as one object: what the service asks of it besides programs."""

import os
import pwd
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcm.service.machine.here import this_machine
from pcm.service.machine.interface import Launch, Machine, Peer
from pcm.service.machine.linux.clock import read_boot_id
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.machine.linux.tree import TreeProcesses


@pytest.fixture
def machine() -> Machine:
    return LinuxMachine(TreeProcesses())


def test_this_machine_is_the_one_for_this_system() -> None:
    assert isinstance(this_machine(), LinuxMachine)


def test_a_program_runs_and_is_forgotten_through_the_one_object(machine: Machine, tmp_path: Path) -> None:
    launch = Launch("ab" * 16, ("/bin/echo", "hello"), Path("/"), tmp_path / "run" / "output", 10)
    reference = machine.reference_of(launch)
    ended = machine.start(launch, reference).wait()
    assert (machine.name, ended.exit_code, ended.output_tail) == ("tree", 0, b"hello\n")
    assert machine.find_again(reference) is not None
    machine.forget(reference)
    assert machine.find_again(reference) is None


def test_the_other_end_of_a_local_connection_is_told_by_the_kernel(machine: Machine) -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        name = pwd.getpwuid(os.geteuid()).pw_name
        assert machine.peer_of(left) == Peer(os.geteuid(), os.getegid(), os.getpid(), name)


ANOTHERS_NUMBER = """
import os, socket
from pcm.service.machine.here import this_machine
os.seteuid(4321)
left, right = socket.socketpair()
os.seteuid(0)
print(this_machine().peer_of(left).name)
"""


@pytest.mark.needs("root")
@pytest.mark.parametrize(("owner", "told"), [("anna:x:4321:4321::/:/bin/sh\n", "anna"), ("", "")])
def test_nobody_is_taken_for_the_account_that_is_called_by_their_number(tmp_path: Path, owner: str, told: str) -> None:
    accounts = tmp_path / "passwd"
    accounts.write_text(f"root:x:0:0::/root:/bin/sh\n4321:x:17:17::/:/bin/sh\n{owner}")
    script = 'mount --bind "$0" /etc/passwd && exec "$@"'
    asked = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, accounts, sys.executable, "-c", ANOTHERS_NUMBER],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert asked.stdout.strip() == told


@pytest.mark.needs("users")
def test_another_users_connection_carries_his_number(machine: Machine, tmp_path: Path) -> None:
    address = f"\0pcm-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        client = subprocess.Popen(
            [
                "/usr/bin/python3",
                "-c",
                f"import socket, time; s = socket.socket(socket.AF_UNIX); s.connect({address!r}); s.recv(1)",
            ],
            user=65534,
            group=65534,
            extra_groups=[],
            cwd="/",
        )
        connection, _ = server.accept()
        with connection:
            peer = machine.peer_of(connection)
        assert (peer.user_id, peer.group_id, peer.process_id) == (65534, 65534, client.pid)
        client.wait()


def test_free_space_is_that_of_the_nearest_folder(machine: Machine, tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    free = machine.free_bytes(tmp_path / "not" / "there" / "yet")
    assert 0 < free <= status.f_blocks * status.f_frsize


def test_time_since_boot_goes_forward_and_boots_have_an_identity(machine: Machine) -> None:
    before = machine.boot_seconds()
    time.sleep(0.01)
    assert machine.boot_seconds() > before
    assert machine.boot_id() == machine.boot_id()
    kernel, began = machine.boot_id().split("-")
    assert (len(kernel), int(kernel, 16) > 0, began.isdecimal()) == (32, True, True)


def test_q164329_a_container_that_starts_anew_on_a_running_kernel_has_another_boot(tmp_path: Path) -> None:
    kernel = tmp_path / "sys/kernel/random"
    kernel.mkdir(parents=True)
    (kernel / "boot_id").write_text("12345678-1234-1234-1234-123456789abc\n")
    alone = read_boot_id(tmp_path)
    assert alone == "12345678123412341234123456789abc"
    (tmp_path / "1").mkdir()
    seen = set()
    for began in (24, 5000):
        fields = " ".join(["S", *["0"] * 18, str(began), "1", "2"])
        (tmp_path / "1" / "stat").write_text(f"1 (a (strange) name) {fields}\n")
        seen.add(read_boot_id(tmp_path))
    assert seen == {f"{alone}-24", f"{alone}-5000"}
    (tmp_path / "1" / "stat").write_text("1 (cut off")
    assert read_boot_id(tmp_path) == alone


def test_a_boot_is_what_the_first_process_sees_whatever_this_one_is_shown(tmp_path: Path) -> None:
    for proc, digits in ((tmp_path, "1" * 32), (tmp_path / "1/root/proc", "2" * 32)):
        kernel = proc / "sys/kernel/random"
        kernel.mkdir(parents=True)
        (kernel / "boot_id").write_text(f"{digits}\n")
    assert read_boot_id(tmp_path) == "2" * 32


def test_rights_and_protection_are_those_of_this_process(machine: Machine, tmp_path: Path) -> None:
    assert machine.is_administrator() == (os.geteuid() == 0)
    assert machine.check_protected(tmp_path) == []
    tmp_path.chmod(0o777)
    assert [problem.code for problem in machine.check_protected(tmp_path)] == ["writable"]
    tmp_path.chmod(0o700)


def test_the_resident_process_loads_nothing_heavy(machine: Machine) -> None:
    """design/service.md, 'Shape': the supervisor imports the standard library only, and little of it."""
    script = (
        "import sys; from pcm.service.machine.here import this_machine; this_machine(); "
        "print(*(set(sys.modules) & {'msgspec', 'asyncio', 'hashlib', 'json', 'ssl', 'tuf', 'cryptography'}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert answer.stdout.split() == []
