"""Noticing that this computer's network addresses change, for the resident supervisor. Serves step 6.

The kernel tells by rtnetlink(7) who listens to the groups of address changes; nothing is asked of any network. What it tells
again and again (the lifetime of an IPv6 address that a router renews) is no change, nor are addresses that reach nobody else: of
the loopback, and link-local ones. Whoever may configure the network may make it tell anything; the supervisor limits what
follows. Only what an interpreter has loaded anyway, and `_socket`.
"""

import _socket
import sys

_NETLINK_ROUTE = 0
_GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_NEW, _DELETED, _ASK, _DONE = 20, 21, 22, 3  # RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR, NLMSG_DONE
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ADDRESS, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL
_TENTATIVE = 0x40  # IFA_F_TENTATIVE: not yet in use
_FARTHEST = 253  # RT_SCOPE_LINK; narrower scopes are greater
_FIRST_ANSWER = 1  # sequence number of the answers to our own question
_MOST_BYTES, _MOST_READS, _MOST_KNOWN = 32 * 1024, 64, 1024


class Addresses:
    """Addresses as they come and go.

    Raises:
        OSError: the kernel does not offer it here.
    """

    def __init__(self) -> None:
        self._socket = _socket.socket(
            _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC, _NETLINK_ROUTE
        )
        try:
            self._socket.bind((0, _GROUPS))
            self._socket.send(question())
        except OSError:
            self._socket.close()
            raise
        self._known = Known()

    def fileno(self) -> int:
        """Polls readable when something may have changed."""
        return self._socket.fileno()

    def changes(self) -> "Changes":
        """Take in what the kernel tells since the last time."""
        changes = Changes()
        for _ in range(_MOST_READS):
            try:
                data = self._socket.recv(_MOST_BYTES)
            except BlockingIOError:
                break
            except OSError:
                changes.came = True  # it could not tell everything
                break
            self._known.take_in(data, changes)
        return changes

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


class Changes:
    """What has happened. `came`: an address that was not there before. `lost`: addresses that are no longer."""

    def __init__(self) -> None:
        self.came = False
        self.lost: set[bytes] = set()


class Known:
    """The addresses that this computer has, by what the kernel has told. Pure."""

    def __init__(self) -> None:
        self._addresses: set[tuple[int, bytes]] = set()

    def take_in(self, data: bytes, changes: Changes) -> None:
        """Note what one datagram tells; what it answers to our first question is no change."""
        for kind, sequence, address in read_messages(data):
            if kind == _NEW and address not in self._addresses and len(self._addresses) < _MOST_KNOWN:
                self._addresses.add(address)
                changes.came |= sequence != _FIRST_ANSWER
                changes.lost.discard(address[1])
            elif kind == _DELETED and address in self._addresses:
                self._addresses.discard(address)
                changes.lost.add(address[1])


def question() -> bytes:
    """Ask for all addresses there are (nlmsghdr and rtgenmsg)."""
    head = (17, 4), (_ASK, 2), (_REQUEST_DUMP, 2), (_FIRST_ANSWER, 4), (0, 4)
    return b"".join(value.to_bytes(size, sys.byteorder) for value, size in head) + bytes(4)


def read_messages(data: bytes) -> list[tuple[int, int, tuple[int, bytes]]]:
    """Kind, sequence number, and interface with address of each message about an address that reaches others."""
    found = []
    at = 0
    while at + 16 <= len(data):
        length, kind, sequence = _number(data, at, 4), _number(data, at + 4, 2), _number(data, at + 8, 4)
        if length < 16 or at + length > len(data):
            break
        if kind in (_NEW, _DELETED) and length >= 24:
            address = _read_address(data[at + 16 : at + length])
            if address is not None:
                found.append((kind, sequence, address))
        at += (length + 3) & ~3
    return found


def _read_address(body: bytes) -> tuple[int, bytes] | None:
    """Interface and address of an ifaddrmsg with its attributes."""
    flags, scope, index = body[2], body[3], _number(body, 4, 4)
    if scope >= _FARTHEST or flags & _TENTATIVE:
        return None
    found = {}
    at = 8
    while at + 4 <= len(body):
        length, kind = _number(body, at, 2), _number(body, at + 2, 2)
        if length < 4 or at + length > len(body):
            break
        found[kind] = body[at + 4 : at + length]
        at += (length + 3) & ~3
    address = found.get(_LOCAL) or found.get(_ADDRESS)
    return (index, address) if address else None


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], sys.byteorder)
