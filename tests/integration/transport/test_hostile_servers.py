"""Every misbehaviour of the hostile server, met by a real transfer process: the right code, in time, and the next request works."""

import http.client
import time
from collections.abc import Iterator

import pytest

from pcm.model.errors import TransferError
from pcm.testing.hostile_server import MISBEHAVIOURS, HostileServer
from pcm.transport.client import TransferClient
from pcm.transport.framing import Request
from pcm.transport.in_process import transfer_in_thread
from tests.transfer_process import open_process

EXPECTED = {
    "short": "transfer.truncated",
    "short-chunk": "transfer.truncated",
    "no-last-chunk": "transfer.truncated",
    "bad-chunk": "transfer.truncated",
    "reset-in-body": "transfer.truncated",
    "huge-length": "transfer.too_long",
    "negative-length": "transfer.protocol",
    "text-length": "transfer.protocol",
    "two-lengths": "transfer.protocol",
    "endless": "transfer.too_long",
    "endless-chunks": "transfer.too_long",
    "endless-chunk-extension": "transfer.protocol",
    "endless-trailers": "transfer.too_long",
    "drip": "transfer.too_slow",
    "stall": "transfer.too_slow",
    "encoded": "transfer.protocol",
    "odd-transfer-encoding": "transfer.protocol",
    "wrong-range": "transfer.protocol",
    "silent": "transfer.timeout",
    "gone": "transfer.unreachable",
    "reset": "transfer.unreachable",
    "garbage": "transfer.protocol",
    "bad-status": "transfer.protocol",
    "status-999": "transfer.protocol",
    "switching": "transfer.protocol",
    "long-status-line": "transfer.protocol",
    "long-header": "transfer.protocol",
    "many-headers": "transfer.protocol",
    "endless-continue": "transfer.protocol",
    "drip-header": "transfer.too_slow",
    "redirect": "transfer.redirected",
    "redirect-permanent": "transfer.redirected",
    "unauthorized": "transfer.refused",
    "forbidden": "transfer.refused",
    "missing": "transfer.not_found",
    "broken": "transfer.server_error",
    "busy": "transfer.server_error",
}
GOOD = {"good", "good-chunked", "good-until-close"}


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as running:
        yield running


@pytest.fixture(scope="module")
def client() -> Iterator[TransferClient]:
    made = TransferClient(open_process)
    yield made
    made.close()


def request(server: HostileServer, name: str) -> Request:
    offset = 2 if name == "wrong-range" else 0
    return Request(
        f"{server.url}/{name}",
        max_bytes=1_500_000,
        total_s=4,
        min_rate=1000,
        rate_window_s=0.5,
        answer_s=0.8,
        offset=offset,
    )


def test_every_misbehaviour_has_its_code() -> None:
    assert set(EXPECTED) | GOOD == set(MISBEHAVIOURS)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_misbehaving_server_gets_its_code(server: HostileServer, client: TransferClient, name: str) -> None:
    began = time.monotonic()
    with pytest.raises(TransferError) as caught, client.fetch(request(server, name)) as response:
        response.read()
    assert caught.value.code == EXPECTED[name]
    assert caught.value.message.isprintable()
    assert time.monotonic() - began < 6
    assert client.fetch(request(server, "good")).read() == b"good"


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_well_behaved_answer_is_taken(server: HostileServer, client: TransferClient, name: str) -> None:
    with client.fetch(request(server, name)) as response:
        assert (response.status, response.read()) == (200, b"good")


def test_a_redirect_is_not_followed(server: HostileServer, client: TransferClient) -> None:
    before = len(server.requests)
    with pytest.raises(TransferError, match=r"http://127\.0\.0\.1:1/elsewhere"):
        client.fetch(request(server, "redirect"))
    assert len(server.requests) == before + 1


def test_what_the_server_says_about_a_refusal_is_shown(server: HostileServer, client: TransferClient) -> None:
    with pytest.raises(TransferError, match="status 403: not for you"):
        client.fetch(request(server, "forbidden"))


def test_a_body_without_end_stops_at_the_total_time_even_if_it_is_quick(
    server: HostileServer, client: TransferClient
) -> None:
    endless = Request(f"{server.url}/endless", max_bytes=1 << 45, total_s=1.0)
    began = time.monotonic()
    with pytest.raises(TransferError) as caught:
        for _ in client.fetch(endless).iter_bytes():
            pass
    assert caught.value.code == "transfer.timeout"
    assert time.monotonic() - began < 4


def test_nobody_listening_is_unreachable(client: TransferClient) -> None:
    with pytest.raises(TransferError) as caught:
        client.fetch(Request("http://127.0.0.1:1/", total_s=5))
    assert caught.value.code == "transfer.unreachable"


@pytest.mark.parametrize(
    "url", ["http://no-such-host.invalid/", "http://127.0.0.1:99999/", "http://user@127.0.0.1/", "http:///x"]
)
def test_impossible_places_are_said_so(client: TransferClient, url: str) -> None:
    with pytest.raises(TransferError) as caught:
        client.fetch(Request(url, total_s=8))
    assert caught.value.code in ("transfer.unreachable", "transfer.protocol", "transfer.timeout")


def test_the_request_is_what_was_asked_for_and_no_more(server: HostileServer) -> None:
    client = transfer_in_thread()
    client.fetch(Request(f"{server.url}/good?x=1", headers={"If-None-Match": '"7"'})).read()
    head = server.requests[-1].decode()
    assert head.startswith("GET /good?x=1 HTTP/1.1\r\n")
    sent = {line.split(":")[0].lower() for line in head.split("\r\n")[1:] if line}
    assert sent == {"host", "user-agent", "accept-encoding", "if-none-match"}
    client.close()


def test_the_standard_library_alone_would_not_notice_the_drip(server: HostileServer) -> None:
    """Why `wire` exists: http.client's time-out is for each read, so a drip never runs into it."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=0.5)
    connection.request("GET", "/drip")
    response = connection.getresponse()
    began = time.monotonic()
    while time.monotonic() - began < 1.2:
        assert response.read(1)
    connection.close()
