"""The states of an assignment (job × client) and the moves between them: one table, nothing else decides.

Serves steps 4–12. An illegal move raises, so a late or repeated report can never overwrite the truth (KB Q152229, Q150026).
Deferred and restart-pending are states, not failures. The life of an ordinary mandatory assignment:

    offered → waiting → downloading → ready → asked → running → succeeded
                                         ↘ deferred ↗        ↘ failed, restart_pending, unknown
"""

from enum import Enum

from pcm.model.errors import RequestError


class State(Enum):
    """Where one assignment stands."""

    OFFERED = "offered"  # the site has written it; the client has not spoken yet
    WAITING = "waiting"  # the client knows it and waits, for a reason it names
    DOWNLOADING = "downloading"
    READY = "ready"  # staged and verified
    ASKED = "asked"  # the user was asked
    DEFERRED = "deferred"  # the user said later
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RESTART_PENDING = "restart_pending"
    UNKNOWN = "unknown"  # interrupted; detection decides
    NOT_APPLICABLE = "not_applicable"
    ALREADY_INSTALLED = "already_installed"
    REFUSED = "refused"  # a trust check failed, with its code
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"  # the newest instructions no longer name it
    CANCELLED = "cancelled"


_S = State
_UNDONE = frozenset({_S.OFFERED, _S.WAITING, _S.DOWNLOADING, _S.READY, _S.ASKED, _S.DEFERRED})
_WITHOUT_RUNNING = frozenset(
    {_S.NOT_APPLICABLE, _S.ALREADY_INSTALLED, _S.REFUSED, _S.EXPIRED, _S.WITHDRAWN, _S.CANCELLED}
)
_AFTER_RUNNING = frozenset({_S.SUCCEEDED, _S.FAILED, _S.RESTART_PENDING, _S.UNKNOWN, _S.CANCELLED})

MOVES: dict[State, frozenset[State]] = {
    # Before it runs: forward to any later stage (a client reports changes, not each stage), back to waiting, or out.
    _S.OFFERED: (_UNDONE - {_S.OFFERED}) | {_S.RUNNING} | _AFTER_RUNNING | _WITHOUT_RUNNING,
    _S.WAITING: (_UNDONE - {_S.OFFERED, _S.WAITING}) | {_S.RUNNING} | _AFTER_RUNNING | _WITHOUT_RUNNING,
    _S.DOWNLOADING: (_UNDONE - {_S.OFFERED, _S.DOWNLOADING}) | {_S.RUNNING} | _AFTER_RUNNING | _WITHOUT_RUNNING,
    _S.READY: (_UNDONE - {_S.OFFERED, _S.READY}) | {_S.RUNNING} | _AFTER_RUNNING | _WITHOUT_RUNNING,
    _S.ASKED: (_UNDONE - {_S.OFFERED, _S.ASKED}) | {_S.RUNNING} | _AFTER_RUNNING | _WITHOUT_RUNNING,
    _S.DEFERRED: (_UNDONE - {_S.OFFERED, _S.DEFERRED}) | {_S.RUNNING} | _AFTER_RUNNING | _WITHOUT_RUNNING,
    # Once it runs, only its own end can follow: withdrawing or expiring does not undo a running program.
    _S.RUNNING: _AFTER_RUNNING | {_S.WAITING},
    # after the restart it may turn out to be unhealthy, and return to the last good version
    _S.RESTART_PENDING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.UNKNOWN, _S.RUNNING}),
    _S.UNKNOWN: frozenset({_S.SUCCEEDED, _S.FAILED, _S.WAITING, _S.RUNNING, _S.WITHDRAWN, _S.EXPIRED, _S.CANCELLED}),
    # A failure may be tried again, by the retry rule or a new generation; a success only by a new generation.
    _S.FAILED: frozenset(
        {_S.WAITING, _S.DOWNLOADING, _S.READY, _S.RUNNING, _S.SUCCEEDED, _S.RESTART_PENDING, _S.UNKNOWN}
    )
    | _WITHOUT_RUNNING,
    _S.SUCCEEDED: frozenset(),
    # The client's world may change, and then these open again.
    _S.NOT_APPLICABLE: (_UNDONE - {_S.OFFERED})
    | {_S.RUNNING}
    | _AFTER_RUNNING
    | (_WITHOUT_RUNNING - {_S.NOT_APPLICABLE}),
    _S.ALREADY_INSTALLED: (_UNDONE - {_S.OFFERED})
    | {_S.RUNNING}
    | _AFTER_RUNNING
    | (_WITHOUT_RUNNING - {_S.ALREADY_INSTALLED}),
    _S.REFUSED: (_UNDONE - {_S.OFFERED}) | {_S.RUNNING} | _AFTER_RUNNING | (_WITHOUT_RUNNING - {_S.REFUSED}),
    # A client may still report what it ran before it heard that the order was gone.
    _S.EXPIRED: frozenset({_S.SUCCEEDED, _S.FAILED, _S.RESTART_PENDING, _S.UNKNOWN}),
    _S.WITHDRAWN: frozenset({_S.SUCCEEDED, _S.FAILED, _S.RESTART_PENDING, _S.UNKNOWN}),
    _S.CANCELLED: frozenset({_S.SUCCEEDED, _S.FAILED, _S.RESTART_PENDING, _S.UNKNOWN, _S.WITHDRAWN}),
}

FINAL = frozenset({_S.SUCCEEDED, _S.EXPIRED, _S.WITHDRAWN, _S.CANCELLED})


def can_move(old: State, new: State) -> bool:
    """Tell whether `old` may become `new`. Staying where one is is always allowed: reports repeat."""
    return old is new or new in MOVES[old]


def move(old: State, new: State) -> State:
    """Return `new` if the table allows it.

    Raises:
        RequestError: `assignment.illegal_move`.
    """
    if not can_move(old, new):
        raise RequestError(
            f"an assignment that is {old.value} cannot become {new.value}.", code="assignment.illegal_move"
        )
    return new
