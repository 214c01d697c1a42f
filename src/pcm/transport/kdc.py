"""Where a realm's controllers are, and one question to one of them, within limits and never asked twice.

Serves steps 6 and 8, inside the transfer process, below `kerberos`. The library would ask by itself, wait long for silent
controllers, ask a second one what the first has refused (which counts as two wrong passwords), and keep from us what a controller
says beside its number. Controllers are those of `/etc/krb5.conf`, else those that DNS names (RFC 4120 section 7.2.3).
"""

import ctypes
import random
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pcm.transport.framing import transfer_error
from pcm.transport.pace import Pace
from pcm.transport.smb_codes import NO_CONTROLLER, account_error

PORT = 88
CONNECT_S = 5.0
MAX_ANSWER = 256 * 1024  # a ticket of somebody who is in very many groups has some 60 KB
_SRV, _INTERNET = 33, 1


class Controller(NamedTuple):
    """A host and its TCP port."""

    host: str
    port: int


def parse_controller(text: str) -> Controller | None:
    """Read a `kdc` of krb5.conf: `host`, `host:port`, `[address]:port`, perhaps after `tcp/`; None for what is not TCP."""
    kind, slash, rest = text.partition("/")
    if slash and kind not in ("tcp", ""):
        return None
    rest = rest if slash else text
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") > 1:
        host, port = rest, ""
    else:
        host, _, port = rest.partition(":")
    good = host and (not port or (port.isdecimal() and 0 < int(port) < 65536))
    return Controller(host, int(port or PORT)) if good else None


def find_by_dns(realm: str) -> list[Controller]:
    """The controllers that DNS names for a realm, in the order in which they are to be asked; empty if it names none."""
    answer = ctypes.create_string_buffer(64 * 1024)
    try:
        query = ctypes.CDLL("libresolv.so.2").res_query
    except (OSError, AttributeError):
        return []
    length = query(f"_kerberos._tcp.{realm}".encode("idna"), _INTERNET, _SRV, answer, len(answer))
    return read_services(answer.raw[: min(length, len(answer))]) if length > 0 else []


def read_services(answer: bytes) -> list[Controller]:
    """The hosts of a DNS answer's SRV records (RFC 2782), by priority, in random order within one."""
    found: list[tuple[int, float, Controller]] = []
    try:
        questions, count = struct.unpack_from(">HH", answer, 4)
        at = 12
        for _ in range(questions):
            _, at = _read_name(answer, at)
            at += 4
        for _ in range(min(count, 64)):
            _, at = _read_name(answer, at)
            kind, _, _, length = struct.unpack_from(">HHIH", answer, at)
            at += 10
            if kind == _SRV:
                priority, _, port = struct.unpack_from(">HHH", answer, at)
                host, _ = _read_name(answer, at + 6)
                if host:
                    found.append((priority, random.random(), Controller(host, port)))  # noqa: S311 - spreads load
            at += length
    except (struct.error, IndexError, UnicodeDecodeError):
        return []
    return [each[2] for each in sorted(found)]


def _read_name(answer: bytes, at: int) -> tuple[str, int]:
    """A name and the place after it; pointers go backwards only, so they end."""
    labels, after, limit = [], 0, at
    while length := answer[at]:
        if length >= 0xC0:
            after = after or at + 2
            at = (length & 0x3F) << 8 | answer[at + 1]
            if at >= limit:
                raise IndexError(at)
            limit = at
            continue
        labels.append(answer[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels), after or at + 1


class Conversation:
    """Questions to one controller of a realm: the first that takes a connection; it is not changed afterwards.

    Args:
        realm: Of the account.
        controllers: In their order.
        pace: Limits the time.
        who: The account, for messages.
    """

    def __init__(self, realm: str, controllers: Sequence[Controller], pace: Pace, who: str) -> None:
        self._realm, self._pace, self._who = realm, pace, who
        self._left: Iterator[Controller] = iter(controllers)
        self._chosen: Controller | None = None

    def ask(self, question: bytes) -> bytes:
        """Send one message, and read its answer (RFC 4120 section 7.2.2).

        Raises:
            TransferError: `transfer.kdc_unreachable`, `transfer.timeout`, `transfer.protocol`.
        """
        sock = self._connect()
        with sock:
            try:
                sock.settimeout(self._pace.timeout(time.monotonic()))
                sock.sendall(len(question).to_bytes(4, "big") + question)
                length = int.from_bytes(self._exactly(sock, 4), "big")
                if length > MAX_ANSWER:
                    raise transfer_error(
                        "transfer.protocol", f"The controller of {self._realm} sends too long an answer."
                    )
                return self._exactly(sock, length)
            except TimeoutError as error:
                raise transfer_error(
                    "transfer.timeout", f"The controller of {self._realm} did not answer in time."
                ) from error
            except OSError as error:
                raise account_error(self._who, self._realm, NO_CONTROLLER) from error

    def _connect(self) -> socket.socket:
        while True:
            controller = self._chosen or next(self._left, None)
            if controller is None:
                raise account_error(self._who, self._realm, NO_CONTROLLER)
            try:
                timeout = min(CONNECT_S, self._pace.timeout(time.monotonic()))
                sock = socket.create_connection(controller, timeout)
            except OSError as error:
                if self._chosen is not None:
                    raise account_error(self._who, self._realm, NO_CONTROLLER) from error
                continue
            self._chosen = controller
            return sock

    def _exactly(self, sock: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            sock.settimeout(self._pace.timeout(time.monotonic()))
            piece = sock.recv(count - len(data))
            if not piece:
                raise ConnectionResetError
            data += piece
        return data
