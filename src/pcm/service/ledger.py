"""The ledger: an append-only, hash-chained record of everything that ran here as administrator, and under whose order.

Serves step 11: `service.journal` appends one entry in the very transaction that stores a run's result, so neither exists without
the other. Step 12 reports the newest hash (the head), so the site sees when a past is rewritten. Any local user may read it
through `local_api`; only the service writes it. Entries are never changed and never removed.

The hash of entry n: SHA-256 over `pcm-ledger`, NUL, n (decimal), NUL, the hash of entry n-1 (64 hex digits; none for the
first), NUL, the entry's bytes (canonical JSON).
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from pcm.model.errors import RequestError, StoreError
from pcm.protocol import codec
from pcm.service.records import LedgerEntry

MAX_ENTRY = 2**20


class SealedEntry(NamedTuple):
    """An entry with its place in the chain."""

    seq: int
    sha256: str
    entry: LedgerEntry


def append(connection: sqlite3.Connection, entry: LedgerEntry) -> str:
    """Add one entry, inside the caller's transaction.

    Returns:
        The new head, 64 hex digits.
    """
    seq, previous = _last(connection)
    body = codec.encode(entry)
    digest = _seal(seq + 1, previous, body)
    connection.execute(
        "INSERT INTO ledger (seq, prev_sha256, body, sha256) VALUES (?, ?, ?, ?)", (seq + 1, previous, body, digest)
    )
    return digest


def head(connection: sqlite3.Connection) -> str | None:
    """The newest entry's hash; None if nothing ever ran."""
    return _last(connection)[1]


def count(connection: sqlite3.Connection) -> int:
    """How many entries there are."""
    return int(connection.execute("SELECT count(*) FROM ledger").fetchone()[0])


def read(connection: sqlite3.Connection, newest: int) -> list[SealedEntry]:
    """The newest entries, oldest first.

    Raises:
        StoreError: `store.damaged`, an entry cannot be read.
    """
    rows = connection.execute("SELECT seq, sha256, body FROM ledger ORDER BY seq DESC LIMIT ?", (newest,)).fetchall()
    return [SealedEntry(seq, digest, _parse(seq, body)) for seq, digest, body in reversed(rows)]


def find_break(connection: sqlite3.Connection) -> int | None:
    """Verify the whole chain: the number of the first entry that does not fit, or None if all do."""
    previous: str | None = None
    expected = 1
    for seq, named, body, digest in _rows(connection):
        fits = seq == expected and named == previous and isinstance(body, bytes)
        if not fits or digest != _seal(seq, previous, body):
            return expected
        previous, expected = digest, expected + 1
    return None


def _rows(connection: sqlite3.Connection) -> Iterator[tuple[int, str | None, bytes, str]]:
    yield from connection.execute("SELECT seq, prev_sha256, body, sha256 FROM ledger ORDER BY seq")


def _last(connection: sqlite3.Connection) -> tuple[int, str | None]:
    row = connection.execute("SELECT seq, sha256 FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
    return (0, None) if row is None else (row[0], row[1])


def _seal(seq: int, previous: str | None, body: bytes) -> str:
    return hashlib.sha256(b"pcm-ledger\0%d\0%b\0%b" % (seq, (previous or "").encode(), body)).hexdigest()


def _parse(seq: int, body: bytes) -> LedgerEntry:
    try:
        entry: LedgerEntry = codec.parse(LedgerEntry, body, kind="ledger entry", max_bytes=MAX_ENTRY)
    except RequestError as error:
        raise StoreError(f"Entry {seq} of the ledger cannot be read: {error.message}", code="store.damaged") from None
    return entry
