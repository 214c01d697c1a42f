"""Telling the site: numbered, chained, signed status reports, kept until the site has acknowledged them.

Step 12 of 12: after `journal` has recorded what changed, before `site.intake`. A report is made only when there is news (KB
Q188042): outcomes, refusals, other facts, other instructions stood on, another ledger head. It is signed and stored in the
transaction that marks its content as reported, so a crash never loses one (KB Q164877, Q160775, Q292030) and never makes two:
what is sent again are the same bytes. Order is by sequence, never by clock (KB Q172899).
"""

import functools
import hashlib
import os
import re
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from pcm.model.errors import PcmError, RequestError, TransferError
from pcm.model.facts import Facts
from pcm.protocol import codec
from pcm.protocol.enrolment import ClientConfiguration
from pcm.protocol.report import MAX_BYTES, MAX_LEDGER_LINKS, PAYLOAD_TYPE, Outcome, Refusal, Report, write_report
from pcm.service import faults, ledger, ledger_check
from pcm.service.identity import Identity
from pcm.service.journal import Journal
from pcm.service.machine.durable import write_all
from pcm.service.records import RefusalRecord, to_text
from pcm.service.sources import Network, Servers
from pcm.service.state import State
from pcm.transport.framing import Request
from pcm.transport.locations import parse_location

FACTS = "reported.facts"
STOOD_ON = "reported.stood_on"
ACKNOWLEDGED = "outbox.acknowledged"  # number and hash; outlives the database, so that the chain goes on
LEDGER_TOLD = "reported.ledger"  # number of the last entry of the ledger that a report tells of
REFUSED = "outbox.refused"  # number of the last report that the site would not take
MOST_OUTCOMES = 200  # in one report: results carry up to 8 KB of output each
MOST_REFUSALS = 100
DROP_FOLDER = "reports"
_KEPT_ACKNOWLEDGED = 50
_MAX_ACKNOWLEDGEMENT = 4096


class Sent(NamedTuple):
    """What came of sending: how many reports the site has now, how many still wait, and why."""

    acknowledged: int
    waiting: int
    error: PcmError | None = None


class _Told(NamedTuple):
    """What one report says of the ledger: how many entries, the last one's hash, how the new ones enter the chain."""

    total: int
    head: str | None
    links: tuple[str, ...]


class _Acknowledgement(msgspec.Struct, frozen=True):
    acknowledged: int


class Outbox:
    """Reports of one client.

    Args:
        state: Open, and owned by this process.
        identity: Signs.
        site: As enrolled.
        boot_id: Of this boot.
    """

    def __init__(self, state: State, identity: Identity, configuration: ClientConfiguration, boot_id: str) -> None:
        self._state = state
        self._identity = identity
        self._configuration = configuration
        self._boot_id = boot_id

    def write(self, facts: Facts, serial: int, now: datetime) -> int:
        """Put all news into reports and store them, signed.

        Args:
            serial: Of the instruction file this client stands on.
            now: Aware.

        Returns:
            How many reports were written; 0 if there is no news.

        Raises:
            StoreError: they could not be stored; then nothing is marked as reported.
        """
        if not self._has_told_ledger():
            ledger_check.note_break(self._state, now)
        written = 0
        while self._write_one(facts, serial, now):
            written += 1
        return written

    def _write_one(self, facts: Facts, serial: int, now: datetime) -> bool:
        journal = Journal(self._state)
        outcomes = journal.unreported(MOST_OUTCOMES)
        refusals = self._state.refusals(unreported=True, limit=MOST_REFUSALS)
        told_facts = codec.encode(facts).decode()
        with self._state.transaction() as connection:
            told = self._tell_ledger(connection)
            stood_on = f"{serial} {told.head or ''}"
            new_facts = told_facts != self._state.meta(FACTS)
            if not (outcomes or refusals or new_facts or stood_on != self._state.meta(STOOD_ON)):
                return False
            seq, previous = self._last()
            report, outcomes = self._fit(
                Report(
                    site=self._configuration.site,
                    client_id=self._identity.client_id,
                    seq=seq + 1,
                    prev_sha256=previous,
                    boot_id=self._boot_id,
                    sent=now,
                    serial=serial,
                    ledger_head=told.head,
                    ledger_total=told.total,
                    ledger_links=told.links,
                    facts=facts if new_facts else None,
                    refusals=tuple(_refusal(record) for record in refusals),
                ),
                outcomes,
            )
            from pcm.trust.envelopes import sign_as_client  # noqa: PLC0415 - 15 ms that an idle poll does not need

            payload = write_report(report)
            envelope = sign_as_client(PAYLOAD_TYPE, payload, self._identity.key)
            connection.execute(
                "INSERT INTO outbox (seq, prev_sha256, payload_sha256, envelope, created) VALUES (?, ?, ?, ?, ?)",
                (report.seq, previous, hashlib.sha256(payload).hexdigest(), envelope, to_text(now)),
            )
            journal.mark_reported([number for number, _ in outcomes], report.seq)
            self._state.mark_refusals_reported([record.seq for record in refusals], report.seq)
            self._state.set_meta(FACTS, told_facts)
            self._state.set_meta(STOOD_ON, stood_on)
            self._state.set_meta(LEDGER_TOLD, str(told.total))
        faults.reach("report.written")
        return True

    def _has_told_ledger(self) -> bool:
        found = self._state.rows("SELECT sha256 FROM ledger ORDER BY seq DESC LIMIT 1")
        return self._state.meta(STOOD_ON).partition(" ")[2] == (found[0][0] if found else "")

    def _tell_ledger(self, connection: sqlite3.Connection) -> _Told:
        """What the next report says of the ledger: what no report has said, as far as one report holds it."""
        since = self._state.meta(LEDGER_TOLD)
        new = ledger.added(connection, int(since) if since.isdecimal() else 0, MAX_LEDGER_LINKS)
        if new:
            return _Told(new[-1][0], _as_hash(new[-1][2]), tuple(link for _, link, _ in new))
        total, head = ledger.last(connection)
        return _Told(total, None if head is None else _as_hash(head), ())

    def _last(self) -> tuple[int, str | None]:
        """Number and hash of the report before the next one."""
        found = self._state.rows("SELECT seq, payload_sha256 FROM outbox ORDER BY seq DESC LIMIT 1")
        if found:
            return int(found[0][0]), str(found[0][1])
        seq, _, sha256 = self._state.meta(ACKNOWLEDGED).partition(" ")
        return (int(seq), sha256) if seq.isdecimal() else (0, None)

    @staticmethod
    def _fit(report: Report, outcomes: list[tuple[int, Outcome]]) -> tuple[Report, list[tuple[int, Outcome]]]:
        """As many outcomes as one report may hold; at least one, without its result if need be."""
        while True:
            full = msgspec.structs.replace(report, outcomes=tuple(outcome for _, outcome in outcomes))
            if len(write_report(full)) <= MAX_BYTES or not outcomes:
                return full, outcomes
            if len(outcomes) > 1:
                outcomes = outcomes[: len(outcomes) // 2]
            else:
                outcomes = [(number, msgspec.structs.replace(outcome, result=None)) for number, outcome in outcomes]

    def waiting(self) -> int:
        """How many reports the site has not acknowledged."""
        return int(self._state.rows("SELECT count(*) FROM outbox WHERE acknowledged IS NULL")[0][0])

    def acknowledge(self, seq: int, now: datetime) -> None:
        """The site has every report up to `seq`: by its answer, or by its signed instruction file (`acknowledged_seq`)."""
        newest = self._state.rows(
            "SELECT seq, payload_sha256 FROM outbox WHERE acknowledged IS NULL AND seq <= ? ORDER BY seq DESC LIMIT 1",
            (seq,),
        )
        if not newest:
            return
        with self._state.transaction() as connection:
            connection.execute(
                "UPDATE outbox SET acknowledged = ? WHERE acknowledged IS NULL AND seq <= ?", (to_text(now), seq)
            )
            self._state.set_meta(ACKNOWLEDGED, f"{newest[0][0]} {newest[0][1]}", kept=True)
            ledger_check.note_acknowledged(self._state, newest[0][0])
            # the last one stays, whatever happens: the next report's chain begins at it
            connection.execute(
                "DELETE FROM outbox WHERE acknowledged IS NOT NULL AND seq <= (SELECT max(seq) FROM outbox) - ?",
                (_KEPT_ACKNOWLEDGED,),
            )
            connection.execute(
                "DELETE FROM outcomes WHERE reported_in IS NOT NULL AND reported_in <= ?", (seq - _KEPT_ACKNOWLEDGED,)
            )

    def send(self, network: Network, servers: Servers, clock: Callable[[], datetime]) -> Sent:
        """Send what waits, oldest first, to the first logon server that takes it.

        A directory cannot acknowledge: the report is left in its drop folder, and waits here until the site says in its
        instructions that it has it. A share is only read, and is not asked.

        Raises:
            StoreError: this disk.
        """
        acknowledged = 0
        if not any(map(takes_reports, servers.names)):
            return Sent(0, self.waiting(), _nobody_takes())
        for seq, envelope in self._state.rows(
            "SELECT seq, envelope FROM outbox WHERE acknowledged IS NULL ORDER BY seq"
        ):
            offer = functools.partial(self._send_to, network, seq, envelope)
            try:
                taken, _ = servers.ask(offer, clock(), network.chance, takes_reports)
            except TransferError as error:
                return Sent(acknowledged, self.waiting(), error)
            except RequestError as error:  # the site says that this report itself is wrong: it is kept, and told once
                if self._state.meta(REFUSED) != str(seq):
                    with self._state.transaction():
                        self._state.set_meta(REFUSED, str(seq))
                        self._state.refuse(error.code, clock(), error.message[:1000], "outbox")
                return Sent(acknowledged, self.waiting(), error)
            faults.reach("report.taken")
            if taken >= seq:
                self.acknowledge(seq, clock())
                faults.reach("report.acknowledged")
                acknowledged += 1
        return Sent(acknowledged, self.waiting())

    def _send_to(self, network: Network, seq: int, envelope: bytes, server: str) -> int:
        """Offer one report to one server; the number that it acknowledges, 0 for a directory."""
        location = parse_location(server)
        if location.directory is not None:
            _drop(Path(location.directory), self._identity.client_id, seq, envelope)
            return 0
        request = Request(
            location.join("reports"),
            method="POST",
            headers={"Content-Type": "application/json"},
            body=envelope,
            max_bytes=_MAX_ACKNOWLEDGEMENT,
            total_s=60.0,
        )
        with network.send(request) as answer:
            body = answer.read()
            if answer.status != 200:
                text = body[:200].decode("utf-8", "replace")
                raise RequestError(
                    f"{server} did not take report {seq} ({answer.status}): {text}", code="report.refused"
                )
        try:
            parsed: _Acknowledgement = codec.parse(
                _Acknowledgement, body, kind="acknowledgement", max_bytes=_MAX_ACKNOWLEDGEMENT
            )
        except RequestError as error:
            raise TransferError(f"{server} answered report {seq} with nonsense: {error.message}") from None
        return parsed.acknowledged


def takes_reports(server: str) -> bool:
    """Whether reports go there: to web servers and directories, not to shares, which the account may only read."""
    return parse_location(server).kind != "smb"


def _nobody_takes() -> TransferError:
    return TransferError(
        "Reports wait here: the logon servers that are configured are shares, which are only read. Name an https logon server "
        "too.",
        code="transfer.read_only",
    )


def _drop(root: Path, client_id: str, seq: int, envelope: bytes) -> None:
    """Leave a report in a directory logon server's drop folder. Signed files need no protection there.

    Others may write to a share, and this process is an administrator: no link is followed below its root, nothing is
    replaced.

    Raises:
        TransferError: `transfer.unreachable`; the folder is missing or cannot be written.
    """
    name = f"{client_id}.{seq}.json"
    temporary = f".{name}.{os.getpid()}"
    try:
        folder = os.open(root / DROP_FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o644, dir_fd=folder), "wb", buffering=0) as file:
                write_all(file.fileno(), envelope)
                os.fsync(file.fileno())
            try:
                os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                return  # it lies there from an earlier try, and is the same
            finally:
                os.unlink(temporary, dir_fd=folder)
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise TransferError(
            f"The drop folder {root / DROP_FOLDER} does not take reports: {error.strerror}.",
            code="transfer.unreachable",
        ) from error


def _as_hash(text: object) -> str:
    """What stands in the ledger as a hash; anything else becomes one that fits nothing, so that the site sees it."""
    return text if isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) else "0" * 64


def _refusal(record: RefusalRecord) -> Refusal:
    return Refusal(
        code=record.code[:80],
        at=record.at,
        reason=record.reason[:1000],
        source=record.source[:1000],
        count=record.count,
    )
