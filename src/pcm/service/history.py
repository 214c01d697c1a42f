"""Runs and their steps: what was started here, how far it came, and how it ended.

Serves steps 8–11: `service.runner` writes it, `service.recovery` reads what was left open, `pcmsvc why` shows it. A run is kept
before it starts and ends in one transaction with its result, its instruction's state, its outcome and its ledger row
(KB Q138241). It never starts or judges anything.
"""

import json
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.errors import StoreError
from pcm.protocol import codec
from pcm.protocol.manifest import Manifest
from pcm.protocol.report import RunResult
from pcm.service import ledger
from pcm.service.journal import Change, Journal
from pcm.service.records import (
    InstalledRelease,
    InstructionRecord,
    LedgerEntry,
    RunRecord,
    StepRecord,
    to_text,
    to_text_or_none,
    to_time,
    to_time_or_none,
)
from pcm.service.state import State

_SELECT = (
    "SELECT run, instruction, generation, attempt, program, manifest_sha256, argv, run_as, started, ended, reference, boot_id, "
    "result, finished, occurrence FROM runs"
)
_NOTE = "INSERT INTO steps (run, step, phase, at, detail) VALUES"
_OBSERVED_RUNS = 200
_results = msgspec.json.Decoder(RunResult)
_manifests = msgspec.json.Decoder(Manifest)


class History:
    """Runs, steps and manifests of one open state database."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.journal = Journal(state)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def begin_run(self, run: RunRecord, record: InstructionRecord | None = None) -> None:
        """Record, durably and before anything starts, that a run starts now; its instruction is running from here on.

        Args:
            record: The instruction, where the caller has just read it, inside the same transaction.

        Raises:
            StoreError: it could not be recorded, or this attempt is recorded already; then nothing may start.
        """
        with self.state.transaction() as connection:
            connection.execute(
                "INSERT INTO runs (run, instruction, generation, attempt, program, manifest_sha256, argv, run_as, started, "
                "reference, boot_id, occurrence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run.run,
                    run.instruction,
                    run.generation,
                    run.attempt,
                    run.program,
                    run.manifest_sha256,
                    _as_json(run.argv),
                    run.run_as,
                    to_text(run.started),
                    _as_json(run.reference),
                    run.boot_id,
                    to_text_or_none(run.occurrence),
                ),
            )
            record = record or self.journal.record(run.instruction)
            change = Change(state=Stage.RUNNING, attempts=record.attempts)
            if run.program != record.instruction.program:  # the return to the last good version: why stays known
                change = replace(change, code=record.code, reason=record.reason)
            self.journal.change_record(record, change, run.started)

    def note_launched(self, run: str) -> None:
        """Record that the program has really started. A kill cannot take that back; a power cut may, and that does no harm."""
        with self.state.transaction(durable=False) as connection:
            connection.execute("UPDATE runs SET reference = json_set(reference, '$.launched', 1) WHERE run = ?", (run,))

    def end_run(
        self,
        run: RunRecord,
        change: Change,
        entry: LedgerEntry,
        release: InstalledRelease | None,
        now: datetime,
        *,
        for_user: bool = False,
    ) -> None:
        """Store the one atomic result of a run: result, state, outcome, ledger row and what is installed now, or nothing.

        Args:
            for_user: It is a program that runs once for each user: the change is that of `run.run_as` alone, and the instruction
                itself waits for the others (`Journal.end_for_user`).
        """
        with self.state.transaction() as connection:
            result = None if change.result is None else codec.encode(change.result)
            connection.execute(
                "UPDATE runs SET ended = ?, result = ?, finished = 1 WHERE run = ?", (to_text(now), result, run.run)
            )
            if for_user:
                self.journal.end_for_user(run.instruction, run.run_as, change, now)
            else:
                self.journal.change(run.instruction, change, now)
            if change.code == "run.cancelled":
                connection.execute(
                    "UPDATE instructions SET requested_at = NULL, requested_by = NULL WHERE id = ?", (run.instruction,)
                )
            if release is not None:
                self.note_release(release)
            ledger.append(connection, entry)

    def forget_run(self, run: RunRecord, change: Change, now: datetime, *, for_user: bool = False) -> None:
        """Take back the record of a run that provably never started; its instruction is planned again. `for_user`: as above."""
        with self.state.transaction() as connection:
            connection.execute("DELETE FROM runs WHERE run = ?", (run.run,))
            if for_user:
                self.journal.end_for_user(run.instruction, run.run_as, change, now)
            else:
                self.journal.change(run.instruction, change, now)

    def open_runs(self) -> list[RunRecord]:
        """Runs that were begun and have no end, oldest first."""
        return [_run(row) for row in self.state.rows(f"{_SELECT} WHERE finished = 0 ORDER BY started, run")]

    def runs(self, instruction: str, generation: int) -> list[RunRecord]:
        """Every attempt at one generation of an instruction, in order."""
        found = self.state.rows(
            f"{_SELECT} WHERE instruction = ? AND generation = ? ORDER BY attempt", (instruction, generation)
        )
        return [_run(row) for row in found]

    def next_attempt(self, instruction: str, generation: int) -> int:
        """The number of the next attempt: greater than every one that is remembered, also after older ones were forgotten."""
        query = "SELECT coalesce(max(attempt), 0) + 1 FROM runs WHERE instruction = ? AND generation = ?"
        return int(self.state.rows(query, (instruction, generation))[0][0])

    def tries(self, run: RunRecord) -> int:
        """How many runs there were of what this one is a try at, itself included: the same generation, occurrence and user."""
        found = self.state.rows(
            "SELECT count(*) FROM runs WHERE instruction = ? AND generation = ? AND occurrence IS ? AND run_as = ?",
            (run.instruction, run.generation, to_text_or_none(run.occurrence), run.run_as),
        )
        return int(found[0][0])

    def durations(self) -> dict[tuple[str, str], int]:
        """How long the newest runs that came to their end took at most, in whole seconds, by manifest and program."""
        took: dict[tuple[str, str], int] = {}
        for manifest, program, started, ended in self.state.rows(
            "SELECT manifest_sha256, program, started, ended FROM runs WHERE finished = 1 AND ended IS NOT NULL "
            "ORDER BY started DESC LIMIT ?",
            (_OBSERVED_RUNS,),
        ):
            seconds = math.ceil((to_time(ended) - to_time(started)).total_seconds())
            took[manifest, program] = max(seconds, took.get((manifest, program), 0))
        return took

    def note_release(self, release: InstalledRelease) -> None:
        """Record what is here now; the newest release that ever was stays as the floor."""
        known = self.state.release(release.package)
        if known is not None and known.release > release.release:
            release = replace(release, release=known.release, min_release=known.min_release)
        self.state.store_release(release)

    # -- steps --------------------------------------------------------------------------------------------------------

    def note_step(self, run: str, step: str, phase: str, at: datetime, detail: dict[str, Any] | None = None) -> None:
        """Record that a step begins or ended, with the next transaction: nothing is decided by it, so a kill may take it."""
        self.state.note(
            f"{_NOTE} (?, ?, ?, ?, ?)", (run, step, phase, to_text(at), _as_json(detail) if detail else "{}")
        )

    def note_passage(self, run: str, ended: str, detail: dict[str, Any], begins: str, at: datetime) -> None:
        """Record, as `note_step`, that one step of a run has ended, with its detail, and that the next one begins."""
        now = to_text(at)
        end = (run, ended, "end", now, _as_json(detail) if detail else "{}")
        self.state.note(f"{_NOTE} (?, ?, ?, ?, ?), (?, ?, ?, ?, ?)", (*end, run, begins, "begin", now, "{}"))

    def steps(self, run: str) -> list[StepRecord]:
        """The steps of one run, in order."""
        self.state.write_notes()
        found = self.state.rows(
            "SELECT seq, run, step, phase, at, detail FROM steps WHERE run = ? ORDER BY seq", (run,)
        )
        return [
            StepRecord(seq, name, step, phase, to_time(at), _json(detail))
            for seq, name, step, phase, at, detail in found
        ]

    # -- manifests ----------------------------------------------------------------------------------------------------

    def manifests(self, wanted: Iterable[str]) -> dict[str, Manifest]:
        """Manifests by SHA-256, as far as they are here. They were verified and checked before they were stored."""
        found: dict[str, Manifest] = {}
        for sha256 in set(wanted):
            for (body,) in self.state.rows("SELECT body FROM manifests WHERE sha256 = ?", (sha256,)):
                try:
                    found[sha256] = _manifests.decode(body)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise StoreError(f"Manifest {sha256} cannot be read: {error}.", code="store.damaged") from None
        return found

    # -- keeping it bounded -------------------------------------------------------------------------------------------

    def prune(self, before: datetime) -> None:
        """Forget steps, reported outcomes and refusals, and withdrawn instructions with their runs, from before that time.

        Of a recurring instruction the runs of earlier times go too. What is done and may have taken the place of something that
        is still ordered is remembered as long as that is.
        """
        limit = to_text(before)
        with self.state.transaction() as connection:
            connection.execute(
                "DELETE FROM steps WHERE at < ? AND run NOT IN (SELECT run FROM runs WHERE finished = 0)", (limit,)
            )
            connection.execute(
                "DELETE FROM outcomes WHERE reported_in IS NOT NULL AND json_extract(body, '$.at') < ?", (limit,)
            )
            connection.execute("DELETE FROM refusals WHERE reported_in IS NOT NULL AND at < ?", (limit,))
            connection.execute(
                "DELETE FROM instructions WHERE present = 0 AND changed < ? AND state NOT IN "
                "('running', 'restart_pending') AND NOT (state IN ('succeeded', 'already_installed') AND EXISTS "
                "(SELECT 1 FROM instructions WHERE code = 'superseded' AND present = 1))",
                (limit,),
            )
            connection.execute(
                "DELETE FROM runs WHERE finished = 1 AND ended < ? AND (instruction NOT IN (SELECT id FROM instructions) "
                # of what recurs for years the last ones are enough; the ledger keeps them all
                "OR (occurrence IS NOT NULL AND EXISTS (SELECT 1 FROM runs AS later WHERE later.instruction = runs.instruction "
                "AND later.attempt > runs.attempt AND later.occurrence > runs.occurrence)))",
                (limit,),
            )
            connection.execute("DELETE FROM user_runs WHERE instruction NOT IN (SELECT id FROM instructions)")


def _run(row: tuple[Any, ...]) -> RunRecord:
    result = None
    if row[12] is not None:
        try:
            result = _results.decode(row[12])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"The result of run {row[0]} cannot be read: {error}.", code="store.damaged") from None
    return RunRecord(
        run=row[0],
        instruction=row[1],
        generation=row[2],
        attempt=row[3],
        program=row[4],
        manifest_sha256=row[5],
        argv=tuple(_json(row[6])),
        run_as=row[7],
        started=to_time(row[8]),
        ended=to_time_or_none(row[9]),
        reference=_json(row[10]),
        boot_id=row[11],
        result=result,
        finished=bool(row[13]),
        occurrence=to_time_or_none(row[14]),
    )


def _as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise StoreError("A row of the state database is no JSON.", code="store.damaged") from None
