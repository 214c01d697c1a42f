"""A client's server for its peers: gives files by their hash to computers of its own subnets, within narrow limits.

Serves step 8 of other clients. A process of its own, under an account without rights, started by `service.peer_keeper` when the
site's policy says so and there is something to give. It opens no file: for each hash it asks the service, which hands it a
descriptor or none (`broker`). It cannot list anything, so whoever asks has to know what to ask for; who knows the SHA-256 of a
file has read a manifest that names it. It never connects anywhere, keeps no record, and decides nothing about what it gives.

What strangers can cost is bounded: subnets, connections, requests at once, bytes a second, time for each request, and memory. Its
packets do not cross a router (their time to live is one hop). Standard library only, one thread, `poll`. All that it needs is
imported before it gives up its rights: afterwards it may not be able to read it.
"""

import _socket
import os
import select
import sys
import time

from pcm.peers.broker import Broker, BrokerGone
from pcm.peers.connection import PIECE, Connection
from pcm.peers.question import MAX_HEAD, Question, Refused, encode_head, extent, parse_head
from pcm.peers.sealing import seal
from pcm.peers.subnets import Kernel, Subnet
from pcm.peers.wire import COMING, HERE, MAX_ASKED, NAME, WANTED, names_in

MAX_CONNECTIONS, PER_ADDRESS = 24, 4
SENDING = 6  # files at once: each goes quicker, and those who have one give it on
MOST_LOOKS, LOOKS_WINDOW_S = (
    9_000,
    10.0,
)  # hashes that the service is asked about; it ends whoever asks more than twice that
LEAST_LIMIT = 1024 * 1024  # bytes a second; below this honest readers would look slow
_LOOK_AGAIN_S, _LOOK_ANEW_S = 5.0, 60.0
_TICK_S = 1.0
_ACCEPTS_AT_ONCE = 8


class Neighbours:
    """Knows who is in a subnet of this computer; looks again when addresses have changed."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._subnets: list[Subnet] = []
        self._looked = -_LOOK_ANEW_S

    def holds(self, address: bytes, now: float) -> bool:
        """Whether a packed address is near."""
        age = now - self._looked
        if age > _LOOK_ANEW_S or (age > _LOOK_AGAIN_S and not self._is_near(address)):
            self._looked = now
            try:
                self._subnets = self._kernel.subnets()
            except OSError:
                self._subnets = []
        return self._is_near(address)

    def _is_near(self, address: bytes) -> bool:
        return any(subnet.holds(address) for subnet in self._subnets)


class PeerServer:
    """See the module.

    Args:
        listeners: Listening, not blocking.
        rate: Bytes a second for everybody together.
    """

    def __init__(self, broker: Broker, listeners: list[_socket.socket], neighbours: Neighbours, rate: int) -> None:
        self._broker = broker
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._neighbours = neighbours
        self._rate = max(rate, LEAST_LIMIT)
        self._tokens, self._filled = float(PIECE), time.monotonic()
        self._grant = 0  # bytes for each that is sent to, in one turn
        self._looks, self._window = 0, 0.0
        self._connections: dict[int, Connection] = {}
        self._poll = select.poll()
        self._poll.register(broker.fileno(), select.POLLIN)
        for descriptor in self._listeners:
            self._poll.register(descriptor, select.POLLIN)

    def run(self) -> None:
        """Serve until the service has gone.

        Raises:
            BrokerGone: it has.
        """
        while True:
            self._turn()

    def _turn(self) -> None:
        now = time.monotonic()
        self._tokens = min(self._tokens + (now - self._filled) * self._rate, max(PIECE, self._rate / 4))
        self._filled = now
        may_send = self._tokens >= min(PIECE, self._rate / 16)
        sending = sum(connection.sends for connection in self._connections.values())
        self._grant = int(self._tokens / max(sending, 1))
        for descriptor, connection in self._connections.items():
            watched = (select.POLLOUT if may_send else 0) if connection.sends else select.POLLIN
            self._poll.modify(descriptor, watched)
        limit_s = 0.01 if sending and not may_send else _TICK_S if self._connections else None
        for descriptor, _ in self._poll.poll(None if limit_s is None else limit_s * 1000):
            self._serve(descriptor)
        now = time.monotonic()
        for connection in [each for each in self._connections.values() if each.is_too_slow(now)]:
            self._end(connection)

    def _serve(self, descriptor: int) -> None:
        if descriptor == self._broker.fileno():
            raise BrokerGone  # the service says nothing of its own accord: it has closed its end
        if descriptor in self._listeners:
            self._accept(self._listeners[descriptor])
            return
        connection = self._connections.get(descriptor)
        if connection is None:
            return
        now = time.monotonic()
        if connection.sends:
            count = connection.send(self._grant, now)
            self._tokens -= max(count, 0)
            if count < 0:
                self._end(connection)
                return
        elif not connection.receive(MAX_HEAD + MAX_ASKED * NAME - len(connection.came), now):
            self._end(connection)
            return
        if not connection.sends and connection.came:
            self._read(connection)

    def _accept(self, listener: _socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                descriptor, name = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - what `socket.accept` is made of
            except OSError:
                return
            sock = _socket.socket(listener.family, _socket.SOCK_STREAM, 0, descriptor)
            address = _socket.inet_pton(listener.family, name[0].partition("%")[0])
            connection = Connection(sock, address, time.monotonic())
            if not self._admits(address):
                connection.close()
                continue
            self._connections[descriptor] = connection
            self._poll.register(descriptor, select.POLLIN)

    def _admits(self, address: bytes) -> bool:
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        if sum(each.address == address for each in self._connections.values()) >= PER_ADDRESS:
            return False
        return self._neighbours.holds(address, time.monotonic())

    def _end(self, connection: Connection) -> None:
        descriptor = connection.socket.fileno()
        self._poll.unregister(descriptor)
        del self._connections[descriptor]
        connection.close()

    # ---- requests

    def _read(self, connection: Connection) -> None:
        try:
            found = parse_head(connection.came)
            if found is None:
                return
            question, length = found
            if len(connection.came) < length + question.body:
                return
            body = connection.came[length : length + question.body]
            connection.came = connection.came[length + question.body :]
            self._answer(connection, question, body)
        except Refused as refused:
            connection.came, connection.stays = b"", False
            self._begin(connection, encode_head(refused.status, 0, stays=False))

    def _answer(self, connection: Connection, question: Question, body: bytes) -> None:
        connection.stays = question.stays
        if question.method == b"POST":
            names = names_in(body, MAX_ASKED)
            if names is None:
                raise Refused(413)
            if not self._may_look(len(names)):
                self._begin(connection, encode_head(503, 0, stays=question.stays))
                return
            said = self._broker.look(names).encode()
            self._begin(connection, encode_head(200, len(said), stays=question.stays) + said)
            return
        if sum(each.holds_file for each in self._connections.values()) >= SENDING or not self._may_look(1):
            self._begin(connection, encode_head(503, 0, stays=question.stays))
            return
        state, file = self._broker.open(question.name)
        if state != HERE or file < 0:
            status = 503 if state in (WANTED, COMING) else 404
            self._begin(connection, encode_head(status, 0, stays=question.stays))
            return
        self._give(connection, question, file)

    def _may_look(self, count: int) -> bool:
        now = time.monotonic()
        if now - self._window > LOOKS_WINDOW_S:
            self._window, self._looks = now, 0
        self._looks += count
        return self._looks <= MOST_LOOKS

    def _give(self, connection: Connection, question: Question, file: int) -> None:
        length = os.fstat(file).st_size
        status, first, count = extent(question, length)
        more = f'ETag: "{question.name.hex()}"\r\nAccept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\n'
        if status == 206:
            more += f"Content-Range: bytes {first}-{first + count - 1}/{length}\r\n"
        elif status == 416:
            more += f"Content-Range: bytes */{length}\r\n"
        head = encode_head(status, count, stays=question.stays, more=more)
        if question.method == b"HEAD" or not count:
            os.close(file)
            file, count = -1, 0
        self._begin(connection, head, file, first, count)

    def _begin(self, connection: Connection, answer: bytes, file: int = -1, at: int = 0, count: int = 0) -> None:
        now = time.monotonic()
        connection.begin(answer, file, at, count, now)
        if connection.send(0, now) < 0:
            self._end(connection)


def listen(port: int) -> list[_socket.socket]:
    """Listen on every address, each family by itself.

    Raises:
        OSError: the port is taken.
    """
    listeners = []
    for family, level, hops in (
        (_socket.AF_INET, _socket.IPPROTO_IP, _socket.IP_TTL),
        (_socket.AF_INET6, _socket.IPPROTO_IPV6, _socket.IPV6_UNICAST_HOPS),
    ):
        try:
            listener = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        except OSError:
            continue  # this system has no such family
        if family == _socket.AF_INET6:
            listener.setsockopt(level, _socket.IPV6_V6ONLY, 1)
        listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listener.setsockopt(level, hops, 1)
        listener.bind(("", port))
        listener.listen(64)
        listeners.append(listener)
    return listeners


def read_orders(data: bytes) -> tuple[int, int]:
    """Port and rate, from the service's first packet: `serve PORT RATE`.

    Raises:
        ValueError: it says something else.
    """
    words = data.split(b" ")
    if len(words) != 3 or words[0] != b"serve" or not (words[1].isdigit() and words[2].isdigit()):
        raise ValueError("no orders")
    return int(words[1]), int(words[2])


def main(_arguments: list[str] | None = None) -> int:
    """Process entry; standard input is the way to the service. Exit code 0: it has gone; 1: the port cannot be had."""
    broker = Broker(os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.chdir("/")
    try:
        port, rate = read_orders(broker.orders())
        server = PeerServer(broker, listen(port), Neighbours(Kernel()), rate)
        seal()
        server.run()
    except BrokerGone:
        return 0
    except OSError as error:
        sys.stderr.write(f"pcmsvc: nothing can be given to peers: {error}.\n")
        return 1
    return 0
