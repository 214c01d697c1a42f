"""Programs that are in the way, found by their exact names and closed: real processes, of several kinds."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pcm.service.machine.here import this_machine
from pcm.service.machine.interface import OwnProgram, Standing
from pcm.service.machine.linux.blocking import close_processes, processes_named
from tests.integration.service_engine.trivial import wait_for

Start = Callable[..., subprocess.Popen[bytes]]
STUBBORN = "#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do sleep 0.05; done\n"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs that end with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*argv: str | Path, **options: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]
        running.append(process)
        return process  # type: ignore[no-any-return]

    yield begin
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can enter."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


def program(folder: Path, name: str, script: str = "") -> Path:
    """An executable of this name: a script, or a copy of `sleep`."""
    path = folder / name
    if script:
        path.write_text(script)
        path.chmod(0o755)
    else:
        shutil.copy("/bin/sleep", path)
    return path


def found(*names: str) -> list[tuple[int, str]]:
    return [(each.process_id, each.name) for each in processes_named(names)]


def test_a_program_is_found_by_the_name_of_its_file(start: Start, tmp_path: Path) -> None:
    process = start(program(tmp_path, "pcm-editor"), "60")
    wait_for(lambda: found("pcm-editor") == [(process.pid, "pcm-editor")])
    [standing] = processes_named(["pcm-editor"])
    assert standing.user_id == os.getuid()
    assert found("pcm-edito", "pcm-editor2", "editor", "PCM-EDITOR") == []


def test_a_long_name_and_a_script_are_found_whole(start: Start, tmp_path: Path) -> None:
    script = "#!/bin/sh\nwhile :; do sleep 0.05; done\n"
    long, short = "pcm-a-very-long-program-name", "pcm-script"
    for name in (long, short):
        start(program(tmp_path, name, script))
    start(program(tmp_path, "pcm-a-very-long-and-other-name", script))
    wait_for(lambda: len(found(short)) == len(found(long)) == 1)
    assert found("pcm-a-very-long") == [], "what the kernel cuts off is not a name"


def test_the_file_may_have_been_replaced_since(start: Start, tmp_path: Path) -> None:
    path = program(tmp_path, "pcm-replaced")
    process = start(path, "60")
    wait_for(lambda: found("pcm-replaced") != [])
    path.unlink()
    assert found("pcm-replaced") == [(process.pid, "pcm-replaced")]


def test_what_has_ended_and_was_not_reaped_is_in_nobodys_way(start: Start, tmp_path: Path) -> None:
    process = start(program(tmp_path, "pcm-zombie"), "60")
    wait_for(lambda: found("pcm-zombie") != [])
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: found("pcm-zombie") == [])


def test_the_service_never_finds_itself(tmp_path: Path) -> None:
    interpreter = Path(sys.executable).resolve().name
    mine = {os.getpid(), os.getppid()}
    child = this_machine().spawn(OwnProgram("time", "sleep", ("x",), pipes=True))
    try:
        numbers = {each.process_id for each in processes_named([interpreter, "pytest", "bash", "sh"])}
        assert not numbers & (mine | {child.process_id, 1})
    finally:
        child.close()


def test_asked_politely_it_ends_by_itself(start: Start, tmp_path: Path) -> None:
    tidy = "#!/bin/sh\ntrap 'echo saved; exit 3' TERM\necho ready\nwhile :; do sleep 0.05; done\n"
    process = start(program(tmp_path, "pcm-tidy", tidy))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert close_processes(processes_named(["pcm-tidy"]), 10) == []
    assert (process.wait(5), process.stdout.readline()) == (3, b"saved\n")


def test_what_does_not_end_in_time_is_ended(start: Start, tmp_path: Path) -> None:
    process = start(program(tmp_path, "pcm-stubborn", STUBBORN))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    begun = time.monotonic()
    [killed] = close_processes(processes_named(["pcm-stubborn"]), 0.5)
    assert (killed.process_id, process.wait(5)) == (process.pid, -signal.SIGKILL)
    assert 0.5 <= time.monotonic() - begun < 5


def test_nobody_who_has_the_number_since_is_hurt(start: Start, tmp_path: Path) -> None:
    process = start(program(tmp_path, "pcm-innocent"), "60")
    wait_for(lambda: found("pcm-innocent") != [])
    [standing] = processes_named(["pcm-innocent"])
    # as if the one that was found had ended, and this one had got its number
    other = Standing(standing.process_id, standing.started - 1, "pcm-guilty", standing.user_id)
    assert close_processes([other], 0.2) == []
    assert process.poll() is None


@pytest.mark.needs("root")
def test_other_users_programs_are_found_and_those_of_containers_are_not(start: Start, open_folder: Path) -> None:
    path = program(open_folder, "pcm-anybody")
    other = start("setpriv", "--reuid=65534", "--clear-groups", path, "60")
    contained = start("unshare", "--pid", "--fork", "--kill-child", path, "60")
    wait_for(lambda: found("pcm-anybody") != [])
    time.sleep(0.2)
    assert found("pcm-anybody") == [(other.pid, "pcm-anybody")]
    assert [each.user_id for each in processes_named(["pcm-anybody"])] == [65534]
    contained.kill()
