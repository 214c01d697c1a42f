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
    """One crime: what is told, what is done, and the refusal codes that a client may answer with."""

    story: str
    strike: Callable[[], None]
    codes: tuple[str, ...]


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
            self._replace(self._loot / name / folder.name, folder)

    def attacks(self, client: Client) -> Iterator[Attack]:
        """The four crimes, in order."""
        yield Attack(
            "(a) A package file is changed: hello.deb becomes something else.",
            self._change_file,
            ("trust.bad_content",),
        )
        yield Attack(
            "(b) The command line is changed: the manifest now says `sh -c …`.",
            self._change_command,
            ("trust.mix_and_match",),
        )
        yield Attack(
            "(c) Another client's instruction files are replayed to this one.",
            lambda: self._replay_other(client.client_id),
            ("trust.wrong_recipient",),
        )
        yield Attack(
            "(d) Yesterday's files are put back, all of them, validly signed.",
            lambda: self.put_back("yesterday"),
            ("trust.rollback",),
        )

    def _change_file(self) -> None:
        for path in (self._distribution / "objects").glob("*/*.zst"):
            path.write_bytes(zstandard.compress(b"#!/bin/sh\ntouch /usr/bin/hello\n" + path.name.encode()))

    def _change_command(self) -> None:
        for path in (self._distribution / "targets").glob("packages/*/hello/*/*.manifest.json"):
            manifest = json.loads(path.read_bytes())
            manifest["programs"]["install"]["argv"] = ["sh", "-c", "touch /usr/bin/hello"]
            forged = json.dumps(manifest).encode()
            path.write_bytes(forged)
            path.with_name(f"{hashlib.sha256(forged).hexdigest()}.manifest.json").write_bytes(forged)

    def _replay_other(self, client_id: str) -> None:
        mine = self._logon / "clients" / client_id
        other = next(path for path in (self._logon / "clients").iterdir() if path.name != client_id)
        self._replace(other, mine)

    @staticmethod
    def _replace(source: Path, target: Path) -> None:
        shutil.rmtree(target)
        shutil.copytree(source, target)
