"""Restarts and announcements, as far as a computer can try them that shall stay up; the rest: `tests/e2e/test_host_restart.py`."""

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pcm.model.errors import MachineError, Retry
from pcm.service.machine.linux import power
from pcm.service.machine.linux.terminals import tell


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """A real terminal: our end, and its name below /dev."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    yield ours, os.ttyname(theirs).removeprefix("/dev/")
    os.close(ours)
    os.close(theirs)


def sessions(folder: Path, *terminals: str) -> Path:
    """What logind keeps: a file for each session, and a pipe beside it."""
    for number, name in enumerate(terminals):
        (folder / f"{number}").write_text(f"UID=1000\nUSER=alice\nTTY={name}\nCLASS=user\n")
        os.mkfifo(folder / f"{number}.ref")
    return folder


@pytest.mark.timeout(10)
def test_q187287_whoever_is_at_a_terminal_reads_it(tmp_path: Path, terminal: tuple[int, str]) -> None:
    ours, name = terminal
    assert tell("It restarts \x1b[2J\nat six.", sessions(tmp_path, name, name, "pts/999999")) == 1
    assert os.read(ours, 100).split() == [b"\x07***", b"It", b"restarts", b"[2Jat", b"six."]


@pytest.mark.parametrize("name", ["../etc/passwd", "shm/x", ":0", "", "tty", "null"])
def test_only_terminals_are_written_to(tmp_path: Path, name: str) -> None:
    devices = tmp_path / "dev"
    devices.mkdir()
    assert tell("hello", sessions(tmp_path, name), devices) == 0


def test_what_only_has_the_name_of_a_terminal_is_left_alone(tmp_path: Path) -> None:
    devices = tmp_path / "dev"
    devices.mkdir()
    (devices / "tty1").write_text("mine")
    (devices / "tty2").symlink_to("/dev/null")
    folder = tmp_path / "sessions"
    folder.mkdir()
    assert tell("hello", sessions(folder, "tty1", "tty2"), devices) == 0
    assert (devices / "tty1").read_text() == "mine"


@pytest.mark.timeout(10)
def test_a_terminal_that_takes_nothing_holds_nobody_up(tmp_path: Path, terminal: tuple[int, str]) -> None:
    _, name = terminal
    filler = os.open(f"/dev/{name}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    for _ in range(10):  # the kernel passes on a little more in its own time
        with contextlib.suppress(BlockingIOError):
            while os.write(filler, b"x" * 4096):
                pass
        time.sleep(0.02)
    os.close(filler)
    assert tell("hello", sessions(tmp_path, name)) == 0


def test_without_sessions_there_is_nobody_to_tell(tmp_path: Path) -> None:
    assert tell("hello", tmp_path / "nothing") == 0


def test_q153227_a_stale_mark_asks_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "reboot-required"
    monkeypatch.setattr(power, "MARKERS", (tmp_path / "none", mark))
    began = datetime.now(UTC) - timedelta(seconds=10)
    assert not power.was_marked(began)
    for age, counts in ((timedelta(days=3), False), (timedelta(seconds=11), False), (timedelta(), True)):
        mark.touch()
        moment = (datetime.now(UTC) - age).timestamp()
        os.utime(mark, (moment, moment))
        assert power.was_marked(began) is counts
    ahead = (datetime.now(UTC) + timedelta(days=1)).timestamp()
    os.utime(mark, (ahead, ahead))
    assert not power.was_marked(began), "written before the clock was set back"


def test_a_computer_that_systemd_does_not_run_says_that_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never tried where it could succeed: this is somebody's own computer."""
    monkeypatch.setattr(power, "_SYSTEMD_STATE", tmp_path / "none")
    with pytest.raises(MachineError, match="by hand") as caught:
        power.restart("a test", ignore_inhibitors=True)
    assert (caught.value.code, caught.value.retry) == ("machine.cannot_restart", Retry.NEVER)
