"""Keeps the server for peers, and opens files for it: the part of the resident supervisor that serves step 8 of other clients.

A check says in a file of the runtime folder whether there is to be a server (`peer_orders`); then this starts one without rights
(`peers.server`), and looks for each hash that it asks about in the store. It opens files of the store by their hash and nothing
else, for reading only. A server that asks more than an honest one does is ended. Loaded only where there are such orders; only
what an interpreter has loaded anyway, and `_socket`.
"""

import _socket
import os
import stat
import sys

from pcm.peers.wire import (
    ABSENT,
    HERE,
    ID,
    LOOK,
    MAX_LOOK,
    NAME,
    NOBODY,
    OPEN,
    Picture,
    Wants,
    names_in,
)
from pcm.service.machine import resident
from pcm.service.peer_orders import ORDERS, WANTS, Orders, read_orders, remove_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MOST_ASKED = 20_000  # hashes and descriptors together, in any ten seconds
_WINDOW_S = 10.0


class Opener:
    """Looks hashes up in the store.

    Args:
        store, wants: The store's folder, and the file of what is wanted.
    """

    def __init__(self, store: str, wants: str) -> None:
        self._store, self._wants = store, wants

    def look(self, names: list[bytes]) -> Picture:
        """What is here of some hashes, or wanted."""
        try:
            file = os.open(self._wants, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return Picture(NOBODY, tuple((HERE if self._has(name) else ABSENT, 0) for name in names))
        try:
            wants = Wants(lambda length, offset: os.pread(file, length, offset), os.fstat(file).st_size)
            return Picture(wants.fetch, tuple((HERE, 0) if self._has(name) else wants.find(name) for name in names))
        finally:
            os.close(file)

    def open(self, name: bytes) -> int:
        """A descriptor of a file's bytes, for reading only, or -1."""
        try:
            file = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return -1
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            return -1
        return file

    def _has(self, name: bytes) -> bool:
        try:
            return stat.S_ISREG(os.lstat(self._path(name)).st_mode)
        except OSError:
            return False

    def _path(self, name: bytes) -> str:
        text = name.hex()
        return f"{self._store}/{text[:2]}/{text}"


class PeerKeeper:
    """Has one server, or none.

    Args:
        runtime: Folder of the orders.
        watch, forget: Have a descriptor's readiness served by a function; no longer.
        say: Tells the log.
    """

    def __init__(
        self,
        runtime: str,
        watch: "Callable[[int, Callable[[], None]], None]",
        forget: "Callable[[int], None]",
        say: "Callable[[str], None]",
    ) -> None:
        self._runtime = runtime
        self._watch, self._forget, self._say = watch, forget, say
        self._orders: Orders | None = None
        self._child: resident.Child | None = None
        self._socket: _socket.socket | None = None
        self._opener = Opener("", "")
        self._asked, self._window = 0, 0.0
        self._clock = resident.Clock()

    def follow(self) -> None:
        """Do what the orders of the last check say now; where they are as before and the server is up, nothing."""
        orders = read_orders(f"{self._runtime}/{ORDERS}")
        if orders is not None and self._child is not None and orders.same(self._orders):
            return
        self.stop()
        self._orders = orders
        if orders is None:
            return
        try:
            self._start(orders)
        except OSError as error:
            self._say(f"nothing can be given to peers: {error.strerror}.")
            self.stop()

    def check_ended(self) -> None:
        """No check is under way, so nothing is being fetched, whatever one that was killed has left."""
        remove_file(f"{self._runtime}/{WANTS}")
        self.follow()

    def stop(self) -> None:
        """End the server, if there is one."""
        if self._socket is not None:
            self._forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._forget(self._child.descriptor)
            self._child.signal(9)
            self._child.reap()
            self._child = None

    def _start(self, orders: Orders) -> None:
        ours, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._socket = ours
        try:
            self._child = resident.start_confined("pcm.peers.server", orders.account, its.fileno(), its.fileno())
        finally:
            its.close()
        self._opener = Opener(orders.store, f"{self._runtime}/{WANTS}")
        ours.setblocking(False)
        ours.send(b"serve %d %d" % (orders.port, orders.rate))
        self._watch(ours.fileno(), self._serve)
        self._watch(self._child.descriptor, self.stop)

    def _serve(self) -> None:
        if self._socket is None:
            return
        try:
            packet = self._socket.recv(len(LOOK) + NAME * MAX_LOOK + 1)
            answer, file = self._answer(packet)
        except BlockingIOError:
            return
        except OSError:
            self.stop()
            return
        if answer is None:
            self._say("the server for peers asked for something that there is not, or too much, and is ended.")
            self.stop()
            return
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, file.to_bytes(4, sys.byteorder))] if file >= 0 else []
        try:
            self._socket.sendmsg([answer], rights)
        except OSError:
            self.stop()  # it does not take its answers
        finally:
            if file >= 0:
                os.close(file)

    def _answer(self, packet: bytes) -> tuple[bytes | None, int]:
        """The answer to a packet, and the descriptor that goes with it; None: no honest server asks this."""
        verb, names = packet[: len(LOOK)], names_in(packet[len(LOOK) :], MAX_LOOK)
        if names is None or not self._allows(len(names)):
            return None, -1
        if verb == LOOK:
            return self._opener.look(names).encode(), -1
        if verb != OPEN or len(names) != 1:
            return None, -1
        file = self._opener.open(names[0])
        if file >= 0:
            return HERE + b"\0", file
        return self._opener.look(names).encode()[ID:], -1

    def _allows(self, count: int) -> bool:
        now = self._clock.steady()
        if now - self._window > _WINDOW_S:
            self._window, self._asked = now, 0
        self._asked += count
        return self._asked <= MOST_ASKED
