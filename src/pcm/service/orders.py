"""Taking verified instructions into the state database: new ones, changed ones, and what is no longer named.

Serves step 6, inside `inbox`'s transaction (check 7): after `trust` has verified a file, before the planner sees it. It starts
nothing and judges nothing. What the newest file does not name is withdrawn (KB Q269768, Q227032), and an order that is already
known keeps its history: only a higher generation, never a repeated file, opens it again (KB Q166765).
"""

import sqlite3
from collections.abc import Iterable
from datetime import datetime

from pcm.model.assignment import State as Stage
from pcm.model.assignment import can_move
from pcm.model.errors import RequestError, StoreError
from pcm.model.instruction import Instruction
from pcm.protocol import codec
from pcm.protocol.report import Outcome
from pcm.service.records import to_text

MAX_INSTRUCTION = 1 << 20


def take_in(
    connection: sqlite3.Connection, instructions: Iterable[Instruction], now: datetime, *, history_lost: bool = False
) -> None:
    """Make the table of instructions say what the newest verified file says.

    Args:
        connection: Inside the transaction that also makes the file's metadata current.
        instructions: All of the file's.
        now: Aware; becomes `first_seen` of what is new.
        history_lost: The database was rebuilt: what comes now may have run before.
    """
    known = {
        row[0]: (int(row[1]), bytes(row[2]))
        for row in connection.execute("SELECT id, generation, body FROM instructions")
    }
    connection.execute("UPDATE instructions SET present = 0")
    for instruction in instructions:
        body = codec.encode(instruction)
        if instruction.id not in known:
            _insert(connection, instruction, body, now, history_lost=history_lost)
            continue
        generation, old_body = known[instruction.id]
        if instruction.generation > generation:
            _open_again(connection, instruction, body, now)
        elif instruction.generation == generation and body != old_body:
            _amend(
                connection,
                instruction,
                body,
                now,
                same_order=_order(instruction) == _order(parse_instruction(old_body)),
            )
        connection.execute("UPDATE instructions SET present = 1 WHERE id = ?", (instruction.id,))
    _withdraw_absent(connection, now)


def set_stage(
    connection: sqlite3.Connection,
    instruction: Instruction,
    stage: Stage,
    now: datetime,
    *,
    code: str = "",
    reason: str = "",
) -> None:
    """Move one instruction and note the outcome for the next report, together."""
    connection.execute(
        "UPDATE instructions SET state = ?, code = ?, reason = ?, changed = ? WHERE id = ?",
        (stage.value, code, reason, to_text(now), instruction.id),
    )
    outcome = Outcome(
        instruction.id, instruction.job, instruction.generation, stage, now, code=code, reason=reason[:1000]
    )
    connection.execute("INSERT INTO outcomes (body) VALUES (?)", (codec.encode(outcome),))


def parse_instruction(body: bytes) -> Instruction:
    """Read an instruction as the database keeps it.

    Raises:
        StoreError: `store.damaged`.
    """
    try:
        instruction: Instruction = codec.parse(Instruction, body, kind="instruction", max_bytes=MAX_INSTRUCTION)
    except RequestError as error:
        raise StoreError(
            f"The state database holds a damaged instruction: {error.message}", code="store.damaged"
        ) from None
    return instruction


def _order(instruction: Instruction) -> tuple[object, ...]:
    """What makes it this very order; the brake counts anew from when any of it changed."""
    return (
        instruction.package,
        instruction.version,
        instruction.release,
        instruction.program,
        instruction.manifest,
        tuple(sorted(instruction.parameters.items())),
        instruction.purpose,
    )


def _insert(
    connection: sqlite3.Connection, instruction: Instruction, body: bytes, now: datetime, *, history_lost: bool
) -> None:
    connection.execute(
        "INSERT INTO instructions (id, generation, body, state, first_seen, changed, manifest_sha256, history_lost) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            instruction.id,
            instruction.generation,
            body,
            Stage.OFFERED.value,
            to_text(now),
            to_text(now),
            instruction.manifest.sha256,
            history_lost,
        ),
    )


def _open_again(connection: sqlite3.Connection, instruction: Instruction, body: bytes, now: datetime) -> None:
    connection.execute(
        "UPDATE instructions SET generation = ?, body = ?, state = ?, code = '', reason = '', first_seen = ?, changed = ?, "
        "not_before = NULL, attempts = 0, requested_at = NULL, requested_by = NULL, deferred_until = NULL, deferrals = 0, "
        "manifest_sha256 = ?, verdict_code = '', verdict_reason = '', fetched = 0, history_lost = 0, restart_boot_id = NULL "
        "WHERE id = ?",
        (
            instruction.generation,
            body,
            Stage.OFFERED.value,
            to_text(now),
            to_text(now),
            instruction.manifest.sha256,
            instruction.id,
        ),
    )


def _amend(
    connection: sqlite3.Connection, instruction: Instruction, body: bytes, now: datetime, *, same_order: bool
) -> None:
    """Other times or priorities are taken as they are; another program under the old name starts its brake anew."""
    connection.execute(
        "UPDATE instructions SET body = ?, manifest_sha256 = ? WHERE id = ?",
        (body, instruction.manifest.sha256, instruction.id),
    )
    if not same_order:
        connection.execute(
            "UPDATE instructions SET first_seen = ?, fetched = 0, requested_at = NULL, requested_by = NULL, "
            "verdict_code = '', verdict_reason = '' WHERE id = ?",
            (to_text(now), instruction.id),
        )


def _withdraw_absent(connection: sqlite3.Connection, now: datetime) -> None:
    for body, state in connection.execute("SELECT body, state FROM instructions WHERE present = 0").fetchall():
        stage = Stage(state)
        if stage is not Stage.WITHDRAWN and can_move(stage, Stage.WITHDRAWN):
            set_stage(
                connection,
                parse_instruction(body),
                Stage.WITHDRAWN,
                now,
                reason="the newest instructions no longer name it",
            )
