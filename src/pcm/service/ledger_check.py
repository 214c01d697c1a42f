"""Whether the ledger still is what it was: its chain is computed anew and compared with what signed reports told the site.

Serves step 12 and `pcmsvc ledger verify`, after `outbox`, whose newest reports are kept. Whoever is administrator here can
write the whole ledger anew so that its chain holds in itself; what the site has been told cannot be taken back, and names
the entries that were changed. The site compares for itself (`site.client_ledgers`): this is for whoever sits here. It changes
nothing but the note of what it found, which the next report carries.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from pcm.model.errors import RequestError
from pcm.model.ledger_chain import seal
from pcm.protocol.report import MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, Report, read_report
from pcm.service import ledger
from pcm.service.state import State
from pcm.service.state_folder import DATABASE

SITE_KNOWS = "ledger.acknowledged"  # number and hash of the last entry that the site has; outlives the database
BEFORE = "ledger.before"  # the same of a ledger that was longer than its successor
TOLD_BREAK = "reported.ledger_break"
CHANGED, REWRITTEN, SHORTER = "ledger.changed", "ledger.rewritten", "ledger.shorter"
MOST_BREAKS = 20


class Break(NamedTuple):
    """Something in the ledger that was changed afterwards. `first` to `last`: the entries, by number."""

    first: int
    last: int
    code: str
    text: str


class Row(NamedTuple):
    """One entry as it stands, and what its own bytes make of it."""

    link: str
    sha256: str


def verify(state: State) -> list[Break]:
    """Everything that does not fit, by number; empty if the past is what it was.

    Raises:
        StoreError: the database cannot be read.
    """
    with state.transaction(durable=False) as connection:
        found = [*_check_chain(connection), *_check_reports(connection, state.meta(SITE_KNOWS))]
    unique: dict[tuple[int, int], Break] = {}
    for each in found:
        unique.setdefault((each.first, each.last), each)
    return sorted(unique.values())[:MOST_BREAKS]


def note_break(state: State, now: datetime) -> None:
    """Have the next report say what is wrong with the ledger, once for each different finding. For a ledger that has grown."""
    found = verify(state)
    told = f"{found[0].first} {found[0].code}" if found else ""
    if state.meta(TOLD_BREAK) == told:
        return
    with state.transaction():
        state.set_meta(TOLD_BREAK, told)
        if found:
            state.refuse(found[0].code, now, found[0].text[:1000], "ledger")


def note_acknowledged(state: State, seq: int) -> None:
    """Keep what the site knows of the ledger now, in the caller's transaction: it outlives even the database.

    Args:
        seq: The newest report that the site has acknowledged.
    """
    kept = state.rows("SELECT seq, acknowledged, envelope FROM outbox WHERE seq = ?", (seq,))
    for _, _, report in _reports(kept):
        before, now = state.meta(SITE_KNOWS), f"{report.ledger_total} {report.ledger_head or ''}"
        if _number(before) > report.ledger_total:
            here = state.rows("SELECT max(seq) FROM ledger")[0][0] or 0
            if here >= _number(before):
                return  # a long ledger is told from its beginning, in several reports: another site, or another key
            state.set_meta(BEFORE, before, kept=True)
        if before != now and (before or report.ledger_total):
            state.set_meta(SITE_KNOWS, now, kept=True)


def entries_before(state: State) -> tuple[int, str]:
    """Number and head of the ledger that was here before this one, as the site knew it; 0 and nothing if there was none."""
    before = state.meta(BEFORE)
    return _number(before), before.partition(" ")[2]


def _check_chain(connection: sqlite3.Connection) -> Iterator[Break]:
    """The chain in itself. After each break it goes on from what the row itself says, so that later ones are found too."""
    expected, previous = 1, None
    for seq, named, body, digest in ledger.rows(connection):
        if seq != expected:
            yield Break(
                expected, max(expected, seq - 1), CHANGED, f"{_entries(expected, seq - 1).capitalize()} removed."
            )
        elif named != previous:
            yield Break(
                seq,
                seq,
                CHANGED,
                f"Entry {seq} does not follow the one before: something was put in, or took its place.",
            )
        elif digest != seal(seq, previous, ledger.link_of(body)):
            yield Break(seq, seq, CHANGED, f"Entry {seq} was changed after it was written.")
        expected, previous = seq + 1, digest


def _check_reports(connection: sqlite3.Connection, site_knows: str) -> Iterator[Break]:
    """The ledger against what each kept report told of it: its links name single entries, its head all up to it."""
    mine = {seq: Row(ledger.link_of(body), digest) for seq, _, body, digest in ledger.rows(connection)}
    kept = connection.execute("SELECT seq, acknowledged, envelope FROM outbox ORDER BY seq").fetchall()
    whole = 0  # up to here, what was told is what stands here
    most = 0
    blamed = False
    for number, acknowledged, report in _reports(kept):
        total, head = report.ledger_total, report.ledger_head
        if not total:
            continue
        told = f"report {number}, which the site {'has acknowledged' if acknowledged else 'has yet to get'}"
        start = total - len(report.ledger_links)
        for seq, link in enumerate(report.ledger_links, start=start + 1):
            if seq in mine and mine[seq].link != link:
                blamed = True
                yield Break(seq, seq, REWRITTEN, f"Entry {seq} is not the one of {told}.")
        if total in mine and mine[total].sha256 == head:
            whole = total
        elif total in mine and not blamed:
            first, blamed = whole + 1, True
            yield Break(first, total, REWRITTEN, f"{_entries(first, total).capitalize()} rewritten since {told}.")
        most = max(most, total)
    yield from _check_end(connection, mine, most, site_knows, blamed=blamed)


def _check_end(
    connection: sqlite3.Connection, mine: Mapping[int, Row], most: int, site_knows: str, *, blamed: bool
) -> Iterator[Break]:
    total, head = _number(site_knows), site_knows.partition(" ")[2]
    last, most = max(mine, default=0), max(most, total)
    if last < most:
        rebuilt = connection.execute(
            "SELECT at FROM refusals WHERE code = 'store.rebuilt' ORDER BY seq DESC"
        ).fetchone()
        why = f"; {DATABASE} was lost and began anew on {rebuilt[0][:10]}" if rebuilt else ""
        entries = f"{most} {'entry' if most == 1 else 'entries'}"
        text = f"The site knows of {entries}, {last or 'none'} of them here: {_entries(last + 1, most)} removed{why}."
        yield Break(last + 1, most, SHORTER, text)
    if total in mine and mine[total].sha256 != head and not blamed:
        text = f"Entry {total} is not the one that the site has acknowledged: it, or one before it, was rewritten."
        yield Break(1, total, REWRITTEN, text)


def _reports(kept: list[tuple[int, str | None, bytes]]) -> Iterator[tuple[int, bool, Report]]:
    from pcm.trust.envelopes import read  # noqa: PLC0415 - 15 ms that an idle poll does not need

    for seq, acknowledged, envelope in kept:
        try:
            payload, _ = read(envelope, payload_type=PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
            yield seq, acknowledged is not None, read_report(payload)
        except (RequestError, msgspec.MsgspecError):
            continue  # the site would not take it either, and the chain of reports tells


def _entries(first: int, last: int) -> str:
    return f"entry {first} was" if last <= first else f"entries {first} to {last} were"


def _number(known: str) -> int:
    number = known.partition(" ")[0]
    return int(number) if number.isdecimal() else 0
