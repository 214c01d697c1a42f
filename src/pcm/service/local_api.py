"""The service's side of the local socket: one bounded line in, one line out, and the kernel says who asks.

Step 9 of 12, in a short-lived process that the supervisor starts for each connection. A local user can ask to see, to have an
optional program run, or to have mandatory work later: a verb and an instruction's id, nothing else reaches this side. What is
asked for is only noted (`local_acts`); the check that follows decides and runs (KB Q164657: the service alone runs commands).
Nobody's slowness holds anybody up: reading and writing have deadlines, and each connection has its own process. Only who watches
keeps that process (`watching`), and few can.
"""

import contextlib
import socket
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from pcm.model.errors import PcmError, RequestError
from pcm.protocol import local
from pcm.protocol.local import MAX_REQUEST_BYTES, LocalRequest, read_request, write_answer
from pcm.service import local_acts, views
from pcm.service.asking import Asker
from pcm.service.configuration import load_configuration
from pcm.service.facts import AGENT_VERSION, read_facts
from pcm.service.identity import load_identity
from pcm.service.local_acts import Response
from pcm.service.machine.interface import Machine
from pcm.service.outlook import Outlook
from pcm.service.places import Places
from pcm.service.requirements import check_requirements
from pcm.service.state import State
from pcm.service.trial import show_update

if TYPE_CHECKING:
    from pcm.protocol.local import Verb

READ_S = 5.0
WRITE_S = 10.0
_ABOUT_ALL: "frozenset[Verb]" = frozenset({"sync", "pause", "resume", "restart", "postpone_restart"})


def serve(connection: socket.socket, places: Places, machine: Machine, clock: Callable[[], datetime]) -> bool:
    """Answer one connection. Returns whether a check is wanted now."""
    try:
        peer = machine.peer_of(connection)
        line = read_line(connection, READ_S)
    except OSError:
        return False  # whoever asked has gone
    asker = Asker(peer.user_id, peer.name)
    if b'"watch"' in line and _is_watch(line):
        from pcm.service.watching import watch  # noqa: PLC0415 - few stay to watch

        watch(connection, asker, places, lambda: respond(line, asker, places, machine, clock).answer)
        return False
    response = respond(line, asker, places, machine, clock)
    with contextlib.suppress(OSError):  # gone, or too slow to read: its own loss
        write_all(connection, write_answer(response.answer), WRITE_S)
    return response.check_now


def _is_watch(line: bytes) -> bool:
    try:
        return read_request(line).verb == "watch"
    except PcmError:
        return False


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
            return Response(views.show_status(state, configuration, client_id, now, show_update(places)))
        if request.verb == "ledger":
            return Response(views.show_ledger(state))
        if request.verb in _ABOUT_ALL:
            return local_acts.act_on_all(request, asker, state, machine, now)
        outlook = Outlook(state, machine, client_id, read_facts())
        wanted = request.id or ""
        if request.verb in ("list", "watch"):
            return Response(views.list_items(state, outlook, asker, places, now))
        if request.verb == "details":
            return Response(views.show_details(state, outlook, asker, wanted, now))
        if request.verb == "why":
            return Response(views.explain(state, outlook, asker, wanted, now))
        return local_acts.act_on_one(request, asker, state, outlook, now)


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
