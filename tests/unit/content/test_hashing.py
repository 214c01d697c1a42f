"""The digest beside the writing: the same as hashlib's, whatever the pieces, and no thread is left."""

import hashlib
import threading
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.content import hashing
from pcm.content.hashing import LARGE, Digest
from pcm.content.objects import verified
from pcm.model.errors import TrustError


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "sha256"]


@pytest.mark.parametrize("length", [0, LARGE])
@given(pieces=st.lists(st.binary(max_size=2000), max_size=20))
def test_it_is_the_digest_of_all_pieces(length: int, pieces: list[bytes]) -> None:
    digest = Digest(length)
    for piece in pieces:
        digest.update(piece)
    assert digest.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert threads() == []


def test_more_than_can_wait_is_hashed_in_order() -> None:
    pieces = [bytes([number]) * 300_000 for number in range(60)]
    digest = Digest(sum(map(len, pieces)))
    for piece in pieces:
        digest.update(piece)
    assert digest.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_a_buffer_that_changes_later_is_hashed_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "LARGE", 0)
    buffer = bytearray(b"first")
    digest = Digest(1)
    digest.update(buffer)  # type: ignore[arg-type] # what no caller may do
    buffer[:] = b"other"
    assert digest.hexdigest() == hashlib.sha256(b"first").hexdigest()


def test_a_large_file_that_is_not_read_to_its_end_leaves_no_thread() -> None:
    passing = verified([b"x" * 1000] * 10, "0" * 64, LARGE, "A test")
    next(passing)
    assert isinstance(passing, Generator)
    passing.close()
    assert threads() == []


@pytest.mark.parametrize(("count", "code"), [(9, "trust.content"), (10, "trust.content"), (11, "trust.endless_data")])
def test_a_large_file_that_is_another_is_noticed(count: int, code: str) -> None:
    piece = bytes(LARGE // 8)
    wanted = hashlib.sha256(b"x" + bytes(LARGE - 1)).hexdigest()
    with pytest.raises(TrustError) as caught:
        list(verified([piece] * (count - 2), wanted, LARGE, "A test"))
    assert caught.value.code == code
    assert threads() == []
