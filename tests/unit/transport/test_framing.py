"""The conversation with the transfer process: what one side writes, the other reads; what anybody else writes, neither believes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import RequestError, TransferError
from pcm.transport.answers import (
    MAX_ANSWER_LINE,
    Head,
    encode_end,
    encode_head,
    encode_hello,
    parse_end,
    parse_head,
    parse_hello,
)
from pcm.transport.framing import (
    CODES,
    Request,
    Settings,
    encode_request,
    encode_settings,
    parse_request,
    parse_settings,
    transfer_error,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
urls = st.sampled_from(["http://h/", "https://h.example:8443/a/b?c=d", "file:///srv/x%20y"])
headers = st.dictionaries(
    st.sampled_from(["If-None-Match", "Signature", "X-A"]), st.text(st.characters(min_codepoint=32, max_codepoint=126))
)
requests = st.builds(
    Request,
    url=urls,
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    headers=headers,
    body=st.binary(max_size=50),
    max_bytes=st.integers(0, 1 << 50),
    total_s=st.floats(0.1, 1e6),
    rate_window_s=st.floats(0.1, 60),
    answer_s=st.integers(1, 60),
    offset=st.just(0),
    min_rate=st.integers(0, 1 << 30),
    decode=st.none() | st.just("zstd"),
    max_decoded_bytes=st.integers(0, 1 << 50),
    account=st.none(),
    length=st.just(0),
    max_rate=st.integers(0, 1 << 40),
    part=st.none(),
    have=st.just(0),
    background=st.booleans(),
    total=st.integers(0, 1 << 50),
)


def lines_of(document: Any) -> bytes:
    return json.dumps(document).encode() + b"\n"


@given(st.integers(1, 1 << 40), requests)
def test_a_request_survives_the_pipe(number: int, request: Request) -> None:
    encoded = encode_request(number, request)
    line, _, body = encoded.partition(b"\n")
    read_number, length, read = parse_request(line + b"\n")
    assert (read_number, length, body) == (number, len(request.body), request.body)
    assert read._replace(body=request.body) == request


@given(
    st.builds(
        Settings, ca_file=st.none() | st.text(), proxy=st.none() | st.text(), no_proxy=st.lists(st.text()).map(tuple)
    )
)
def test_settings_survive_the_pipe(settings: Settings) -> None:
    assert parse_settings(encode_settings(settings)) == settings


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "ftp://host/x"},
        {"url": "http://host/with space"},
        {"url": "http://host/\r\nX: y"},
        {"url": "http://höst/"},
        {"url": "http://h/" + "x" * 9000},
        {"method": "DELETE"},
        {"method": "GET\r\n"},
        {"headers": {"X-A": "a\r\nX-B: b"}},
        {"headers": {"X A": "a"}},
        {"headers": {"X-A": "ä"}},
        {"headers": {f"X-{n}": "" for n in range(40)}},
        {"body": b"x" * (16 * 1024 * 1024 + 1)},
        {"total_s": 0},
        {"total_s": float("inf")},
        {"total_s": float("nan")},
        {"max_bytes": -1},
        {"offset": True},
        {"decode": "gzip"},
        {"decode": "zstd", "offset": 1},
    ],
)
def test_a_request_that_cannot_be_sent_is_refused_before_the_pipe(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        encode_request(1, Request("http://host/")._replace(**changes))
    assert caught.value.code == "request.transfer"


def test_headers_that_fill_the_line_are_refused() -> None:
    with pytest.raises(RequestError, match="too large"):
        encode_request(1, Request("http://host/", headers={f"X-{n}": "x" * 4000 for n in range(20)}))


@given(
    json_values
    | st.dictionaries(st.sampled_from(["id", "body_length", "url", "method", "headers", "total_s"]), json_values)
)
def test_nonsense_to_the_transfer_process_is_a_protocol_error(document: Any) -> None:
    with pytest.raises(TransferError) as caught:
        parse_request(lines_of(document))
    assert caught.value.code == "transfer.protocol"


@given(st.binary(max_size=400) | st.binary(max_size=400).map(lambda data: data + b"\n"))
def test_bytes_that_are_no_line_are_a_protocol_error_everywhere(data: bytes) -> None:
    for parse in (
        parse_request,
        parse_settings,
        parse_hello,
        lambda line: parse_head(line, 1),
        lambda line: parse_end(line, 1),
    ):
        with pytest.raises(TransferError) as caught:
            parse(data)
        assert caught.value.code == "transfer.protocol"


def test_deep_nesting_is_a_protocol_error_and_no_crash() -> None:
    with pytest.raises(TransferError):
        parse_head(b"[" * (MAX_ANSWER_LINE - 2) + b"\n", 1)


def test_a_head_keeps_only_known_headers() -> None:
    head = Head(200, {"etag": '"1"', "set-cookie": "x", "content-type": "ä", "location": "l" * 900})
    read = parse_head(encode_head(7, head), 7)
    assert read.status == 200
    assert read.headers == {"etag": '"1"', "location": "l" * 512}


@given(st.dictionaries(st.sampled_from(["id", "status", "headers", "error", "message", "ok"]), json_values))
def test_a_compromised_process_says_nothing_but_what_is_checked(document: dict[str, Any]) -> None:
    line = lines_of({"id": 1, **document})
    try:
        head = parse_head(line, 1)
    except TransferError as error:
        assert error.code in CODES
        assert error.message.isprintable()
        assert len(error.message) <= 400
    else:
        assert 200 <= head.status <= 599
        assert all(isinstance(value, str) for value in head.headers.values())


@pytest.mark.parametrize(
    "document", [{"id": 2, "ok": True}, {"id": True, "ok": True}, {"ok": True}, {"id": 1, "ok": 1}, {"id": 1}]
)
def test_an_end_must_be_of_this_answer_and_say_ok(document: dict[str, Any]) -> None:
    with pytest.raises(TransferError) as caught:
        parse_end(lines_of(document), 1)
    assert caught.value.code == "transfer.protocol"


@pytest.mark.parametrize("code", sorted(CODES))
def test_errors_travel_with_their_code_and_retry_class(code: str) -> None:
    with pytest.raises(TransferError) as caught:
        parse_end(encode_end(3, transfer_error(code, "because\x1b[31m")), 3)
    assert (caught.value.code, caught.value.retry) == (code, CODES[code])
    assert caught.value.message == "because?[31m"


def test_an_unknown_code_is_a_protocol_error() -> None:
    with pytest.raises(TransferError) as caught:
        parse_head(lines_of({"id": 1, "error": "trust.all_is_well", "message": ""}), 1)
    assert caught.value.code == "transfer.protocol"


def test_hello_names_protections() -> None:
    assert parse_hello(encode_hello(["no_exec", "x\n"])) == ("no_exec", "x?")
    with pytest.raises(TransferError):
        parse_hello(lines_of({"hello": 2, "hardened": []}))
