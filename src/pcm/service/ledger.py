"""The ledger: an append-only, hash-chained record of everything that ran here as administrator, and under whose order.

Serves step 11: `service.journal` appends one entry in the very transaction that stores a run's result, so neither exists without
the other. Step 12 reports the newest hash (the head), so the site sees when a past is rewritten. Any local user may read it
through `local_api`; only the service writes it. Entries are never changed and never removed.

How entries are chained: `model.ledger_chain`. Whether the past still is what was reported: `service.ledger_check`.
"""

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from pcm.model.errors import RequestError, StoreError
from pcm.model.ledger_chain import link, seal
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
    seq, previous = last(connection)
    body = codec.encode(entry)
    digest = seal(seq + 1, previous, link(body))
    connection.execute(
        "INSERT INTO ledger (seq, prev_sha256, body, sha256) VALUES (?, ?, ?, ?)", (seq + 1, previous, body, digest)
    )
    return digest


def head(connection: sqlite3.Connection) -> str | None:
    """The newest entry's hash; None if nothing ever ran."""
    return last(connection)[1]


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


def added(connection: sqlite3.Connection, since: int, most: int) -> list[tuple[int, str, str]]:
    """Number, link and hash of each entry after number `since`, oldest first, at most so many: what a report tells."""
    found = connection.execute(
        "SELECT seq, body, sha256 FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?", (since, most)
    ).fetchall()
    return [(seq, link_of(body), digest) for seq, body, digest in found]


def link_of(body: object) -> str:
    """By what a row's bytes enter the chain; of something that is no entry, what can belong to none."""
    return link(body) if isinstance(body, bytes) else link(b"")


def last(connection: sqlite3.Connection) -> tuple[int, str | None]:
    """Number and hash of the newest entry; 0 and None if nothing ever ran."""
    row = connection.execute("SELECT seq, sha256 FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
    return (0, None) if row is None else (row[0], row[1])


def find_break(connection: sqlite3.Connection) -> int | None:
    """Verify the whole chain: the number of the first entry that does not fit, or None if all do."""
    previous: str | None = None
    expected = 1
    for seq, named, body, digest in rows(connection):
        fits = seq == expected and named == previous and isinstance(body, bytes)
        if not fits or digest != seal(seq, previous, link(body)):
            return expected
        previous, expected = digest, expected + 1
    return None


def rows(connection: sqlite3.Connection) -> Iterator[tuple[int, str | None, bytes, str]]:
    """Number, named predecessor, bytes and hash of each entry, as they stand; nothing of it is believed."""
    yield from connection.execute("SELECT seq, prev_sha256, body, sha256 FROM ledger ORDER BY seq")


def _parse(seq: int, body: bytes) -> LedgerEntry:
    try:
        entry: LedgerEntry = codec.parse(LedgerEntry, body, kind="ledger entry", max_bytes=MAX_ENTRY)
    except RequestError as error:
        raise StoreError(f"Entry {seq} of the ledger cannot be read: {error.message}", code="store.damaged") from None
    return entry
