"""Whether a client's ledger goes on from where it was: the site holds each head, so a rewritten past shows.

Step 12, called by `reports` inside its transaction. The client's signed report tells how many entries its ledger has, its head,
and how the new ones enter the chain; followed from the head that is known here, they must lead to that head. What does not is
kept as a break, with an audit row, until an administrator has looked and accepts it (`accept`); reports go on meanwhile. It
believes the client's key: it finds what was changed in the database of an honest service, not what a forger of reports hides.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, update

from pcm.model.errors import RequestError
from pcm.model.ledger_chain import follow
from pcm.protocol.report import Refusal, Report
from pcm.site import audit
from pcm.site.db.tables import AnyRow, clients
from pcm.site.enrolment import clean

SAID_BY_CLIENT = "ledger."  # codes of what a client finds wrong with its own ledger
_MOST_TEXT = 400


class Known(NamedTuple):
    """What the site knows of a ledger. An older service told the head only; then nothing can be followed from it."""

    total: int
    head: str | None


def find_break(known: Known, report: Report, *, resumed: bool = False) -> str:
    """Why a ledger is not the one that it was, for people; empty if it goes on.

    Args:
        resumed: An administrator has accepted that reports before this one are missing here, and with them what they told.
    """
    total, links = report.ledger_total, report.ledger_links
    if total < known.total:
        return f"it had {_entries(known.total)} and has {total or 'none'} now"
    start = total - len(links)
    if start > known.total:
        return "" if resumed else f"how entries {known.total + 1} to {start} came in was never reported"
    if start == known.total:
        head = follow(known.total, known.head if known.total else None, links)
    elif start == 0:
        at_known = follow(0, None, links[: known.total])
        if at_known != known.head:
            return f"its first {_entries(known.total)} are not those that it had"
        head = follow(known.total, known.head, links[known.total :])
    else:
        return f"entries from {start + 1} on were reported before, up to {known.total}"
    if head == report.ledger_head or (not total and report.ledger_head is not None and not known.total):
        return ""
    return f"its first {_entries(known.total)} do not lead to what it has now: they were rewritten"


def take_in(connection: Connection, client: AnyRow, report: Report, now: datetime, *, resumed: bool) -> dict[str, Any]:
    """The client's new columns after a report; a break is recorded."""
    found = find_break(Known(client.ledger_total, client.ledger_head), report, resumed=resumed) or _said(
        report.refusals
    )
    values: dict[str, Any] = {"ledger_total": report.ledger_total, "ledger_head": report.ledger_head}
    if found:
        if any(refusal.code == "store.rebuilt" for refusal in report.refusals):
            found = f"{found}; its database was lost, and a new one began (store.rebuilt)"
        note = clean(found)[:_MOST_TEXT]
        values |= {"ledger_broken": client.ledger_broken or now, "ledger_note": note}
        audit.record(connection, now, audit.SITE, "client.ledger_broken", client.client_id, note)
    return values


def accept(connection: Connection, client: AnyRow, actor: str, now: datetime) -> None:
    """Take a client's ledger as it is from now on: an administrator has looked at it.

    Raises:
        RequestError: `client.state`: there is no break; `conflict`: another one came meanwhile.
    """
    if client.ledger_broken is None:
        raise RequestError(f"The ledger of {client.host_name} goes on from where it was.", code="client.state")
    changed = connection.execute(
        update(clients)
        .where(clients.c.id == client.id, clients.c.ledger_note == client.ledger_note)
        .values(ledger_broken=None, ledger_note="")
    )
    if changed.rowcount == 0:
        raise RequestError(f"{client.host_name} has changed meanwhile; look again.", code="conflict")
    audit.record(connection, now, actor, "client.accept_ledger", client.client_id, client.ledger_note)


def _said(refusals: Sequence[Refusal]) -> str:
    """What the client itself found wrong."""
    found = next((refusal for refusal in refusals if refusal.code.startswith(SAID_BY_CLIENT)), None)
    return "" if found is None else f"it says itself: {found.reason}"


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"
