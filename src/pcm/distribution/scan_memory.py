"""What a packager's machine has hashed before: one small database for each package directory.

Serves steps 1 and 2: `content.package_directory` asks it, so that a package of many gigabytes that was interrupted, or that
is published right after it was created, is not read again. It is a cache: losing it costs time, damage makes it empty,
and a wrong hash in it could only make the site refuse the object. It decides nothing.
"""

import contextlib
import hashlib
import os
import sqlite3
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pcm.content.package_directory import Mark

_SCHEMA = """create table if not exists hashed (
    path text primary key, size integer, modified_ns integer, changed_ns integer, inode integer, device integer,
    sha256 text, seen integer) without rowid"""
_EVERY_S = 1.0
_OLD_S = 90 * 86_400


class HashedFiles:
    """A `content.package_directory.ScanMemory` in a file. Used by one thread.

    What was kept is there after a kill -9: it is committed every second.

    Args:
        folder: Where such files are; made if need be.
        directory: The package directory.
    """

    def __init__(self, folder: Path, directory: Path) -> None:
        name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
        self._path = folder / f"{name}.v1.hashes"
        self._committed = time.monotonic()
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _forget_old(self._path.parent)
            try:
                self._connection = self._open()
            except sqlite3.DatabaseError:  # damaged, or of another program
                self._path.unlink(missing_ok=True)
                self._connection = self._open()
        except (OSError, sqlite3.Error):  # a cache that cannot be had is none
            self._connection = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.commit()
            self._connection.close()

    def find(self, path: str, mark: Mark) -> str | None:
        """See `ScanMemory.find`."""
        if self._connection is None:
            return None
        try:
            row = self._connection.execute(
                "select size, modified_ns, changed_ns, inode, device, sha256 from hashed where path = ?", (path,)
            ).fetchone()
        except sqlite3.Error:
            return None
        if row is None or Mark(*(int(value) for value in row[:5])) != _fitting(mark):
            return None
        return str(row[5])

    def keep(self, path: str, mark: Mark, sha256: str) -> None:
        """See `ScanMemory.keep`."""
        if self._connection is None:
            return
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute(
                "insert or replace into hashed values (?, ?, ?, ?, ?, ?, ?, ?)",
                (path, *_fitting(mark), sha256, int(time.time())),
            )
            if time.monotonic() - self._committed > _EVERY_S:
                self._connection.commit()
                self._committed = time.monotonic()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=5)
        try:
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            connection.execute(_SCHEMA)
            connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection


def _fitting(mark: Mark) -> Mark:
    """Inodes and devices may have 64 bits without a sign; the database's numbers have one."""
    return mark._replace(inode=mark.inode & (2**63 - 1), device=mark.device & (2**63 - 1))


def _forget_old(folder: Path) -> None:
    """Remove what no scan has touched for long."""
    for path in folder.glob("*.hashes*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - _OLD_S:
                path.unlink()
