"""`pcm` at a real pseudo-terminal: passphrases that do not echo, and questions before something is destroyed."""

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.cli.conftest import PASSPHRASE, Pcm, ServedSite


class Terminal:
    """A program with a terminal of its own. `seen`: everything that it showed."""

    def __init__(self, *arguments: object) -> None:
        self.seen = ""
        self._read_to = 0
        command = [sys.executable, "-m", "pcm.cli.main", *map(str, arguments)]
        self.pid, self._file = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, command)

    def expect(self, text: str, limit_s: float = 30) -> None:
        """Read until it shows this, from here on."""
        end = time.monotonic() + limit_s
        while text not in self.seen[self._read_to :]:
            assert time.monotonic() < end, f"no {text!r} in {self.seen!r}"
            assert self._read(), f"it ended without {text!r}: {self.seen!r}"
        self._read_to = self.seen.index(text, self._read_to) + len(text)

    def type(self, text: str) -> None:
        time.sleep(0.1)  # a prompt turns the echo off just after it is shown
        os.write(self._file, text.encode())

    def end(self, limit_s: float = 30) -> int:
        """Read on until it ends; its exit code."""
        end = time.monotonic() + limit_s
        while self._read():
            assert time.monotonic() < end, self.seen
        _, status = os.waitpid(self.pid, 0)
        os.close(self._file)
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        if not select.select([self._file], [], [], 30)[0]:
            os.kill(self.pid, signal.SIGKILL)
            pytest.fail(f"it stands still: {self.seen!r}")
        try:
            data = os.read(self._file, 4096)
        except OSError:  # on Linux, the end of a terminal's other side
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)


def talk(terminal: Terminal, lines: Sequence[tuple[str, str]]) -> int:
    for shown, typed in lines:
        terminal.expect(shown)
        terminal.type(typed)
    return terminal.end()


def test_a_new_passphrase_is_asked_twice_and_never_shown(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    terminal = Terminal("key", "init", "team-a", "--keys", keys)
    secret = "a long enough secret"
    assert talk(terminal, [("Passphrase of the new keys", f"{secret}\n"), ("Repeat", f"{secret}\n")]) == 0
    assert secret not in terminal.seen
    assert b"ENCRYPTED" in (keys / "team-a.pem").read_bytes()


def test_two_that_differ_are_asked_again(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    terminal = Terminal("key", "init", "team-a", "--keys", keys)
    lines = [
        ("Passphrase of the new keys", "first attempt\n"),
        ("Repeat", "something else\n"),
        ("do not match", ""),
        ("Passphrase of the new keys", "second attempt\n"),
        ("Repeat", "second attempt\n"),
    ]
    assert talk(terminal, lines) == 0
    assert (keys / "team-a.pem").is_file()


def test_a_short_one_makes_nothing(tmp_path: Path) -> None:
    terminal = Terminal("key", "init", "team-a", "--keys", tmp_path / "keys")
    assert talk(terminal, [("Passphrase of the new keys", "short\n"), ("Repeat", "short\n")]) == 1
    assert "shorter than 8" in terminal.seen
    assert not list((tmp_path / "keys").glob("*.pem"))


@pytest.mark.parametrize(("typed", "code", "left"), [("y\n", 0, 3), ("n\n", 1, 0), ("\n", 1, 0), ("\x03", 130, 0)])
def test_destroying_asks_first(pcm: Pcm, served: ServedSite, typed: str, code: int, left: int) -> None:
    name = f"doomed-{code}-{len(typed)}"
    assert pcm("group", "create", name).code == 0
    terminal = Terminal("--site", served.folder, "group", "delete", name)
    assert talk(terminal, [("Go on? [y/N]", typed)]) == code
    assert f"Group {name} with 0 clients will be deleted" in terminal.seen
    assert pcm("group", "show", name).code == left


def test_signing_asks_for_the_passphrase_and_a_wrong_one_is_refused(served: ServedSite, tmp_path: Path) -> None:
    begin = ("--site", served.folder, "key", "policy", "--spread", "1h", "--in", tmp_path / "c")
    assert Terminal(*begin).end() == 0
    sign = ("--site", served.folder, "key", "sign", "--in", tmp_path / "c", "--keys", served.keys)
    wrong = Terminal(*sign)
    assert talk(wrong, [("Go on? [y/N]", "y\n"), ("Passphrase", "not the right one\n")]) in {1, 4}
    right = Terminal(*sign)
    assert talk(right, [("Go on? [y/N]", "y\n"), ("Passphrase", f"{PASSPHRASE}\n")]) == 0
    assert PASSPHRASE not in right.seen
    assert "Enough have signed" in right.seen
