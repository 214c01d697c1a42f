"""What people see of the restart that is wanted here, and what they may say about it: now, or later.

Serves step 11, its last part, and step 9: `service.local_api` and `service.views` call these. The row itself is kept by
`service.restart_record`; what is said here is only noted in it, durably, and the check that follows decides and acts. Who may say
what is decided here, from what the kernel tells about the asker. It never restarts anything.
"""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from pcm.model.errors import RequestError
from pcm.service.journal import Journal
from pcm.service.machine.interface import Session
from pcm.service.postponing import grant
from pcm.service.records import to_text
from pcm.service.restart_record import TOLD, Row, read_open, read_wishes
from pcm.service.restart_rules import LEAST_NOTICE, Policy, combine
from pcm.service.state import State


class Pending(NamedTuple):
    """A restart that is wanted and has not come, as people see it. Times aware, UTC.

    Attributes:
        packages: Name and version of each program that asked.
        reason: In words, as of the last check.
        due: When it comes by itself, as far as that is settled; None: not by itself, or not before an event.
        deferred_until: Somebody postponed it. `deferrals_left`: how often that may still be done, at the latest until `latest`.
        requested_by: Who chose 'now'.
        begun: The computer was asked to restart then, and is going down.
    """

    packages: tuple[str, ...]
    policy: Policy
    reason: str
    wanted: datetime
    announced: datetime | None = None
    due: datetime | None = None
    deferred_until: datetime | None = None
    deferrals_left: int = 0
    latest: datetime | None = None
    requested_by: str | None = None
    begun: datetime | None = None


def current(state: State) -> Pending | None:
    """The restart that is pending, or None."""
    row = read_open(state)
    terms = None if row is None else combine(read_wishes(Journal(state).records(), row.boot_id))
    if row is None or terms is None:
        return None
    latest = None if row.announced is None or not terms.times else row.announced + terms.budget
    return Pending(
        packages=terms.names,
        policy=terms.policy,
        reason=row.reason,
        wanted=row.wanted,
        announced=row.announced,
        due=row.due,
        deferred_until=row.deferred_until,
        deferrals_left=max(0, terms.times - row.deferrals) if terms.policy != "never" else 0,
        latest=latest,
        requested_by=row.requested_by,
        begun=row.begun,
    )


def ask_now(state: State, by: str, sessions: Collection[Session], now: datetime, *, administrator: bool) -> Pending:
    """Note that somebody chose to restart now. The check that follows does it.

    An administrator may at any time. Who is logged on at this computer may if the job leaves it to people or forces it; but
    over the heads of others only if it is forced, and they are given their notice.

    Args:
        by: Who asks, as the kernel says.
        sessions: Everybody who is logged on (`machine.sessions()`).

    Raises:
        RequestError: `not_found`: no restart is pending; `not_allowed`.
    """
    with state.transaction() as connection:
        row, pending = _pending(state)
        others = sorted({session.user for session in sessions if session.user != by})
        if not administrator:
            _require_session(by, sessions, local=True)
            if pending.policy == "never":
                raise RequestError("Only administrators may choose this restart.", code="not_allowed")
            if others and pending.policy != "force":
                text = f"{', '.join(others)} may have unsaved work here; only an administrator may restart now."
                raise RequestError(text, code="not_allowed")
        if row.requested_by is None:
            due = now + LEAST_NOTICE if others else now
            if row.due is not None and pending.policy == "force" and not administrator:
                due = min(due, max(row.due, now))
            connection.execute(
                "UPDATE restarts SET requested_by = ?, due = ?, deferred_until = NULL WHERE seq = ?",
                (by, to_text(due), row.seq),
            )
    return _pending(state)[1]


def postpone(state: State, until: datetime, by: str, sessions: Collection[Session], now: datetime) -> datetime:
    """Postpone the restart within its budget, which counts from the announcement, whoever asks.

    Args:
        until: When the user would like it.
        by: Who asks: somebody who is logged on, also from far away, or an administrator (`root`).

    Returns:
        Until when it is postponed: `until`, or the end of the budget if that is sooner.

    Raises:
        RequestError: `not_found`: no restart is pending; `not_allowed`: nothing is left of the budget, or it comes only when
            somebody chooses it.
    """
    with state.transaction() as connection:
        row, pending = _pending(state)
        if by != "root":
            _require_session(by, sessions, local=False)
        if pending.policy == "never":
            raise RequestError("The service does not restart this computer by itself.", code="not_allowed")
        terms = combine(read_wishes(Journal(state).records(), row.boot_id))
        announced = row.announced or now
        end = now if terms is None else announced + terms.budget
        granted = grant(until, end, now, may_again=bool(pending.deferrals_left), so_far=f"{row.deferrals} times")
        connection.execute(
            "UPDATE restarts SET deferred_until = ?, deferrals = deferrals + 1, announced = ?, due = ?, "
            "requested_by = NULL WHERE seq = ?",
            (to_text(granted), to_text(announced), to_text(granted), row.seq),
        )
        state.delete_meta(TOLD)  # they are told again when it comes
    return granted


def _pending(state: State) -> tuple[Row, Pending]:
    row, pending = read_open(state), current(state)
    if row is None or pending is None:
        raise RequestError("No restart is pending.", code="not_found")
    if row.begun is not None:
        raise RequestError("This computer is restarting already.", code="not_allowed")
    return row, pending


def _require_session(by: str, sessions: Collection[Session], *, local: bool) -> None:
    if not any(session.user == by and not (local and session.remote) for session in sessions):
        where = "logged on at this computer" if local else "logged on here"
        raise RequestError(f"Only who is {where} may decide about its restart.", code="not_allowed")
