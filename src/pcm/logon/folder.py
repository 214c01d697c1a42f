"""A logon server as a folder: each client's instruction repository, and the roots that all share.

Step 5 of 12: the site writes what it signed here, clients read it in step 6 through `app` or any other server over this folder
(a share does too). Bodies and targets first, then the lease's snapshot, timestamp.json last: a client sees the old state
or the new one, never half (KB Q140928). What the newest no longer names stays for a while, for clients in mid-read.
It signs and verifies nothing.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pcm.content.whole_files import storing, write_unnamed, write_whole
from pcm.model.errors import RequestError

GRACE_S = 3600.0
_TRIES = 5
PUBLIC_KEY = "client.pub"  # PEM; for logon servers that have no database. Never served.
_CLIENT_ID = re.compile(r"[0-9a-f]{32}\Z")
_CLIENT_FILE = re.compile(
    r"(?:timestamp\.json|([1-9][0-9]{0,15})\.(snapshot|targets)\.json|[0-9a-f]{64}\.instructions\.json)\Z"
)
_ROOT_FILE = re.compile(r"[1-9][0-9]{0,15}\.root\.json\Z")


class NewestTargets(NamedTuple):
    """Targets metadata: its version and bytes. `settled`: no newer file stood there that was still being written."""

    version: int
    content: bytes
    settled: bool = True


class LogonFolder:
    """A logon server's root folder.

    Args:
        root: Made when first written to.
        durable: Sync each file; off where a lost file is made again anyway.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = root
        self._durable = durable

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write signed files, pointed-at before pointing, whatever order they are given in.

        Args:
            files: Names below the root to contents, as `trust.instruction_repository` and `trust.roots` make them:
                `clients/<id>/...`, `roots/<n>.root.json`.

        Raises:
            RequestError: `request.logon_name`; nothing was written then.
            StoreError: `store.disk_full`, `store.not_writable`.
        """
        for name in files:
            if not is_logon_name(name):
                raise RequestError(f"{name[:200]!r} is no name on a logon server.", code="request.logon_name")
        for name in sorted(files, key=_rank):
            # clients look for the timestamp and for roots; the rest nobody knows until one of these names it, but for
            # targets: leases look for the newest, and know half a file when they see it
            write = write_whole if name.endswith(("/timestamp.json", ".root.json")) else write_unnamed
            write(f"{self.root}/{name}", files[name], durable=self._durable)

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None if it is not there or has no such name."""
        if not is_logon_name(name):
            return None
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def newest_targets(self, client_id: str) -> NewestTargets | None:
        """The newest targets metadata of a client that is whole, or None."""
        folder = self._client(client_id)
        versions = [
            int(found[1]) for found in map(_CLIENT_FILE.match, _names(folder)) if found and found[2] == "targets"
        ]
        settled = True
        for version in sorted(versions, reverse=True):
            with contextlib.suppress(FileNotFoundError):
                content = (folder / f"{version}.targets.json").read_bytes()
                if _is_whole(content):
                    return NewestTargets(version, content, settled)
                settled = False
        return None

    def write_key(self, client_id: str, pem: bytes) -> None:
        """Say by which public key (PEM SubjectPublicKeyInfo) this client signs its requests.

        Every publication comes by here, so a key that stands is known by its length and not read: a client's id is the hash of
        its key, so it never has another, and readers compare. It is synced, so it never is half a key.
        """
        path = f"{self._client(client_id)}/{PUBLIC_KEY}"
        with contextlib.suppress(OSError):
            if os.stat(path).st_size == len(pem):  # noqa: PTH116
                return
        write_whole(path, pem, mode=0o640)

    def key_path(self, client_id: str) -> Path:
        """Where a client's public key lies.

        Raises:
            RequestError: `request.logon_name`: not a client id.
        """
        return self._client(client_id) / PUBLIC_KEY

    def remove_client(self, client_id: str) -> bool:
        """Remove everything of a client; False if there was nothing."""
        folder = self._client(client_id)
        if not folder.is_dir():
            return False
        with storing(folder):
            # somebody else may be removing it at the same moment, or still be writing
            for _ in range(_TRIES - 1):
                with contextlib.suppress(OSError):
                    shutil.rmtree(folder)
                if not folder.is_dir():
                    return True
            shutil.rmtree(folder)
        return True

    def remove_old(
        self, client_id: str, keep: Mapping[str, bytes] | set[str], now: float, grace_s: float = GRACE_S
    ) -> int:
        """Remove a client's files that the newest state does not name; returns how many.

        Args:
            keep: Names below the root that stay: those of the newest body, targets and lease.
            now: Unix seconds; younger files than `grace_s` stay, for clients in mid-read.
        """
        folder, removed = self._client(client_id), 0
        with storing(folder), contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                found = _CLIENT_FILE.match(entry.name)
                if not found or entry.name == "timestamp.json" or f"clients/{client_id}/{entry.name}" in keep:
                    continue
                if found[1] and int(found[1]) / 1000 > now - grace_s:
                    continue  # its version says when it was signed: there is nothing to look up
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < now - grace_s:
                        os.unlink(entry.path)  # noqa: PTH108 (a path object for each entry costs more than the entry)
                        removed += 1
        return removed

    def _client(self, client_id: str) -> Path:
        if not _CLIENT_ID.match(client_id):
            raise RequestError(f"{client_id[:80]!r} is not the id of a client.", code="request.logon_name")
        return self.root / "clients" / client_id


def is_logon_name(name: str) -> bool:
    """Whether a file that clients read may have this name below a logon server."""
    match name.split("/"):
        case ["roots", file]:
            return bool(_ROOT_FILE.match(file))
        case ["clients", client_id, file]:
            return bool(_CLIENT_ID.match(client_id) and _CLIENT_FILE.match(file))
        case _:
            return False


def _is_whole(document: bytes) -> bool:
    """Whether a JSON object ends where these bytes end: what is cut off within one never is JSON (RFC 8259, section 4)."""
    try:
        return isinstance(json.loads(document), dict)
    except ValueError:
        return False


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _rank(name: str) -> int:
    """Bodies and roots, targets, snapshots, timestamps."""
    if name.endswith("/timestamp.json"):
        return 3
    if name.endswith(".snapshot.json"):
        return 2
    return 1 if name.endswith(".targets.json") else 0
