"""A glance at a logon server: has anything changed? and then: leave a connection that will stir when something does.

Serves step 6, in a process of its own without rights, like `transfer` and hardened like it, but with as little in it as can be:
it starts for every check of every client, and most find nothing new. `service.quick_check` hands it an errand: where to, and one
or two requests, signed and written out whole. The one asks to wait for news: a server that has none begins an answer at once and
ends it when something has changed. That connection goes to the service, which neither reads nor writes it: it only waits for it
to stir. Where a server lets nobody wait, the other request asks whether anything has changed, and that is all. The bytes of
networks are read here and nowhere else.

It understands status lines, the name of one header and nothing more; whatever else a server says ends the glance, and then the
whole check (`transfer`, with all its limits) asks again. It follows nothing, holds no key, keeps no file. It never decides: what
it says is believed as little as an unsigned 'not changed' is.

Sockets and TLS are taken from the modules that `socket` and `ssl` themselves stand on: those two alone cost as much as all the
rest (`docs/adr/0024-a-check-may-rest-on-the-one-before.md`). OpenSSL checks the certificate and the host's name, as there.
"""

import _socket
import _ssl
import os
import select
import sys
import time

from pcm.transport.errand import MAX_ERRAND, PARKED, Errand, is_number, parse_errand
from pcm.transport.hardening import harden

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_HEAD = 8 * 1024  # status line and headers, all 1xx answers included
MAX_HOLD_S = 86_400
TOTAL_S = 20.0  # for everything
CONNECT_S = 5.0  # the whole check, which comes next, is more patient
TLS_1_2 = 0x0303
KEEPALIVE_S, KEEPALIVE_EACH_S, KEEPALIVE_TRIES = 120, 30, 4  # a peer that is gone is noticed after four minutes
_WAKE = b"pcm-wake"
_NO_PLACE = frozenset((404, 429, 503))  # a server that does not let clients wait, or not so many; all else is an answer


class Head:
    """What a glance understands of an answer.

    Attributes:
        status: 200 to 599.
        wake_s: For how long the server lets clients wait for changes, in seconds; 0: it does not.
        extra: Bytes after the head.
    """

    def __init__(self, status: int, wake_s: int, extra: bytes) -> None:
        self.status = status
        self.wake_s = wake_s
        self.extra = extra


def parse_head(data: bytes) -> Head | None:
    """Find a final answer's head at the beginning of what came; None: more has to come.

    Raises:
        ValueError: it is not HTTP/1.1, or too long.
    """
    begin = 0
    while True:
        end = data.find(b"\r\n\r\n", begin, MAX_HEAD)
        if end < 0:
            if len(data) >= MAX_HEAD:
                raise ValueError("too long a head")
            return None
        first, *lines = data[begin:end].split(b"\r\n")
        version, _, rest = first.partition(b" ")
        code = rest[:3]
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not code.isdigit() or len(code) != 3 or rest[3:4] not in b" ":
            raise ValueError("not HTTP")
        status = int(code)
        if 199 < status < 600:
            break
        if not 99 < status < 200 or status == 101:
            raise ValueError("not HTTP")
        begin = end + 4  # an interim answer says nothing
    wake_s = 0
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise ValueError("not HTTP")
        name, value = name.lower(), value.strip(b" \t")
        if name == _WAKE and is_number(value):
            wake_s = min(int(value), MAX_HOLD_S)
    return Head(status, wake_s, data[end + 4 :])


class Socket(_socket.socket):
    """A plain socket that TLS can refer to."""

    __slots__ = ("__weakref__",)


class Connection:
    """An open connection to a server, in clear or under TLS, everything on it before one deadline.

    Args:
        sock: Connected.
        errand: Where to.
        deadline: Seconds on the monotonic clock.

    Raises:
        OSError: the server's certificate does not hold (`_ssl.SSLError` is one, too).
    """

    def __init__(self, sock: Socket, errand: Errand, deadline: float) -> None:
        self._deadline = deadline
        self.socket = sock
        self.receive: Callable[[int], bytes] = sock.recv
        self.send: Callable[[bytes], int] = sock.send
        self._pending: Callable[[], int] = lambda: 0
        if errand.tls:
            self._begin_tls(errand)

    def _begin_tls(self, errand: Errand) -> None:
        context = _ssl._SSLContext(_ssl.PROTOCOL_TLS_CLIENT)  # noqa: SLF001 - what `ssl.SSLContext` is made of
        if not context.check_hostname or context.verify_mode != _ssl.CERT_REQUIRED:
            raise OSError("TLS would not verify the server")
        context.minimum_version = TLS_1_2
        if errand.ca_file:
            context.load_verify_locations(errand.ca_file, None, None)
        else:
            context.set_default_verify_paths()
        self.socket.settimeout(self._left())
        wrap: Callable[[_socket.socket, bool, str], Any] = context._wrap_socket  # type: ignore[attr-defined]  # noqa: SLF001
        tls = wrap(self.socket, False, errand.host)
        tls.do_handshake()
        self.receive, self.send, self._pending = tls.read, tls.write, tls.pending

    def ask(self, request: bytes) -> Head:
        """Send a whole request and read the head of the answer.

        Raises:
            OSError: the connection broke. ValueError: it is no answer. TimeoutError.
        """
        while request:
            self.socket.settimeout(self._left())
            request = request[self.send(request) :]
        data = b""
        while True:
            self.socket.settimeout(self._left())
            more = self.receive(MAX_HEAD)
            if not more:
                raise OSError("the server closed the connection")
            data += more
            head = parse_head(data)
            if head is not None:
                return head

    def is_quiet(self) -> bool:
        """Whether nothing more has come."""
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        return not self._pending() and not poller.poll(0)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no time is left")
        return left


def _connect(host: str, port: int, deadline: float) -> Socket:
    failure: OSError = OSError("no address")
    # bytes: a str would go through the codec for international names, which loads 2 MB; addresses are ASCII already
    for family, kind, protocol, _, address in _socket.getaddrinfo(host.encode("ascii"), port, 0, _socket.SOCK_STREAM):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        sock = Socket(family, kind, protocol)
        try:
            sock.settimeout(left)
            sock.connect(address)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def glance(
    errand: Errand, deadline: float, say: "Callable[[bytes], None]", give: "Callable[[_socket.socket], None]"
) -> None:
    """Do an errand: wait at the server, which says so only if nothing is new; where that cannot be, just ask.

    Args:
        say: Is told `status 304 3600` (not changed; the second number: seconds that a client may wait there), or `failed`.
        give: Is handed a connection that waits.
    """
    try:
        if errand.parking:
            with _Line(errand, deadline) as connection:
                head = connection.ask(errand.parking)
                if head.status == 200 and not head.extra and connection.is_quiet():
                    _watch_peer(connection.socket)
                    say(b"status 304 %d\n" % head.wake_s)
                    give(connection.socket)
                    return
            if head.status not in _NO_PLACE or not errand.question:
                say(b"status %d 0\n" % (head.status if head.status != 304 else 0))
                return
        with _Line(errand, deadline) as connection:
            head = connection.ask(errand.question)
            say(b"status %d %d\n" % (head.status if not head.extra else 0, head.wake_s))
    except (OSError, ValueError):
        say(b"failed\n")


class _Line:
    """A connection, closed at the end of the block."""

    def __init__(self, errand: Errand, deadline: float) -> None:
        self._errand = errand
        self._deadline = deadline
        self._socket = _connect(errand.host, errand.port, min(deadline, time.monotonic() + CONNECT_S))

    def __enter__(self) -> Connection:
        try:
            return Connection(self._socket, self._errand, self._deadline)
        except BaseException:
            self._socket.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _watch_peer(sock: _socket.socket) -> None:
    """Have the kernel find out whether the other side is still there."""
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE, KEEPALIVE_S)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL, KEEPALIVE_EACH_S)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPCNT, KEEPALIVE_TRIES)


def main(_arguments: list[str] | None = None) -> int:
    """Run as a process: the errand on standard input, what came of it on standard output, which is a Unix socket."""
    errands, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.chdir("/")
    harden()
    deadline = time.monotonic() + TOTAL_S
    data = b""
    while len(data) <= MAX_ERRAND and (more := os.read(errands, MAX_ERRAND)):
        data += more
    service = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, answers)

    def give(sock: _socket.socket) -> None:
        number = sock.fileno().to_bytes(4, sys.byteorder)
        service.sendmsg([PARKED], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, number)])

    try:
        glance(parse_errand(data), deadline, service.sendall, give)
    except (ValueError, OSError):
        return 1  # whoever asked has gone, or asked nonsense
    return 0
