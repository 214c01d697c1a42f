"""The restart that is wanted here, as one open row of the database at most, and how it ended.

Serves step 11, its last part: `service.restart_start` opens and updates the row at each check, `service.restart` shows it to
people and notes what they say, `settle` closes it. A row is single-use: it belongs to one boot, and another boot id ends it,
whoever restarted the computer (KB Q153227, Q164329). It never restarts anything, and never decides.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any, NamedTuple

from pcm.model.assignment import State as Stage
from pcm.model.errors import StoreError
from pcm.model.program import ExitClass
from pcm.service import faults
from pcm.service.journal import Journal
from pcm.service.records import InstructionRecord, to_text, to_text_or_none, to_time, to_time_or_none
from pcm.service.restart_rules import MOST_TRIES, PATIENCE, Decision, Policy, Standing, Terms, Wish, combine
from pcm.service.state import State

FAILED = "restart.failed"
TOLD = "restart.told"  # number of the row, then the names of those who were told; a colon is in no name (passwd(5))
RESTARTED, NOT_HAPPENED, NOT_NEEDED = "restarted", "not_happened", "not_needed"
_POLICIES: dict[str, Policy] = {"never": "never", "ask": "ask", "force": "force"}


class Row(NamedTuple):
    """The open row as it stands in the database."""

    seq: int
    wanted: datetime
    boot_id: str
    policy: Policy
    reason: str
    announced: datetime | None
    due: datetime | None
    deferred_until: datetime | None
    deferrals: int
    requested_by: str | None
    begun: datetime | None


def read_open(state: State) -> Row | None:
    """The open row, if there is one.

    Raises:
        StoreError: `store.damaged`.
    """
    found = state.rows(
        "SELECT seq, wanted, boot_id, policy, reason, announced, due, deferred_until, deferrals, requested_by, begun "
        "FROM restarts WHERE ended IS NULL"
    )
    return _row(found[0]) if found else None


def read_wishes(records: Iterable[InstructionRecord], boot_id: str, itself: Collection[str] = ()) -> list[Wish]:
    """Who asked for a restart in this boot.

    Args:
        itself: Instructions whose programs said that they restart the computer themselves.
    """
    return [
        Wish(
            name=f"{record.instruction.package} {record.instruction.version}",
            policy=record.instruction.restart_policy,
            asked=record.changed,
            countdown_s=record.instruction.notify.countdown_s,
            times=record.instruction.deferral.times,
            max_s=record.instruction.deferral.max_s,
            any_time=record.instruction.window_policy == "ignore",
            by_itself=record.id in itself,
        )
        for record in records
        if record.state is Stage.RESTART_PENDING and record.restart_boot_id == boot_id
    ]


def find_restarting(state: State, records: Iterable[InstructionRecord]) -> frozenset[str]:
    """Which of these instructions had a last run whose program said that it restarts the computer itself."""
    from pcm.service.history import History  # noqa: PLC0415 - only while a restart is pending

    last = {record.id: History(state).runs(record.id, record.generation)[-1:] for record in records}
    return frozenset(
        name
        for name, runs in last.items()
        for run in runs
        if run.result is not None and run.result.exit_class == ExitClass.RESTARTING.value
    )


def read_standing(state: State, row: Row | None, terms: Terms, boot_id: str) -> Standing:
    """What was said about the restart so far, and how often it was tried since the last program asked."""
    tried = state.rows(
        "SELECT ended FROM restarts WHERE boot_id = ? AND outcome = ? AND begun >= ? ORDER BY ended",
        (boot_id, NOT_HAPPENED, to_text(terms.asked)),
    )
    seq, *told = state.meta(TOLD).split(":")[:1000]
    standing = Standing(terms.policy, tries=len(tried), tried=to_time(tried[-1][0]) if tried else None)
    if row is None:
        return standing
    return standing._replace(
        policy=row.policy,
        announced=row.announced,
        due=row.due,
        deferred_until=row.deferred_until,
        requested_by=row.requested_by,
        told=frozenset(told if seq == str(row.seq) else ()),
    )


def keep(state: State, row: Row | None, terms: Terms, decision: Decision, boot_id: str, now: datetime) -> Row:
    """Make the open row say what was decided; durable, and no write at all if it says so already."""
    announced = None if row is None else row.announced
    policy_kept = row is not None and row.policy == terms.policy
    if decision.tell and (announced is None or not policy_kept):
        announced = now
    said = (terms.policy, decision.reason[:1000], to_text_or_none(announced), to_text_or_none(decision.due))
    if row is not None and not decision.tell:
        before = (row.policy, row.reason, to_text_or_none(row.announced), to_text_or_none(row.due))
        if before == said:
            return row
    with state.transaction() as connection:
        if row is None:
            connection.execute(
                "INSERT INTO restarts (policy, reason, announced, due, wanted, boot_id) VALUES (?, ?, ?, ?, ?, ?)",
                (*said, to_text(now), boot_id),
            )
        else:
            connection.execute(
                "UPDATE restarts SET policy = ?, reason = ?, announced = ?, due = ? WHERE seq = ?", (*said, row.seq)
            )
        kept = read_open(state)
        assert kept is not None, "the row was just written"
        if decision.tell:
            seq, *told = state.meta(TOLD).split(":")
            names = sorted({*(told if seq == str(kept.seq) else ()), *decision.tell})
            state.set_meta(TOLD, ":".join([str(kept.seq), *names]))
    return kept


def begin(state: State, row: Row, now: datetime) -> None:
    """Record, durably and before it is asked for, that this computer restarts now."""
    with state.transaction() as connection:
        connection.execute("UPDATE restarts SET begun = ? WHERE seq = ?", (to_text(now), row.seq))


def take_back(state: State, row: Row, reason: str) -> None:
    """It was not asked for after all: somebody keeps the computer up. Who chose 'now' chose for that moment, and chooses anew."""
    with state.transaction() as connection:
        connection.execute(
            "UPDATE restarts SET begun = NULL, requested_by = NULL, reason = ? WHERE seq = ?", (reason[:1000], row.seq)
        )


def end(state: State, row: Row, outcome: str, now: datetime, why: str = "") -> None:
    """Close the row for good. The last try that came to nothing is told to the site, with `why` if that is known."""
    with state.transaction() as connection:
        connection.execute(
            "UPDATE restarts SET ended = ?, outcome = ?, reason = ? WHERE seq = ? AND ended IS NULL",
            (to_text(now), outcome, (why or row.reason)[:1000], row.seq),
        )
        state.delete_meta(TOLD)
        if outcome != NOT_HAPPENED:
            return
        terms = combine(read_wishes(Journal(state).records(), row.boot_id))
        if terms is not None and read_standing(state, None, terms, row.boot_id).tries == MOST_TRIES:
            text = (
                f"{terms.who()}. The computer was asked to restart {MOST_TRIES} times and did not; the service does not "
                f"try again by itself. {why}"
            )
            state.refuse(FAILED, now, text.strip()[:1000], "this computer")


def settle(state: State, boot_id: str, now: datetime) -> str:
    """Look what came of the open restart, at the start of each check.

    Returns:
        How it ended: `restarted` (another boot id, whoever did it), `not_happened` (the time it may take is over),
        `not_needed` (nobody wants it any more), or '' if it is not over.
    """
    row = read_open(state)
    if row is None:
        return ""
    outcome = ""
    if row.boot_id != boot_id:
        outcome = RESTARTED
    elif row.begun is not None:
        outcome = "" if is_going_down(row, now) else NOT_HAPPENED
    elif not read_wishes(Journal(state).records(), boot_id):
        outcome = NOT_NEEDED
    if outcome:
        end(state, row, outcome, now)
        faults.reach("restart.settled")
    return outcome


def is_going_down(row: Row | None, now: datetime) -> bool:
    """Whether the computer was asked to restart and may still be on its way down: nothing new begins then."""
    return row is not None and row.begun is not None and row.begun <= now < row.begun + PATIENCE


def seconds_down(state: State, now: datetime) -> int | None:
    """How long the computer may still take to go down; None: it was not asked to."""
    row = read_open(state)
    if row is None or row.begun is None or not is_going_down(row, now):
        return None
    return int((row.begun + PATIENCE - now).total_seconds()) + 1


def _row(values: tuple[Any, ...]) -> Row:
    seq, wanted, boot_id, policy, reason, announced, due, deferred_until, deferrals, requested_by, begun = values
    if policy not in _POLICIES:
        raise StoreError(f"The state database holds the unknown restart policy {policy!r}.", code="store.damaged")
    return Row(
        seq,
        to_time(wanted),
        boot_id,
        _POLICIES[policy],
        reason,
        to_time_or_none(announced),
        to_time_or_none(due),
        to_time_or_none(deferred_until),
        deferrals,
        requested_by,
        to_time_or_none(begun),
    )
