"""Sessions that come and go, in a folder as systemd-logind keeps it."""

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.service.machine.logons import SIGNAL, Logons

PERSON = "# This is private data. Do not parse.\nUID=1000\nUSER=alice\nACTIVE=1\nSTATE=active\nCLASS=user\nLEADER=54\n"


class Sessions:
    """A folder of session files, written as logind writes them: beside, then renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str = PERSON) -> None:
        beside = self.folder / f".#{name}"
        beside.write_text(text)
        beside.rename(self.folder / name)

    def end(self, name: str) -> None:
        (self.folder / name).unlink()


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    (tmp_path / "sessions").mkdir()
    return Sessions(tmp_path / "sessions")


@pytest.fixture
def woken() -> Iterator[int]:
    """A descriptor that polls readable when the kernel has told of a change."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    known = signal.signal(SIGNAL, lambda *_: None)
    before = signal.set_wakeup_fd(writing)
    yield reading
    signal.set_wakeup_fd(before)
    signal.signal(SIGNAL, known)
    os.close(reading)
    os.close(writing)


@pytest.fixture
def logons(sessions: Sessions, woken: int) -> Logons:
    made = Logons(str(sessions.folder))
    assert not made.changed()
    return made


def test_q172872_somebody_who_logs_on_wakes_whoever_sleeps(sessions: Sessions, logons: Logons, woken: int) -> None:
    sessions.write("3")
    assert select.select([woken], [], [], 5)[0], "the kernel told nothing"
    assert logons.changed()
    assert not logons.changed()


def test_logging_off_counts_and_so_does_the_next_who_comes(sessions: Sessions, logons: Logons) -> None:
    sessions.write("3")
    assert logons.changed()
    sessions.write("4")
    assert logons.changed()
    sessions.end("3")
    assert logons.changed()
    sessions.write("4", PERSON.replace("active", "closing"))  # he has left; a process of his is still there
    assert logons.changed()
    sessions.end("4")
    assert not logons.changed()


@pytest.mark.parametrize("kind", ["greeter", "lock-screen", "background", "manager", "manager-early"])
def test_what_is_no_person_wakes_nobody_for_long(sessions: Sessions, logons: Logons, kind: str) -> None:
    sessions.write("c1", PERSON.replace("CLASS=user", f"CLASS={kind}"))
    assert not logons.changed()


def test_a_session_that_only_changes_is_no_news(sessions: Sessions, logons: Logons) -> None:
    sessions.write("3")
    logons.changed()
    sessions.write("3", PERSON.replace("ACTIVE=1", "ACTIVE=0"))
    assert not logons.changed()


def test_what_is_no_session_is_passed_over(sessions: Sessions, logons: Logons) -> None:
    os.mkfifo(sessions.folder / "3.ref")
    os.mkfifo(sessions.folder / "pipe")  # opening it must not wait for a writer
    (sessions.folder / "folder").mkdir()
    (sessions.folder / "link").symlink_to("/etc/passwd")
    sessions.write("5", "half a fi")
    assert not logons.changed()


def test_a_computer_without_logind_has_nobody_until_it_has(tmp_path: Path, woken: int) -> None:
    logons = Logons(str(tmp_path / "later"))
    assert not logons.changed()
    (tmp_path / "later").mkdir()
    Sessions(tmp_path / "later").write("1")
    assert logons.changed()
    assert woken
