"""Our signer and our check, held against `http_message_signatures`, which was not written by us."""

import datetime as dt
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    MappingKeyResolver,
)
from http_message_signatures.algorithms import ECDSA_P256_SHA256, ED25519
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import TrustError
from pcm.transport.signature_check import verify_request
from pcm.transport.signing import sign_request

KEY = ec.generate_private_key(ec.SECP256R1())
ID = "0123456789abcdef0123456789abcdef"
KEYS = MappingKeyResolver(public_keys={ID: KEY.public_key()}, private_keys={ID: KEY})


class Message:
    def __init__(self, method: Any, url: Any, headers: Any) -> None:
        self.method, self.url, self.headers = method, url, headers


def now() -> Any:
    return datetime.now(UTC)


def raw(headers: Any) -> Any:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


paths = st.lists(st.text("abcXYZ019-._~", min_size=1, max_size=12), max_size=5).map("/".join)


@given(path=paths, query=st.sampled_from(["", "?a=1", "?a=%20b&c"]), body=st.none() | st.binary(max_size=200))
def test_the_library_accepts_what_we_sign(path: Any, query: Any, body: Any) -> None:
    method, url = ("GET" if body is None else "POST"), f"https://logon.example.org/{path}{query}"
    headers = sign_request(method, url, body, KEY, ID, now())
    verifier = HTTPMessageVerifier(signature_algorithm=ECDSA_P256_SHA256, key_resolver=KEYS)
    required = ("@method", "@target-uri") + (() if body is None else ("content-digest",))
    (result,) = verifier.verify(
        Message(method, url, headers),
        expect_tag="pcm",
        require_components=required,
        body=body,
        max_age=dt.timedelta(seconds=300),
    )
    assert result.parameters["keyid"] == ID
    assert result.nonce
    assert verify_request(method, url, raw(headers), body, lambda _: KEY.public_key(), now()) == ID


def signed_by_library(
    body: Any = b"report", *, algorithm: Any = ECDSA_P256_SHA256, keys: Any = KEYS, **options: Any
) -> Any:
    message = Message("POST", "https://logon.example.org/logon/reports", {})
    signer = HTTPMessageSigner(signature_algorithm=algorithm, key_resolver=keys)
    arguments = {
        "key_id": ID,
        "tag": "pcm",
        "nonce": "abcdefghijk",
        "covered_component_ids": ("@target-uri", "@method"),
        "body": body,
        **options,
    }
    signer.sign(message, **arguments)
    return message


@pytest.mark.parametrize(
    "options",
    [{}, {"include_alg": False}, {"label": "pcm"}, {"covered_component_ids": ("@method", "@target-uri", "@authority")}],
)
def test_we_accept_other_forms_that_the_library_signs(options: Any) -> None:
    message = signed_by_library(**options)
    assert verify_request("POST", message.url, raw(message.headers), b"report", lambda _: KEY.public_key(), now()) == ID


@pytest.mark.parametrize(
    "options",
    [
        {"tag": "other"},
        {"tag": None},
        {"nonce": None},
        {"covered_component_ids": ("@method",)},
        {"covered_component_ids": ("@target-uri", "@path")},
        {"created": datetime(2020, 1, 1, tzinfo=UTC)},
        {"expires": datetime(2020, 1, 1, tzinfo=UTC)},
        {"key_id": ID, "body": b"another"},
    ],
)
def test_we_refuse_other_forms_that_say_less(options: Any) -> None:
    message = signed_by_library(**options)
    with pytest.raises(TrustError):
        verify_request("POST", message.url, raw(message.headers), b"report", lambda _: KEY.public_key(), now())


def test_the_general_way_keeps_its_codes() -> None:
    message = signed_by_library(created=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(TrustError) as caught:
        verify_request("POST", message.url, raw(message.headers), b"report", lambda _: KEY.public_key(), now())
    assert caught.value.code == "trust.request_age"
    message = signed_by_library()
    with pytest.raises(TrustError) as caught:
        verify_request("POST", message.url, raw(message.headers), b"report", lambda _: None, now())
    assert caught.value.code == "trust.unknown_client"


def test_another_algorithm_is_refused() -> None:
    key = Ed25519PrivateKey.generate()
    keys = MappingKeyResolver(public_keys={}, private_keys={ID: key})
    message = signed_by_library(algorithm=ED25519, keys=keys)
    with pytest.raises(TrustError):
        verify_request("POST", message.url, raw(message.headers), b"report", lambda _: KEY.public_key(), now())


def test_two_signatures_of_ours_are_refused() -> None:
    message = signed_by_library()
    signer = HTTPMessageSigner(signature_algorithm=ECDSA_P256_SHA256, key_resolver=KEYS)
    signer.sign(
        message, key_id=ID, tag="pcm", nonce="zzzzzzzzzz", label="second", append_if_signature_exists=True,
        use_existing_digest=True, covered_component_ids=("@method", "@target-uri", "content-digest"),
    )  # fmt: skip
    with pytest.raises(TrustError, match="exactly one"):
        verify_request("POST", message.url, raw(message.headers), b"report", lambda _: KEY.public_key(), now())
