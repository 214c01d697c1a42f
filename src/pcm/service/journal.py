"""The journal: what this client knows of each instruction, changed only along the table of states.

Serves steps 6–12: `service.inbox` takes verified instructions in, the planner reads records, the runner and recovery change them,
the outbox takes outcomes out. A change and its outcome for the site are one transaction. It never decides what runs.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from pcm.model.assignment import State as Stage
from pcm.model.assignment import move
from pcm.model.errors import RequestError
from pcm.model.instruction import Instruction
from pcm.protocol import codec
from pcm.protocol.report import Outcome, RunResult
from pcm.service.journal_rows import SELECT_RECORDS, read_outcome, read_record, read_user_run, what_runs
from pcm.service.plan import Line, Plan
from pcm.service.planner_case import SETTLED
from pcm.service.planner_occurrences import end_for_users
from pcm.service.postponing import grant
from pcm.service.records import InstructionRecord, UserRun, to_text, to_text_or_none
from pcm.service.state import State

_UNREPORTED = frozenset({Stage.OFFERED, Stage.DOWNLOADING, Stage.READY, Stage.RUNNING})
"""States that pass within one check; the site hears what comes of them."""
_AT_WORK = frozenset({Stage.RUNNING, Stage.RESTART_PENDING})
MAX_REASON = 1000


class Verified(msgspec.Struct, frozen=True):
    """An instruction of the newest verified file, and why it was refused by itself, if it was."""

    instruction: Instruction
    code: str = ""
    reason: str = ""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """How an instruction's record is to change.

    `not_before`, `attempts`, `restart_boot_id` are set as given; `result`: of the run that led here.
    """

    state: Stage
    code: str = ""
    reason: str = ""
    not_before: datetime | None = None
    attempts: int = 0
    restart_boot_id: str | None = None
    result: RunResult | None = None


class Journal:
    """Instructions and outcomes of one open state database."""

    def __init__(self, state: State) -> None:
        self.state = state

    # -- reading ------------------------------------------------------------------------------------------------------

    def records(self) -> list[InstructionRecord]:
        """Every instruction this client knows, withdrawn ones too, by id."""
        return [read_record(row) for row in self.state.rows(f"{SELECT_RECORDS} ORDER BY id")]

    def record(self, instruction_id: str) -> InstructionRecord:
        """One instruction.

        Raises:
            RequestError: `not_found`.
        """
        found = self.state.rows(f"{SELECT_RECORDS} WHERE id = ?", (instruction_id,))
        if not found:
            raise RequestError(f"This client has no instruction {instruction_id[:64]!r}.", code="not_found")
        return read_record(found[0])

    # -- taking instructions in ---------------------------------------------------------------------------------------

    def take_in(self, verified: Iterable[Verified], now: datetime) -> None:
        """Make the newest verified instruction file the truth: new ones begin, changed ones follow, absent ones are marked.

        A newer generation begins anew (KB Q166765), and so does another order under the same one that has not run yet; the
        brake then counts from now. What ran keeps its record. Joins the caller's transaction, if there is one.
        """
        known = {record.id: record for record in self.records()}
        with self.state.transaction() as connection:
            lost = bool(self.state.meta("history_lost"))
            named: set[str] = set()
            for each in verified:
                named.add(each.instruction.id)
                record = known.get(each.instruction.id)
                if record is None or self._begins_anew(each.instruction, record):
                    self._begin(each, now, lost=lost)
                else:
                    self._follow(each, record)
            gone = [(record.id,) for record in known.values() if record.present and record.id not in named]
            connection.executemany("UPDATE instructions SET present = 0 WHERE id = ?", gone)
            if lost:
                self.state.delete_meta("history_lost")

    def _begins_anew(self, wanted: Instruction, known: InstructionRecord) -> bool:
        if known.state in _AT_WORK or wanted.generation < known.generation:
            return False
        if wanted.generation > known.generation:
            return True
        return what_runs(wanted) != what_runs(known.instruction) and not self._has_run(known)

    def _begin(self, each: Verified, now: datetime, *, lost: bool) -> None:
        wanted, at = each.instruction, to_text(now)
        with self.state.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO instructions (id, generation, body, state, first_seen, changed, manifest_sha256, "
                "verdict_code, verdict_reason, history_lost) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    wanted.id,
                    wanted.generation,
                    codec.encode(wanted),
                    Stage.OFFERED.value,
                    at,
                    at,
                    wanted.manifest.sha256,
                    each.code,
                    each.reason[:MAX_REASON],
                    lost,
                ),
            )
            connection.execute("DELETE FROM user_runs WHERE instruction = ?", (wanted.id,))

    def _follow(self, each: Verified, known: InstructionRecord) -> None:
        """Take over what may change without beginning anew: times, priority, approvals, the verdict."""
        wanted, code, reason = each.instruction, each.code, each.reason[:MAX_REASON]
        if wanted.generation < known.generation:
            # the serial of the whole file went up, yet this order goes back: what is older never runs
            code = "trust.rollback"
            reason = f"Generation {wanted.generation} is older than {known.generation}, seen before."
            wanted = known.instruction
        elif what_runs(wanted) != what_runs(known.instruction):
            wanted = known.instruction  # it ran, or runs: its record tells what did; a newer generation begins anew
        if (wanted, code, reason, True) != (known.instruction, known.verdict_code, known.verdict_reason, known.present):
            with self.state.transaction() as connection:
                connection.execute(
                    "UPDATE instructions SET body = ?, verdict_code = ?, verdict_reason = ?, present = 1 WHERE id = ?",
                    (codec.encode(wanted), code, reason, known.id),
                )

    def _has_run(self, known: InstructionRecord) -> bool:
        query = "SELECT 1 FROM runs WHERE instruction = ? AND generation = ? LIMIT 1"
        return bool(self.state.rows(query, (known.id, known.generation)))

    # -- changing -----------------------------------------------------------------------------------------------------

    def change(self, instruction_id: str, change: Change, now: datetime, *, durable: bool = True) -> None:
        """Move one instruction, and queue the outcome for the site if it is news.

        Raises:
            RequestError: `assignment.illegal_move`, `not_found`.
        """
        with self.state.transaction(durable=durable):
            self.change_record(self.record(instruction_id), change, now)

    def change_record(self, record: InstructionRecord, change: Change, now: datetime) -> None:
        """`change`, where the caller has just read the record, inside the same transaction."""
        move(record.state, change.state)
        moved = change.state is not record.state
        news = moved or change.code != record.code or change.result is not None
        with self.state.transaction() as connection:
            connection.execute(
                "UPDATE instructions SET state = ?, code = ?, reason = ?, changed = ?, not_before = ?, attempts = ?, "
                "restart_boot_id = ? WHERE id = ?",
                (
                    change.state.value,
                    change.code,
                    change.reason[:MAX_REASON],
                    to_text(now if moved else record.changed),
                    to_text_or_none(change.not_before),
                    change.attempts,
                    change.restart_boot_id,
                    record.id,
                ),
            )
            if news and (change.state not in _UNREPORTED or change.result is not None):
                connection.execute(
                    "INSERT INTO outcomes (body) VALUES (?)", (codec.encode(_outcome(record, change, now)),)
                )

    def adopt(self, plan: Plan, now: datetime) -> int:
        """Give each instruction the state that the plan says, except those that are to run. Returns how many changed.

        What begins anew with another occurrence does so first, those that are to run too, and a countdown begins or is
        forgotten. One transaction, durable, and none at all if nothing changes (KB Q188042: a state is reported once).
        """
        changed = [line for line in plan.lines if line.changes]
        if changed:
            with self.state.transaction():
                for line in changed:
                    self._adopt(line, now)
        return len(changed)

    def _adopt(self, line: Line, now: datetime) -> None:
        record = line.record
        if line.begins:
            self._begin_occurrence(record, now)
        if line.speaks:
            kept = {"not_before": record.not_before, "attempts": record.attempts}
            change = Change(
                state=line.state, code=line.code, reason=line.reason, restart_boot_id=record.restart_boot_id
            )
            self.change_record(record, msgspec.structs.replace(change, **kept), now)
        if line.announced != record.announced_at:
            with self.state.transaction() as connection:
                connection.execute(
                    "UPDATE instructions SET announced_at = ? WHERE id = ?",
                    (to_text_or_none(line.announced), record.id),
                )

    def _begin_occurrence(self, record: InstructionRecord, now: datetime) -> None:
        """Another time of a recurring order has come: its record begins anew, as `record` has it. The brake counts on."""
        values = (to_text_or_none(record.occurrence), record.state.value, to_text(now), record.history_lost, record.id)
        with self.state.transaction() as connection:
            self._end_for_users(record.id, now)
            connection.execute(
                "UPDATE instructions SET occurrence = ?, state = ?, code = '', reason = '', changed = ?, not_before = NULL, "
                "attempts = 0, requested_at = NULL, requested_by = NULL, deferred_until = NULL, deferrals = 0, "
                "restart_boot_id = NULL, announced_at = NULL, history_lost = ? WHERE id = ?",
                values,
            )
            connection.execute("DELETE FROM user_runs WHERE instruction = ?", (record.id,))

    def _end_for_users(self, instruction_id: str, now: datetime) -> None:
        """The time before is over: the site is told what it came to for whoever it ran for."""
        before, end = self.record(instruction_id), end_for_users(self.user_runs().get(instruction_id, ()))
        if end is not None and before.state not in SETTLED:
            self.change_record(before, Change(state=end.state, reason=end.reason), now)

    def request(self, instruction_id: str, by: str, now: datetime) -> None:
        """Record that a user asks for an optional instruction. The caller has checked who may ask (`local_api`).

        Raises:
            RequestError: `not_found`; `not_allowed`: it is mandatory, gone, or needs nothing more.
        """
        with self.state.transaction() as connection:
            record = self.record(instruction_id)
            if record.instruction.purpose != "optional" or not record.present:
                raise RequestError("Only what is offered as optional can be asked for.", code="not_allowed")
            if record.state in {
                Stage.SUCCEEDED,
                Stage.ALREADY_INSTALLED,
                Stage.EXPIRED,
                Stage.WITHDRAWN,
                Stage.RUNNING,
            }:
                text = f"It is {record.state.value.replace('_', ' ')}; there is nothing to ask for."
                raise RequestError(text, code="not_allowed")
            connection.execute(
                "UPDATE instructions SET requested_at = ?, requested_by = ? WHERE id = ?",
                (to_text(now), by, instruction_id),
            )

    def take_back(self, instruction_id: str) -> None:
        """Forget that somebody asked; the planner then lets it wait again. The caller has checked who may (`asking`)."""
        with self.state.transaction() as connection:
            connection.execute(
                "UPDATE instructions SET requested_at = NULL, requested_by = NULL WHERE id = ?", (instruction_id,)
            )

    def defer(self, instruction_id: str, until: datetime, deadline: datetime, now: datetime) -> datetime:
        """Postpone a mandatory instruction within its budget (KB Q122202, Q187287).

        Args:
            until: When the user would like it.
            deadline: The instruction's `mandatory_after` in UTC (`model.schedule.resolve`).

        Returns:
            Until when it is postponed: `until`, or the end of the budget if that is sooner.

        Raises:
            RequestError: `not_found`; `not_allowed`: nothing is left of the budget, or it cannot be postponed.
        """
        with self.state.transaction() as connection:
            record = self.record(instruction_id)
            budget = record.instruction.deferral
            end = deadline + timedelta(seconds=budget.max_s)
            if record.instruction.purpose != "mandatory" or not record.present or record.state not in _POSTPONABLE:
                raise RequestError("Only mandatory work that has not begun can be postponed.", code="not_allowed")
            granted = grant(
                until,
                end,
                now,
                may_again=record.deferrals < budget.times,
                so_far=f"{record.deferrals} of {budget.times} times",
            )
            connection.execute(
                # it is announced again, with a whole countdown, when that time is over
                "UPDATE instructions SET deferred_until = ?, deferrals = deferrals + 1, announced_at = NULL WHERE id = ?",
                (to_text(granted), instruction_id),
            )
        return granted

    # -- programs that run once for each user -------------------------------------------------------------------------

    def user_runs(self) -> dict[str, tuple[UserRun, ...]]:
        """How far programs that run once for each user have come, by instruction; of their present generation only."""
        found: dict[str, list[UserRun]] = {}
        for row in self.state.rows(
            "SELECT u.instruction, u.generation, u.user, u.state, u.code, u.reason, u.attempts, u.not_before, u.changed "
            "FROM user_runs AS u JOIN instructions AS i ON i.id = u.instruction AND i.generation = u.generation "
            "ORDER BY u.changed, u.user"
        ):
            found.setdefault(row[0], []).append(read_user_run(row))
        return {instruction: tuple(rows) for instruction, rows in found.items()}

    def end_for_user(self, instruction_id: str, user: str, change: Change, now: datetime) -> None:
        """Settle one user's part of a program that runs once for each; the instruction waits for the others.

        The user's row takes the state, code, reason, `not_before` and `attempts` of the change. The instruction moves to
        `waiting` with code `wait.next_logon` and tells the site of the run with its result; a wish of this user is fulfilled.
        Joins the caller's transaction: that of the run's end.

        Raises:
            RequestError: `assignment.illegal_move`, `not_found`.
        """
        with self.state.transaction() as connection:
            record = self.record(instruction_id)
            connection.execute(
                "INSERT OR REPLACE INTO user_runs (instruction, generation, user, state, code, reason, attempts, not_before, "
                "changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id,
                    record.generation,
                    user,
                    change.state.value,
                    change.code,
                    change.reason[:MAX_REASON],
                    change.attempts,
                    to_text_or_none(change.not_before),
                    to_text(now),
                ),
            )
            reason = f"For {user}: {change.state.value.replace('_', ' ')}. {change.reason}".strip()
            waiting = Change(state=Stage.WAITING, code="wait.next_logon", reason=reason, result=change.result)
            self.change_record(record, waiting, now)
            connection.execute(
                "UPDATE instructions SET announced_at = NULL, requested_at = NULL, requested_by = NULL WHERE id = ? "
                "AND (requested_by IS NULL OR requested_by = ?)",
                (record.id, user),
            )

    def mark_fetched(self, instruction_id: str, *, soon: bool = False) -> None:
        """Say that an instruction's content is complete here. Only a hint for the planner: bytes are verified again.

        Args:
            soon: The next transaction is soon enough.
        """
        self.state.note("UPDATE instructions SET fetched = 1 WHERE id = ?", (instruction_id,))
        if not soon:
            self.state.write_notes()

    def end_back_off(self) -> None:
        """Let every postponed try be made now: an administrator asked to."""
        with self.state.transaction() as connection:
            connection.execute("UPDATE instructions SET not_before = NULL WHERE not_before IS NOT NULL")

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def unreported(self, limit: int = 1000) -> list[tuple[int, Outcome]]:
        """Outcomes that no report has taken yet, oldest first, with their numbers."""
        found = self.state.rows(
            "SELECT seq, body FROM outcomes WHERE reported_in IS NULL ORDER BY seq LIMIT ?", (limit,)
        )
        return [(seq, read_outcome(body)) for seq, body in found]

    def mark_reported(self, seqs: Sequence[int], report_seq: int) -> None:
        """Say in which report these outcomes went out; in one transaction with that report's row in the outbox."""
        with self.state.transaction() as connection:
            connection.executemany(
                "UPDATE outcomes SET reported_in = ? WHERE seq = ?", [(report_seq, seq) for seq in seqs]
            )


_POSTPONABLE = frozenset({Stage.OFFERED, Stage.WAITING, Stage.DOWNLOADING, Stage.READY, Stage.ASKED, Stage.DEFERRED})


def _outcome(record: InstructionRecord, change: Change, now: datetime) -> Outcome:
    return Outcome(
        instruction=record.id,
        job=record.instruction.job,
        generation=record.generation,
        state=change.state,
        at=now,
        code=change.code[:80],
        reason=change.reason[:MAX_REASON],
        result=change.result,
        occurrence=record.occurrence,
    )
