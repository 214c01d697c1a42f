"""Clients: finding one, approving, revoking, quarantining, and marking whose instruction file must be made anew.

Serves steps 3 and 5; `intake` enrols them and keeps their facts. A client's identity is its key, so its id never
changes hands (KB Q162165, Q183398, Q127052): a revoked one stays revoked, and a clone is quarantined.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, func, or_, select, update

from pcm.model.errors import RequestError
from pcm.protocol.admin import ClientView, Page
from pcm.site import audit, job_life
from pcm.site.db.tables import AnyRow, clients, refusals
from pcm.site.pages import Slice, page

_ID_PREFIX = re.compile(r"[0-9a-f]{4,32}")
_SURE = 12  # so many digits of an id mean that id, whatever computers call themselves
_CHUNK = 500
GAP = "report.gap"
RESUMED = ""  # instead of a report's hash: any later report goes on from here

# what a list shows; never the bodies
COLUMNS = (
    clients.c.id,
    clients.c.client_id,
    clients.c.host_name,
    clients.c.state,
    clients.c.platform,
    clients.c.os_name,
    clients.c.os_version,
    clients.c.agent_version,
    clients.c.created,
    clients.c.last_seen,
    clients.c.serial,
    clients.c.stands_on,
    clients.c.last_seq,
    clients.c.note,
    clients.c.public_key,
    clients.c.dirty,
    clients.c.unwritten,
    clients.c.ledger_total,
    clients.c.ledger_head,
    clients.c.ledger_broken,
    clients.c.ledger_note,
)


def find(connection: Connection, name: str) -> AnyRow:
    """One client by its id, an unambiguous beginning of it, or its host name.

    A computer names itself, so no name may stand in the way of another's id: twelve digits of an id mean that id only.
    Among those of one name, revoked ones count only if there is no other.

    Raises:
        RequestError: `not_found`, or `request.ambiguous` naming the candidates.
    """
    by_id: list[Any] = []
    if _ID_PREFIX.fullmatch(name):
        fitting = select(*COLUMNS).where(clients.c.client_id >= name, clients.c.client_id < name + "g").limit(5)
        by_id = list(connection.execute(fitting))
    if len(name) >= _SURE and by_id:
        rows = by_id
    else:
        known = {row.id for row in by_id}
        rows = [*by_id, *(row for row in _named(connection, name) if row.id not in known)]
    if not rows:
        raise RequestError(f"There is no client {name[:80]!r}. `pcm client list` shows them.", code="not_found")
    if len(rows) > 1:
        shown = ", ".join(f"{row.client_id[:16]} ({row.host_name}, {row.state})" for row in rows)
        raise RequestError(
            f"{name[:80]!r} fits several clients: {shown}. Give more of the id.", code="request.ambiguous"
        )
    found: AnyRow = rows[0]
    return found


def _named(connection: Connection, name: str) -> list[Any]:
    for living in (clients.c.state != "revoked", clients.c.state == "revoked"):
        query = select(*COLUMNS).where(clients.c.host_key == name.lower()[:256], living).limit(5)
        rows = list(connection.execute(query))
        if rows:
            return rows
    return []


def list_clients(
    connection: Connection, part: Slice, state: str | None, *, gap: bool = False, ledger_broken: bool = False
) -> Page[ClientView]:
    """Clients in the order of their enrolment, all or those in one state.

    `gap`: only those that `resume` can help. `ledger_broken`: only those whose ledger is not the one that it was.
    """
    query = select(*COLUMNS).order_by(clients.c.id).limit(part.limit + 1)
    if state is not None:
        query = query.where(clients.c.state == state)
    if gap:
        query = query.where(clients.c.state == "enrolled", has_gap())
    if ledger_broken:
        query = query.where(clients.c.ledger_broken.is_not(None))
    after = part.number()
    if after is not None:
        query = query.where(clients.c.id > after)
    return page(connection.execute(query).all(), part, view, lambda row: str(row.id))


def count_by_state(connection: Connection) -> dict[str, int]:
    """State → number of clients."""
    rows = connection.execute(select(clients.c.state, func.count()).group_by(clients.c.state))
    return {row[0]: row[1] for row in rows}


def approve(connection: Connection, client: AnyRow, actor: str, now: datetime) -> None:
    """Let a pending client in, or a quarantined one back in.

    Raises:
        RequestError: `client.state`: it is revoked, or enrolled already.
    """
    if client.state not in {"pending", "quarantined"}:
        raise RequestError(f"{client.host_name} is {client.state}; there is nothing to approve.", code="client.state")
    values: dict[str, Any] = {"state": "enrolled", "note": "", "dirty": True, "unwritten": True}
    if client.state == "quarantined":
        # the next report begins a new chain, at whatever number: an administrator has looked at it
        values["last_report_sha256"] = None
    _change(connection, client, ("pending", "quarantined"), values)
    job_life.join(connection, client.id, now)
    audit.record(connection, now, actor, "client.approve", client.client_id, f"{client.host_name}, was {client.state}")


def revoke(connection: Connection, client: AnyRow, actor: str, now: datetime) -> None:
    """Take a client's right to read and report, for good. Its files are removed by the compiler's next round.

    Raises:
        RequestError: `client.state`: it is revoked already.
    """
    if client.state == "revoked":
        raise RequestError(f"{client.host_name} is revoked already.", code="client.state")
    _change(
        connection,
        client,
        ("pending", "enrolled", "quarantined"),
        {"state": "revoked", "dirty": False, "unwritten": True},
    )
    audit.record(connection, now, actor, "client.revoke", client.client_id, f"{client.host_name}, was {client.state}")


def has_gap() -> ColumnElement[bool]:
    """Whether the newest that came of a client was a report whose predecessors are missing here."""
    return exists().where(
        refusals.c.client == clients.c.id,
        refusals.c.code == GAP,
        or_(clients.c.last_seen.is_(None), refusals.c.received > clients.c.last_seen),
    )


def find_gap(connection: Connection, client: AnyRow) -> bool:
    """Whether `resume` can help this client."""
    return connection.execute(select(clients.c.id).where(clients.c.id == client.id, has_gap())).first() is not None


def resume(connection: Connection, client: AnyRow, actor: str, now: datetime) -> None:
    """Let a client's reports go on after a gap: the site has lost some, or they never came.

    Whoever asks for this accepts that what stood in the missing ones is not known here. So the site never does it by
    itself: a logon server in strange hands could hold reports back, and a gap is how that shows.

    Raises:
        RequestError: `client.state`: it is not enrolled, or nothing is missing.
    """
    if client.state != "enrolled" or not find_gap(connection, client):
        raise RequestError(
            f"{client.host_name} is {client.state}, and no report of it waits for one before; there is nothing to resume.",
            code="client.state",
        )
    _change(connection, client, ("enrolled",), {"last_report_sha256": RESUMED})
    audit.record(connection, now, actor, "client.resume", client.client_id, f"after report {client.last_seq}")


def quarantine(connection: Connection, client: int, client_id: str, why: str, now: datetime) -> None:
    """Set a client apart that may exist twice (KB Q162165): nothing more is taken from it or shown to it."""
    connection.execute(
        update(clients).where(clients.c.id == client).values(state="quarantined", note=why[:400], unwritten=True)
    )
    audit.record(connection, now, audit.SITE, "client.quarantine", client_id, why)


def mark_dirty(connection: Connection, ids: Iterable[int]) -> None:
    """Have these clients' instruction files made anew; the cost follows the clients concerned (KB Q264945)."""
    chunk: list[int] = []
    for client in ids:
        chunk.append(client)
        if len(chunk) == _CHUNK:
            _mark(connection, chunk)
            chunk = []
    if chunk:
        _mark(connection, chunk)


def view(row: AnyRow) -> ClientView:
    """A client as the API shows it."""
    return ClientView(
        client_id=row.client_id,
        host_name=row.host_name,
        state=row.state,
        platform=row.platform,
        os_name=row.os_name,
        os_version=row.os_version,
        agent_version=row.agent_version,
        created=row.created,
        last_seen=row.last_seen,
        serial=row.serial,
        stands_on=row.stands_on,
        ledger_broken=row.ledger_broken,
    )


def _mark(connection: Connection, ids: list[int]) -> None:
    connection.execute(
        update(clients).where(clients.c.id.in_(ids)).values(dirty=True, retry_after=None, compile_failures=0)
    )


def _change(connection: Connection, client: AnyRow, old: tuple[str, ...], values: dict[str, Any]) -> None:
    changed = connection.execute(
        update(clients).where(clients.c.id == client.id, clients.c.state.in_(old)).values(**values)
    )
    if changed.rowcount == 0:
        raise RequestError(f"{client.host_name} has changed meanwhile; look again.", code="conflict")
