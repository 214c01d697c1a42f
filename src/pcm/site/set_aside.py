"""Poison: items that could not be processed are kept apart with their reason, and stop nobody (KB Q159201, Q181042, Q168130).

Serves steps 5 (one client's instruction file) and 12 (one report). The same item is kept once, however often it
comes, and no more than a few of one source.
"""

import hashlib
from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from pcm.model.errors import PcmError
from pcm.site.db.tables import poison

MAX_BYTES = 64 * 2**10  # kept of one item
MOST = 20  # kept of one source: who sends more of it fills no disk


def set_aside(connection: Connection, kind: str, source: str, body: bytes, error: PcmError, now: datetime) -> None:
    """Keep one item apart.

    Args:
        kind: What it is: `report`, `compile`.
        source: Whose: a client id, a file name.
        body: Its bytes, or b"".
    """
    sha256 = hashlib.sha256(body + error.code.encode()).hexdigest()
    mine = (poison.c.kind == kind) & (poison.c.source == source[:400]) & (poison.c.sha256 == sha256)
    known = select(func.count()).where(poison.c.kind == kind, poison.c.source == source[:400])
    if connection.execute(known).scalar_one() >= MOST:
        return
    if connection.execute(select(poison.c.id).where(mine)).first() is None:
        connection.execute(
            insert(poison).values(
                kind=kind,
                source=source[:400],
                sha256=sha256,
                code=error.code,
                reason=error.message.replace("\0", "\ufffd"),
                body=body[:MAX_BYTES],
                received=now,
            )
        )


def count(connection: Connection) -> int:
    """How many items are set aside."""
    return connection.execute(select(func.count()).select_from(poison)).scalar_one()
