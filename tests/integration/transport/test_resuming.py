"""Killed at any byte, the service or the process that speaks to networks, a transfer goes on where it was."""

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.content.objects import pack
from pcm.model.errors import TransferError
from pcm.transport.client import TransferClient
from pcm.transport.framing import Request
from tests.range_server import RangeServer, range_server
from tests.transfer_process import open_process, start_process

MEBI = 1 << 20
ROOT = Path(__file__).resolve().parents[3]
PLAIN = os.urandom(6 * MEBI) + bytes(3 * MEBI) + os.urandom(3 * MEBI)
PACKED = b"".join(pack(io.BytesIO(PLAIN), len(PLAIN)))
RATE = 24 * MEBI  # slower than this client, as networks are


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with range_server() as running:
        running.files["/object"] = (PACKED, '"1"')
        running.rate = RATE
        yield running


@pytest.fixture
def part(tmp_path: Path) -> Iterator[int]:
    file = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT, 0o600)
    yield file
    os.close(file)


def held(part: int) -> bytes:
    return os.pread(part, 1 << 28, 0)


def requested(server: RangeServer, part: int | None) -> Request:
    request = Request(f"{server.url}/object", max_bytes=len(PACKED), total_s=60)
    return request if part is None else request._replace(decode="zstd", max_decoded_bytes=len(PLAIN), part=part)


@pytest.mark.parametrize("how", ["part", "object"])
def test_killed_again_and_again_the_service_fetches_each_byte_about_once(
    server: RangeServer, tmp_path: Path, how: str
) -> None:
    part, plain = tmp_path / "killed.part", tmp_path / "plain"
    chance = random.Random(7)
    kills = 5
    for number in range(kills):
        before = part.stat().st_size if part.exists() else 0
        at = server.sent + chance.randrange(1, 3 * MEBI // 2)
        started = fetching(server, how, part, plain)
        server.on_sent = lambda sent, at=at, started=started: kill(started, sent >= at)  # type: ignore[misc]
        started.wait(30)
        assert started.returncode == -signal.SIGKILL
        assert part.stat().st_size >= before
        assert part.read_bytes() == PACKED[: part.stat().st_size], number
    server.on_sent = lambda _: None
    assert fetching(server, how, part, plain).wait(60) == 0
    assert part.read_bytes() == PACKED
    if how == "object":
        assert plain.read_bytes() == PLAIN
    assert server.sent - len(PACKED) < kills * MEBI
    assert server.asked[-1].startswith("bytes=")


def fetching(server: RangeServer, how: str, part: Path, plain: Path) -> "subprocess.Popen[bytes]":
    script = "from tests.integration.transport.resuming import main; main()"
    arguments = [how, f"{server.url}/object", str(len(PLAIN)), str(part), str(plain)]
    return subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=ROOT)


def kill(process: "subprocess.Popen[bytes]", now: bool) -> None:
    if now:
        process.kill()


@pytest.mark.parametrize("decoded", [False, True])
def test_a_killed_transfer_process_costs_less_than_a_mebibyte(server: RangeServer, part: int, decoded: bool) -> None:
    channels = [start_process() for _ in range(4)]
    processes = [process for process, _ in channels]
    client = TransferClient(lambda: channels.pop(0)[1])
    for number, at in enumerate((1, 700_001, 5 * MEBI)):
        server.on_sent = lambda sent, number=number, at=at: kill(processes[number], sent >= at)  # type: ignore[misc]
        with pytest.raises(TransferError) as caught:
            fetch(client, server, part, decoded=decoded)
        assert caught.value.code == "transfer.protocol"
        assert held(part) == PACKED[: os.fstat(part).st_size]
        assert server.sent - os.fstat(part).st_size < (number + 1) * MEBI
    server.on_sent = lambda _: None
    before, missing = server.sent, len(PACKED) - os.fstat(part).st_size
    assert fetch(client, server, part, decoded=decoded) in (b"", PLAIN)
    assert held(part) == PACKED
    assert server.sent - before == missing
    client.close()


def fetch(client: TransferClient, server: RangeServer, part: int, *, decoded: bool) -> bytes:
    if not decoded:
        client.fetch_into(requested(server, None), part)
        return b""
    with client.fetch(requested(server, part)) as response:
        return response.read()


def test_another_source_goes_on_in_mid_file(server: RangeServer, part: int) -> None:
    client = TransferClient(open_process)
    with range_server() as first:
        # it promises everything, and breaks off half way
        first.files["/object"] = (PACKED, '"of the first"')
        first.on_sent = lambda sent: stop(sent >= len(PACKED) // 2)
        request = requested(server, part)
        with (
            pytest.raises(TransferError) as caught,
            client.fetch(request._replace(url=f"{first.url}/object")) as response,
        ):
            response.read()
        assert caught.value.code == "transfer.truncated"
    here = os.fstat(part).st_size
    assert here > len(PACKED) // 3
    with client.fetch(request) as response:
        assert hashlib.sha256(response.read()).digest() == hashlib.sha256(PLAIN).digest()
    assert server.sent == len(PACKED) - here
    client.close()


def stop(now: bool) -> None:
    if now:
        raise ConnectionResetError("the test wants it to break off")


def test_a_server_without_ranges_begins_anew_and_is_read_past_for_a_stretch(server: RangeServer, part: int) -> None:
    server.knows_ranges, server.rate = False, 0
    client = TransferClient(open_process)
    os.pwrite(part, PACKED[:MEBI], 0)
    fetched = client.fetch_into(requested(server, None), part)
    assert (fetched.status, fetched.came) == (200, len(PACKED))
    assert held(part) == PACKED
    os.ftruncate(part, 0)
    stretch = requested(server, None)._replace(offset=5 * MEBI, length=MEBI, max_bytes=MEBI)
    fetched = client.fetch_into(stretch, part)
    assert (fetched.status, fetched.came, fetched.total) == (206, MEBI, len(PACKED))
    assert held(part) == PACKED[5 * MEBI : 6 * MEBI]
    os.ftruncate(part, 0)
    with pytest.raises(TransferError) as caught:
        client.fetch_into(stretch._replace(offset=65 * MEBI), part)
    assert caught.value.code == "transfer.no_ranges"
    with pytest.raises(TransferError) as caught:
        client.fetch_into(stretch._replace(offset=len(PACKED)), part)
    assert caught.value.code == "transfer.truncated"
    client.close()


def test_a_server_that_changed_its_file_is_asked_for_all_of_it(server: RangeServer, part: int) -> None:
    client = TransferClient(open_process)
    first = requested(server, part)
    os.pwrite(part, PACKED[: 2 * MEBI], 0)
    other = b"".join(pack(io.BytesIO(PLAIN), len(PLAIN), 1))
    server.files["/object"] = (other, '"2"')
    with client.fetch(first._replace(headers={"If-Range": '"1"'}, max_bytes=2 * len(PACKED))) as response:
        assert response.status == 200
        assert response.read() == PLAIN
    assert held(part) == other
    assert server.sent == len(other)
    client.close()
