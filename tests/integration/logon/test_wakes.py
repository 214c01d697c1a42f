"""Waiting for news over real HTTP: the service's own glance parks connections, a real server ends them."""

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pcm.logon.app import LogonApp, create_app
from pcm.logon.folder import LogonFolder
from pcm.logon.folder_keys import FolderKeys
from pcm.logon.leases import Leases
from pcm.logon.wakes import Wakes
from pcm.transport import glance
from pcm.transport.errand import Errand
from pcm.transport.signing import sign_request
from pcm.trust.instruction_repository import sign_instructions
from tests.asgi_server import free_port, served
from tests.integration.logon.test_app import ID, KEY, LEASE, OTHER, OTHER_ID, POLICY, pem

START_MS = 1_772_366_400_000


class Glanced(NamedTuple):
    """What a glance said, and the connection that it left."""

    said: list[bytes]
    parked: socket.socket | None

    def stirs_within(self, seconds: float) -> bool:
        assert self.parked is not None
        return bool(select.select([self.parked], [], [], seconds)[0])

    def close(self) -> None:
        if self.parked is not None:
            self.parked.close()


class Server:
    """A logon server with waiting places, and its clients."""

    def __init__(self, folder: LogonFolder, base: str, wakes: Wakes | None, leases: Leases) -> None:
        self.folder, self.base, self.wakes, self.leases = folder, base, wakes, leases
        self._version = START_MS

    def publish(self, client_id: str = ID) -> None:
        self._version += 1000
        self.leases.publish(sign_instructions(client_id, b"{}", POLICY, self._version))

    def write(self, client_id: str = ID) -> None:
        """As somebody else does who only knows the folder."""
        self._version += 1000
        self.folder.write(sign_instructions(client_id, b"{}", POLICY, self._version).files())

    def etag(self, client_id: str = ID) -> str:
        return str(self.leases.ensure(client_id)).strip('"')

    def request(self, path: str, key: ec.EllipticCurvePrivateKey = KEY, client_id: str = ID, etag: str = "") -> bytes:
        url = f"{self.base}/{path}"
        signed = sign_request("GET", url, None, key, client_id, datetime.now(UTC))
        host, _, target = url.removeprefix("http://").partition("/")
        fields = signed | ({"If-None-Match": f'"{etag}"'} if etag else {})
        lines = [f"GET /{target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join((*lines, "", "")).encode()

    def glance(self, question: bytes, parking: bytes) -> Glanced:
        host, _, port = self.base.removeprefix("http://").partition("/")[0].partition(":")
        said: list[bytes] = []
        given: list[socket.socket] = []
        glance.glance(
            Errand(False, host, int(port), "", question, parking),
            time.monotonic() + 10,
            said.append,
            lambda parked: given.append(socket.socket(fileno=parked.detach())),
        )
        return Glanced(said, given[0] if given else None)

    def look(self, key: ec.EllipticCurvePrivateKey = KEY, client_id: str = ID) -> Glanced:
        """As a client does: ask with what it knows, then wait there."""
        etag = self.etag(client_id)
        poll = self.request(f"clients/{client_id}/timestamp.json", key, client_id, etag=etag)
        return self.glance(poll, self.request(f"clients/{client_id}/wake?known={etag}", key, client_id))


@contextmanager
def serving(folder: LogonFolder, make: Callable[[LogonFolder], Wakes | None]) -> Iterator[Server]:
    port = free_port()
    base = f"http://127.0.0.1:{port}/logon"
    leases = Leases(folder, LEASE, lambda: int(datetime.now(UTC).timestamp() * 1000))
    wakes = make(folder)
    if wakes is not None:
        leases.on_publish = wakes.changed
    server = Server(folder, base, wakes, leases)
    for key, client_id in ((KEY, ID), (OTHER, OTHER_ID)):
        folder.write_key(client_id, pem(key))
        server.publish(client_id)
    with served(create_app(LogonApp(folder, base, FolderKeys(folder), leases=leases, wakes=wakes)), port):
        yield server
        if wakes is not None:
            wakes.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(LogonFolder(tmp_path), lambda folder: Wakes(folder.root / "clients", look_s=None)) as running:
        yield running


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_whoever_waits_is_woken_by_its_own_news_alone(server: Server) -> None:
    mine, others = server.look(), server.look(OTHER, OTHER_ID)
    assert mine.said == [b"status 304 14400\n"]
    assert len(server.wakes or ()) == 2
    assert not mine.stirs_within(0.3)
    server.publish()
    assert mine.stirs_within(2)
    assert not others.stirs_within(0.3)
    mine.close()
    others.close()


def test_news_between_the_poll_and_the_waiting_are_not_missed(server: Server) -> None:
    known = server.etag()
    server.publish()
    late = server.glance(b"", server.request(f"clients/{ID}/wake?known={known}"))
    assert late.parked is None or late.stirs_within(2)
    late.close()


def test_a_client_waits_once_and_the_newer_request_has_the_place(server: Server) -> None:
    first = server.look()
    second = server.look()
    assert first.stirs_within(2)
    assert not second.stirs_within(0.3)
    assert len(server.wakes or ()) == 1
    first.close()
    second.close()


def test_a_place_is_free_again_when_the_client_has_gone(server: Server) -> None:
    server.look().close()
    wait_until(lambda: len(server.wakes or ()) == 0)


def test_nobody_waits_in_anothers_place_nor_unsigned(server: Server) -> None:
    poll = server.request(f"clients/{ID}/timestamp.json", etag=server.etag())
    forged = server.request(f"clients/{ID}/wake?known=0", OTHER, OTHER_ID)
    unsigned = b"GET /logon/clients/%s/wake?known=0 HTTP/1.1\r\nHost: x\r\n\r\n" % ID.encode()
    for parking in (forged, unsigned):
        assert server.glance(poll, parking).parked is None
    assert len(server.wakes or ()) == 0


def test_a_wait_ends_after_its_time(tmp_path: Path) -> None:
    with serving(LogonFolder(tmp_path), lambda folder: Wakes(folder.root / "clients", hold_s=1, look_s=None)) as server:
        waiting = server.look()
        assert waiting.said == [b"status 304 1\n"]
        assert waiting.stirs_within(3)
        waiting.close()


def test_a_server_over_a_folder_notices_what_others_write_there(tmp_path: Path) -> None:
    with serving(LogonFolder(tmp_path), lambda folder: Wakes(folder.root / "clients", look_s=0.1)) as server:
        server.leases.on_publish = lambda _: None
        waiting = server.look()
        assert not waiting.stirs_within(0.5)
        server.write()
        assert waiting.stirs_within(3)
        waiting.close()


def test_a_full_house_is_no_harm(tmp_path: Path) -> None:
    with serving(LogonFolder(tmp_path), lambda folder: Wakes(folder.root / "clients", look_s=None, most=1)) as server:
        mine, others = server.look(), server.look(OTHER, OTHER_ID)
        assert mine.parked is not None
        assert others.parked is None
        assert others.said == [b"status 304 14400\n"]  # the poll itself is answered
        mine.close()


def test_a_server_that_does_not_offer_it_says_so(tmp_path: Path) -> None:
    with serving(LogonFolder(tmp_path), lambda _: None) as server:
        looked = server.look()
        assert looked.said == [b"status 304 0\n"]
        assert looked.parked is None


def test_thousands_who_wait_are_let_go_in_portions(tmp_path: Path) -> None:
    """No herd: of many clients with news at once, fifty go at a time."""
    wakes = Wakes(tmp_path, look_s=None)
    ended: list[float] = []

    async def one(number: int) -> None:
        async def receive() -> dict[str, str]:
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: object) -> None:
            return None

        await wakes.wait(f"{number:032x}", lambda: False, receive, send)
        ended.append(time.monotonic())

    def tell() -> None:
        for number in range(200):
            wakes.changed(f"{number:032x}")

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(one(number)) for number in range(3000)]
        await asyncio.sleep(0)  # each of them runs until it waits
        assert len(wakes) == 3000
        telling = threading.Thread(target=tell)
        telling.start()
        await asyncio.gather(*tasks[:200])
        assert ended[-1] - ended[0] >= 0.25
        assert len(wakes) == 2800
        wakes.close()
        await asyncio.gather(*tasks)

    asyncio.run(all_of_them())
    assert len(wakes) == 0
    assert not wakes.has_room("0" * 32)
