"""The compiler: each dirty client's instruction file is made, signed, stored, and written to the logon servers.

Step 5 of 12: after `jobs`, `intake` and `packages` have marked clients dirty, before `logon` serves. Only dirty
clients cost anything (KB Q264945), and a file whose content has not changed is not signed anew. Serial and bytes
are in the database first; files are a projection of it, written afterwards and again after a crash, so no serial
ever stands for two contents (KB Q140928). One client that cannot be compiled or written waits, longer each time,
and stops nobody (KB Q168130, Q161043). It signs with the policy key, which can only choose among what packagers
have signed.
"""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, or_, select, update

from pcm.logon.folder import GRACE_S
from pcm.model.errors import PcmError
from pcm.protocol.instructions import RepositoryFloor, Servers
from pcm.site import approvals, repository
from pcm.site.authority import Site
from pcm.site.compile_sources import Sources
from pcm.site.db.tables import AnyRow, clients
from pcm.site.instruction_files import FileFrame, content, finish
from pcm.site.set_aside import set_aside
from pcm.trust.instruction_repository import SignedInstructions, next_version, sign_instructions

BATCH = 200
_LONGEST_WAIT_S = 3600
_log = logging.getLogger(__name__)


class _Turn(NamedTuple):
    """What one batch shares."""

    frame: FileFrame
    floor: RepositoryFloor
    sources: Sources
    now: datetime


class Compiler:
    """Compiles for one site. One at a time per process; several processes share the work by row locks."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._proofs: dict[tuple[str, int], Mapping[str, Sequence[str]]] = {}
        # the last batch, so that its files are written without reading them back; the database decides what is written
        self._fresh: dict[int, SignedInstructions] = {}
        self._swept: dict[int, float] = {}  # when each client's folders were looked through for old files, unix seconds

    def compile_now(self) -> int:
        """Compile and write until nothing is left to do now; how many files were signed.

        Raises:
            StoreError: the database cannot be used.
        """
        signed = 0
        while True:
            taken, made = self.compile_batch()
            signed += made
            written = self.write_batch()
            if not taken and not written:
                return signed

    def compile_batch(self) -> tuple[int, int]:
        """One transaction's worth of dirty clients: how many were looked at, and how many files were signed."""
        site = self._site
        with site.database.write() as connection:
            now = site.clock()
            rows = connection.execute(_dirty(now)).all()
            if not rows:
                return 0, 0
            turn = self._begin(connection, [row.id for row in rows], now)
            changed: list[dict[str, Any]] = []
            clean: list[int] = []
            fresh: dict[int, SignedInstructions] = {}
            for row in rows:
                try:
                    made = self._compile_one(row, turn)
                except PcmError as error:
                    self._put_off(connection, row, error, now)
                    continue
                if made is None:
                    clean.append(row.id)
                else:
                    values, fresh[row.id] = made
                    changed.append(values)
            _save(connection, changed, clean)
            turn.sources.note_served(connection, [*clean, *(values["row"] for values in changed)])
        self._fresh = fresh
        return len(rows), len(changed)

    def _begin(self, connection: Connection, ids: list[int], now: datetime) -> _Turn:
        settings = self._site.configuration.settings
        servers = self._site.configuration.servers()
        frame = FileFrame(
            site=self._site.name,
            servers=Servers(
                tuple(server.location for server in servers if server.kind == "logon"),
                tuple(server.location for server in servers if server.kind == "distribution"),
            ),
            poll_after_s=settings.poll_after_s,
            min_client_version=settings.min_client_version,
            windows=settings.windows,
            content=self._site.configuration.content.policy(),
        )
        sources = Sources(connection, ids, self._proofs_of)
        return _Turn(frame, repository.floor(connection), sources, now)

    def _proofs_of(self, connection: Connection, job: str, generation: int) -> Mapping[str, Sequence[str]]:
        key = (job, generation)
        if key not in self._proofs:
            while len(self._proofs) >= 4:
                self._proofs.pop(next(iter(self._proofs)))
            self._proofs[key] = approvals.proofs(connection, job)
        return self._proofs[key]

    def _compile_one(self, row: AnyRow, turn: _Turn) -> tuple[dict[str, Any], SignedInstructions] | None:
        """New values for a client's row, and its signed file; or None if that stays as it is."""
        site, now = self._site, turn.now
        file, digest = content(
            turn.frame, row.client_id, turn.sources.instructions(row.id, row.client_id), row.dropped_seq
        )
        days = site.configuration.settings.instruction_days
        if digest == row.content_sha256 and row.body_expires - now > timedelta(days=days / 2):
            return None
        serial, expires = row.serial + 1, now + timedelta(days=days)
        body = finish(file, serial, now, expires, turn.floor, row.last_seq)
        version = next_version(int(now.timestamp() * 1000), row.targets_version or None)
        signed = sign_instructions(row.client_id, body, site.policy, version, expires_days=days)
        values = {
            "row": row.id,
            "serial": serial,
            "content_sha256": digest,
            "body": body,
            "targets": signed.targets,
            "targets_version": version,
            "body_expires": expires,
        }
        return values, signed

    def write_batch(self) -> int:
        """Write what the database has and the logon servers have not; how many clients' files."""
        site = self._site
        now = site.clock()
        with site.database.read() as connection:
            rows = connection.execute(_unwritten(now)).all()
            signed = self._load_signed(connection, rows)
        done: list[dict[str, Any]] = []
        failed: list[tuple[AnyRow, PcmError]] = []
        for row in rows:
            try:
                self._write_one(row, signed.get(row.id))
            except PcmError as error:
                failed.append((row, error))
            else:
                done.append({"row": row.id, "version": row.targets_version, "state": row.state})
        if rows:
            with site.database.write() as connection:
                _mark_written(connection, done, self._renewal(now))
                for row, reason in failed:
                    self._put_off(connection, row, reason, now)
        return len(done)

    def _load_signed(self, connection: Connection, rows: Sequence[AnyRow]) -> dict[int, SignedInstructions]:
        """What is to be written: from the batch just signed, else from the database. A version never stands for two contents."""
        fresh, self._fresh = self._fresh, {}
        known = {
            row.id: fresh[row.id] for row in rows if row.id in fresh and fresh[row.id].version == row.targets_version
        }
        others = [row.id for row in rows if row.id not in known]
        if others:
            for row in connection.execute(_stored(others)):
                body = bytes(row.body)
                known[row.id] = SignedInstructions(
                    row.client_id, row.targets_version, hashlib.sha256(body).hexdigest(), body, bytes(row.targets)
                )
        return known

    def _write_one(self, row: AnyRow, signed: SignedInstructions | None) -> None:
        if row.state != "enrolled":
            for place in self._site.logon:
                place.folder.remove_client(row.client_id)
            return
        if signed is None:
            return
        for place in self._site.logon:
            place.folder.write_key(row.client_id, row.public_key.encode())
            place.leases.publish(signed)
        now = time.time()
        if now - self._swept.get(row.id, 0.0) >= GRACE_S:  # sooner, little could be old enough
            self._swept[row.id] = now
            keep = set(signed.files())
            for place in self._site.logon:
                place.folder.remove_old(row.client_id, keep, now)

    def renew_leases(self) -> int:
        """Keep the leases in static folders fresh; a logon server over HTTP renews its own when asked."""
        site = self._site
        now = site.clock()
        with site.database.read() as connection:
            rows = connection.execute(
                select(clients.c.id, clients.c.client_id, clients.c.serial)
                .where(clients.c.renew_leases <= now, clients.c.state == "enrolled")
                .limit(BATCH)
            ).all()
        for row in rows:
            for place in site.logon:
                if not place.own:
                    place.leases.ensure(row.client_id)
        if rows:
            with site.database.write() as connection:
                connection.execute(
                    update(clients)
                    .where(clients.c.id.in_([row.id for row in rows]))
                    .values(renew_leases=self._renewal(now))
                )
        return len(rows)

    def mark_expiring(self) -> None:
        """Have files made anew whose signature has used up half its time."""
        soon = self._site.clock() + timedelta(days=self._site.configuration.settings.instruction_days / 2)
        with self._site.database.write() as connection:
            connection.execute(
                update(clients)
                .where(clients.c.state == "enrolled", clients.c.body_expires <= soon, ~clients.c.dirty)
                .values(dirty=True)
            )

    def _renewal(self, now: datetime) -> datetime | None:
        if all(place.own for place in self._site.logon):
            return None
        return now + timedelta(days=self._site.configuration.settings.lease_days / 3)

    def _put_off(self, connection: Connection, row: AnyRow, error: PcmError, now: datetime) -> None:
        failures = min(row.compile_failures + 1, 30)
        wait = min(2**failures, _LONGEST_WAIT_S)
        _log.warning("client %s is put off for %d s: %s", row.client_id, wait, error.message)
        set_aside(connection, "compile", row.client_id, b"", error, now)
        connection.execute(
            update(clients)
            .where(clients.c.id == row.id)
            .values(compile_failures=failures, retry_after=now + timedelta(seconds=wait))
        )


def mark_all(connection: Connection) -> None:
    """Have every client's file looked at again: the server list has changed (KB Q199994)."""
    connection.execute(update(clients).where(clients.c.state == "enrolled").values(dirty=True))


def _dirty(now: datetime) -> Any:
    return (
        select(
            clients.c.id,
            clients.c.client_id,
            clients.c.serial,
            clients.c.content_sha256,
            clients.c.targets_version,
            clients.c.body_expires,
            clients.c.last_seq,
            clients.c.dropped_seq,
            clients.c.compile_failures,
        )
        .where(clients.c.dirty, clients.c.state == "enrolled")
        .where(or_(clients.c.retry_after.is_(None), clients.c.retry_after <= now))
        .order_by(clients.c.compile_failures, clients.c.id)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )


def _unwritten(now: datetime) -> Any:
    return (
        select(
            clients.c.id,
            clients.c.client_id,
            clients.c.state,
            clients.c.public_key,
            clients.c.targets_version,
            clients.c.compile_failures,
        )
        .where(clients.c.unwritten)
        .where(or_(clients.c.retry_after.is_(None), clients.c.retry_after <= now))
        .order_by(clients.c.compile_failures, clients.c.id)
        .limit(BATCH)
    )


def _stored(ids: list[int]) -> Any:
    return select(
        clients.c.id, clients.c.client_id, clients.c.targets_version, clients.c.body, clients.c.targets
    ).where(clients.c.id.in_(ids), clients.c.targets.is_not(None))


def _save(connection: Connection, changed: list[dict[str, Any]], clean: list[int]) -> None:
    fresh = {"dirty": False, "compile_failures": 0, "retry_after": None}
    if changed:
        columns = [name for name in changed[0] if name != "row"]
        connection.execute(
            update(clients)
            .where(clients.c.id == bindparam("row"))
            .values({**{name: bindparam(name) for name in columns}, "unwritten": True, **fresh}),
            changed,
        )
    if clean:
        connection.execute(update(clients).where(clients.c.id.in_(clean)).values(**fresh))


def _mark_written(connection: Connection, done: list[dict[str, Any]], renewal: datetime | None) -> None:
    if not done:
        return
    # a newer file, or another state, that came meanwhile stays to be written
    connection.execute(
        update(clients)
        .where(
            clients.c.id == bindparam("row"),
            clients.c.targets_version == bindparam("version"),
            clients.c.state == bindparam("was"),
        )
        .values(unwritten=False, compile_failures=0, retry_after=None, renew_leases=renewal),
        [{"row": each["row"], "version": each["version"], "was": each["state"]} for each in done],
    )
