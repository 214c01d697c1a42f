"""One suite over every way to fetch: the same files give the same answers."""

import hashlib
import io
import os
from pathlib import Path

import pytest
import zstandard

from pcm.content.objects import object_path, pack
from pcm.model.errors import RequestError, TransferError
from pcm.transport.framing import Request
from tests.contract.transport.conftest import Fetching


def put(root: Path, name: str, content: bytes) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return name


def put_object(root: Path, plain: bytes) -> str:
    return put(root, object_path(hashlib.sha256(plain).hexdigest()), b"".join(pack(io.BytesIO(plain), len(plain))))


def refused(fetching: Fetching, request: Request) -> TransferError:
    with pytest.raises(TransferError) as caught, fetching.client.fetch(request) as response:
        response.read()
    return caught.value


def test_a_file_comes_whole_with_its_length_and_tag(fetching: Fetching) -> None:
    content = os.urandom(700_001)
    name = put(fetching.root, "metadata/7.root.json", content)
    with fetching.client.fetch(Request(f"{fetching.base}/{name}", max_bytes=len(content))) as response:
        assert response.status == 200
        assert response.headers["content-length"] == str(len(content))
        assert response.etag
        assert response.read() == content


def test_many_files_come_one_after_the_other(fetching: Fetching) -> None:
    for number in range(1, 20):
        name = put(fetching.root, f"metadata/{number}.targets.json", b"x" * number * 1000)
        assert fetching.client.fetch(Request(f"{fetching.base}/{name}")).read() == b"x" * number * 1000


def test_an_empty_file_comes_empty(fetching: Fetching) -> None:
    name = put(fetching.root, "metadata/1.empty.json", b"")
    assert fetching.client.fetch(Request(f"{fetching.base}/{name}")).read() == b""


def test_what_has_not_changed_is_said_so_without_a_body(fetching: Fetching) -> None:
    name = put(fetching.root, "metadata/timestamp.json", b"first")
    url = f"{fetching.base}/{name}"
    tag = fetching.client.fetch(Request(url)).etag
    assert tag is not None
    with fetching.client.fetch(Request(url, headers={"If-None-Match": tag})) as response:
        assert (response.status, response.read()) == (304, b"")
    replacement = fetching.root / "metadata/new"
    replacement.write_bytes(b"other")  # as long as before, and renamed over it
    replacement.rename(fetching.root / name)
    with fetching.client.fetch(Request(url, headers={"If-None-Match": tag})) as response:
        assert (response.status, response.read()) == (200, b"other")


def test_a_download_goes_on_where_it_was(fetching: Fetching) -> None:
    content = os.urandom(100_000)
    name = put(fetching.root, "metadata/2.resumed.json", content)
    with fetching.client.fetch(Request(f"{fetching.base}/{name}", offset=60_000)) as response:
        assert response.status == 206
        assert response.read() == content[60_000:]


def test_a_range_beyond_the_end_is_a_status_for_the_caller(fetching: Fetching) -> None:
    name = put(fetching.root, "metadata/3.short.json", b"short")
    with fetching.client.fetch(Request(f"{fetching.base}/{name}", offset=10)) as response:
        assert response.status == 416


def test_head_tells_the_length_and_sends_nothing(fetching: Fetching) -> None:
    name = put(fetching.root, "metadata/4.head.json", b"12345")
    with fetching.client.fetch(Request(f"{fetching.base}/{name}", method="HEAD")) as response:
        assert (response.status, response.headers["content-length"], response.read()) == (200, "5", b"")


@pytest.mark.parametrize("name", ["metadata/99.root.json", "nothing", "metadata", "metadata/1.root.json/x"])
def test_what_is_not_there_is_not_found(fetching: Fetching, name: str) -> None:
    put(fetching.root, "metadata/1.root.json", b"{}")
    error = refused(fetching, Request(f"{fetching.base}/{name}"))
    assert error.code in ("transfer.not_found", "transfer.protocol")
    assert fetching.client.fetch(Request(f"{fetching.base}/metadata/1.root.json")).read() == b"{}"


def test_a_file_longer_than_allowed_does_not_come(fetching: Fetching) -> None:
    name = put(fetching.root, "metadata/5.long.json", b"x" * 1001)
    assert refused(fetching, Request(f"{fetching.base}/{name}", max_bytes=1000)).code == "transfer.too_long"


def test_an_object_is_unpacked_on_the_way(fetching: Fetching) -> None:
    plain = b"plain text " * 50_000
    name = put_object(fetching.root, plain)
    request = Request(f"{fetching.base}/{name}", decode="zstd", max_decoded_bytes=len(plain))
    with fetching.client.fetch(request) as response:
        assert response.read() == plain
    for empty in (b"", b"x"):
        name = put_object(fetching.root, empty)
        assert (
            fetching.client.fetch(Request(f"{fetching.base}/{name}", decode="zstd", max_decoded_bytes=1)).read()
            == empty
        )


def test_a_bomb_of_zstd_stops_at_its_limit(fetching: Fetching) -> None:
    packer = zstandard.ZstdCompressor(
        level=19
    ).compressobj()  # no length in its header: the output itself must be counted
    bomb = packer.compress(bytes(256 << 20)) + packer.flush()
    assert len(bomb) < 50_000
    name = put(fetching.root, "objects/00/" + "0" * 64 + ".zst", bomb)
    error = refused(fetching, Request(f"{fetching.base}/{name}", decode="zstd", max_decoded_bytes=1 << 20))
    assert error.code == "transfer.too_long"


def test_a_bomb_that_tells_its_length_does_not_even_start(fetching: Fetching) -> None:
    name = put(fetching.root, "objects/11/" + "1" * 64 + ".zst", zstandard.ZstdCompressor().compress(bytes(1 << 20)))
    error = refused(fetching, Request(f"{fetching.base}/{name}", decode="zstd", max_decoded_bytes=1000))
    assert error.code == "transfer.too_long"
    assert "1048576" in error.message


@pytest.mark.parametrize("damage", ["not zstd", "cut", "flipped", "followed", "empty", "window"])
def test_a_damaged_object_is_said_to_be_damaged(fetching: Fetching, damage: str) -> None:
    plain = os.urandom(300_000)
    packed = b"".join(pack(io.BytesIO(plain), len(plain)))
    wide = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27)).compressobj()
    content = {
        "not zstd": b"<html>" * 100,
        "cut": packed[:200_000],
        "flipped": packed[:5] + b"\xff" + packed[6:],
        "followed": packed + b"more",
        "empty": b"",
        "window": wide.compress(plain) + wide.flush(),
    }[damage]
    name = put(fetching.root, "objects/22/" + "2" * 64 + ".zst", content)
    error = refused(
        fetching, Request(f"{fetching.base}/{name}", decode="zstd", max_decoded_bytes=len(plain), max_bytes=1 << 20)
    )
    assert error.code in (("transfer.damaged", "transfer.too_long") if damage == "flipped" else ("transfer.damaged",))


def test_a_body_given_up_half_way_costs_the_channel_and_nothing_else(fetching: Fetching) -> None:
    name = put(fetching.root, "metadata/6.large.json", bytes(5_000_000))
    url = f"{fetching.base}/{name}"
    with fetching.client.fetch(Request(url, max_bytes=5_000_000)) as response:
        next(response.iter_bytes())
    other = fetching.client.fetch(Request(url, max_bytes=5_000_000))
    next(other.iter_bytes())
    assert len(fetching.client.fetch(Request(url, max_bytes=5_000_000)).read()) == 5_000_000


def test_a_request_that_cannot_be_asked_changes_nothing(fetching: Fetching) -> None:
    with pytest.raises(RequestError):
        fetching.client.fetch(Request("gopher://x/"))
    name = put(fetching.root, "metadata/8.after.json", b"x")
    assert fetching.client.fetch(Request(f"{fetching.base}/{name}")).read() == b"x"
