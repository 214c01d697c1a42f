"""What SQLite and the file system say about the state folder, in this project's words: the one boundary for their errors.

Serves `pcm.service.state`. A database that turns out to be damaged in use leaves a mark, so that the next opening looks at the
whole file; otherwise only an opening after an unclean end does, because that takes time. It never opens or changes the database.
"""

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pcm.model.errors import Retry, StoreError

SUSPECT = "state.db.suspect"
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_CODES = {
    sqlite3.SQLITE_FULL: (
        "store.disk_full",
        "There is no space left for the state in {place}. Free some; it is tried again.",
    ),
    sqlite3.SQLITE_BUSY: ("store.busy", "Another process holds the state in {place} for too long."),
    sqlite3.SQLITE_LOCKED: ("store.busy", "Another process holds the state in {place} for too long."),
    sqlite3.SQLITE_READONLY: ("store.not_writable", "The state in {place} cannot be written. Run as administrator."),
    sqlite3.SQLITE_CANTOPEN: ("store.not_writable", "The state in {place} cannot be opened. Run as administrator."),
    sqlite3.SQLITE_PERM: ("store.not_writable", "The state in {place} cannot be written. Run as administrator."),
    sqlite3.SQLITE_IOERR: ("store.input_output", "The disk under {place} reports an error."),
    sqlite3.SQLITE_CORRUPT: ("store.damaged", "The state database in {place} is damaged."),
    sqlite3.SQLITE_NOTADB: ("store.damaged", "The state database in {place} is damaged: it is no database."),
}


@contextlib.contextmanager
def mapped(folder: Path) -> Iterator[None]:
    """Turn SQLite's errors into StoreError; others pass, because a transaction's body may raise what it likes."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain(error, folder) from error


def explain(error: sqlite3.Error, folder: Path) -> StoreError:
    """What SQLite said, in our words; damage leaves its mark."""
    primary = _primary(error)
    if primary in _DAMAGE:
        with contextlib.suppress(OSError):
            (folder / SUSPECT).touch()
    code, text = _CODES.get(primary, ("store.failed", "The state database in {place} failed."))
    return StoreError(f"{text.format(place=folder)} ({error})", code=code, retry=Retry.LATER)


@contextlib.contextmanager
def mapped_system(folder: Path) -> Iterator[None]:
    """Turn SQLite's and the file system's errors into StoreError."""
    try:
        with mapped(folder):
            yield
    except OSError as error:
        raise explain_system(error, folder) from error


def is_damage(error: Exception) -> bool:
    """Tell whether an error means that the file cannot be used any more, rather than not now."""
    return (isinstance(error, StoreError) and error.code == "store.damaged") or (
        isinstance(error, sqlite3.Error) and _primary(error) in _DAMAGE
    )


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether somebody else only holds it for a moment."""
    return _primary(error) == sqlite3.SQLITE_BUSY


def describe(error: Exception) -> str:
    """Say what is wrong with a damaged database, and what became of it."""
    return f"{str(error).rstrip('.')}. It is kept aside; a fresh one was begun, and detection shows what is installed."


def ended_badly(folder: Path) -> bool:
    """Tell whether the last process died with the database open, or found it damaged: its log then still stands."""
    if (folder / SUSPECT).exists():
        return True
    try:
        return (folder / "state.db-wal").stat().st_size > 0
    except FileNotFoundError:  # also if whoever closed it last has taken it away at this moment
        return False


def clear_suspicion(folder: Path) -> None:
    """Forget the mark of a damaged database."""
    (folder / SUSPECT).unlink(missing_ok=True)


def _primary(error: sqlite3.Error) -> int:
    # the low byte is the kind, the rest its details; errors that Python itself raises have no code
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def explain_system(error: OSError, folder: Path) -> StoreError:
    """What the file system said about the state folder, in our words."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreError(f"There is no space left for the state in {folder}.", code="store.disk_full")
    return StoreError(f"The state in {folder} cannot be used: {error.strerror or error}.", code="store.not_writable")
