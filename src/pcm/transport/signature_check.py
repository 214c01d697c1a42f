"""Verifying signed requests on the server's side, after RFC 9421.

Serves steps 6 and 12, in logon servers and in the site: before anything of a client's is shown or taken in. Requests in the
exact form that PCM's own clients write are verified in a short way (two matches, one signature check); any other form that
RFC 9421 allows goes through the `http_message_signatures` library, with the same demands. It decides only who asks; whether
that client may is for its caller. It remembers nothing: see `docs/adr/0003-requests-are-signed-and-may-be-replayed.md`.
"""

import base64
import hmac
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from pcm.model.errors import TrustError
from pcm.transport.signing import TAG, content_digest, signature_base
from pcm.trust.codes import refuse

MAX_AGE_S = 300
MAX_FIELD = 2048  # bytes of a signature header; more is refused before it is parsed

KeyOf = Callable[[str], EllipticCurvePublicKey | None]
Headers = Iterable[tuple[bytes, bytes]]

_OURS = re.compile(
    r'pcm=(\("@method" "@target-uri"( "content-digest")?\);created=([0-9]{1,12});keyid="([0-9a-f]{32})"'
    r';nonce="[A-Za-z0-9_-]{8,64}";tag="pcm")\Z'
)
_SIGNATURE = re.compile(r"pcm=:([A-Za-z0-9+/]{86}==):\Z")
_NAMES = (b"signature-input", b"signature", b"content-digest")


def verify_request(
    method: str, target_uri: str, headers: Headers, body: bytes | None, key_of: KeyOf, now: datetime
) -> str:
    """Find out who signed a request.

    Args:
        method: As received.
        target_uri: Built from this server's *configured* public address and the path received, never from Host.
        headers: As received; names in lower case (ASGI's form).
        body: The whole body, for methods that have one; else None.
        key_of: The public key of a client id, or None if there is no such client.
        now: Aware.

    Returns:
        The key id, which is the client's id.

    Raises:
        TrustError: `trust.request_unsigned`, `trust.request_signature`, `trust.request_age` (also: the client's clock is
            wrong), `trust.unknown_client`.
    """
    fields = _signature_fields(headers)
    if "signature-input" not in fields or "signature" not in fields:
        raise refuse("trust.request_unsigned", "This request is not signed with a client's key.")
    if body is not None and fields.get("content-digest") is None:
        raise _bad("its body is not covered")
    ours = _OURS.match(fields["signature-input"])
    signature = _SIGNATURE.match(fields["signature"])
    if ours is None or signature is None:
        return _verify_generally(method, target_uri, fields, body, key_of, now)
    parameters, covers_body, created, keyid = ours.groups()
    _check_age(int(created), now)
    digest: str | None = None
    if body is not None:
        digest = content_digest(body)
        if not covers_body or not hmac.compare_digest(digest, fields["content-digest"]):
            raise _bad("its body is not the one that was signed")
    elif covers_body:
        raise _bad("it covers a body and has none")
    raw = base64.b64decode(signature[1])
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    try:
        _key(key_of, keyid).verify(der, signature_base(method, target_uri, digest, parameters), ECDSA(hashes.SHA256()))
    except (InvalidSignature, UnicodeEncodeError) as error:
        raise _bad("the signature does not hold") from error
    return keyid


def _signature_fields(headers: Headers) -> dict[str, str]:
    """The three headers that matter, each at most once."""
    fields: dict[str, str] = {}
    for name, value in headers:
        if name in _NAMES:
            if name.decode() in fields or len(value) > MAX_FIELD or not value.isascii():
                raise _bad(f"its {name.decode()} header is doubled, too long or not ASCII")
            fields[name.decode()] = value.decode("ascii").strip(" \t")
    return fields


def _key(key_of: KeyOf, keyid: str) -> EllipticCurvePublicKey:
    key = key_of(keyid)
    if key is None:
        raise refuse("trust.unknown_client", f"No client of this site has the key {keyid}.")
    if not isinstance(key.curve, SECP256R1):
        raise _bad("the client's key is not a P-256 key")
    return key


def _check_age(created: int, now: datetime) -> None:
    difference = now.timestamp() - created
    if abs(difference) > MAX_AGE_S:
        direction = "ago" if difference > 0 else "in the future"
        raise refuse(
            "trust.request_age",
            f"This request was signed {abs(difference):.0f} seconds {direction} by the client's clock; "
            f"{MAX_AGE_S} are accepted. Set the client's clock.",
        )


def _bad(why: str) -> TrustError:
    return refuse("trust.request_signature", f"The signature of this request is not accepted: {why}.")


class _Message:
    """The shape that the library wants a request in."""

    def __init__(self, method: str, url: str, headers: dict[str, str]) -> None:
        self.method = method
        self.url = url
        self.headers = headers


def _verify_generally(
    method: str, target_uri: str, fields: dict[str, str], body: bytes | None, key_of: KeyOf, now: datetime
) -> str:
    # Imported here: clients of this product never need it, and it takes as long as thousands of short checks.
    from http_message_signatures import (  # noqa: PLC0415
        HTTPMessageSignaturesException,
        HTTPMessageVerifier,
        HTTPSignatureKeyResolver,
    )
    from http_message_signatures.algorithms import ECDSA_P256_SHA256  # noqa: PLC0415

    class Keys(HTTPSignatureKeyResolver):
        def resolve_public_key(self, key_id: str) -> EllipticCurvePublicKey:
            return _key(key_of, key_id)

    class Verifier(HTTPMessageVerifier):
        def validate_created_and_expires(self, sig_input: Any, max_age: timedelta | None = None) -> None:  # noqa: ARG002 - the name is the library's
            """Age is looked at by our own clock and rule below; an expiry that somebody signs is still theirs to keep."""
            expires = sig_input.params.get("expires")
            if expires is not None and (type(expires) is not int or expires < now.timestamp()):
                raise _bad("it has expired")

    required = ("@method", "@target-uri") if body is None else ("@method", "@target-uri", "content-digest")
    verifier = Verifier(signature_algorithm=ECDSA_P256_SHA256, key_resolver=Keys())
    try:
        results = verifier.verify(
            _Message(method, target_uri, fields), max_age=None, expect_tag=TAG, require_components=required, body=body
        )
    except HTTPMessageSignaturesException as error:
        # A refusal of our own, raised inside the library's call-backs, comes back wrapped.
        cause = error.args[0] if error.args else None
        raise (cause if isinstance(cause, TrustError) else _bad(str(error)[:200])) from error
    parameters = results[0].parameters
    created, keyid = parameters.get("created"), parameters.get("keyid")
    if len(results) != 1 or type(created) is not int or not isinstance(keyid, str) or not results[0].nonce:
        raise _bad("it needs exactly one signature with created, keyid and nonce")
    _check_age(created, now)
    return keyid
