"""How the journal's rows are read, and told apart: instructions, users' parts and outcomes as typed values. No I/O.

Serves steps 6–12, behind `pcm.service.journal`, which asks the database and changes it. A row that cannot be read is damage to
the store, and says so; nothing is guessed.
"""

from functools import lru_cache
from typing import Any

import msgspec

from pcm.model.assignment import State as Stage
from pcm.model.errors import StoreError
from pcm.model.instruction import Instruction
from pcm.protocol.report import Outcome
from pcm.service.records import InstalledRelease, InstructionRecord, UserRun, to_time, to_time_or_none

SELECT_RECORDS = (
    "SELECT id, generation, body, state, code, reason, first_seen, changed, not_before, attempts, requested_at, requested_by, "
    "deferred_until, deferrals, manifest_sha256, present, verdict_code, verdict_reason, fetched, history_lost, "
    "restart_boot_id, announced_at, occurrence FROM instructions"
)
SELECT_RELEASES = "SELECT package, release, min_release, version, installed, changed FROM releases"
_instructions = msgspec.json.Decoder(Instruction)
_outcomes = msgspec.json.Decoder(Outcome)


def read_record(row: tuple[Any, ...]) -> InstructionRecord:
    """A row of `SELECT_RECORDS`. Raises StoreError `store.damaged`."""
    return InstructionRecord(
        id=row[0],
        generation=row[1],
        instruction=_instruction(row[2]),
        state=_stage(row[3]),
        code=row[4],
        reason=row[5],
        first_seen=to_time(row[6]),
        changed=to_time(row[7]),
        not_before=to_time_or_none(row[8]),
        attempts=row[9],
        requested_at=to_time_or_none(row[10]),
        requested_by=row[11],
        deferred_until=to_time_or_none(row[12]),
        deferrals=row[13],
        manifest_sha256=row[14],
        present=bool(row[15]),
        verdict_code=row[16],
        verdict_reason=row[17],
        fetched=bool(row[18]),
        history_lost=bool(row[19]),
        restart_boot_id=row[20],
        announced_at=to_time_or_none(row[21]),
        occurrence=to_time_or_none(row[22]),
    )


def read_release(row: tuple[Any, ...]) -> InstalledRelease:
    """A row of `SELECT_RELEASES`. Raises StoreError `store.damaged`."""
    package, release, least, version, installed, changed = row
    return InstalledRelease(package, release, least, version, installed, to_time(changed))


def read_user_run(row: tuple[Any, ...]) -> UserRun:
    """A row of `user_runs`, in the order of its columns. Raises StoreError `store.damaged`."""
    return UserRun(
        instruction=row[0],
        generation=row[1],
        user=row[2],
        state=_stage(row[3]),
        code=row[4],
        reason=row[5],
        attempts=row[6],
        not_before=to_time_or_none(row[7]),
        changed=to_time(row[8]),
    )


def _stage(text: str) -> Stage:
    try:
        return Stage(text)
    except ValueError:
        raise StoreError(f"The state database holds the unknown state {text!r}.", code="store.damaged") from None


@lru_cache(maxsize=256)
def _instruction(body: bytes) -> Instruction:
    """Signed orders change rarely, and each is read several times in a check; nothing changes the value once it is made."""
    instruction: Instruction = _decode(_instructions, body)
    return instruction


def _decode(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"A row of the state database cannot be read: {error}.", code="store.damaged") from None


def read_outcome(body: bytes) -> Outcome:
    """What waits to be reported. Raises StoreError `store.damaged`."""
    outcome: Outcome = _decode(_outcomes, body)
    return outcome


def what_runs(instruction: Instruction) -> tuple[object, ...]:
    """What makes two orders the same one. Times and priority may change without beginning anew."""
    return (
        instruction.generation,
        instruction.package,
        instruction.release,
        instruction.program,
        instruction.manifest.sha256,
        instruction.parameters,
        instruction.purpose,
    )
