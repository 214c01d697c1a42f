"""Signed requests: what our signer writes, our check accepts, and nothing else gets by (RFC 9421, RFC 9530)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import TrustError
from pcm.transport.signature_check import verify_request
from pcm.transport.signing import content_digest, sign_request

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
ID = "0123456789abcdef0123456789abcdef"
URL = f"https://logon.example.org/logon/clients/{ID}/timestamp.json"


def key_of(keyid: Any) -> Any:
    return KEY.public_key() if keyid == ID else None


def raw(headers: Any) -> Any:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def check(headers: Any, method: Any = "GET", url: Any = URL, body: Any = None, now: Any = NOW) -> Any:
    return verify_request(method, url, raw(headers), body, key_of, now)


def refusal(headers: Any, **changes: Any) -> Any:
    with pytest.raises(TrustError) as caught:
        check(headers, **changes)
    return caught.value.code


def test_a_get_is_recognised() -> None:
    assert check(sign_request("GET", URL, None, KEY, ID, NOW)) == ID


def test_a_post_is_recognised_and_its_body_covered() -> None:
    headers = sign_request("POST", URL, b"report", KEY, ID, NOW)
    assert headers["Content-Digest"] == content_digest(b"report")
    assert check(headers, method="POST", body=b"report") == ID
    assert refusal(headers, method="POST", body=b"Report") == "trust.request_signature"


def test_an_empty_body_is_covered_too() -> None:
    assert check(sign_request("POST", URL, b"", KEY, ID, NOW), method="POST", body=b"") == ID


def test_rfc_9530_digest_of_its_own_example() -> None:
    # RFC 9530, appendix D: {"hello": "world"} and a line feed
    assert content_digest(b'{"hello": "world"}\n') == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "HEAD"},
        {"url": URL.replace("logon.", "l0gon.")},
        {"url": URL.replace(ID, ID[::-1])},
        {"url": URL + "?x=1"},
        {"url": URL.replace("https", "http")},
    ],
)
def test_another_method_or_address_does_not_hold(changes: Any) -> None:
    assert refusal(sign_request("GET", URL, None, KEY, ID, NOW), **changes) == "trust.request_signature"


def test_somebody_elses_key_does_not_hold() -> None:
    assert refusal(sign_request("GET", URL, None, OTHER, ID, NOW)) == "trust.request_signature"


def test_an_unknown_client_is_named_so() -> None:
    assert refusal(sign_request("GET", URL, None, KEY, ID[::-1], NOW)) == "trust.unknown_client"


def test_a_key_of_another_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    headers = sign_request("GET", URL, None, KEY, ID, NOW)
    with pytest.raises(TrustError, match="P-256"):
        verify_request("GET", URL, raw(headers), None, lambda _: key.public_key(), NOW)


@pytest.mark.parametrize(("seconds", "accepted"), [(0, True), (300, True), (301, False), (-300, True), (-301, False)])
def test_age_is_accepted_up_to_300_seconds_either_way(seconds: Any, accepted: Any) -> None:
    headers = sign_request("GET", URL, None, KEY, ID, NOW - timedelta(seconds=seconds))
    if accepted:
        assert check(headers) == ID
    else:
        assert refusal(headers) == "trust.request_age"


def test_a_post_whose_signature_leaves_the_body_out_is_refused() -> None:
    headers = sign_request("GET", URL, None, KEY, ID, NOW)
    assert refusal(headers, method="GET", body=b"x") == "trust.request_signature"
    headers["Content-Digest"] = content_digest(b"x")
    assert refusal(headers, method="GET", body=b"x") == "trust.request_signature"


def test_unsigned_requests_are_named_so() -> None:
    assert refusal({}) == "trust.request_unsigned"
    headers = sign_request("GET", URL, None, KEY, ID, NOW)
    del headers["Signature"]
    assert refusal(headers) == "trust.request_unsigned"


def test_doubled_headers_are_refused() -> None:
    headers = raw(sign_request("GET", URL, None, KEY, ID, NOW))
    with pytest.raises(TrustError, match="doubled"):
        verify_request("GET", URL, headers + headers[:1], None, key_of, NOW)


def test_nonces_differ() -> None:
    first, second = (sign_request("GET", URL, None, KEY, ID, NOW)["Signature-Input"] for _ in range(2))
    assert first != second


@given(
    name=st.sampled_from(["Signature-Input", "Signature", "Content-Digest"]),
    place=st.integers(0, 400),
    new=st.characters(),
)
def test_any_single_changed_character_is_refused(name: Any, place: Any, new: Any) -> None:
    headers = sign_request("POST", URL, b"report", KEY, ID, NOW)
    value = headers[name]
    place %= len(value)
    changed = value[:place] + new + value[place + 1 :]
    fields = [(n.lower().encode(), (changed if n == name else v).encode("utf-8")) for n, v in headers.items()]
    if changed.strip(" \t") == value or (name == "Signature" and place == len(value) - 4):
        return  # the last character of 64 bytes in base64 has four bits that mean nothing
    with pytest.raises(TrustError):
        verify_request("POST", URL, fields, b"report", key_of, NOW)


@given(st.binary(max_size=300), st.binary(max_size=300), st.none() | st.binary(max_size=100))
def test_fuzzed_headers_are_refused_and_nothing_else_happens(signature_input: Any, signature: Any, body: Any) -> None:
    fields = [(b"signature-input", signature_input), (b"signature", signature), (b"content-digest", b"sha-256=:AA==:")]
    with pytest.raises(TrustError):
        verify_request("POST", URL, fields, body, key_of, NOW)


_MEMBERS = st.lists(
    st.sampled_from(
        [
            '"@method"',
            '"@target-uri"',
            '"content-digest"',
            '"@status"',
            '"@query-param";name="x"',
            '"@method";req',
            "5",
            "(",
            ")",
            ":AA==:",
        ]
    ),
    max_size=5,
)
_PARAMETERS = st.lists(
    st.sampled_from(
        [
            f"created={int(NOW.timestamp())}",
            f'keyid="{ID}"',
            'nonce="abcdefgh"',
            'tag="pcm"',
            'alg="hmac-sha256"',
            "expires=1",
            "created=99999999999999",
            "x",
        ]
    ),
    max_size=6,
)


@given(_MEMBERS, _PARAMETERS, st.sampled_from(["pcm", "sig1", "pcm, pcm"]))
def test_well_formed_but_unsigned_inputs_are_refused(members: Any, parameters: Any, label: Any) -> None:
    value = f"{label}=({' '.join(members)})" + "".join(f";{parameter}" for parameter in parameters)
    fields = [(b"signature-input", value.encode()), (b"signature", f"{label}=:{'A' * 86}==:".encode())]
    with pytest.raises(TrustError):
        verify_request("GET", URL, fields, None, key_of, NOW)
