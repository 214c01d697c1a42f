"""The note that one check leaves for the next: read back as written, or not at all."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.service.rest import ABSENT, CONTENT, OWNER, TARGET, Rest, holds, mark_of, parse_rest, read_rest, request_of

WORD = st.text(st.characters(exclude_characters="\n\t\0", exclude_categories=["Cs"]), max_size=20)
NUMBER = st.integers(0, 10**10)
PREPARED = st.lists(st.tuples(NUMBER, WORD, WORD), max_size=4)


@st.composite
def rests(draw: st.DrawFn) -> Rest:
    rest = Rest()
    for name in ("written", "until", "floor", "poll_after_s", "change", "port", "wake_s"):
        setattr(rest, name, draw(NUMBER))
    for name in ("boot", "host_name", "host", "ca_file", "authority", "etag", "poll", "park"):
        setattr(rest, name, draw(WORD))
    rest.tls, rest.account = draw(st.booleans()), (draw(NUMBER), draw(NUMBER))
    rest.polls, rest.parks = draw(PREPARED), draw(PREPARED)
    rest.marks = draw(st.lists(st.tuples(st.sampled_from([OWNER, CONTENT, TARGET]), WORD, WORD), max_size=4))
    return rest


@given(rests())
def test_it_is_read_back_as_it_was_written(rest: Rest) -> None:
    assert vars(parse_rest(rest.encode())) == vars(rest)


@given(rests(), st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_note_that_is_not_whole_is_refused_and_no_note_breaks_anything(rest: Rest, at: int, junk: bytes) -> None:
    data = rest.encode()
    for damaged in {data[: at % len(data)], data[: at % len(data)] + junk, data + junk} - {data}:
        with pytest.raises(ValueError):
            parse_rest(damaged)
    changed = bytearray(data)
    changed[at % len(data)] ^= 1
    try:
        parse_rest(bytes(changed))
    except ValueError:
        return


@given(st.binary(max_size=300))
def test_any_bytes_are_no_note(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_rest(data)


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a\0b"])
def test_a_text_that_would_forge_a_line_is_not_written(text: str) -> None:
    rest = Rest()
    rest.marks = [(OWNER, "1", text)]
    with pytest.raises(ValueError, match="line"):
        rest.encode()


def test_marks_tell_what_they_are_for(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    assert mark_of(CONTENT, str(file)) == ABSENT
    file.write_text("one")
    link.symlink_to(file)
    before = {kind: mark_of(kind, str(file)) for kind in (OWNER, CONTENT, TARGET)}
    through, itself = mark_of(TARGET, str(link)), mark_of(CONTENT, str(link))
    file.write_text("another")
    assert mark_of(OWNER, str(file)) == before[OWNER]
    assert mark_of(CONTENT, str(file)) != before[CONTENT]
    assert mark_of(TARGET, str(link)) != through
    assert mark_of(CONTENT, str(link)) == itself
    file.chmod(0o666)
    assert mark_of(OWNER, str(file)) != before[OWNER]


def test_a_file_of_the_same_size_and_time_in_its_place_is_another(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("one")
    other.write_text("two")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    before = mark_of(CONTENT, str(file))
    other.rename(file)
    assert mark_of(CONTENT, str(file)) != before


def test_there_is_none_where_there_is_none(tmp_path: Path) -> None:
    assert read_rest(str(tmp_path / "rest")) is None
    (tmp_path / "rest").mkdir()
    assert read_rest(str(tmp_path / "rest")) is None


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 12_000))
def test_it_holds_only_between_its_times(written: int, floor: int, until: int, now: int) -> None:
    rest = Rest()
    rest.written, rest.floor, rest.until = written, floor, until
    rest.boot, rest.host_name = boot_of_this_computer(), os.uname().nodename
    assert holds(rest, now) == (now < until and now >= written - 120 and now >= floor - 120)


def boot_of_this_computer() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_request_has_the_signature_for_its_time() -> None:
    rest = Rest()
    rest.authority, rest.etag, rest.poll, rest.park = "site.example", '"5"', "/logon/x", "/logon/y?known=5"
    rest.polls = [(1000, "in-1", "sig-1"), (1300, "in-2", "sig-2")]
    rest.parks = [(1000, "in-3", "sig-3")]
    early, late = request_of(rest, rest.polls, rest.poll, 1100.0), request_of(rest, rest.polls, rest.poll, 1200.0)
    assert b"Signature: sig-1\r\n" in early
    assert b"Signature: sig-2\r\n" in late
    assert early.startswith(b"GET /logon/x HTTP/1.1\r\nHost: site.example\r\n")
    assert b'If-None-Match: "5"\r\n' in early
    assert b"If-None-Match" not in request_of(rest, rest.parks, rest.park, 1000.0)
    assert request_of(rest, rest.polls, rest.poll, 2000.0) == b""
    assert request_of(rest, [], rest.park, 1000.0) == b""
