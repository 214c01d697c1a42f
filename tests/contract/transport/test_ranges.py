"""One suite over every way to fetch: stretches of files, part files that are gone on with, and objects that resume."""

import hashlib
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcm.content.objects import object_path, pack
from pcm.model.errors import RequestError, TransferError
from pcm.transport.framing import Request
from pcm.transport.source import Extent
from tests.contract.transport.conftest import Fetching

CONTENT = os.urandom(300_000)
MEBI = 1 << 20


def put(root: Path, name: str, content: bytes) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return name


def put_object(root: Path, plain: bytes) -> tuple[str, bytes]:
    packed = b"".join(pack(io.BytesIO(plain), len(plain)))
    return put(root, object_path(hashlib.sha256(plain).hexdigest()), packed), packed


@pytest.fixture
def part(tmp_path: Path) -> Iterator[int]:
    file = os.open(tmp_path / "some.part", os.O_RDWR | os.O_CREAT, 0o600)
    yield file
    os.close(file)


def held(part: int) -> bytes:
    return os.pread(part, 1 << 24, 0)


def fill(part: int, data: bytes) -> None:
    os.ftruncate(part, 0)
    os.pwrite(part, data, 0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, len(CONTENT) - 1), length=st.integers(1, len(CONTENT) + 10))
def test_a_stretch_is_that_stretch(fetching: Fetching, offset: int, length: int) -> None:
    name = put(fetching.root, "metadata/11.stretch.json", CONTENT)
    request = Request(f"{fetching.base}/{name}", offset=offset, length=length)
    with fetching.client.fetch(request) as response:
        assert response.status == 206
        assert response.total == len(CONTENT)
        assert response.read() == CONTENT[offset : offset + length]


def test_a_stretch_of_nothing_there_is_a_status(fetching: Fetching) -> None:
    name = put(fetching.root, "metadata/12.short.json", b"short")
    with fetching.client.fetch(Request(f"{fetching.base}/{name}", offset=5, length=3)) as response:
        assert response.status == 416


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 200_000), (70_000, 0), (70_000, 100_000), (299_999, 5)])
@pytest.mark.parametrize("here", [0, 1, 65_536])
def test_a_part_is_filled_and_gone_on_with(fetching: Fetching, part: int, offset: int, length: int, here: int) -> None:
    name = put(fetching.root, "metadata/13.parted.json", CONTENT)
    wanted = CONTENT[offset : offset + length] if length else CONTENT[offset:]
    fill(part, wanted[:here])
    told: list[int] = []
    request = Request(f"{fetching.base}/{name}", offset=offset, length=length, max_bytes=MEBI)
    fetched = fetching.client.fetch_into(request, part, told.append)
    assert held(part) == wanted
    assert fetched.came == len(wanted) - len(wanted[:here])
    assert fetched.total in ((len(CONTENT), None) if not fetched.came else (len(CONTENT),))
    assert fetched.status == (200 if not (offset or length or here) else 206)
    assert told in ([len(wanted)], [])
    again = fetching.client.fetch_into(request, part)
    assert (again.status, again.came) == (206, 0)
    assert held(part) == wanted


def test_a_part_that_is_longer_than_it_may_be_is_cut_or_begun_anew(fetching: Fetching, part: int) -> None:
    name = put(fetching.root, "metadata/14.longer.json", CONTENT)
    url = f"{fetching.base}/{name}"
    fill(part, CONTENT[:1000] + b"and more")
    assert fetching.client.fetch_into(Request(url, length=1000, max_bytes=2000), part).came == 0
    assert held(part) == CONTENT[:1000]
    fill(part, CONTENT + b"and more")
    fetching.client.fetch_into(Request(url, max_bytes=len(CONTENT)), part)
    assert held(part) == CONTENT
    fill(part, CONTENT + b"and more")
    fetching.client.fetch_into(Request(url, max_bytes=MEBI), part)
    assert held(part) == CONTENT


def test_a_file_longer_than_a_part_may_be_does_not_come(fetching: Fetching, part: int) -> None:
    name = put(fetching.root, "metadata/15.toolong.json", CONTENT)
    for here in (0, 1000):
        fill(part, CONTENT[:here])
        with pytest.raises(TransferError) as caught:
            fetching.client.fetch_into(Request(f"{fetching.base}/{name}", max_bytes=len(CONTENT) - 1), part)
        assert caught.value.code == "transfer.too_long"
        assert held(part) == CONTENT[:here]


def test_a_file_that_is_another_by_now_is_begun_anew(fetching: Fetching, part: int) -> None:
    """By its tag where the server is the same, by its length where it is another."""
    name = put(fetching.root, "metadata/16.changed.json", CONTENT)
    request = Request(f"{fetching.base}/{name}", max_bytes=MEBI)
    tag = fetching.client.fetch_into(request, part).etag
    assert tag
    other = os.urandom(310_000)
    replacement = fetching.root / "metadata/16.next.json"
    replacement.write_bytes(other)
    replacement.rename(fetching.root / name)
    for precaution in ({"headers": {"If-Range": tag}}, {"total": len(CONTENT)}):
        fill(part, CONTENT[:100_000])
        fetched = fetching.client.fetch_into(request._replace(**precaution), part)
        assert held(part) == other
        assert (fetched.status, fetched.came) == (200, len(other))
        fill(part, CONTENT[200_000:250_000])
        stretch = request._replace(offset=200_000, length=100_000, **precaution)
        assert fetching.client.fetch_into(stretch, part).came == 100_000
        assert held(part) == other[200_000:300_000]


def test_nothing_is_asked_by_a_tag_where_nothing_is_here(fetching: Fetching, part: int) -> None:
    name = put(fetching.root, "metadata/17.tagged.json", CONTENT)
    request = Request(f"{fetching.base}/{name}", max_bytes=MEBI, headers={"If-Range": '"old"'}, offset=5)
    fetching.client.fetch_into(request, part)
    assert held(part) == CONTENT[5:]


@pytest.mark.parametrize("here", [0, 1, 17, 100_000, 1_000_000, None])
def test_an_object_resumes_wherever_it_was(fetching: Fetching, part: int, here: int | None) -> None:
    plain = os.urandom(900_000) + bytes(2_000_000) + os.urandom(500_000)
    name, packed = put_object(fetching.root, plain)
    fill(part, packed[:here])
    request = Request(
        f"{fetching.base}/{name}", max_bytes=2 * MEBI, decode="zstd", max_decoded_bytes=len(plain), part=part
    )
    with fetching.client.fetch(request) as response:
        assert response.status == (206 if here != 0 else 200)
        assert response.read() == plain
        assert response.packed == len(packed[here:] if here is not None else b"")
    assert held(part) == packed


def test_an_object_that_was_packed_anew_meanwhile_is_begun_anew(fetching: Fetching, part: int) -> None:
    plain = os.urandom(500_000) + bytes(3_000_000)
    name, packed = put_object(fetching.root, plain)
    (fetching.root / name).write_bytes(zstandard.ZstdCompressor(level=10).compress(plain) + b"")
    other = (fetching.root / name).read_bytes()
    assert other != packed
    fill(part, packed[:300_000])
    url = f"{fetching.base}/{name}"
    request = Request(url, max_bytes=MEBI, decode="zstd", max_decoded_bytes=len(plain), part=part, total=len(packed))
    if len(other) == len(packed):
        pytest.skip("both happen to be as long")
    with fetching.client.fetch(request) as response:
        assert response.status == 200
        assert response.read() == plain
    assert held(part) == other


@pytest.mark.parametrize("what", ["flipped", "of another file"])
def test_a_part_that_leads_nowhere_is_emptied_and_nobody_blamed(fetching: Fetching, part: int, what: str) -> None:
    plain = bytes(range(256)) * 8000 + os.urandom(400_000)
    name, packed = put_object(fetching.root, plain)
    other = b"".join(pack(io.BytesIO(os.urandom(800_000)), 800_000))
    here = {"flipped": packed[:5] + b"\x55\xaa" + packed[7:200_000], "of another file": other[:200_000]}[what]
    fill(part, here)
    request = Request(
        f"{fetching.base}/{name}", max_bytes=2 * MEBI, decode="zstd", max_decoded_bytes=len(plain), part=part
    )
    with pytest.raises(TransferError) as caught, fetching.client.fetch(request) as response:
        response.read()
    assert caught.value.code == "transfer.changed"
    assert held(part) == b""
    with fetching.client.fetch(request) as response:
        assert response.read() == plain
    assert held(part) == packed


def test_a_damaged_object_leaves_nothing_in_its_part(fetching: Fetching, part: int) -> None:
    name, packed = put_object(fetching.root, os.urandom(500_000))
    (fetching.root / name).write_bytes(packed + b"more")
    request = Request(f"{fetching.base}/{name}", max_bytes=MEBI, decode="zstd", max_decoded_bytes=500_000, part=part)
    with pytest.raises(TransferError) as caught, fetching.client.fetch(request) as response:
        response.read()
    assert caught.value.code == "transfer.damaged"
    assert held(part) == b""


def test_a_part_for_what_is_not_there_stays_as_it_is(fetching: Fetching, part: int) -> None:
    fill(part, b"something")
    url = f"{fetching.base}/objects/33/{'3' * 64}.zst"
    with pytest.raises(TransferError) as caught:
        fetching.client.fetch(Request(url, decode="zstd", max_decoded_bytes=10, part=part))
    assert caught.value.code == "transfer.not_found"
    with pytest.raises(TransferError):
        fetching.client.fetch_into(Request(url), part)
    assert held(part) == b"something"


def test_what_is_here_is_unpacked(fetching: Fetching, part: int) -> None:
    plain = os.urandom(300_000) + bytes(5 * MEBI)
    packed = b"".join(pack(io.BytesIO(plain), len(plain)))
    fill(part, b"before" + packed + b"after")
    for kind in ("object", "index"):
        extent = Extent(part, 6, len(packed))
        assert b"".join(fetching.client.unpack(kind, extent, (), len(plain))) == plain
    assert b"".join(fetching.client.unpack("raw", Extent(part, 1, 3), (), 3)) == b"efo"
    assert b"".join(fetching.client.unpack("raw", Extent(part, 0, 0), (), 0)) == b""


def test_a_patch_is_undone_over_many_pieces_of_old_files(fetching: Fetching, part: int, tmp_path: Path) -> None:
    base = os.urandom(200_000)
    plain = base[50_000:150_000] + b"new" + base[:50_000]
    prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    packed = zstandard.ZstdCompressor(dict_data=prefix, level=9, write_content_size=True).compress(plain)
    assert len(packed) < 1000
    fill(part, packed)
    (tmp_path / "old").write_bytes(b"x" + base)
    bounds = [0, *range(100, 20_000, 100), 20_000, 200_000]

    def bases() -> Iterator[Extent]:
        for first, last in itertools.pairwise(bounds):
            file = os.open(tmp_path / "old", os.O_RDONLY)
            yield Extent(file, 1 + first, last - first)
            os.close(file)  # each is used only until the next one is asked for

    unpacked = b"".join(fetching.client.unpack("zstd", Extent(part, 0, len(packed)), bases(), len(plain)))
    assert unpacked == plain


@pytest.mark.parametrize(
    ("kind", "packed", "plain_length", "code"),
    [
        ("object", b"nonsense", 10, "transfer.damaged"),
        ("index", zstandard.ZstdCompressor().compress(b"x" * 100), 99, "transfer.too_long"),
        ("object", zstandard.ZstdCompressor().compress(b"x" * 100), 101, "transfer.damaged"),
        ("raw", b"12345", 4, "transfer.damaged"),
        ("zstd", b"nonsense", 10, "transfer.damaged"),
        ("zstd", zstandard.ZstdCompressor().compress(bytes(1 << 20)), 1000, "transfer.too_long"),
        ("bsdiff", b"nonsense", 10, "transfer.damaged"),
    ],
)
def test_what_cannot_be_unpacked_has_a_code(
    fetching: Fetching, part: int, kind: str, packed: bytes, plain_length: int, code: str
) -> None:
    fill(part, packed)
    for _ in range(2):  # and the process that found it out goes on
        with pytest.raises(TransferError) as caught:
            b"".join(fetching.client.unpack(kind, Extent(part, 0, len(packed)), (), plain_length))
        assert caught.value.code == code
    with pytest.raises(TransferError) as caught:
        b"".join(fetching.client.unpack(kind, Extent(part, 0, len(packed) + 1), (), plain_length))
    assert caught.value.code in ("transfer.damaged", "transfer.too_long")


def test_what_cannot_be_asked_is_not_asked(fetching: Fetching, part: int) -> None:
    extent = Extent(part, 0, 0)
    for kind, packed, bases, plain_length in (
        ("gzip", extent, (), 1),
        ("zstd", extent, (), 1 << 30),
        ("zstd", extent._replace(length=1 << 30), (), 1),
        ("zstd", extent, (extent._replace(length=1 << 30),), 1),
        ("raw", extent, (), -1),
    ):
        with pytest.raises(RequestError):
            b"".join(fetching.client.unpack(kind, packed, bases, plain_length))
    for wrong in ({"length": -1}, {"have": 5, "length": 5}, {"part": part}, {"method": "HEAD", "offset": 5}):
        with pytest.raises(RequestError):
            fetching.client.fetch(Request(f"{fetching.base}/x", **wrong))
