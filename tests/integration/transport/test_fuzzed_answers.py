"""Whatever bytes a server sends for an answer, there is a coded error or a bounded answer, soon."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcm.model.errors import TransferError
from pcm.testing.hostile_server import HostileServer
from pcm.transport.client import TransferClient
from pcm.transport.framing import CODES, Request
from pcm.transport.in_process import transfer_in_thread

PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n", b"HTTP/9.9 ", b"\r\n",
        b"\r\n\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0005\r\n", b"content-length:5 \r\n", b"Content-Length: 18446744073709551617\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: CHUNKED\r\n", b"Connection: close\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"-5\r\n",
        b"HTTP/1.1 206 Partial Content\r\n", b"HTTP/1.1 416 No\r\n", b"Content-Range: bytes 3-7/8\r\n", b"Content-Range: bytes 0-4/*\r\n",
        b"Content-Range: bytes */3\r\n", b"Content-Range: bytes 3-2/99999999999999999999\r\n", b'ETag: "1"\r\n',
        b"0x5\r\n", b"ffffffffffffffffff\r\n", b"hello", b"ETag: \xff\r\n", b" folded\r\n", b": nameless\r\n", b"no colon\r\n", b"\0", b"\n\n",
    ]
)  # fmt: skip
RANGES = [(0, 0, 0), (3, 5, 0), (0, 8, 3), (3, 0, 0), (0, 0, 3), (1, 7, 2)]  # offset, length, and what is here already
ANSWERS = (
    st.lists(PIECES, max_size=8).map(b"".join)
    | st.binary(max_size=200)
    | st.binary(max_size=100).map(lambda data: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
)


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as running:
        yield running


@pytest.fixture(scope="module")
def client() -> Iterator[TransferClient]:
    made = transfer_in_thread()
    yield made
    made.close()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=ANSWERS, decode=st.sampled_from([None, "zstd"]), asked=st.sampled_from(RANGES))
def test_any_answer_is_an_answer_or_a_coded_error(
    server: HostileServer, client: TransferClient, answer: bytes, decode: str | None, asked: tuple[int, int, int]
) -> None:
    server.answers["fuzz"] = answer
    offset, length, have = asked if decode is None else (0, 0, 0)
    request = Request(
        f"{server.url}/fuzz",
        max_bytes=100,
        max_decoded_bytes=100,
        decode=decode,
        total_s=3,
        answer_s=1,
        rate_window_s=0.3,
        offset=offset,
        length=length,
        have=have,
    )
    try:
        with client.fetch(request) as response:
            came = len(response.read())
            assert came <= (length - response.kept if length and response.status == 206 else 100)
            assert 200 <= response.status <= 599
    except TransferError as error:
        assert error.code in CODES
        assert error.message.isprintable()
