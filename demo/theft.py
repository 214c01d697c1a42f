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
    """One crime: what is told, what is done, the code of the refusal that it must meet, and the copy that mends it."""

    story: str
    strike: Callable[[], None]
    code: str
    honest: str


class Thief:
    """Owns every file of both servers."""

    def __init__(self, site: Site, loot: Path) -> None:
        self._logon = site.folder / "logon"
        self._distribution = site.folder / "distribution"
        self._loot = loot

    def keep_copy(self, name: str) -> None:
        """Copy both servers' folders aside."""
        for folder in (self._logon, self._distribution):
            shutil.copytree(folder, self._loot / name / folder.name)

    def put_back(self, name: str) -> None:
        """Replace both servers' folders by a copy."""
        for folder in (self._logon, self._distribution):
            self._put_back(name, folder)

    def attacks_on_instructions(self, client: Client) -> Iterator[Attack]:
        """Crimes against the logon server's files."""
        yield Attack(
            "(a) The other computer's instruction files, which order hello, are replayed to this one.",
            lambda: self._replay_other(client.client_id),
            "trust.wrong_recipient",
            "today",
        )

    def attacks_on_packages(self) -> Iterator[Attack]:
        """Crimes against the distribution server's files."""
        yield Attack(
            "(b) The command line is changed: the manifest now says `sh -c …`.",
            self._change_command,
            "trust.mix_and_match",
            "tonight",
        )
        yield Attack(
            "(c) A package file is changed: hello.deb becomes something else.",
            self._change_file,
            "trust.content",
            "tonight",
        )
        yield Attack(
            "(d) Yesterday's files are put back, all of them validly signed.",
            lambda: self._put_back("yesterday", self._distribution),
            "trust.rollback",
            "tonight",
        )

    def _change_command(self) -> None:
        for path in (self._distribution / "targets").glob("packages/*/hello/*/*.manifest.json"):
            manifest = json.loads(path.read_bytes())
            manifest["programs"]["install"]["argv"] = ["sh", "-c", "touch /usr/bin/hello"]
            forged = json.dumps(manifest).encode()
            path.write_bytes(forged)
            path.with_name(f"{hashlib.sha256(forged).hexdigest()}.manifest.json").write_bytes(forged)

    def _change_file(self) -> None:
        for path in (self._distribution / "objects").glob("*/*.zst"):
            path.write_bytes(zstandard.compress(b"#!/bin/sh\ntouch /usr/bin/hello\n" + path.name.encode()))

    def _replay_other(self, client_id: str) -> None:
        clients = self._logon / "clients"
        for path in (clients / client_id).glob("*.json"):
            path.unlink()
        other = next(path for path in clients.iterdir() if path.name != client_id)
        for path in other.glob("*.json"):
            shutil.copy(path, clients / client_id)

    def _put_back(self, name: str, folder: Path) -> None:
        shutil.rmtree(folder)
        shutil.copytree(self._loot / name / folder.name, folder)
