"""Intake: enrolments and status reports come in, are verified, written in groups, and only then acknowledged.

Step 12 of 12, between the logon server (which knows who sent it, by RFC 9421) and `reports` (which decides). One
thread writes: whatever has arrived while a transaction was on its way to the disk goes into the next one together,
so the cost per report stays flat (KB Q140389, Q162558). At least once from the client, idempotent here (KB
Q164877). What cannot be read is set aside, with its reason, and stops nobody (KB Q159201, Q181042).
"""

import asyncio
import os
import queue
import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
from sqlalchemy import select

from pcm.logon.app import Answer, read_public_key
from pcm.model.errors import PcmError, RequestError, StoreError, TrustError
from pcm.protocol import codec, report
from pcm.protocol.enrolment import EnrolmentRequest
from pcm.site import enrolment, reports
from pcm.site.authority import Site
from pcm.site.db.tables import clients
from pcm.site.set_aside import set_aside
from pcm.site.throttle import Throttle, TooOftenError, source_of
from pcm.trust import envelopes

MAX_GROUP = 200
_DROPPED = re.compile(r"([0-9a-f]{32})\.([1-9][0-9]{0,15})\.json")
DROP_FOLDER = "reports"
# how many in so many seconds: wrong tokens and requests for approval of one address, reports of one client
MOST_WRONG, MOST_PENDING, MOST_REPORTS = (10, 60.0), (100, 60.0), (600, 600.0)


class _Chain(msgspec.Struct):
    """As much of a report as the chain needs, for payloads of a version that this site does not understand."""

    site: str
    client_id: str
    seq: int
    prev_sha256: str | None = None


class _Waiting(NamedTuple):
    received: reports.Received
    dropped: bool
    done: "Future[reports.Verdict]"


class Intake:
    """Takes enrolments and reports of one site in. Call `start` first and `stop` last."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._wrong, self._pending = Throttle(*MOST_WRONG), Throttle(*MOST_PENDING)
        self._floods = Throttle(*MOST_REPORTS)
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Start the writing thread."""
        self._thread.start()

    def stop(self) -> None:
        """Write what has come, then end the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout=30)

    async def take_report(self, client_id: str, envelope: bytes) -> Answer:
        """The logon server's sink for reports.

        Raises:
            PcmError: it is not taken; the logon server turns it into a status.
        """
        wait = self._floods.wait_s(client_id)
        if wait:
            return _too_many(TooOftenError("This client sends too many reports.", wait))
        self._floods.count(client_id)
        verdict = await asyncio.wrap_future(await asyncio.to_thread(self.offer, client_id, envelope))
        return _answer(verdict)

    async def take_enrolment(self, asked: EnrolmentRequest, client_id: str, address: str) -> Answer:
        """The logon server's sink for enrolments. Raises RequestError, StoreError."""
        try:
            return await asyncio.to_thread(self.enrol, asked, client_id, source_of(address))
        except TooOftenError as error:
            return _too_many(error)

    def enrol(self, asked: EnrolmentRequest, client_id: str, source: str = "") -> Answer:
        """Decide about one enrolment; its key is on the logon servers before the answer is given.

        Raises:
            RequestError: `request.too_many`: this source gave too many wrong tokens, or brings too many that wait for
                approval; whoever has a token that counts is let in all the same. Else as `enrolment.enrol`.
        """
        site = self._site
        self._check_source(asked, client_id, source)
        if asked.token is None:
            self._pending.count(source)
        try:
            with site.database.write() as connection:
                most = site.configuration.settings.max_pending
                answer = enrolment.enrol(connection, asked, client_id, site.name, most, site.clock())
        except RequestError as error:
            if error.code == "not_allowed":
                self._wrong.count(source)
                with site.database.write() as connection:
                    enrolment.note_misuse(connection, asked, client_id, error.message, site.clock())
            raise
        if answer.state == "enrolled":
            for place in site.logon:
                place.folder.write_key(client_id, asked.public_key.encode())
            site.wake.set()
        return Answer(200 if answer.state == "enrolled" else 202, codec.encode(answer))

    def _check_source(self, asked: EnrolmentRequest, client_id: str, source: str) -> None:
        throttle = self._pending if asked.token is None else self._wrong
        wait = throttle.wait_s(source)
        if wait:
            with self._site.database.read() as connection:
                if not enrolment.counts(connection, asked, client_id, self._site.clock()):
                    what = "requests for approval" if asked.token is None else "wrong enrolment tokens"
                    raise TooOftenError(f"Too many {what} came from this address.", wait)

    def offer(self, client_id: str, envelope: bytes, *, dropped: bool = False) -> "Future[reports.Verdict]":
        """Verify a report and queue it for the next transaction.

        Raises:
            TrustError: `trust.unsigned`, `trust.unknown_client`.
            RequestError: `protocol.*`, `report.wrong_sender`.
        """
        received = self._verify(client_id, envelope)
        done: Future[reports.Verdict] = Future()
        self._queue.put(_Waiting(received, dropped, done))
        return done

    def collect_dropped(self) -> int:
        """Take in reports that were left as files in logon folders; how many were taken or set aside."""
        taken = 0
        for place in self._site.logon:
            if place.own:
                continue
            for path, client_id in _dropped_files(place.folder.root / DROP_FOLDER):
                taken += self._collect_one(path, client_id)
        return taken

    def _collect_one(self, path: Path, client_id: str) -> bool:
        try:
            verdict = self.offer(client_id, _read_dropped(path), dropped=True).result(timeout=60)
        except StoreError:
            return False  # this machine's trouble, not the file's: it stays
        except PcmError as error:
            # by the folder, not by the file: anybody may make up names of files
            self._set_aside("dropped report", str(path.parent), path.name.encode(), error)
        else:
            if verdict.code == "report.gap":
                return False  # the one before may still come
        path.unlink(missing_ok=True)
        return True

    def _verify(self, client_id: str, envelope: bytes) -> reports.Received:
        with self._site.database.read() as connection:
            row = connection.execute(
                select(clients.c.public_key, clients.c.state).where(clients.c.client_id == client_id)
            ).first()
        if row is None or row.state != "enrolled":
            raise TrustError("No enrolled client of this site has this key.", code="trust.unknown_client")
        try:
            payload = envelopes.verify_of_client(
                envelope,
                read_public_key(row.public_key.encode()),
                payload_type=report.PAYLOAD_TYPE,
                max_bytes=report.MAX_ENVELOPE_BYTES,
            )
            return self._read(client_id, envelope, payload)
        except (RequestError, TrustError) as error:
            self._set_aside("report", client_id, envelope, error)
            raise

    def _read(self, client_id: str, envelope: bytes, payload: bytes) -> reports.Received:
        content: report.Report | None = None
        try:
            content = report.read_report(payload)
            chain = _Chain(content.site, content.client_id, content.seq, content.prev_sha256)
        except RequestError as error:
            # signed and numbered, but unreadable: set aside without holding up the reports after it
            chain = codec.parse(_Chain, payload, kind=report.KIND, max_bytes=report.MAX_BYTES)
            self._set_aside("report", client_id, envelope, error)
        if chain.client_id != client_id or chain.site != self._site.name or not 0 < chain.seq < 2**53:
            raise RequestError("This report is from another client, or for another site.", code="report.wrong_sender")
        return reports.Received(client_id, chain.seq, chain.prev_sha256, reports.digest(payload), envelope, content)

    def _set_aside(self, kind: str, source: str, body: bytes, error: PcmError) -> None:
        with self._site.database.write() as connection:
            set_aside(connection, kind, source, body, error, self._site.clock())

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            group, ending = [first], False
            while len(group) < MAX_GROUP and not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    ending = True
                    break
                group.append(item)
            self._write(group)
            if ending:
                return

    def _write(self, group: Sequence[_Waiting]) -> None:
        """One transaction for the group; if it fails, one for each, so that one bad item harms nobody."""
        try:
            verdicts = self._commit(group)
        except PcmError as error:
            if len(group) == 1:
                group[0].done.set_exception(error)
                return
            for item in group:
                self._write([item])
            return
        for item, verdict in zip(group, verdicts, strict=True):
            item.done.set_result(verdict)
            if verdict.code == "report.fork":
                self._site.wake.set()

    def _commit(self, group: Sequence[_Waiting]) -> list[reports.Verdict]:
        verdicts: list[reports.Verdict] = []
        now: datetime = self._site.clock()
        names = {item.received.client_id for item in group}
        with self._site.database.write() as connection:
            # all rows first and in one order, so that no two writers wait for each other
            connection.execute(
                select(clients.c.id).where(clients.c.client_id.in_(names)).order_by(clients.c.id).with_for_update()
            ).all()
            for item in group:
                row = connection.execute(
                    select(
                        clients.c.id,
                        clients.c.client_id,
                        clients.c.state,
                        clients.c.serial,
                        clients.c.last_seq,
                        clients.c.last_report_sha256,
                        clients.c.ledger_total,
                        clients.c.ledger_head,
                        clients.c.ledger_broken,
                    ).where(clients.c.client_id == item.received.client_id)
                ).one()
                if row.state != "enrolled":
                    verdicts.append(reports.Verdict(row.last_seq, "report.fork", f"the client is {row.state}"))
                    continue
                verdicts.append(reports.receive(connection, row, item.received, dropped=item.dropped, now=now))
        return verdicts


def _answer(verdict: reports.Verdict) -> Answer:
    if not verdict.code:
        return Answer(200, codec.encode({"acknowledged": verdict.acknowledged}))
    body = {"code": verdict.code, "message": verdict.reason, "acknowledged": verdict.acknowledged}
    return Answer(403 if verdict.code == "report.fork" else 409, codec.encode(body))


def _too_many(error: TooOftenError) -> Answer:
    body = {"code": error.code, "message": error.message}
    return Answer(429, codec.encode(body), retry_after_s=error.wait_s)


def _dropped_files(folder: Path) -> list[tuple[Path, str]]:
    """Reports left in a folder, each client's in order of their numbers."""
    found: list[tuple[str, int, Path]] = []
    try:
        for path in folder.iterdir():
            match = _DROPPED.fullmatch(path.name)
            if match:
                found.append((match[1], int(match[2]), path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [(path, client_id) for client_id, _, path in sorted(found)]


def _read_dropped(path: Path) -> bytes:
    """A dropped file's bytes; anybody may write to that folder, so no link is followed and no more is read than a report has.

    Raises:
        RequestError: `report.file`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(report.MAX_ENVELOPE_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path.name} cannot be read: {error.strerror}.", code="report.file") from error
