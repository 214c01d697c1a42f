"""Finding survivors believes only what an unprivileged user cannot fake."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.service.machine.interface import Launch, RunReference
from pcm.service.machine.linux.survivors import FoundTree
from pcm.service.machine.linux.tree import TreeProcesses
from pcm.service.machine.posix.output import ProgramOutput, remove_pipe

RUN = "ef" * 16


@pytest.fixture
def reference(tmp_path: Path) -> RunReference:
    launch = Launch(RUN, ("/bin/true",), Path("/"), tmp_path / "run" / "output", 20)
    return TreeProcesses().reference_of(launch)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def ids(tree: FoundTree) -> set[int]:
    return {process.id for process in tree.look()}


def sleeper(started: list[subprocess.Popen[bytes]], mark: str, **more: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["/bin/sleep", "60"], env={"PCM_RUN_ID": mark}, **more)  # type: ignore[call-overload]
    started.append(process)
    return process  # type: ignore[no-any-return]


def test_a_mark_of_ours_is_believed(reference: RunReference, started: list[subprocess.Popen[bytes]]) -> None:
    mine, other = sleeper(started, RUN), sleeper(started, "00" * 16)
    assert ids(FoundTree(reference)) == {mine.pid}
    assert other.poll() is None


def test_a_mark_must_be_the_whole_value(reference: RunReference, started: list[subprocess.Popen[bytes]]) -> None:
    sleeper(started, RUN + "0")
    sleeper(started, "x PCM_RUN_ID=" + RUN)
    assert ids(FoundTree(reference)) == set()


@pytest.mark.needs("users")
def test_a_users_forged_mark_holds_up_nothing(reference: RunReference, started: list[subprocess.Popen[bytes]]) -> None:
    forged = sleeper(started, RUN, user=65534, group=65534, extra_groups=[])
    assert ids(FoundTree(reference)) == set()
    assert FoundTree(reference).strike(signal.SIGKILL) == 0
    time.sleep(0.05)
    assert forged.poll() is None
    assert TreeProcesses().find_again(reference) is None


@pytest.mark.needs("users")
def test_another_account_that_has_our_output_open_is_believed(
    reference: RunReference, started: list[subprocess.Popen[bytes]]
) -> None:
    output = ProgramOutput.create(Path(reference.output_path), 1000)
    holder = sleeper(started, "", user=65534, group=65534, extra_groups=[], stdout=output.program_end)
    output.close()
    assert ids(FoundTree(reference)) == {holder.pid}


def test_a_run_folder_without_a_pipe_means_nobody_holds_it(
    reference: RunReference, started: list[subprocess.Popen[bytes]]
) -> None:
    output = ProgramOutput.create(Path(reference.output_path), 1000)
    holder = sleeper(started, "", stdout=output.program_end)
    output.close()
    assert ids(FoundTree(reference)) == {holder.pid}
    remove_pipe(Path(reference.output_path))
    assert ids(FoundTree(reference)) == set()


@pytest.mark.needs("users")
def test_a_daemon_to_which_a_user_handed_the_pipe_does_not_die_for_it(
    reference: RunReference, started: list[subprocess.Popen[bytes]]
) -> None:
    """A user can take the pipe from a program that runs as that user, and send it to whatever takes descriptors."""
    output = ProgramOutput.create(Path(reference.output_path), 1000)
    daemon = sleeper(started, "", stdout=output.program_end)
    theirs = sleeper(started, "", stdout=output.program_end, user=65534, group=65534, extra_groups=[])
    output.close()
    assert ids(FoundTree(reference._replace(user_id=65534))) == {theirs.pid}
    assert daemon.poll() is None


def test_once_recognised_stays_recognised(reference: RunReference, started: list[subprocess.Popen[bytes]]) -> None:
    output = ProgramOutput.create(Path(reference.output_path), 1000)
    shell = subprocess.Popen(
        ["/bin/sh", "-c", "read x; exec >/dev/null 2>&1; echo closed >&3; sleep 60"],
        env={},
        stdin=subprocess.PIPE,
        stdout=output.program_end,
        stderr=subprocess.DEVNULL,
        pass_fds=(),
    )
    started.append(shell)
    output.close()
    tree = FoundTree(reference)
    assert shell.pid in ids(tree)
    assert shell.stdin is not None
    shell.stdin.write(b"\n")
    shell.stdin.close()
    end = time.monotonic() + 10
    while not Path(f"/proc/{shell.pid}/fd/1").is_char_device():  # while it changes over there is none at all
        assert time.monotonic() < end
        time.sleep(0.01)
    assert shell.pid in ids(tree)
    assert shell.pid not in ids(FoundTree(reference))


def test_we_never_find_ourselves(reference: RunReference) -> None:
    output = ProgramOutput.create(Path(reference.output_path), 1000)
    try:
        assert os.getpid() not in ids(FoundTree(reference))
    finally:
        output.close()
