"""What somebody at this computer asks to have done: noted durably, or refused with the reason. It does none of it.

Serves step 9, behind `local_api`; `asking` says who may ask for what. The check that follows reads what is noted here, plans, and
runs (KB Q164657). A note is one transaction that looks once more before it writes, so that of two who ask at once, or of one who
asks while it begins, each gets a true answer.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pcm.model.errors import RequestError
from pcm.model.schedule import resolve
from pcm.protocol import local
from pcm.protocol.local import LocalRequest
from pcm.service import asking, inbox, pausing, restart
from pcm.service.asking import Asker
from pcm.service.history import History
from pcm.service.journal import Journal
from pcm.service.machine.interface import Machine
from pcm.service.outlook import Outlook, local_zone
from pcm.service.records import to_text
from pcm.service.state import State

LATER = timedelta(hours=1)  # what 'later' without a time means


class Response(NamedTuple):
    """An answer, and whether a check is wanted now."""

    answer: local.Answer
    check_now: bool = False


def act_on_one(request: LocalRequest, asker: Asker, state: State, outlook: Outlook, now: datetime) -> Response:
    """`run`, `cancel` and `defer` of one instruction.

    Raises:
        RequestError: `not_found`, `not_allowed`. StoreError: this disk.
    """
    wanted = request.id or ""
    with state.transaction():
        if request.verb == "run":
            return _ask_to_run(state, asker, wanted, now)
        if request.verb == "cancel":
            return _take_back(state, asker, wanted)
        return _ask_for_later(state, asker, wanted, outlook, request.until or now + LATER, now)


def act_on_all(request: LocalRequest, asker: Asker, state: State, machine: Machine, now: datetime) -> Response:
    """`sync`, `pause` and `resume`, which `local_api` has kept from others than administrators; the restart, for everybody.

    Raises:
        RequestError: `not_found`, `not_allowed`, `request.time`. StoreError: this disk.
    """
    if request.verb == "sync":
        state.set_meta(inbox.SYNC, to_text(now))
        return _done("The service asks its servers now.")
    if request.verb == "pause":
        return _pause(state, asker, request.until, now)
    if request.verb == "resume":
        pausing.resume(state)
        return _done("The service goes on.")
    sessions = machine.sessions()
    if request.verb == "restart":
        pending = restart.ask_now(state, asker.shown(), sessions, now, administrator=asker.is_administrator)
        when = "now" if pending.due is None or pending.due <= now else f"at {pending.due:%Y-%m-%d %H:%M} UTC"
        return _done(f"This computer restarts {when}.", pending.due)
    by = "root" if asker.is_administrator else asker.shown()
    granted = restart.postpone(state, request.until or now + LATER, by, sessions, now)
    return _done(f"The restart is postponed until {_utc(granted)}.", granted)


def _ask_to_run(state: State, asker: Asker, wanted: str, now: datetime) -> Response:
    record = asking.find_record(state, wanted, asker)
    manifest = History(state).manifests([record.manifest_sha256]).get(record.manifest_sha256)
    reason = asking.why_not_run(record, manifest, asker, now)
    if reason:
        raise RequestError(f"{record.instruction.package} cannot be asked for: {reason}.", code="not_allowed")
    if asking.is_asked_for(record):
        # the first who asked stays the one who did: else a second one could take it over, and take it back
        by = "" if record.requested_by == asker.shown() else " by somebody else"
        return _done(f"It was asked for already{by}; it comes as soon as it can.")
    Journal(state).request(record.id, asker.shown(), now)
    return _done(f"{record.instruction.package} {record.instruction.version} comes as soon as it can.")


def _take_back(state: State, asker: Asker, wanted: str) -> Response:
    record = asking.find_record(state, wanted, asker)
    reason = asking.why_not_cancel(record, asker)
    if reason:
        raise RequestError(f"There is nothing to take back: {reason}.", code="not_allowed")
    Journal(state).take_back(record.id)
    return _done(f"{record.instruction.package} {record.instruction.version} is not asked for any more.")


def _ask_for_later(
    state: State, asker: Asker, wanted: str, outlook: Outlook, until: datetime, now: datetime
) -> Response:
    record = asking.find_record(state, wanted, asker)
    line = outlook.plan(now).line(record.id)
    deadline = None if line is None else line.deadline
    if deadline is None:
        moment = record.instruction.mandatory_after
        if moment is None:
            raise RequestError("It is optional: there is nothing to postpone.", code="not_allowed")
        deadline = resolve(moment, record.instruction.clock, local_zone())
    granted = Journal(state).defer(record.id, until, deadline, now)
    most = ": longer is not allowed" if granted < until else ""
    return _done(f"Postponed until {_utc(granted)}{most}.", granted)


def _pause(state: State, asker: Asker, until: datetime | None, now: datetime) -> Response:
    if until is not None and until <= now:
        raise RequestError("The end of a pause lies in the future.", code="request.time")
    pausing.pause(state, asker.shown(), until, now)
    end = "until somebody resumes" if until is None else f"until {_utc(until)}"
    return _done(f"Nothing more begins {end}. What runs is seen to its end.", until)


def _done(message: str, until: datetime | None = None) -> Response:
    return Response(local.Accepted(message, until), check_now=True)


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
