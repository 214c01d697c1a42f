"""The service's side of the local socket: one bounded line in, one line out, and the kernel says who asks.

Step 9 of 12, in a short-lived process that the supervisor starts for each connection. A local user can ask to see, to have an
optional program run, or to have mandatory work later: a verb and an instruction's id, nothing else reaches this side. What is
asked for is only noted; the check that follows decides and runs (KB Q164657: the service alone runs commands). Nobody's slowness
holds anybody up: reading and writing have deadlines, and each connection has its own process.
"""

import contextlib
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pcm.model.errors import MachineError, PcmError, RequestError
from pcm.model.schedule import resolve
from pcm.protocol import local
from pcm.protocol.local import MAX_REQUEST_BYTES, LocalRequest, read_request, write_answer
from pcm.service import inbox, views
from pcm.service.configuration import load_configuration
from pcm.service.facts import AGENT_VERSION, read_facts
from pcm.service.history import History
from pcm.service.identity import load_identity
from pcm.service.journal import Journal
from pcm.service.machine.interface import Machine
from pcm.service.outlook import Outlook, local_zone
from pcm.service.places import Places
from pcm.service.records import to_text
from pcm.service.requirements import check_requirements
from pcm.service.state import State
from pcm.service.views import Asker

READ_S = 5.0
WRITE_S = 10.0
LATER = timedelta(hours=1)  # what `defer` without a time means


class Response(NamedTuple):
    """An answer, and whether a check is wanted now."""

    answer: local.Answer
    check_now: bool = False


def serve(connection: socket.socket, places: Places, machine: Machine, clock: Callable[[], datetime]) -> bool:
    """Answer one connection. Returns whether a check is wanted now."""
    try:
        peer = machine.peer_of(connection)
        line = read_line(connection, READ_S)
    except OSError:
        return False  # whoever asked has gone
    asker = Asker(peer.user_id, _name_of(machine, peer.user_id))
    response = respond(line, asker, places, machine, clock)
    with contextlib.suppress(OSError):  # gone, or too slow to read: its own loss
        write_all(connection, write_answer(response.answer), WRITE_S)
    return response.check_now


def respond(line: bytes, asker: Asker, places: Places, machine: Machine, clock: Callable[[], datetime]) -> Response:
    """Answer one line. Every PcmError becomes an answer here."""
    try:
        request = read_request(line)
        return answer(request, asker, places, machine, clock)
    except PcmError as error:
        return Response(local.Fault(error.code, error.message))


def answer(
    request: LocalRequest, asker: Asker, places: Places, machine: Machine, clock: Callable[[], datetime]
) -> Response:
    """Answer one request.

    Raises:
        RequestError: `not_found`, `not_allowed`, `not_enrolled`. StoreError: this disk.
    """
    if request.verb in local.ADMINISTRATORS_ONLY and not asker.is_administrator:
        raise RequestError(f"Only administrators may ask for {request.verb}.", code="not_allowed")
    now = clock()
    if request.verb == "check":
        found = check_requirements(places, machine, clock, ask_servers=False)
        return Response(local.Requirements(tuple(found)))
    try:
        configuration = load_configuration(places)
    except RequestError as error:
        if request.verb == "status" and error.code == "not_enrolled":
            return Response(local.Status(enrolled=False, agent_version=AGENT_VERSION))
        raise
    client_id = load_identity(places.identity).client_id
    with State.open(places.state, now, repair=False) as state:
        if request.verb == "status":
            return Response(views.show_status(state, configuration, client_id))
        if request.verb == "ledger":
            return Response(views.show_ledger(state))
        if request.verb == "sync":
            state.set_meta(inbox.SYNC, to_text(now))
            return Response(local.Accepted("The service asks its servers now."), check_now=True)
        outlook = Outlook(state, machine, client_id, read_facts())
        return _about_instructions(request, asker, state, outlook, now)


def _about_instructions(request: LocalRequest, asker: Asker, state: State, outlook: Outlook, now: datetime) -> Response:
    wanted = request.id or ""
    if request.verb == "list":
        return Response(views.list_items(state, outlook, asker, now))
    if request.verb == "details":
        return Response(views.show_details(state, outlook, asker, wanted, now))
    if request.verb == "why":
        return Response(views.explain(state, outlook, asker, wanted, now))
    if request.verb == "run":
        return _ask_to_run(state, asker, wanted, now)
    return _ask_for_later(state, asker, wanted, request.until or now + LATER, now)


def _ask_to_run(state: State, asker: Asker, wanted: str, now: datetime) -> Response:
    record = views.find_record(state, wanted, asker)
    manifest = History(state).manifests([record.manifest_sha256]).get(record.manifest_sha256)
    reason = views.why_not_run(record, manifest, asker, now)
    if reason:
        raise RequestError(f"{record.instruction.package} cannot be asked for: {reason}.", code="not_allowed")
    if (
        record.requested_at is not None
        and record.requested_by == asker.shown()
        and record.changed <= record.requested_at
    ):
        return Response(local.Accepted("It was asked for already; it comes as soon as it can."), check_now=True)
    Journal(state).request(record.id, asker.shown(), now)
    return Response(
        local.Accepted(f"{record.instruction.package} {record.instruction.version} comes as soon as it can."),
        check_now=True,
    )


def _ask_for_later(state: State, asker: Asker, wanted: str, until: datetime, now: datetime) -> Response:
    record = views.find_record(state, wanted, asker)
    moment = record.instruction.mandatory_after
    if moment is None:
        raise RequestError("It is optional: there is nothing to postpone.", code="not_allowed")
    deadline = resolve(moment, record.instruction.clock, local_zone())
    granted = Journal(state).defer(record.id, until, deadline, now)
    return Response(local.Accepted(f"Postponed until {granted.astimezone(UTC):%Y-%m-%d %H:%M} UTC."), check_now=True)


def read_line(connection: socket.socket, seconds: float) -> bytes:
    """One line, without its line feed; at most one byte more than a request may have. Slow writers run out of time.

    Raises:
        OSError: the other end has gone, or the time is over.
    """
    deadline = time.monotonic() + seconds
    data = bytearray()
    while b"\n" not in data and len(data) <= MAX_REQUEST_BYTES:
        connection.settimeout(_left(deadline))
        piece = connection.recv(MAX_REQUEST_BYTES + 1 - len(data))
        if not piece:
            raise ConnectionError("the other end closed the connection within its line")
        data += piece
    return bytes(data).partition(b"\n")[0]


def write_all(connection: socket.socket, data: bytes, seconds: float) -> None:
    """Write everything to a reader who may be slow.

    Raises:
        OSError: the other end has gone, or the time is over.
    """
    deadline = time.monotonic() + seconds
    rest = memoryview(data)
    while rest:
        connection.settimeout(_left(deadline))
        rest = rest[connection.send(rest) :]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the other end is too slow")
    return left


def _name_of(machine: Machine, user_id: int) -> str:
    try:
        return machine.account(str(user_id)).name
    except MachineError:
        return ""
