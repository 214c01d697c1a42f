"""Every misbehaviour of the hostile server, met by a real transfer process: the right code, in time, and the next request works."""

import http.client
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

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
    "endless-tiny-chunks": "transfer.too_long",
    "chunk-extension-flood": "transfer.too_long",
    "range-of-many": "transfer.protocol",
    "range-nowhere": "transfer.protocol",
    "range-of-another-length": "transfer.protocol",
    "range-cut": "transfer.protocol",
    "range-too-long": "transfer.protocol",
    "range-backwards": "transfer.protocol",
    "range-beyond-the-end": "transfer.protocol",
    "range-in-other-units": "transfer.protocol",
    "range-in-chunks-too-short": "transfer.truncated",
    "range-in-chunks-too-long": "transfer.too_long",
    "range-until-close-too-short": "transfer.truncated",
    "range-out-of-too-little": "transfer.truncated",
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
GOOD_RANGES = {name for name in MISBEHAVIOURS if name.startswith("range-good")}
ANYHOW = {"range-out-of-endless"}  # four bytes are taken out of it, and no more


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
        max_bytes=100_000 if name == "endless-tiny-chunks" else 1_500_000,  # each chunk takes a while
        total_s=4,
        min_rate=1000,
        rate_window_s=0.5,
        answer_s=0.8,
        offset=2 if name.startswith("range-") else offset,
        length=4 if name.startswith("range-") else 0,
    )


def test_every_misbehaviour_has_its_code() -> None:
    assert set(EXPECTED) | GOOD | GOOD_RANGES | ANYHOW == set(MISBEHAVIOURS)


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


@pytest.mark.parametrize("name", sorted(GOOD_RANGES | ANYHOW))
def test_a_range_is_taken_and_not_a_byte_more(server: HostileServer, client: TransferClient, name: str) -> None:
    with client.fetch(request(server, name)._replace(max_bytes=4)) as response:
        assert response.status == 206
        assert response.read() == (b"xxxx" if name in ANYHOW else b"good")


@pytest.mark.parametrize("name", ["range-good", "range-of-many", "range-nowhere"])
def test_a_range_that_nobody_asked_for_is_refused(server: HostileServer, client: TransferClient, name: str) -> None:
    with pytest.raises(TransferError) as caught:
        client.fetch(request(server, name)._replace(offset=0, length=0))
    assert caught.value.code == "transfer.protocol"


def test_a_server_that_has_no_range_to_give_is_asked_twice_at_most(
    server: HostileServer, client: TransferClient, tmp_path: Path
) -> None:
    """It says that nothing is left, of a length that changes with each answer."""
    server.answers["none"] = b"HTTP/1.1 416 No\r\nContent-Range: bytes */7\r\nContent-Length: 0\r\n\r\n"
    (tmp_path / "part").write_bytes(b"12345")
    part = os.open(tmp_path / "part", os.O_RDWR)
    before = len(server.requests)
    with pytest.raises(TransferError) as caught:
        client.fetch_into(request(server, "none"), part)
    assert caught.value.code == "transfer.truncated"
    assert len(server.requests) == before + 2
    assert os.pread(part, 100, 0) == b"12345"
    os.close(part)


BOMBS = {
    "skippable frames": (b"\x50\x2a\x4d\x18\x10\0\0\0" + bytes(16)) * 1000,
    "a skippable frame before": b"\x50\x2a\x4d\x18\x04\0\0\0" + bytes(4) + zstandard.ZstdCompressor().compress(b"x" * 1000),
    "a skippable frame behind": zstandard.ZstdCompressor().compress(b"x" * 1000) + b"\x50\x2a\x4d\x18\x04\0\0\0" + bytes(4),
    "frames after frames": zstandard.ZstdCompressor().compress(b"x" * 1000) * 1000,
    "empty frames": zstandard.ZstdCompressor().compress(b"") * 50_000,
    # a magic, a descriptor that tells no length, a window of 8 MiB; then blocks without content, the last one missing
    "empty blocks": b"\x28\xb5\x2f\xfd\x00\x68" + b"\0\0\0" * 300_000,
    # blocks of four bytes that stand for 128 KiB each
    "blocks of one byte": b"\x28\xb5\x2f\xfd\x00\x68" + ((1 << 20) | 2).to_bytes(3, "little") + b"x" * 1
    + (((1 << 20) | 2).to_bytes(3, "little") + b"x") * 200_000,
    "a window of two gigabytes": b"\x28\xb5\x2f\xfd\x00\xa8" + b"\0\0\0" * 10,
    "a window of 17 MiB": b"\x28\xb5\x2f\xfd\x00\x71" + b"\0\0\0" * 10,
    "a dictionary": b"\x28\xb5\x2f\xfd\x21\x07\x05" + b"\x29\0\0hello",
    "a reserved block": b"\x28\xb5\x2f\xfd\x20\x05" + b"\x2f\0\0hello",
    "an old format": b"\x26\xb5\x2f\xfd" + bytes(100),
}  # fmt: skip


# what they unpack to is within its bounds, and has another hash than any file or is that file
HARMLESS = {"a skippable frame behind", "empty frames", "empty blocks"}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_of_zstd_is_bounded_and_the_process_goes_on(client: TransferClient, name: str) -> None:
    with HostileServer({"bomb": BOMBS[name]}) as server:
        bomb = Request(f"{server.url}/bomb", max_bytes=1 << 21, decode="zstd", max_decoded_bytes=1000, total_s=20)
        began = time.monotonic()
        try:
            with client.fetch(bomb) as response:
                came = response.read()
        except TransferError as error:
            assert error.code in ("transfer.damaged", "transfer.too_long")
        else:
            assert name in HARMLESS
            assert len(came) <= 1000
        assert time.monotonic() - began < 10
        assert client.fetch(request(server, "good")).read() == b"good"


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
