"""Enrolment, the site's half: a computer with a one-time token becomes a client; one without waits for approval.

Serves what comes before step 5. The logon server has checked already that whoever asks holds the private key (its
request is signed with the key that it sends). Tokens are 256 bits, kept only as hashes, short-lived, for one
computer, and for one host name if the administrator said so. The same key may ask again and gets the same answer; a
revoked key never comes back (KB Q162165, Q127052).
"""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from pcm.model.errors import RequestError
from pcm.model.facts import Facts
from pcm.protocol.admin import EnrolmentTokenAnswer, EnrolmentTokenRequest
from pcm.protocol.enrolment import EnrolmentAnswer, EnrolmentRequest
from pcm.site import audit, job_life
from pcm.site.db.database import take_turn
from pcm.site.db.tables import AnyRow, clients, enrolment_tokens


def create_token(
    connection: Connection, asked: EnrolmentTokenRequest, actor: str, now: datetime
) -> EnrolmentTokenAnswer:
    """Make a one-time token; only its hash is kept."""
    token = secrets.token_hex(32)  # no sign in it that a command line would take for an option
    expires = now + timedelta(seconds=asked.expires_in_s)
    digest = _digest(token)
    connection.execute(
        insert(enrolment_tokens).values(
            sha256=digest, created=now, created_by=actor[:100], expires=expires, host_name=asked.host_name
        )
    )
    host = f"for {asked.host_name}" if asked.host_name else "for any host"
    audit.record(connection, now, actor, "enrolment_token.create", digest[:12], host)
    return EnrolmentTokenAnswer(token, expires)


def enrol(
    connection: Connection, asked: EnrolmentRequest, client_id: str, site: str, max_pending: int, now: datetime
) -> EnrolmentAnswer:
    """Decide about one computer's wish, in the caller's transaction.

    Args:
        asked: Its sender has proven to hold the private key.
        client_id: What follows from that key.
        max_pending: How many may wait for approval at once.

    Raises:
        RequestError: `not_allowed` (no such token, used, expired, for another host; a revoked or quarantined key),
            `enrolment.wrong_site`, `enrolment.full`.
    """
    if asked.site != site:
        raise RequestError(f"This is site {site}, not {asked.site}.", code="enrolment.wrong_site")
    take_turn(connection, f"client {client_id}")
    known = connection.execute(
        select(clients.c.id, clients.c.state, clients.c.host_name).where(clients.c.client_id == client_id)
    ).first()
    if known is not None and known.state in {"revoked", "quarantined"}:
        raise RequestError(
            f"This computer's key is {known.state} at site {site}, and an administrator has to look at it. If this "
            "computer shall be another client, with another key: pcmsvc enroll --new-key.",
            code="not_allowed",
        )
    if known is not None and known.state == "enrolled":
        return _answer(client_id, "enrolled")
    if asked.token is not None:
        _use_token(connection, asked.token, asked.facts.host_name, client_id, now)
        _let_in(connection, known, asked, client_id, now)
        return _answer(client_id, "enrolled")
    if known is None:
        _check_room(connection, max_pending)
        _insert(connection, asked, client_id, "pending", now)
        audit.record(connection, now, audit.SITE, "client.pending", client_id, asked.facts.host_name)
    return _answer(client_id, "pending")


def counts(connection: Connection, asked: EnrolmentRequest, client_id: str, now: datetime) -> bool:
    """Whether this brings nothing new but what is wanted: a token that counts, or a key that is known. Reads only."""
    known = connection.execute(select(clients.c.state).where(clients.c.client_id == client_id)).scalar()
    if known == "enrolled" or asked.token is None:
        return known is not None
    token = asked.token
    row = connection.execute(select(enrolment_tokens).where(enrolment_tokens.c.sha256 == _digest(token))).first()
    return not _why_not(row, asked.facts.host_name, now)


def note_misuse(connection: Connection, asked: EnrolmentRequest, client_id: str, why: str, now: datetime) -> None:
    """Write into the audit log that a token of this site was tried in vain: who has it may have stolen it."""
    digest = _digest(asked.token or "")
    if connection.execute(select(enrolment_tokens).where(enrolment_tokens.c.sha256 == digest)).first() is not None:
        told = f"{asked.facts.host_name} ({client_id[:12]}): {why}"
        audit.record(connection, now, audit.SITE, "enrolment_token.misuse", digest[:12], told)


def fingerprint(client_id: str) -> str:
    """The id in groups of four, as people compare it with the client's own screen."""
    return " ".join(client_id[at : at + 4] for at in range(0, len(client_id), 4))


def facts_columns(facts: Facts) -> dict[str, str]:
    """Facts as `clients` keeps them."""
    return {
        "host_name": clean(facts.host_name),
        "host_key": clean(facts.host_name).lower()[:256],
        "platform": clean(facts.platform),
        "os_name": clean(facts.os_name),
        "os_version": clean(facts.os_version),
        "agent_version": clean(facts.agent_version),
    }


def clean(text: str) -> str:
    """Text that both databases can keep: PostgreSQL has no NUL."""
    return text.replace("\0", "\ufffd")


def _use_token(connection: Connection, token: str, host_name: str, client_id: str, now: datetime) -> None:
    digest = _digest(token)
    row = connection.execute(
        select(enrolment_tokens).where(enrolment_tokens.c.sha256 == digest).with_for_update()
    ).first()
    why_not = _why_not(row, host_name, now)
    if why_not:
        raise RequestError(why_not, code="not_allowed")
    connection.execute(
        update(enrolment_tokens).where(enrolment_tokens.c.sha256 == digest).values(used=now, used_by=client_id)
    )


def _why_not(row: AnyRow | None, host_name: str, now: datetime) -> str:
    if row is None:
        return "This enrolment token is not known here."
    if row.used is not None:
        return "This enrolment token was used already; each is for one computer."
    if row.expires <= now:
        return "This enrolment token has expired; ask for a new one."
    if row.host_name is not None and row.host_name.lower() != host_name.lower():
        return "This enrolment token is for a computer with another name."
    return ""


def _let_in(
    connection: Connection, known: AnyRow | None, asked: EnrolmentRequest, client_id: str, now: datetime
) -> None:
    if known is None:
        number = _insert(connection, asked, client_id, "enrolled", now)
    else:
        number = known.id
        connection.execute(
            update(clients)
            .where(clients.c.id == number)
            .values(state="enrolled", dirty=True, **facts_columns(asked.facts))
        )
    job_life.join(connection, number, now)
    by = f"{asked.facts.host_name}, by token {_digest(asked.token or '')[:12]}"
    audit.record(connection, now, audit.SITE, "client.enrol", client_id, by)


def _insert(connection: Connection, asked: EnrolmentRequest, client_id: str, state: str, now: datetime) -> int:
    key = connection.execute(
        insert(clients).values(
            client_id=client_id,
            public_key=asked.public_key,
            state=state,
            created=now,
            dirty=state == "enrolled",
            **facts_columns(asked.facts),
        )
    ).inserted_primary_key
    assert key is not None
    return int(key[0])


def _check_room(connection: Connection, max_pending: int) -> None:
    waiting = connection.execute(
        select(func.count()).select_from(clients).where(clients.c.state == "pending")
    ).scalar_one()
    if waiting >= max_pending:
        raise RequestError(
            "Too many computers wait for approval; use a token, or try again when some are approved.",
            code="enrolment.full",
        )


def _answer(client_id: str, state: Any) -> EnrolmentAnswer:
    return EnrolmentAnswer(client_id, state, fingerprint(client_id))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
