"""The audit log: who did what to what, when; chained by hashes, written in the transaction of the change itself.

Serves steps 2, 3 and 12: every change of state through the API, and what the site does by itself (expiry,
quarantine). A row that is changed, removed or put in between breaks the chain from there on. It never holds
secrets.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from pcm.model.errors import TrustError
from pcm.protocol import codec
from pcm.protocol.admin import AuditRow
from pcm.site.db.database import take_turn
from pcm.site.db.tables import AnyRow, audit

BEGINNING = "0" * 64
SITE = "site"  # the actor of what the site does by itself


def record(connection: Connection, now: datetime, actor: str, action: str, subject: str, detail: str = "") -> None:
    """Add one row, in the caller's transaction.

    Args:
        actor: Name of the token, or `SITE`.
        action: What was done, dotted: `job.create`.
        subject: To what: a job id, a package and version, a client id.
        detail: One sentence for people, without secrets.
    """
    take_turn(connection, "audit")
    last = connection.execute(select(audit.c.seq, audit.c.sha256).order_by(audit.c.seq.desc()).limit(1)).first()
    seq, prev = (last.seq + 1, last.sha256) if last is not None else (1, BEGINNING)
    row = {
        "seq": seq,
        "at": now.astimezone(UTC),
        "actor": actor[:100],
        "action": action,
        "subject": subject[:400],
        "detail": detail[:2000].replace("\0", "\ufffd"),
        "prev_sha256": prev,
    }
    connection.execute(insert(audit).values(**row, sha256=_digest(row)))


def verify_chain(connection: Connection) -> int:
    """Check the whole chain.

    Returns:
        How many rows it has.

    Raises:
        TrustError: `audit.broken`, naming the first row that does not fit.
    """
    prev, seq = BEGINNING, 0
    for row in connection.execute(select(audit).order_by(audit.c.seq)):
        seq += 1
        values = row._asdict()
        said = values.pop("sha256")
        if row.seq != seq or row.prev_sha256 != prev or _digest(values) != said:
            raise TrustError(
                f"The audit log was changed: row {row.seq} does not follow row {seq - 1}.", code="audit.broken"
            )
        prev = said
    return seq


def view(row: AnyRow) -> AuditRow:
    """A row as the API shows it."""
    return AuditRow(**row._asdict())


def _digest(row: dict[str, Any]) -> str:
    # times in whole microseconds, as both databases keep them
    return hashlib.sha256(codec.encode({**row, "at": row["at"].isoformat(timespec="microseconds")})).hexdigest()
