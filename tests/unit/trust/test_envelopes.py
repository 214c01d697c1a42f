"""DSSE envelopes of clients, against the standard's own vector and securesystemslib's reading of it."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.signer import SSlibKey

from pcm.model.errors import PcmError, RequestError, TrustError
from pcm.trust import envelopes, keys

KEY: EllipticCurvePrivateKey = generate_private_key(SECP256R1())
KIND = "application/vnd.pcm.report+json"


def code_of(data: bytes, key: EllipticCurvePrivateKey = KEY, kind: str = KIND, max_bytes: int = 10_000) -> str:
    with pytest.raises(PcmError) as caught:
        envelopes.verify_of_client(data, key.public_key(), payload_type=kind, max_bytes=max_bytes)
    return caught.value.code


def test_the_standards_own_vector() -> None:
    # DSSE protocol.md, 'Test vectors'
    assert (
        envelopes.pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert envelopes.pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_a_clients_report_is_read_back() -> None:
    data = envelopes.sign_as_client(KIND, b'{"a":1}', KEY)
    assert envelopes.verify_of_client(data, KEY.public_key(), payload_type=KIND, max_bytes=10_000) == b'{"a":1}'


def test_securesystemslib_agrees() -> None:
    data = envelopes.sign_as_client(KIND, b"\x00\xff payload", KEY)
    theirs = TheirEnvelope.from_dict(json.loads(data))
    public = SSlibKey.from_crypto(KEY.public_key(), envelopes.client_id_of(KEY.public_key()))
    assert list(theirs.verify([public], 1)) == [envelopes.client_id_of(KEY.public_key())]
    assert theirs.payload == b"\x00\xff payload"


def test_what_is_not_this_clients() -> None:
    data = envelopes.sign_as_client(KIND, b"{}", KEY)
    assert code_of(data, generate_private_key(SECP256R1())) == "trust.unsigned"
    other = generate_private_key(SECP384R1())
    assert code_of(envelopes.sign_as_client(KIND, b"{}", other), other) == "trust.unsigned"
    assert code_of(data, kind="text/plain") == "protocol.wrong_type"
    assert code_of(data, max_bytes=10) == "protocol.too_long"


@pytest.mark.parametrize("field", ["payload", "payloadType", "signatures", "keyid", "sig"])
def test_any_changed_part_is_noticed(field: str) -> None:
    value = json.loads(envelopes.sign_as_client(KIND, b'{"seq":1}', KEY))
    match field:
        case "payload":
            value["payload"] = "eyJzZXEiOjJ9"
        case "payloadType":
            value["payloadType"] = KIND + "x"
        case "signatures":
            value["signatures"] = []
        case "keyid":
            value["signatures"][0]["keyid"] = "0" * 32
        case "sig":
            value["signatures"][0]["sig"] = "AAAA"
    assert code_of(json.dumps(value).encode()) in {"trust.unsigned", "protocol.wrong_type", "protocol.malformed"}


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b'{"payload":"%%","payloadType":"application/vnd.pcm.report+json","signatures":[{"keyid":"a","sig":""}]}',
     b'{"payload":"","payloadType":"application/vnd.pcm.report+json","signatures":[{"keyid":"a","sig":""},{"keyid":"a","sig":""}]}'],
)  # fmt: skip
def test_damaged_envelopes(data: bytes) -> None:
    assert code_of(data) == "protocol.malformed"


def test_an_approver_does_not_sign_what_he_did_not_read() -> None:
    pair = keys.generate()
    sign = lambda data: bytes.fromhex(pair.sign(data).signature)  # noqa: E731
    begun = envelopes.add_signature(None, "t", b"one", pair.public_key.keyid, sign)
    with pytest.raises(RequestError) as caught:
        envelopes.add_signature(begun, "t", b"two", pair.public_key.keyid, sign)
    assert caught.value.code == "conflict"


def test_a_client_id_is_the_hash_of_its_key() -> None:
    name = envelopes.client_id_of(KEY.public_key())
    assert len(name) == 32
    assert int(name, 16) >= 0


def test_unsigned_is_a_refusal() -> None:
    with pytest.raises(TrustError):
        envelopes.verify_of_client(
            envelopes.write(KIND, b"x", {"0" * 32: b"y"}), KEY.public_key(), payload_type=KIND, max_bytes=1000
        )
