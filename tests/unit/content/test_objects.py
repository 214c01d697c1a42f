"""Objects: what is packed comes back, and nothing else does."""

import hashlib
import io
import os
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pcm.content.objects import is_object_name, largest_packed, object_path, pack, unpack, verified
from pcm.model.errors import StoreError, TrustError

EMPTY = hashlib.sha256(b"").hexdigest()


def packed(plain: bytes, level: int = 3) -> bytes:
    return b"".join(pack(io.BytesIO(plain), len(plain), level))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def test_an_object_lies_where_the_layout_says() -> None:
    assert object_path(EMPTY) == f"objects/e3/{EMPTY}.zst"
    assert is_object_name(EMPTY)
    assert not any(map(is_object_name, ["", EMPTY[:-1], EMPTY.upper(), EMPTY + "\n", "../" + EMPTY[3:]]))


@given(st.binary(max_size=3000), st.integers(1, 500), st.sampled_from([1, 3, 19]))
def test_what_is_packed_comes_back(plain: bytes, size: int, level: int) -> None:
    assert b"".join(unpack(pieces(packed(plain, level), size), len(plain))) == plain


@pytest.mark.parametrize("length", [0, 1, 131_071, 131_072, 1_000_003])
def test_lengths_around_the_piece_size(length: int) -> None:
    plain = os.urandom(length)
    data = packed(plain)
    assert len(data) <= largest_packed(length)
    assert zstandard.get_frame_parameters(data).content_size == length
    assert b"".join(unpack([data], length)) == plain


def test_the_same_file_gives_the_same_object() -> None:
    plain = os.urandom(1000) * 50
    assert packed(plain) == packed(plain)


@pytest.mark.parametrize("told", [3, 5])
def test_a_file_that_changed_while_it_was_packed_is_noticed(told: int) -> None:
    with pytest.raises(StoreError) as caught:
        list(pack(io.BytesIO(b"four"), told))
    assert caught.value.code == "store.file_changed"


def test_a_bomb_stops_at_its_limit() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(100 << 20))
    came: list[int] = []
    with pytest.raises(TrustError) as caught:
        came.extend(len(piece) for piece in unpack([bomb], 1 << 20))
    assert caught.value.code == "trust.endless_data"
    assert sum(came) <= 1 << 20


@given(st.binary(max_size=300))
def test_bytes_that_are_no_object_are_refused(data: bytes) -> None:
    try:
        plain = b"".join(unpack([data], 1 << 20))
    except TrustError as error:
        assert error.code in ("trust.content", "trust.endless_data")
    else:
        assert plain == b""  # nothing, or a skippable frame: what matters is the hash


def test_what_follows_the_frame_is_refused() -> None:
    with pytest.raises(TrustError):
        list(unpack([packed(b"x"), b"more"], 10))


def verdict(content: bytes, sha256: str, length: int) -> str:
    try:
        assert b"".join(verified([content], sha256, length, "test")) == content
    except TrustError as error:
        return error.code
    return "right"


def test_only_the_right_bytes_are_verified() -> None:
    sha = hashlib.sha256(b"right").hexdigest()
    assert verdict(b"right", sha, 5) == "right"
    assert verdict(b"wrong", sha, 5) == "trust.content"
    assert verdict(b"righ", sha, 5) == "trust.content"
    assert verdict(b"right!", sha, 5) == "trust.endless_data"
    assert verdict(b"", EMPTY, 0) == "right"


def test_an_endless_source_is_cut_at_the_first_byte_too_many() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"xxxx"

    taken: list[int] = []
    with pytest.raises(TrustError):
        taken.extend(len(piece) for piece in verified(endless(), EMPTY, 10, "test"))
    assert sum(taken) == 8
