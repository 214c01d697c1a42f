"""Undoing units: what was made comes back, and whatever else comes is refused before it costs anything."""

import bz2
import contextlib
import lzma
import os
import random
import struct
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm.content import bsdiff_streams
from pcm.content.bsdiff_streams import BZ2, LZMA, MAX_COUNT, RAW, ZSTD, lzma_filters, write_streams
from pcm.content.bundle_index import MAX_BASE, MAX_INDEX, MAX_PLAIN, Head
from pcm.content.patches import pack_bsdiff, pack_zstd
from pcm.content.unpacking import unpack_index, unpack_unit
from pcm.model.errors import TrustError

LIBRARY = random.Random(5).randbytes(3000) + b"abc" * 500
NEXT = LIBRARY[:1000] + b"inserted" + bytes((byte + 1) % 256 for byte in LIBRARY[1000:1400]) + LIBRARY[1300:]


def unit(kind: str) -> bytes:
    if kind == "zstd":
        return pack_zstd(NEXT, LIBRARY, 12)
    packed = pack_bsdiff(NEXT, LIBRARY)
    assert packed is not None
    return packed


@st.composite
def versions(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An old file, and a new one made of it by moving, changing, inserting and dropping stretches."""
    old = draw(st.binary(max_size=400)) * draw(st.integers(1, 20))
    new = b""
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(old)))
        stretch = old[start : draw(st.integers(start, len(old)))]
        add = draw(st.integers(0, 255))
        new += bytes((byte + add) % 256 for byte in stretch) + draw(st.binary(max_size=60))
    return old, new or b"x"


@given(versions(), st.sampled_from([3, 12, 19]))
def test_zstd_comes_back(pair: tuple[bytes, bytes], level: int) -> None:
    old, new = pair
    assert unpack_unit("zstd", pack_zstd(new, old, level), old, len(new)) == new


@given(versions())
@settings(max_examples=60)
def test_bsdiff_comes_back(pair: tuple[bytes, bytes]) -> None:
    old, new = pair
    packed = pack_bsdiff(new, old)
    assert packed is not None
    assert unpack_unit("bsdiff", packed, old, len(new)) == new
    assert unpack_unit("bsdiff", packed, bytearray(old), len(new)) == new  # type: ignore[arg-type] # any buffer will do


def test_raw_comes_back_and_has_no_base() -> None:
    assert unpack_unit("raw", b"abc", b"", 3) == b"abc"
    for packed, base, length in ((b"abc", b"x", 3), (b"abc", b"", 4), (b"abcd", b"", 3)):
        with pytest.raises(TrustError):
            unpack_unit("raw", packed, base, length)


@pytest.mark.parametrize("kind", ["zstd", "bsdiff"])
def test_every_flip_and_every_cut_is_refused_or_gives_other_bytes(kind: str) -> None:
    packed = unit(kind)
    same = 0
    for place in range(len(packed)):
        for bit in range(8):
            other = bytearray(packed)
            other[place] ^= 1 << bit
            try:
                same += unpack_unit(kind, bytes(other), LIBRARY, len(NEXT)) == NEXT
            except TrustError as error:
                assert error.code in {"trust.content", "trust.endless_data"}
        with pytest.raises(TrustError):
            unpack_unit(kind, packed[:place], LIBRARY, len(NEXT))
    assert same <= 16  # bits that mean nothing: a reserved one of the frame, a checksum's place
    with pytest.raises(TrustError):
        unpack_unit(kind, packed + b"\0", LIBRARY, len(NEXT))


@pytest.mark.parametrize("kind", ["raw", "zstd", "bsdiff", "other", ""])
@given(packed=st.binary(max_size=300), base=st.binary(max_size=50), length=st.integers(-5, 400))
def test_noise_is_refused(kind: str, packed: bytes, base: bytes, length: int) -> None:
    try:
        assert len(unpack_unit(kind, packed, base, length)) == length
    except TrustError as error:
        assert error.code in {"trust.content", "trust.endless_data"}


@pytest.mark.parametrize("kind", ["zstd", "bsdiff"])
def test_another_base_or_another_length_never_passes(kind: str) -> None:
    packed = unit(kind)
    other = LIBRARY[:-1] + b"!"
    for base, length in (
        (b"", len(NEXT)),
        (LIBRARY[:100], len(NEXT)),
        (LIBRARY, len(NEXT) - 1),
        (LIBRARY, len(NEXT) + 1),
    ):
        with pytest.raises(TrustError):
            unpack_unit(kind, packed, base, length)
    with contextlib.suppress(TrustError):
        assert len(unpack_unit(kind, packed, other, len(NEXT))) == len(NEXT)


def frame(blocks: bytes, content: int, *, window: int | None = None) -> bytes:
    """A frame by hand (RFC 8878, section 3.1.1): content size in 8 bytes; one segment, or a window descriptor."""
    descriptor = b"\xe0" if window is None else b"\xc0" + bytes([window])
    return b"\x28\xb5\x2f\xfd" + descriptor + content.to_bytes(8, "little") + blocks


def run(size: int, *, last: bool = False) -> bytes:
    """A block that repeats one byte: four bytes that become up to 128 KiB."""
    return (int(last) | 1 << 1 | size << 3).to_bytes(3, "little") + b"z"


BOMBS = {
    "more blocks than promised": (frame(run(128 * 1024) * 4000 + run(1, last=True), 4096), 4096),
    "promises more than it may": (frame(run(128 * 1024, last=True), 2**62), 4096),
    "promises 16 MiB to whoever expects 4 KiB": (
        frame(run(128 * 1024) * 127 + run(128 * 1024, last=True), 2**24),
        4096,
    ),
    "wants a window of 3.75 TB": (frame(run(4096, last=True), 4096, window=0xFF), 4096),
    "wants a window of 128 MiB": (frame(run(4096, last=True), 4096, window=0x88), 4096),
    "never ends": (frame(run(4096), 4096), 4096),
    "does not say its length": (b"\x28\xb5\x2f\xfd\x00\x58" + run(4096, last=True), 4096),
    "is a skippable frame": (b"\x50\x2a\x4d\x18\xff\xff\xff\xff", 4096),
    "needs a dictionary of ours": (b"\x28\xb5\x2f\xfd\x61\x07\x00\x10" + run(4096 + 256, last=True), 4096 + 256),
    "is two frames": (frame(run(2048, last=True), 2048) * 2, 4096),
    "is followed by an empty frame": (frame(run(4096, last=True), 4096) + frame(run(0, last=True), 0), 4096),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_no_memory(name: str) -> None:
    packed, length = BOMBS[name]
    tracemalloc.start()
    with pytest.raises(TrustError) as caught:
        unpack_unit("zstd", packed, b"base", length)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code in {"trust.content", "trust.endless_data"}
    assert peak < 2**20


def test_the_frames_made_by_hand_are_good_when_they_are_good() -> None:
    assert unpack_unit("zstd", frame(run(4096, last=True), 4096), b"base", 4096) == b"z" * 4096


def test_limits_hold_before_anything_is_unpacked() -> None:
    for packed, base, length in (
        (b"x" * 5000, b"", 3000),
        (b"x", bytes(MAX_BASE + 1), 1),
        (b"x", b"", MAX_PLAIN + 1),
        (b"x", b"", 0),
        (b"", b"", -1),
    ):
        for kind in ("raw", "zstd", "bsdiff"):
            with pytest.raises(TrustError):
                unpack_unit(kind, packed, base, length)


def streams(rows: list[tuple[int, int, int]], diff: bytes = b"", extra: bytes = b"", count: int | None = None) -> bytes:
    control = b"".join(struct.pack(f">{len(rows)}i", *(row[column] for row in rows)) for column in range(3))
    return write_streams(len(rows) if count is None else count, [(RAW, control), (RAW, diff), (RAW, extra)])


BASE = bytes(range(100))


def test_rows_take_add_insert_and_go_on() -> None:
    packed = streams([(3, 2, 10), (4, 0, -17), (2, 1, 0)], b"\0\0\0\1\1\1\xff\0\0", b"ab!")
    assert unpack_unit("bsdiff", packed, BASE, 12) == b"\0\1\2ab" + bytes([14, 15, 16, 15]) + b"\0\1!"


@pytest.mark.parametrize(
    ("rows", "diff", "extra", "length"),
    [
        ([(101, 0, 0)], bytes(101), b"", 101),  # beyond the end
        ([(50, 0, 0), (51, 0, 0)], bytes(101), b"", 101),
        ([(1, 0, 100), (1, 0, 0)], bytes(2), b"", 2),  # jumps behind it
        ([(1, 0, -2), (1, 0, 0)], bytes(2), b"", 2),  # before the beginning
        ([(1, 0, -(2**31)), (1, 0, 0)], bytes(2), b"", 2),
        ([(1, 0, 2**31 - 1), (1, 0, 0)], bytes(2), b"", 2),
        ([(-1, 3, 0)], b"", b"abc", 2),
        ([(3, -1, 0)], bytes(3), b"", 2),
        ([(2**31 - 1, 2**31 - 1, 0)], bytes(3), b"", 2),
        ([(2**31 - 1, 0, 0), (-(2**31) + 3, 0, 0)], bytes(2), b"", 2),
        ([(2, 0, 0)], bytes(3), b"", 2),  # streams longer or shorter than the rows say
        ([(2, 0, 0)], bytes(1), b"", 2),
        ([(0, 2, 0)], b"", b"abc", 2),
        ([(0, 2, 0)], b"x", b"ab", 2),
        ([(2, 0, 0)], bytes(2), b"", 3),
        ([(0, 0, 0)] * 4, b"", b"", 3),  # more rows than bytes
        ([], b"", b"", 1),
    ],
)
def test_rows_that_lead_outside_are_refused(
    rows: list[tuple[int, int, int]], diff: bytes, extra: bytes, length: int
) -> None:
    with pytest.raises(TrustError) as caught:
        unpack_unit("bsdiff", streams(rows, diff, extra), BASE, length)
    assert caught.value.code in {"trust.content", "trust.endless_data"}


@given(
    st.lists(st.tuples(*[st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 60)] * 3), max_size=6),
    st.binary(max_size=100),
    st.binary(max_size=100),
    st.integers(1, 200),
    st.none() | st.integers(0, 2**32 - 1),
)
@settings(max_examples=300)
def test_no_rows_lead_anywhere(
    rows: list[tuple[int, int, int]], diff: bytes, extra: bytes, length: int, count: int | None
) -> None:
    with contextlib.suppress(TrustError):
        assert len(unpack_unit("bsdiff", streams(rows, diff, extra, count), BASE, length)) == length


def test_streams_that_would_be_endless_stop_at_what_was_asked_for() -> None:
    control = struct.pack(">3i", 1000, 0, 0)
    zeros = bytes(20 * 2**20)
    for codec, bomb in (
        (BZ2, bz2.compress(zeros)),
        (LZMA, lzma.compress(zeros, lzma.FORMAT_RAW, filters=lzma_filters())),
        (ZSTD, zstandard.compress(zeros)),
        (9, b"x"),
    ):
        packed = write_streams(1, [(RAW, control), (codec, bomb[:9000]), (RAW, b"")])
        tracemalloc.start()
        with contextlib.suppress(TrustError):
            assert unpack_unit("bsdiff", packed, bytes(1000), 1000) == bytes(1000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * 2**20  # what lzma sets aside


def test_the_most_rows_take_no_minutes() -> None:
    rows = MAX_COUNT
    column = struct.pack(">i", 1) * rows
    control = lzma.compress(column + bytes(8 * rows), lzma.FORMAT_RAW, filters=lzma_filters())
    diff = lzma.compress(b"\1" * rows, lzma.FORMAT_RAW, filters=lzma_filters())
    packed = write_streams(rows, [(LZMA, control), (LZMA, diff), (RAW, b"")])
    base = bytes(rows)
    assert unpack_unit("bsdiff", packed, base, rows) == b"\1" * rows
    more = write_streams(rows + 1, [(LZMA, control), (LZMA, diff), (RAW, b"")])
    with pytest.raises(TrustError):
        unpack_unit("bsdiff", more, base, rows + 1)


@given(st.binary(min_size=1, max_size=70_000), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_sums_are_right_wherever_pieces_end(old: bytes, seed: int) -> None:
    diff = random.Random(seed).randbytes(len(old))
    plain = bytearray(len(old))
    bsdiff_streams._add(plain, 0, old, diff)
    assert plain == bytes((one + other) % 256 for one, other in zip(old, diff, strict=True))


def test_an_index_is_unpacked_as_one() -> None:
    plain = os.urandom(1000)
    packed = zstandard.compress(plain)
    assert unpack_index(packed, Head(len(packed), 1000)) == plain
    with pytest.raises(TrustError):
        unpack_index(packed, Head(len(packed), 999))
    assert MAX_INDEX <= MAX_PLAIN
