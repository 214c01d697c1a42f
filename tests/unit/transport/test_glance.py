"""What a glance reads from networks and from its errand: bounded, and nothing but an answer or a ValueError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.transport.errand import MAX_ERRAND, Errand, parse_errand, parse_said
from pcm.transport.glance import MAX_HEAD, MAX_HOLD_S, parse_head

PIECES = st.sampled_from(
    [
        b"HTTP/1.1 304 Not Modified\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 304\r\n", b"HTTP/2 304 x\r\n",
        b"\r\n", b"\r\n\r\n", b"pcm-wake: 3600\r\n", b"PCM-Wake:99999999\r\n", b"pcm-wake: -1\r\n", b"connection: close\r\n", b": x\r\n", b" folded\r\n",
        b"no colon\r\n", b"HTTP/1.1 101 Switching\r\n\r\n", b"HTTP/1.1 999 x\r\n", b"HTTP/1.1 30\r\n", b"\0", b"x" * 3000,
    ]
)  # fmt: skip


def test_a_head_is_read() -> None:
    head = parse_head(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nPcm-Wake:  3600 \r\n\r\nrest")
    assert head is not None
    assert (head.status, head.wake_s, head.extra) == (304, 3600, b"rest")


def test_half_a_head_waits_for_the_rest() -> None:
    whole = b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n"
    assert all(parse_head(whole[:length]) is None for length in range(len(whole)))
    assert parse_head(whole) is not None


def test_interim_answers_are_passed_over() -> None:
    head = parse_head(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\npcm-wake: 5\r\n\r\nHTTP/1.1 304 x\r\n\r\n")
    assert head is not None
    assert (head.status, head.wake_s) == (304, 0)


def test_a_server_cannot_send_interim_answers_for_ever() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    with pytest.raises(ValueError, match="long"):
        parse_head(interim * (MAX_HEAD // len(interim) + 1))


def test_nobody_makes_it_wait_for_ever() -> None:
    head = parse_head(b"HTTP/1.1 304 x\r\npcm-wake: 99999999\r\n\r\n")
    assert head is not None
    assert head.wake_s == MAX_HOLD_S


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/2 304 x\r\n\r\n", b"HTTP/1.1 3o4 x\r\n\r\n", b"HTTP/1.1 3040\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n",
        b"HTTP/1.1 304 x\r\nno colon\r\n\r\n", b"HTTP/1.1 304 x\r\n folded: y\r\n\r\n", b"HTTP/1.1 304 x\r\n: y\r\n\r\n", b"x" * MAX_HEAD,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 400,
    ],
)  # fmt: skip
def test_what_is_not_http_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"HTTP|long"):
        parse_head(data)


@given(st.lists(PIECES, max_size=8).map(b"".join) | st.binary(max_size=300))
def test_any_bytes_are_a_head_or_an_error(data: bytes) -> None:
    try:
        head = parse_head(data)
    except ValueError:
        return
    if head is None:
        assert len(data) < MAX_HEAD
    else:
        assert 200 <= head.status <= 599
        assert 0 <= head.wake_s <= MAX_HOLD_S
        assert data.endswith(head.extra)


@given(
    tls=st.booleans(),
    host=st.from_regex(r"[a-z0-9.:-]{1,60}", fullmatch=True),
    port=st.integers(1, 65535),
    ca=st.from_regex(r"(/[a-z]{1,9}){0,3}", fullmatch=True),
    question=st.binary(max_size=200),
    parking=st.binary(min_size=1, max_size=200),
)
def test_an_errand_arrives_as_it_was_sent(
    tls: bool, host: str, port: int, ca: str, question: bytes, parking: bytes
) -> None:
    read = parse_errand(Errand(tls, host, port, ca, question, parking).encode())
    assert (read.tls, read.host, read.port, read.ca_file) == (tls, host, port, ca)
    assert (read.question, read.parking) == (question, parking)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda data: b"errand 1 443 4 0 3 0\nhost" + data))
def test_any_errand_is_one_or_is_refused(data: bytes) -> None:
    try:
        errand = parse_errand(data)
    except ValueError:
        return
    assert errand.encode() == data


@pytest.mark.parametrize(
    "data",
    [
        b"", b"errand 2 443 1 0 1 0\nhx", b"errand 1 0 1 0 1 0\nhx", b"errand 1 70000 1 0 1 0\nhx", b"errand 1 443 0 0 1 0\nx",
        b"errand 1 443 1 0 0 0\nh", b"errand 1 443 1 0 1 0\nhxx", b"errand 1 443 1 0 9 0\nhx", b"errand 1 443 1 -1 1 0\nhx",
        b"errand 1 443 2 0 1 0\nh\0x", b"errand 1 443 1 0 %d 0\nh" % MAX_ERRAND + b"x" * MAX_ERRAND,
    ],
)  # fmt: skip
def test_malformed_errands_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="errand"):
        parse_errand(data)


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        (b"status 304 3600\nparked\n", (304, 3600, True)),
        (b"status 304 0\n", (304, 0, False)),
        (b"status 200 0\nfailed\n", (200, 0, False)),
        (b"status 304 3600\nfailed\n", (304, 3600, False)),
        (b"failed\n", (0, 0, False)),
        (b"", (0, 0, False)),
        (b"status 304 -1\nparked\n", (0, 0, False)),
        (b"status 304\nparked\n", (0, 0, False)),
        (b"parked\n", (0, 0, False)),
    ],
)
def test_what_a_glance_says_is_read_strictly(said: bytes, understood: tuple[int, int, bool]) -> None:
    assert parse_said(said) == understood


@given(st.binary(max_size=100))
def test_whatever_it_says_is_bounded(said: bytes) -> None:
    status, wake_s, parked = parse_said(said)
    assert 0 <= status < 10**8
    assert 0 <= wake_s < 10**8
    assert not parked or said.endswith(b"parked\n")
