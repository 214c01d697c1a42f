"""A glance at real sockets: TLS is verified, hostile servers are survived soon, and nothing but a TCP connection is taken."""

import os
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcm.service.machine import resident
from pcm.testing.hostile_server import MISBEHAVIOURS, HostileServer
from pcm.transport import glance
from pcm.transport.errand import Errand
from tests.integration.transport.test_fuzzed_answers import ANSWERS
from tests.integration.transport.test_transfer_process import accepting, certificate

__all__ = ["certificate"]

ASK = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"


class Seen(NamedTuple):
    said: bytes
    parked: int  # connections that were handed over
    took_s: float


def look(errand: Errand, seconds: float = 2.0) -> Seen:
    said: list[bytes] = []
    parked: list[int] = []

    def give(sock: object) -> None:
        parked.append(1)

    began = time.monotonic()
    glance.glance(errand, began + seconds, said.append, give)
    return Seen(b"".join(said), len(parked), time.monotonic() - began)


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    with HostileServer() as running:
        yield running


def port_of(server: HostileServer) -> int:
    return int(server.url.rpartition(":")[2])


@pytest.mark.parametrize("name", sorted(MISBEHAVIOURS))
def test_no_misbehaviour_is_an_answer_that_nothing_is_new(hostile: HostileServer, name: str) -> None:
    """Asked whether anything has changed: whatever these say, it is not 'no', and it is said in time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = look(Errand(False, "127.0.0.1", port_of(hostile), "", ASK % name.encode(), b""))
    assert seen.took_s < 3
    assert not seen.said.startswith(b"status 304 ")
    assert seen.parked == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(answer=ANSWERS, waiting=st.booleans())
def test_any_answer_is_one_or_is_not(hostile: HostileServer, answer: bytes, waiting: bool) -> None:
    hostile.answers["fuzz"] = answer
    ask = ASK % b"fuzz"
    seen = look(Errand(False, "127.0.0.1", port_of(hostile), "", ask, ask if waiting else b""), 1.0)
    words = seen.said.split()
    assert words[:1] in ([b"failed"], [b"status"])
    if words[:2] == [b"status", b"304"]:
        assert b"304" in answer or (seen.parked == 1 and waiting)
    assert seen.took_s < 2.5


class Https:
    """A server under TLS that says 304 to whoever speaks HTTP with it."""

    def __init__(self, port: int) -> None:
        self.port = port


@pytest.fixture
def https(certificate: tuple[Path, Path]) -> Iterator[Https]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def serve(client: socket.socket) -> None:
        try:
            with context.wrap_socket(client, server_side=True) as secured:
                while secured.recv(65536):
                    secured.sendall(b"HTTP/1.1 304 Not Modified\r\npcm-wake: 600\r\n\r\n")
        except OSError:
            client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting(listener, serve)
        yield Https(int(listener.getsockname()[1]))
        listener.shutdown(socket.SHUT_RDWR)


def test_a_server_that_a_known_authority_vouches_for_is_asked(https: Https, certificate: tuple[Path, Path]) -> None:
    seen = look(Errand(True, "127.0.0.1", https.port, str(certificate[0]), ASK % b"x", b""))
    assert seen.said == b"status 304 600\n"


def test_a_server_of_another_name_is_not_believed(https: Https, certificate: tuple[Path, Path]) -> None:
    assert look(Errand(True, "localhost", https.port, str(certificate[0]), ASK % b"x", b"")).said == b"failed\n"


def test_a_server_that_nobody_vouches_for_is_not_believed(https: Https) -> None:
    assert look(Errand(True, "127.0.0.1", https.port, "", ASK % b"x", b"")).said == b"failed\n"


def test_a_missing_authority_is_no_reason_to_trust(https: Https, tmp_path: Path) -> None:
    seen = look(Errand(True, "127.0.0.1", https.port, str(tmp_path / "gone.pem"), ASK % b"x", b""))
    assert seen.said == b"failed\n"


def test_an_old_tls_is_not_spoken(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1

    def serve(client: socket.socket) -> None:
        try:
            context.wrap_socket(client, server_side=True).close()
        except OSError:
            client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting(listener, serve)
        seen = look(Errand(True, "127.0.0.1", listener.getsockname()[1], str(certificate[0]), ASK % b"x", b""))
        listener.shutdown(socket.SHUT_RDWR)
    assert seen.said == b"failed\n"


def test_clear_text_where_tls_was_promised_is_nothing(hostile: HostileServer) -> None:
    assert look(Errand(True, "127.0.0.1", port_of(hostile), "", ASK % b"good", b"")).said == b"failed\n"


def test_nobody_there_is_said_soon() -> None:
    seen = look(Errand(False, "127.0.0.1", 9, "", ASK % b"x", b""))
    assert (seen.said, seen.took_s < 1) == (b"failed\n", True)
    assert look(Errand(False, "no such name", 80, "", ASK % b"x", b"")).said == b"failed\n"


def test_a_host_that_drips_is_given_up(hostile: HostileServer) -> None:
    seen = look(Errand(False, "127.0.0.1", port_of(hostile), "", ASK % b"drip-header", b""), 1.0)
    assert seen.said == b"failed\n"
    assert seen.took_s < 1.5


# ---- what the service takes from it


def test_only_a_tcp_connection_is_taken(tmp_path: Path) -> None:
    """A process that was taken over may hand anything over: it must not be able to hold the service up."""
    reading, writing = os.pipe()
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    one, other = socket.socketpair()
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with one, other, datagram, socket.create_server(("127.0.0.1", 0)) as listener:
        for descriptor in (reading, writing, file, one.fileno(), datagram.fileno(), listener.fileno()):
            assert not resident.is_tcp(descriptor)
        with socket.create_connection(listener.getsockname()) as near:
            far, _ = listener.accept()
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1 | 3600 << 32).to_bytes(8, "little"))
            assert resident.is_tcp(near.fileno())
            assert near.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)[:4] == bytes(4)  # closing it never waits
            assert resident.local_address(near.fileno()) == bytes((127, 0, 0, 1))
            far.close()
    for descriptor in (reading, writing, file):
        os.close(descriptor)
    assert not resident.is_tcp(reading)
    assert resident.local_address(reading) == b""


def test_descriptors_are_read_from_what_came_with_a_message() -> None:
    one, other = socket.socketpair()
    with one, other:
        socket.send_fds(one, [b"x"], [0, 1, 2])
        _, rights, _, _ = other.recvmsg(10, socket.CMSG_LEN(12), socket.MSG_CMSG_CLOEXEC)
        taken = resident.descriptors_in(rights)
        assert len(taken) == 3
        for descriptor in taken:
            os.close(descriptor)
    assert resident.descriptors_in([(1, 2, bytes(12)), (0, 1, bytes(4))]) == []
