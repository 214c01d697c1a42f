"""The rows of the state database as typed values, and how times stand in it. No I/O.

Serves steps 6–12: `pcm.service.state` and `pcm.service.journal` give and take these; the planner reads them. They never hold a
database connection, and never change: a change is another row.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from pcm.model.assignment import State as Stage
from pcm.model.errors import StoreError
from pcm.model.instruction import Instruction
from pcm.protocol.report import RunResult


class InstalledRelease(msgspec.Struct, frozen=True):
    """What is known here of a package that programs of ours put on or took off.

    Attributes:
        release: The newest one that ever was here, with that manifest's `min_release`: a floor that stays after removal.
        installed: The release that is here now; None: it was removed. `version` belongs to it, or was the last.
    """

    package: str
    release: int
    min_release: int
    version: str
    installed: int | None
    changed: datetime


class InstructionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What this client knows of one instruction. The planner's journal is a mapping of these by id.

    Attributes:
        state: Where it stands; `code` and `reason` say why. Named `Stage` here, to be told from the database's `State`.
        first_seen: When this client first verified this very order; the brake counts from here.
        changed: When `state` last changed.
        not_before: A retry waits until then. `attempts` counts what led to it.
        present: The newest verified instruction file names it.
        verdict_code: Set when the inbox refused this one instruction; `verdict_reason` is for people.
        fetched: Its content is complete in the client's store.
        history_lost: It came with the first instruction file after the database was rebuilt; it may have run before.
        restart_boot_id: Restart pending: the boot in which the program asked for the restart.
        announced_at: When the countdown before its start began (KB Q187287); None: nobody was told yet.
        occurrence: Of a recurring order: the time of its rule that this record is about, read by the order's clock and written
            as UTC, so that a computer that travels does not meet it twice. None: it does not recur, or no time has come yet.
    """

    id: str
    generation: int
    instruction: Instruction
    state: Stage
    code: str = ""
    reason: str = ""
    first_seen: datetime
    changed: datetime
    not_before: datetime | None = None
    attempts: int = 0
    requested_at: datetime | None = None
    requested_by: str | None = None
    deferred_until: datetime | None = None
    deferrals: int = 0
    manifest_sha256: str
    present: bool = True
    verdict_code: str = ""
    verdict_reason: str = ""
    fetched: bool = False
    history_lost: bool = False
    restart_boot_id: str | None = None
    announced_at: datetime | None = None
    occurrence: datetime | None = None


class UserRun(msgspec.Struct, frozen=True, kw_only=True):
    """How far a program that runs once for each user has come for one of them, in one generation and occurrence.

    Attributes:
        state: What its last run as this user came to. `waiting`: it is tried again, from `not_before` on.
        attempts: How often it was to be tried again in a row.
    """

    instruction: str
    generation: int
    user: str
    state: Stage
    code: str = ""
    reason: str = ""
    attempts: int = 0
    not_before: datetime | None = None
    changed: datetime

    @property
    def settled(self) -> bool:
        """Whether it does not run as this user any more."""
        return self.state is not Stage.WAITING


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at an instruction. `reference` is the machine's (JSON) and finds the processes again.

    `occurrence`: of a recurring order, as its record had it when the run began.
    """

    run: str
    instruction: str
    generation: int
    attempt: int
    program: str
    manifest_sha256: str
    argv: tuple[str, ...]
    run_as: str
    started: datetime
    ended: datetime | None = None
    reference: dict[str, Any]
    boot_id: str
    result: RunResult | None = None
    finished: bool = False
    occurrence: datetime | None = None


class StepRecord(msgspec.Struct, frozen=True):
    """One step of a run beginning or ending (`phase`)."""

    seq: int
    run: str
    step: str
    phase: str
    at: datetime
    detail: dict[str, Any]


class RefusalRecord(msgspec.Struct, frozen=True):
    """Something refused as a whole, or an event of the store itself (`store.rebuilt`). `count`: how often since `at`."""

    seq: int
    code: str
    at: datetime
    reason: str
    source: str
    count: int
    reported_in: int | None


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run, as the ledger keeps it for ever: what ran here, under whose order and signature, and how it ended.

    `exit_code` None: ended by a signal, timed out, or nobody saw its end.
    """

    run: str
    instruction: str
    job: str
    generation: int
    package: str
    version: str
    release: int
    program: str
    argv: tuple[str, ...]
    run_as: str
    manifest_path: str
    manifest_sha256: str
    requested_by: str | None = None
    started: datetime
    ended: datetime
    exit_code: int | None = None
    state: str


def to_text(moment: datetime) -> str:
    """ISO 8601 in UTC, always of one length.

    Raises:
        ValueError: A time without a zone.
    """
    if moment.tzinfo is not UTC:
        if moment.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")


def to_text_or_none(moment: datetime | None) -> str | None:
    """`to_text`, with None for None."""
    return None if moment is None else to_text(moment)


def to_time(text: str) -> datetime:
    """Read what `to_text` wrote.

    Raises:
        StoreError: `store.damaged`.
    """
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise StoreError(f"The state database holds {text!r} where a time belongs.", code="store.damaged") from None


def to_time_or_none(text: str | None) -> datetime | None:
    """`to_time`, with None for None."""
    return None if text is None else to_time(text)
