"""Restarts and announcements, as far as a computer can try them that shall stay up; the rest: `tests/e2e/test_host_restart.py`."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pcm.model.errors import MachineError, Retry
from pcm.service.machine.linux import power
from pcm.service.machine.linux.terminals import tell
from pcm.service.machine.linux.wire import pack, unpack


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


class MessageBus:
    """A message bus with a logind behind it that does nothing, and does not answer what `answers` does not tell.

    Args:
        answers: for each method, the type of its reply with its values; text: the error to give.
    """

    def __init__(self, path: Path, answers: dict[str, Sequence[object] | str]) -> None:
        self.asked: list[str] = []
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as said:
            for _ in range(3):
                said.readline()
            connection.sendall(b"OK 1234\r\nAGREE_UNIX_FD\r\n")
            while head := said.read(16):
                _, _, _, _, body, serial, length = struct.unpack("<cBBBIII", head)
                rest = said.read(length + -length % 8 + body)
                *_, pairs = unpack("yyyyuua(yv)", head + rest[:length])
                member = next(value for code, (_, value) in pairs if code == 3)
                self.asked.append(member)
                if member not in self._answers:
                    return
                connection.sendall(reply(serial, self._answers[member]))


def reply(serial: int, answer: Sequence[object] | str) -> bytes:
    failed = isinstance(answer, str)
    signature, *values = ("s", "no") if isinstance(answer, str) else answer
    body = pack(str(signature), tuple(values))
    fields: list[tuple[int, tuple[str, object]]] = [(5, ("u", serial)), (8, ("g", signature))]
    fields += [(4, ("s", answer))] if failed else []
    head = pack("yyyyuua(yv)", (ord("l"), 3 if failed else 2, 0, 1, len(body), 1, fields))
    return head + b"\0" * (-len(head) % 8) + body


ANSWERS: dict[str, Sequence[object] | str] = {
    "Hello": ("s", ":1.1"),
    "ListInhibitors": ("a(ssssuu)", []),
    "SetWallMessage": ("",),
}


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, "machine.restart_unanswered"),  # the bus was gone before it could tell
        ("org.freedesktop.DBus.Error.NoReply", "machine.restart_unanswered"),
        ("org.freedesktop.login1.OperationInProgress", "machine.restart_unanswered"),
        ("org.freedesktop.DBus.Error.AccessDenied", "machine.restart_inhibited"),
        ("org.freedesktop.DBus.Error.InvalidArgs", "machine.cannot_restart"),
    ],
)
def test_q164329_no_answer_is_no_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None, code: str
) -> None:
    """The way down begins at once, and takes the bus along that would say so."""
    monkeypatch.setattr(power, "_SYSTEMD_STATE", tmp_path)
    monkeypatch.setattr(power, "SYSTEM_BUS", str(tmp_path / "bus"))
    monkeypatch.setattr(power, "_restart_without_logind", lambda: pytest.fail("this is somebody's own computer"))
    bus = MessageBus(tmp_path / "bus", {**ANSWERS, **({} if answer is None else {"RebootWithFlags": answer})})
    try:
        with pytest.raises(MachineError) as caught:
            power.restart("a test", ignore_inhibitors=False)
    finally:
        bus.close()
    assert caught.value.code == code
    assert bus.asked[-1] == "RebootWithFlags"
