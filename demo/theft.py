"""The thief of act two: full control of the folders that the logon and distribution servers hold, but of no signing key."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from demo.cast import Client, Site


@dataclass(frozen=True)
class Attack:
    """One crime: what is told, what is done, and the code of the refusal that it must meet."""

    story: str
    strike: Callable[[], None]
    code: str


class Thief:
    """Owns every file of both servers."""

    def __init__(self, site: Site, loot: Path) -> None:
        self._logon = site.folder / "logon"
        self._distribution = site.folder / "distribution"
        self._yesterday = loot
        self._changes: list[tuple[Path, bytes | None, bytes | None]] = []

    def keep_copy(self) -> None:
        """Copy the distribution server's folder aside."""
        shutil.copytree(self._distribution, self._yesterday)

    def undo(self) -> None:
        """Take everything back, but for what the site itself has written anew meanwhile."""
        for path, honest, forged in reversed(self._changes):
            if _read(path) == forged:
                _put(path, honest)
        self._changes.clear()

    def _write(self, path: Path, forged: bytes | None) -> None:
        self._changes.append((path, _read(path), forged))
        _put(path, forged)

    def attacks_on_instructions(self, client: Client) -> Iterator[Attack]:
        """Crimes against the logon server's files."""
        yield Attack(
            "(a) The other computer's instruction files, which order hello, are replayed to this one.",
            lambda: self._replay_other(client.client_id),
            "trust.wrong_recipient",
        )

    def attacks_on_packages(self) -> Iterator[Attack]:
        """Crimes against the distribution server's files."""
        yield Attack(
            "(b) The command line is changed: the manifest now says `sh -c …`.",
            self._change_command,
            "trust.mix_and_match",
        )
        yield Attack(
            "(c) A package file is changed: hello.deb becomes something else.",
            self._change_file,
            "trust.content",
        )
        yield Attack(
            "(d) Yesterday's files are put back, all of them validly signed.",
            self._put_back_yesterday,
            "trust.rollback",
        )

    def _change_command(self) -> None:
        for path in list((self._distribution / "targets").glob("packages/*/hello/*/*.manifest.json")):
            manifest = json.loads(path.read_bytes())
            manifest["programs"]["install"]["argv"] = ["sh", "-c", "touch /usr/bin/hello"]
            forged = json.dumps(manifest, separators=(",", ":")).encode()  # no longer than the signed one
            self._write(path, forged)
            self._write(path.with_name(f"{hashlib.sha256(forged).hexdigest()}.manifest.json"), forged)

    def _change_file(self) -> None:
        for path in (self._distribution / "objects").glob("*/*.zst"):
            self._write(path, zstandard.compress(b"#!/bin/sh\ntouch /usr/bin/hello\n" + path.name.encode()))

    def _replay_other(self, client_id: str) -> None:
        clients = self._logon / "clients"
        for path in list((clients / client_id).glob("*.json")):
            self._write(path, None)
        other = next(path for path in clients.iterdir() if path.name != client_id)
        for path in other.glob("*.json"):
            self._write(clients / client_id / path.name, path.read_bytes())

    def _put_back_yesterday(self) -> None:
        for path in [path for path in self._distribution.rglob("*") if path.is_file()]:
            self._write(path, _read(self._yesterday / path.relative_to(self._distribution)))


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _put(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(data)
