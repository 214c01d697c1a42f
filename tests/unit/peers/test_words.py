"""What peers say to each other, read from whoever says it."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.package import PackageFile
from pcm.peers.question import MAX_HEAD, Question, Refused, encode_head, extent, parse_head
from pcm.peers.sharing import GROUP_BYTES, make_groups, owner
from pcm.peers.subnets import Subnet, read_answer
from pcm.peers.wire import (
    ABSENT,
    COMING,
    HERE,
    MAX_ASKED,
    NAME,
    NOBODY,
    WANTED,
    Picture,
    Wants,
    encode_wants,
    names_in,
    parse_picture,
)

SHA = "ab" * 32
names = st.binary(min_size=NAME, max_size=NAME)
states = st.tuples(st.sampled_from([ABSENT, HERE, WANTED, COMING]), st.integers(0, 255))


@given(st.binary(min_size=16, max_size=16), st.lists(states, max_size=50))
def test_a_picture_comes_back_as_it_went(fetch: bytes, told: list[tuple[bytes, int]]) -> None:
    picture = Picture(fetch, tuple(told))
    read = parse_picture(picture.encode(), len(told))
    assert (read.fetch, read.states) == (fetch, tuple(told))


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_are_a_picture_or_refused(data: bytes, count: int) -> None:
    try:
        assert parse_picture(data, count).encode() == data
    except ValueError:
        return


@given(st.sets(names, max_size=60), names)
def test_what_is_wanted_is_found_by_halving(wanted: set[bytes], other: bytes) -> None:
    content = encode_wants(b"i" * 16, sorted(wanted, reverse=True))
    wants = Wants(lambda length, at: content[at : at + length], len(content))
    assert wants.fetch == b"i" * 16
    assert all(wants.find(name) == (WANTED, 0) for name in wanted)
    assert other in wanted or wants.find(other) == (ABSENT, 0)


@given(st.binary(max_size=300), names)
def test_any_file_can_be_asked_what_is_wanted(content: bytes, name: bytes) -> None:
    state, _ = Wants(lambda length, at: content[at : at + length], len(content)).find(name)
    assert state in (ABSENT, WANTED, COMING)


def test_a_file_of_nothing_wants_nothing() -> None:
    wants = Wants(lambda length, at: b""[at : at + length], 0)
    assert (wants.fetch, wants.find(b"n" * 32)) == (NOBODY, (ABSENT, 0))


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 33, b"x" * 32 * (MAX_ASKED + 1)])
def test_a_question_that_names_nothing_whole_is_none(data: bytes) -> None:
    assert names_in(data, MAX_ASKED) is None


def ask(*lines: str, first: str = f"GET /pcm/1/files/{SHA} HTTP/1.1") -> Question | int | None:
    try:
        found = parse_head("\r\n".join((first, *lines, "", "")).encode())
    except Refused as refused:
        return refused.status
    return None if found is None else found[0]


def test_a_file_is_asked_for_by_its_hash() -> None:
    question = ask("Host: elsewhere", "Range: bytes=5-9")
    assert isinstance(question, Question)
    assert (question.name.hex(), question.first, question.last, question.stays) == (SHA, 5, 9, True)


@pytest.mark.parametrize(
    "first",
    [
        "GET / HTTP/1.1", "GET /pcm/1/files/ HTTP/1.1", f"GET /pcm/1/files/{SHA}/ HTTP/1.1", "GET /pcm/1/files/../../etc/passwd HTTP/1.1",
        f"GET /pcm/1/files/{SHA.upper()} HTTP/1.1", f"GET /pcm/1/files/{SHA}?x HTTP/1.1", f"PUT /pcm/1/files/{SHA} HTTP/1.1",
        f"GET http://other/pcm/1/files/{SHA} HTTP/1.1", f"GET /pcm/1/files/{SHA}", f"GET /pcm/1/files/{SHA} HTTP/2", "GET /pcm/1/have HTTP/1.1",
        f"GET //pcm/1/files/{SHA} HTTP/1.1", f"GET /pcm/1/files/{SHA[:-1]}%61 HTTP/1.1", "",
    ],
)  # fmt: skip
def test_nothing_else_has_an_address(first: str) -> None:
    assert ask(first=first) == 404


@pytest.mark.parametrize(
    "line", ["Transfer-Encoding: chunked", "Expect: 100-continue", "no colon", " folded: x", "a b : c", "Content-Length: -1",
             "Content-Length: 1x", "Upgrade: h2c", "Content-Length: 5"],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_is_refused(line: str) -> None:
    assert ask(line) == 400


@pytest.mark.parametrize("length", ["0", "31", "33", str(32 * (MAX_ASKED + 1)), "999999999"])
def test_a_question_about_hashes_has_a_length_that_fits(length: str) -> None:
    assert ask(f"Content-Length: {length}", first="POST /pcm/1/have HTTP/1.1") == 413
    assert ask("Content-Length: 32", "Content-Length: 32", first="POST /pcm/1/have HTTP/1.1") == 400


def test_an_endless_head_is_cut() -> None:
    assert parse_head(b"GET /pcm") is None
    with pytest.raises(Refused) as caught:
        parse_head(b"x" * MAX_HEAD)
    assert caught.value.status == 431


@given(st.binary(max_size=400))
def test_any_bytes_are_a_question_or_refused_or_not_whole(data: bytes) -> None:
    try:
        parse_head(data)
    except Refused as refused:
        assert refused.status in (400, 404, 413, 431)


@given(st.integers(0, 10**9), st.integers(-1, 10**9), st.integers(-1, 10**9))
def test_a_range_is_of_the_file(length: int, first: int, last: int) -> None:
    question = Question(b"GET", b"n" * 32)
    question.first, question.last = first, last
    status, at, count = extent(question, length)
    assert at + count <= length
    if first < 0:
        assert (status, count) == (200, length)
    elif first >= length or 0 <= last < first:
        assert (status, count) == (416, 0)
    else:
        assert (status, at) == (206, first)
        assert count == min(last if last >= 0 else length, length - 1) - first + 1


def test_an_answer_says_how_long_it_is() -> None:
    assert encode_head(503, 0, stays=False).split(b"\r\n")[:4] == [
        b"HTTP/1.1 503 Service Unavailable", b"Content-Length: 0", b"Connection: close", b"Retry-After: 1",
    ]  # fmt: skip


lengths = st.lists(st.integers(0, 3 * GROUP_BYTES), max_size=40)


@given(lengths)
def test_every_file_is_in_one_group_and_the_last_is_its_key(sizes: list[int]) -> None:
    files = [PackageFile(f"f{at}", size, hashlib.sha256(b"%d" % at).hexdigest()) for at, size in enumerate(sizes)]
    groups = make_groups(files)
    assert sorted(file.path for group in groups for file in group.files) == sorted(f.path for f in files if f.length)
    for group in groups:
        assert group.files[-1].sha256 == group.key
        assert len(group.files) == 1 or group.length <= GROUP_BYTES


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=2, max_size=20, unique=True), names)
def test_when_one_goes_only_what_was_its_own_changes_hands(ids: list[bytes], key: bytes) -> None:
    first = owner(key.hex(), ids)
    for gone in ids:
        rest = [each for each in ids if each != gone]
        assert owner(key.hex(), rest) == first or gone == first
    assert owner(key.hex(), reversed(ids)) == first


def test_shares_are_about_even() -> None:
    ids = [bytes([number]) * 16 for number in range(12)]
    shares = [owner(hashlib.sha256(b"%d" % number).hexdigest(), ids) for number in range(2400)]
    assert all(140 < shares.count(each) < 270 for each in ids)


@pytest.mark.parametrize(
    ("address", "prefix", "other", "holds"),
    [
        (b"\x0a\x00\x00\x05", 24, b"\x0a\x00\x00\xff", True), (b"\x0a\x00\x00\x05", 24, b"\x0a\x00\x01\x05", False),
        (b"\x0a\x00\x00\x05", 32, b"\x0a\x00\x00\x05", True), (b"\x0a\x00\x00\x05", 24, bytes(16), False),
        (b"\xfd" + bytes(15), 64, b"\xfd" + bytes(14) + b"\x01", True),
    ],
)  # fmt: skip
def test_who_is_near(address: bytes, prefix: int, other: bytes, holds: bool) -> None:
    assert Subnet(address, prefix).holds(other) is holds


@given(st.binary(max_size=300))
def test_whatever_a_kernel_says_is_read_to_an_end(data: bytes) -> None:
    read_answer(data)
