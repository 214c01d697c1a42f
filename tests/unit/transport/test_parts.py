"""Part files against a transfer process that has been taken over: it may say anything about them, and gains nothing."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcm.model.errors import StoreError, TransferError
from pcm.transport.answers import FOR_PART
from pcm.transport.client import TransferClient
from pcm.transport.framing import CODES, Request
from pcm.transport.source import Extent
from tests.unit.transport.test_client import END, HEAD, HELLO, frame, scripted

HERE = b"what is here"
LIMIT = 100


@pytest.fixture
def part(tmp_path: Path) -> Iterator[int]:
    file = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(file, HERE)
    yield file
    os.close(file)


def held(part: int) -> bytes:
    return os.pread(part, 1 << 20, 0)


def head(status: int = 206, kept: int = len(HERE)) -> bytes:
    return json.dumps({"id": 1, "status": status, "headers": {}, "kept": kept}).encode() + b"\n"


def packed(data: bytes) -> bytes:
    return (len(data) | FOR_PART).to_bytes(4, "big") + data


def request(part: int) -> Request:
    return Request("http://h/", max_bytes=LIMIT, decode="zstd", max_decoded_bytes=LIMIT, part=part)


def read(client: TransferClient, part: int) -> bytes:
    with client.fetch(request(part)) as response:
        return response.read()


def test_packed_bytes_go_to_the_part_and_plain_ones_to_the_caller(part: int) -> None:
    client, channels = scripted(HELLO, head(), packed(b" and more"), frame(b"plain"), packed(b"!"), frame(b""), END)
    assert read(client, part) == b"plain"
    assert held(part) == HERE + b" and more!"
    line = json.loads(channels[0].written.split(b"\n")[1])
    assert (line["have"], line["part"]) == (len(HERE), 0)
    assert channels[0].files == 1


def test_begun_anew_the_part_is_emptied_first(part: int) -> None:
    client, _ = scripted(HELLO, head(200, 0), packed(b"other"), frame(b"plain"), frame(b""), END)
    assert read(client, part) == b"plain"
    assert held(part) == b"other"


@pytest.mark.parametrize("kept", [1, len(HERE) - 1, len(HERE) + 1, -1, 1 << 70, True, "12", None, 0.5])
def test_it_cannot_say_that_more_or_less_is_kept_than_is_here(part: int, kept: object) -> None:
    line = json.dumps({"id": 1, "status": 206, "headers": {}, "kept": kept}).encode() + b"\n"
    client, channels = scripted(HELLO, line, frame(b""), END)
    with pytest.raises(TransferError) as caught:
        read(client, part)
    assert caught.value.code == "transfer.protocol"
    assert channels[0].closed == 1
    assert held(part) == HERE


def test_it_writes_no_more_into_a_part_than_it_may(part: int) -> None:
    flood = [packed(b"x" * 30)] * 10
    client, channels = scripted(HELLO, head(), *flood)
    with pytest.raises(TransferError) as caught:
        read(client, part)
    assert caught.value.code == "transfer.too_long"
    assert channels[0].closed == 1
    assert len(held(part)) <= LIMIT
    os.ftruncate(part, len(HERE))
    client, channels = scripted(HELLO, head(), *([frame(b"x" * 30)] * 10))
    with pytest.raises(TransferError) as caught:
        client.fetch_into(Request("http://h/", max_bytes=LIMIT), part)
    assert caught.value.code == "transfer.too_long"
    assert channels[0].closed == 1
    assert len(held(part)) <= LIMIT


def test_bytes_for_a_part_that_there_is_not_are_refused(part: int) -> None:
    for ask in (
        lambda client: client.fetch(Request("http://h/")).read(),
        lambda client: client.fetch_into(Request("http://h/"), part),
        lambda client: b"".join(client.unpack("raw", Extent(part, 0, 3), (), 3)),
    ):
        client, channels = scripted(HELLO, head(200, 0), packed(b"x"), frame(b""), END)
        with pytest.raises(TransferError) as caught:
            ask(client)
        assert caught.value.code == "transfer.too_long"
        assert channels[0].closed == 1


def test_nothing_for_a_part_is_no_frame(part: int) -> None:
    """Else it could keep the service busy for as long as the largest file may take."""
    client, channels = scripted(HELLO, head(), packed(b""), frame(b""), END)
    with pytest.raises(TransferError) as caught:
        read(client, part)
    assert caught.value.code == "transfer.protocol"
    assert channels[0].closed == 1


@pytest.mark.parametrize("code", ["transfer.damaged", "transfer.changed", "transfer.too_long"])
def test_a_part_that_leads_nowhere_is_emptied(part: int, code: str) -> None:
    end = json.dumps({"id": 1, "error": code, "message": "m"}).encode() + b"\n"
    client, _ = scripted(HELLO, head(), packed(b"more"), frame(b""), end)
    with pytest.raises(TransferError) as caught:
        read(client, part)
    assert caught.value.code == code
    assert held(part) == b""


def test_a_part_whose_line_broke_is_kept(part: int) -> None:
    end = b'{"id":1,"error":"transfer.truncated","message":"m"}\n'
    client, _ = scripted(HELLO, head(), packed(b"more"), frame(b""), end)
    with pytest.raises(TransferError):
        read(client, part)
    assert held(part) == HERE + b"more"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(max_size=60) | st.binary(max_size=60).map(packed), max_size=8), kept=st.booleans())
def test_whatever_it_says_a_part_is_bounded(part: int, pieces: list[bytes], kept: bool) -> None:
    for decoded in (True, False):
        os.ftruncate(part, 0)
        os.pwrite(part, HERE, 0)
        client, _ = scripted(HELLO, head(206 if kept else 200, len(HERE) if kept else 0), *pieces)
        try:
            if decoded:
                read(client, part)
            else:
                client.fetch_into(Request("http://h/", max_bytes=LIMIT), part)
        except TransferError as error:
            assert error.code in CODES
        assert len(held(part)) <= LIMIT
        assert held(part).startswith(HERE if kept else b"") or held(part) == b""


@pytest.mark.parametrize("frames", [[frame(b"12")], [frame(b"1234")], [frame(b"123"), frame(b"4")], []])
def test_what_is_unpacked_has_exactly_its_length(part: int, frames: list[bytes]) -> None:
    client, channels = scripted(HELLO, HEAD, *frames, frame(b""), END)
    with pytest.raises(TransferError) as caught:
        b"".join(client.unpack("raw", Extent(part, 0, 3), (), 3))
    assert caught.value.code in ("transfer.protocol", "transfer.too_long")
    assert channels[0].closed == 1


def test_a_part_that_cannot_be_written_is_the_disks_fault(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(HERE)
    part = os.open(tmp_path / "part", os.O_RDONLY)
    client, channels = scripted(HELLO, head(), packed(b"more"))
    with pytest.raises(StoreError) as caught:
        read(client, part)
    assert caught.value.code == "store.not_writable"
    assert channels[0].closed == 1
    os.close(part)
