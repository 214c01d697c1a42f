"""The privileged side against a transfer process that has been taken over: it may say anything, and gains nothing."""

import json
import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import TransferError
from pcm.transport.answers import MAX_FRAME
from pcm.transport.client import TransferClient, code_of_status
from pcm.transport.framing import CODES, Request, Settings
from pcm.transport.response import Response

REQUEST = Request("http://h/", max_bytes=10_000)
HELLO = b'{"hello":1,"hardened":["no_exec"]}\n'
HEAD = b'{"id":1,"status":200,"headers":{}}\n'
END = b'{"id":1,"ok":true}\n'


class ScriptedChannel:
    """A `Channel` whose other end has said everything already, in the given pieces, and then hangs or has gone."""

    def __init__(self, pieces: Iterable[bytes], *, hangs: bool = False) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._hangs = hangs
        self.written = b""
        self.files = 0
        self.closed = 0

    def read_into(self, buffer: memoryview, timeout_s: float) -> int:
        assert timeout_s <= REQUEST.total_s + 6
        if self._pieces:
            piece, most = self._pieces.pop(0), len(buffer)
            assert most
            if len(piece) > most:
                self._pieces.insert(0, piece[most:])
            buffer[: len(piece[:most])] = piece[:most]
            return len(piece[:most])
        if self._hangs:
            raise TransferError("hangs", code="transfer.timeout")
        return 0

    def write(self, data: bytes, timeout_s: float) -> None:
        assert timeout_s > 0
        self.written += data

    def send_file(self, data: bytes, file: int, timeout_s: float) -> None:
        os.fstat(file)
        self.files += 1
        self.write(data, timeout_s)

    def close(self) -> None:
        self.closed += 1


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def scripted(*pieces: bytes, hangs: bool = False) -> tuple[TransferClient, list[ScriptedChannel]]:
    channels: list[ScriptedChannel] = []

    def open_channel() -> ScriptedChannel:
        channels.append(ScriptedChannel(pieces, hangs=hangs))
        return channels[-1]

    return TransferClient(open_channel, Settings(ca_file="/ca.pem")), channels


def code_of(client: TransferClient, request: Request = REQUEST) -> str:
    with pytest.raises(TransferError) as caught:
        client.fetch(request).read()
    return caught.value.code


def test_an_answer_in_single_bytes_is_the_same_answer() -> None:
    said = HELLO + HEAD + frame(b"one") + frame(b"two") + frame(b"") + END
    client, channels = scripted(*(bytes([byte]) for byte in said))
    assert client.fetch(REQUEST).read() == b"onetwo"
    assert json.loads(channels[0].written.split(b"\n")[0])["configure"]["ca_file"] == "/ca.pem"
    assert channels[0].closed == 0


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_whatever_it_says_there_is_a_coded_error_or_an_answer(pieces: list[bytes]) -> None:
    for start in ((), (HELLO,), (HELLO, HEAD), (HELLO, HEAD, frame(b"x"))):
        client, _ = scripted(*start, *pieces)
        try:
            assert len(client.fetch(REQUEST).read()) <= REQUEST.max_bytes
        except TransferError as error:
            assert error.code in CODES


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ([], "transfer.protocol"),
        ([b"x" * 100_000], "transfer.protocol"),
        ([HELLO], "transfer.protocol"),
        ([HELLO, b'{"id":2,"status":200,"headers":{}}\n'], "transfer.protocol"),
        ([HELLO, HEAD, (MAX_FRAME + 1).to_bytes(4, "big")], "transfer.protocol"),
        ([HELLO, HEAD, frame(b"x" * 6000), frame(b"x" * 6000)], "transfer.too_long"),
        ([HELLO, HEAD, b"\0\0\0\5four"], "transfer.protocol"),
        ([HELLO, HEAD, frame(b"")], "transfer.protocol"),
        ([HELLO, HEAD, frame(b""), b'{"id":1,"error":"transfer.truncated","message":"m"}\n'], "transfer.truncated"),
        ([HELLO, b'{"id":1,"error":"transfer.unreachable","message":"m"}\n'], "transfer.unreachable"),
    ],
)
def test_broken_rules_have_codes(said: list[bytes], code: str) -> None:
    client, _ = scripted(*said)
    assert code_of(client) == code


@pytest.mark.parametrize("said", [[], [HELLO], [HELLO, HEAD], [HELLO, HEAD, frame(b"x")], [HELLO, HEAD, frame(b"")]])
def test_a_process_that_hangs_is_given_up_and_started_again(said: list[bytes]) -> None:
    client, channels = scripted(*said, hangs=True)
    assert code_of(client) == "transfer.timeout"
    assert channels[0].closed == 1
    code_of(client)
    assert len(channels) == 2


def test_a_process_that_breaks_the_rules_is_not_asked_again() -> None:
    client, channels = scripted(HELLO, b"nonsense\n")
    assert code_of(client) == "transfer.protocol"
    assert channels[0].closed == 1
    code_of(client)
    assert len(channels) == 2


def test_a_server_that_fails_costs_the_process_nothing() -> None:
    error = b'{"id":%d,"error":"transfer.unreachable","message":"m"}\n'
    client, channels = scripted(HELLO, error % 1, error % 2)
    assert code_of(client) == "transfer.unreachable"
    assert code_of(client) == "transfer.unreachable"
    assert len(channels) == 1


def test_decoded_bodies_are_limited_by_their_decoded_length() -> None:
    request = REQUEST._replace(decode="zstd", max_bytes=10, max_decoded_bytes=20)
    client, _ = scripted(HELLO, HEAD, frame(b"x" * 20), frame(b""), END)
    assert client.fetch(request).read() == b"x" * 20
    client, _ = scripted(HELLO, HEAD, frame(b"x" * 21))
    assert code_of(client, request) == "transfer.too_long"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, None), (206, None), (400, None), (409, None), (416, None), (401, "transfer.refused"),
        (403, "transfer.refused"), (404, "transfer.not_found"), (410, "transfer.not_found"), (408, "transfer.server_error"),
        (429, "transfer.server_error"), (500, "transfer.server_error"), (503, "transfer.server_error"),
    ],
)  # fmt: skip
def test_statuses_become_codes(status: int, code: str | None) -> None:
    assert code_of_status(status) == code
    client, _ = scripted(HELLO, b'{"id":1,"status":%d,"headers":{}}\n' % status, frame(b""), END)
    if code is None:
        assert client.fetch(REQUEST).status == status
    else:
        assert code_of(client) == code


def test_not_changed_is_an_answer_only_to_who_asked_so() -> None:
    """A server that says 304 to everything would keep a client still for ever, and be taken for a healthy one."""
    head = b'{"id":1,"status":304,"headers":{}}\n'
    client, channels = scripted(HELLO, head, frame(b""), END)
    with pytest.raises(TransferError) as caught:
        client.exchange(REQUEST)
    assert caught.value.code == "transfer.protocol"
    assert len(channels) == 1
    for name in ("If-None-Match", "if-none-match"):
        client, _ = scripted(HELLO, head, frame(b""), END)
        assert client.fetch(REQUEST._replace(headers={name: '"x"'})).status == 304


def fetch_reason(headers: dict[str, Any], body: bytes) -> str:
    head = json.dumps({"id": 1, "status": 403, "headers": headers}).encode() + b"\n"
    client, _ = scripted(HELLO, head, frame(body), frame(b""), END)
    with pytest.raises(TransferError) as caught:
        client.fetch(REQUEST)
    return caught.value.message


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"code":"not_approved","message":"Wait for approval."}', "Wait for approval [not_approved]"),
        (b'{"title":"Forbidden","detail":"No such client.","code":"revoked"}', "No such client [revoked]"),
        (b'{"title":"Forbidden"}', "Forbidden"),
        (b'{"message":"\\u001b[2Jgone"}', "?[2Jgone"),
        (b'{"message":{"a":1}}', '{"message":{"a":1}}'),
        (b'["a"]', '["a"]'),
        (b"[" * 4000, "[" * 200),
        (b'{"message":"' + b"x" * 9000, '{"message":"' + "x" * 188),
    ],
)
def test_a_problem_in_json_is_told_in_its_own_words(body: bytes, told: str) -> None:
    said = fetch_reason({"content-type": "application/problem+json"}, body)
    assert said == f"http://h/ answered with status 403: {told}."


def test_a_servers_own_words_are_shown_if_they_are_text() -> None:
    assert (
        fetch_reason({"content-type": "application/json"}, b'{"code":"x"}')
        == "http://h/ answered with status 403: [x]."
    )
    assert fetch_reason({"content-type": "text/html"}, b"<h1>") == "http://h/ answered with status 403."
    assert (
        fetch_reason({"content-type": "text/plain"}, b"\x1b[31m\xff")
        == "http://h/ answered with status 403: ?[31m\ufffd."
    )
    assert len(fetch_reason({"content-type": "text/plain"}, b"x" * 9000)) < 300


def test_a_response_is_a_context_that_lets_go() -> None:
    client, channels = scripted(HELLO, HEAD, frame(b"part"))
    with client.fetch(REQUEST) as response:
        assert isinstance(response, Response)
    assert channels[0].closed == 1


def test_protections_are_told() -> None:
    client, _ = scripted(HELLO)
    assert client.protections() == ("no_exec",)
