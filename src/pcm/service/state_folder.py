"""The files of the state folder, as `pcm.service.state` finds them when it opens: made, connected to, and kept aside if damaged.

Serves steps 6–12, at the beginning of each. It looks at no table and decides nothing; a damaged database is never mended here,
and never thrown away.
"""

import contextlib
import os
import sqlite3
import time
from datetime import datetime
from pathlib import Path

from pcm.model.errors import StoreError
from pcm.service import store_errors
from pcm.service.keepsakes import FILE, Keepsakes, read_keepsakes

DATABASE = "state.db"
BUSY_S = 10.0


def make_folder(folder: Path) -> None:
    """Make it if it is missing, and see to it that nobody else can list it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # passing through is allowed (`places` says what for): every file here is the owner's alone by its own mode
    if os.name == "posix" and folder.stat().st_mode & 0o066:
        folder.chmod(0o700)


def connect(folder: Path) -> sqlite3.Connection:
    """Open the database, making an empty one if it is missing. Raises sqlite3.Error, OSError."""
    path = folder / DATABASE
    # made by us first, so that it never exists with other rights; SQLite gives its log files the same ones. One that is there is
    # left alone: closing it here would drop the locks that this process holds on it through another connection (fcntl(2))
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        _write_ahead(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Have it write ahead; one that does so already is only opened.

    The first opener of a fresh database changes its file for that, alone. SQLite waits for others at every other moment, but not
    at this one: of two that begin at once, each would wait for the other to stop reading. So whoever comes too late lets go, and
    looks again a moment later: mostly the other one has done it.

    Raises:
        sqlite3.OperationalError: others kept it busy for `BUSY_S`, or this disk.
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
        except sqlite3.OperationalError as error:
            if not store_errors.is_busy(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.001 + os.urandom(1)[0] / 25_500)  # up to 11 ms, so that they do not come again together
        else:
            return


def recall(folder: Path, now: datetime, *, repair: bool) -> tuple[Keepsakes | None, str]:
    """Read `floors.json`; a damaged one is put aside and told."""
    try:
        return read_keepsakes(folder), ""
    except ValueError as error:
        if not repair:
            raise StoreError(f"{folder / FILE} is damaged: {error}.", code="store.damaged") from None
        (folder / FILE).rename(folder / f"{FILE}.damaged-{_stamp(now)}")
        return None, f"{FILE} was damaged and is kept aside."


def set_aside(folder: Path, now: datetime) -> None:
    """Keep the damaged database, with its log, for whoever wants to look at it."""
    target = folder / f"{DATABASE}.damaged-{_stamp(now)}"
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):  # whoever closes it last takes the log away
            (folder / f"{DATABASE}{suffix}").rename(f"{target}{suffix}")
    store_errors.clear_suspicion(folder)


def _stamp(now: datetime) -> str:
    return now.strftime("%Y%m%dT%H%M%S%f")
