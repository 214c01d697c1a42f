"""The subnets that this computer is on, as the kernel keeps them (rtnetlink(7)). Serves step 8, for peers on both sides.

A peer serves these and asks in these, and nobody else. Addresses that reach nobody else (loopback, link-local) do not count.
Loads only what an interpreter has loaded anyway, and `_socket`.
"""

import _socket
import sys

_NETLINK_ROUTE, _NEW, _DONE, _ERROR, _ASK = 0, 20, 3, 2, 22  # RTM_NEWADDR, NLMSG_DONE, NLMSG_ERROR, RTM_GETADDR
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ADDRESS, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL
_FARTHEST = 253  # RT_SCOPE_LINK; narrower scopes are greater
_MOST_BYTES, _MOST_READS = 64 * 1024, 64
_LENGTHS = {int(_socket.AF_INET): 4, int(_socket.AF_INET6): 16}


class Subnet:
    """An address of this computer, packed, and the length of its subnet's prefix in bits."""

    __slots__ = ("address", "prefix")

    def __init__(self, address: bytes, prefix: int) -> None:
        self.address = address
        self.prefix = prefix

    def holds(self, other: bytes) -> bool:
        """Whether another packed address is in the same subnet."""
        if len(other) != len(self.address):
            return False
        shift = len(other) * 8 - self.prefix
        return int.from_bytes(other, "big") >> shift == int.from_bytes(self.address, "big") >> shift


class Kernel:
    """Asks the kernel again and again by one socket, so that a process that may open no other can.

    Raises:
        OSError: the kernel does not offer it here.
    """

    def __init__(self) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(1.0)
        except OSError:
            self._socket.close()
            raise

    def subnets(self) -> list[Subnet]:
        """All of them now.

        Raises:
            OSError: the kernel did not answer.
        """
        head = (17, 4), (_ASK, 2), (_REQUEST_DUMP, 2), (1, 4), (0, 4)
        self._socket.send(b"".join(value.to_bytes(size, sys.byteorder) for value, size in head) + bytes(4))
        found: list[Subnet] = []
        for _ in range(_MOST_READS):
            more, done = read_answer(self._socket.recv(_MOST_BYTES))
            found += more
            if done:
                break
        return found

    def close(self) -> None:
        """Ask no more."""
        self._socket.close()


def own_subnets() -> list[Subnet]:
    """The subnets that this computer is on now.

    Raises:
        OSError: the kernel does not tell.
    """
    kernel = Kernel()
    try:
        return kernel.subnets()
    finally:
        kernel.close()


def read_answer(data: bytes) -> tuple[list[Subnet], bool]:
    """The subnets in one datagram, and whether it was the last."""
    found: list[Subnet] = []
    at = 0
    while at + 16 <= len(data):
        length, kind = _number(data, at, 4), _number(data, at + 4, 2)
        if kind in (_DONE, _ERROR) or length < 16 or at + length > len(data):
            return found, True
        if kind == _NEW and length >= 24:
            subnet = _read_address(data[at + 16 : at + length])
            if subnet is not None:
                found.append(subnet)
        at += (length + 3) & ~3
    return found, False


def _read_address(body: bytes) -> Subnet | None:
    """The subnet of an ifaddrmsg with its attributes."""
    family, prefix, scope = body[0], body[1], body[3]
    size = _LENGTHS.get(family, 0)
    if not size or scope >= _FARTHEST or not 0 < prefix <= size * 8:
        return None
    found: dict[int, bytes] = {}
    at = 8
    while at + 4 <= len(body):
        length, kind = _number(body, at, 2), _number(body, at + 2, 2)
        if length < 4 or at + length > len(body):
            break
        found[kind] = body[at + 4 : at + length]
        at += (length + 3) & ~3
    address = found.get(_LOCAL) or found.get(_ADDRESS) or b""
    return Subnet(address, prefix) if len(address) == size else None


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], sys.byteorder)
