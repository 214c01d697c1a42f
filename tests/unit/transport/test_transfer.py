"""The transfer loop without any network: whatever it is asked, it answers in frames or ends with a coded error."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import TransferError
from pcm.transport.framing import Request, Settings, encode_request, encode_settings, transfer_error
from pcm.transport.transfer import serve


class Asked(io.BytesIO):
    """`Asks` that bring no files."""

    def take_file(self) -> int:
        raise transfer_error("transfer.protocol", "none came")


def answers_to(asks: bytes) -> bytes:
    said = bytearray()

    def say(head: bytes, data: memoryview) -> None:
        said.extend(head)
        said.extend(data)

    serve(Asked(asks), say, ["test"])
    return bytes(said)


def test_nothing_asked_is_nothing_said() -> None:
    assert answers_to(b"") == b""


def test_a_file_comes_in_frames_between_head_and_end(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    said = answers_to(encode_settings(Settings()) + encode_request(5, Request((tmp_path / "x").as_uri())))
    hello, head, rest = said.split(b"\n", 2)
    assert json.loads(hello) == {"hello": 1, "hardened": ["test"]}
    assert json.loads(head)["id"] == 5
    assert json.loads(head)["status"] == 200
    assert rest == b"\0\0\0\x07content" + bytes(4) + b'{"id":5,"ok":true}\n'


def test_a_failure_is_one_line_and_the_next_request_is_served(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    asks = (
        encode_settings(Settings())
        + encode_request(1, Request(tmp_path.as_uri()))
        + encode_request(2, Request((tmp_path / "x").as_uri()))
    )
    lines = answers_to(asks).split(b"\n")
    assert json.loads(lines[1])["error"] == "transfer.protocol"
    assert json.loads(lines[2])["status"] == 200


@given(st.binary(max_size=300), st.booleans())
def test_fuzzed_requests_end_the_conversation_with_a_code(data: bytes, configured: bool) -> None:
    asks = (encode_settings(Settings()) if configured else b"") + data
    try:
        answers_to(asks)
    except TransferError as error:
        assert error.code == "transfer.protocol"
    else:
        assert data == b""


def test_a_line_without_end_is_not_read_for_ever() -> None:
    with pytest.raises(TransferError):
        answers_to(encode_settings(Settings()) + b"{" * 10_000_000)


def test_a_body_that_ends_early_ends_the_conversation() -> None:
    asks = encode_settings(Settings()) + encode_request(1, Request("http://127.0.0.1:1/", "POST", body=b"12345"))
    with pytest.raises(TransferError, match="ended early"):
        answers_to(asks[:-1])
