"""DSSE envelopes: a client signs its status reports, approvers sign orders.

Serves steps 3 (approvals), 12 (`service.outbox` signs, `site.intake` verifies) and 6 (`approvals`). The payload is
bytes; who parses it does so after `verify_*` gave it back. Kept apart from tuf and securesystemslib, so that a
client's idle poll loads neither.

Source: DSSE 1.0 (github.com/secure-systems-lab/dsse, protocol.md): signed is `DSSEv1 <len type> <type> <len payload>
<payload>`. A client's key is P-256 (ECDSA with SHA-256, DER signatures), an approver's is ed25519.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pcm.model.errors import RequestError
from pcm.protocol import codec
from pcm.trust.codes import refuse

MAX_SIGNATURES = 64
_Base64 = Annotated[str, msgspec.Meta(max_length=8 * 2**20)]


class _Signature(msgspec.Struct, frozen=True):
    keyid: Annotated[str, msgspec.Meta(max_length=128)]
    sig: Annotated[str, msgspec.Meta(max_length=1024)]


class Envelope(msgspec.Struct, frozen=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope as it travels: base64 payload, its type, signatures."""

    payload: _Base64
    payload_type: Annotated[str, msgspec.Meta(max_length=200)]
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(min_length=1, max_length=MAX_SIGNATURES)]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def write(payload_type: str, payload: bytes, signatures: Mapping[str, bytes]) -> bytes:
    """Lay out an envelope.

    Args:
        signatures: Key id → raw signature over `pae`.
    """
    listed = tuple(_Signature(keyid, base64.b64encode(sig).decode()) for keyid, sig in signatures.items())
    return codec.encode(Envelope(base64.b64encode(payload).decode(), payload_type, listed))


def read(data: bytes, *, payload_type: str, max_bytes: int) -> tuple[bytes, dict[str, bytes]]:
    """Parse an envelope. Its payload is not to be believed before a signature over it is verified.

    Returns:
        The payload, and key id → raw signature.

    Raises:
        RequestError: `protocol.too_long`, `protocol.malformed`, `protocol.wrong_type`.
    """
    envelope: Envelope = codec.parse(Envelope, data, kind="DSSE envelope", max_bytes=max_bytes)
    if envelope.payload_type != payload_type:
        raise RequestError(
            f"Expected a signed {payload_type}, got {envelope.payload_type[:60]!r}.", code="protocol.wrong_type"
        )
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
        signatures = {item.keyid: base64.b64decode(item.sig, validate=True) for item in envelope.signatures}
    except ValueError:
        raise RequestError("A DSSE envelope is malformed: not base64.", code="protocol.malformed") from None
    if len(signatures) != len(envelope.signatures):
        raise RequestError("A DSSE envelope is malformed: two signatures of one key.", code="protocol.malformed")
    return payload, signatures


def client_id_of(key: EllipticCurvePublicKey) -> str:
    """A client's id: the first 32 hex digits of SHA-256 over its public key (DER SubjectPublicKeyInfo)."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:32]


def sign_as_client(payload_type: str, payload: bytes, key: EllipticCurvePrivateKey) -> bytes:
    """Sign a report with a client's key; the envelope. The key id is the client's id."""
    signature = key.sign(pae(payload_type, payload), ECDSA(SHA256()))
    return write(payload_type, payload, {client_id_of(key.public_key()): signature})


def verify_of_client(data: bytes, key: EllipticCurvePublicKey, *, payload_type: str, max_bytes: int) -> bytes:
    """Give the payload of a client's envelope, if this client signed it.

    Raises:
        RequestError: as `read`.
        TrustError: `trust.unsigned`.
    """
    payload, signatures = read(data, payload_type=payload_type, max_bytes=max_bytes)
    signature = signatures.get(client_id_of(key))
    if signature is None or not isinstance(key.curve, SECP256R1):
        raise refuse("trust.unsigned", "The envelope is not signed by this client's key.")
    try:
        key.verify(signature, pae(payload_type, payload), ECDSA(SHA256()))
    except InvalidSignature:
        raise refuse("trust.unsigned", "The signature of the envelope does not fit its content.") from None
    return payload


def add_signature(
    envelope: bytes | None, payload_type: str, payload: bytes, keyid: str, sign: Callable[[bytes], bytes]
) -> bytes:
    """Add an approver's signature to an envelope, or begin one.

    Args:
        envelope: The envelope so far; None begins one.
        payload: What this approver read and agrees to; another payload in the envelope is refused.
        sign: Signs bytes, with ed25519.

    Raises:
        RequestError: as `read`; `conflict` if the envelope carries something else.
    """
    signatures: dict[str, bytes] = {}
    if envelope is not None:
        carried, signatures = read(envelope, payload_type=payload_type, max_bytes=16 * 2**20)
        if carried != payload:
            raise RequestError("The envelope carries another order than the one to be signed.", code="conflict")
    return write(payload_type, payload, {**signatures, keyid: sign(pae(payload_type, payload))})


def ed25519_keyid(public_hex: str) -> str:
    """The id that securesystemslib gives an ed25519 key: SHA-256 over the canonical JSON of its public form."""
    form = f'{{"keytype":"ed25519","keyval":{{"public":"{public_hex}"}},"scheme":"ed25519"}}'
    return hashlib.sha256(form.encode()).hexdigest()


def signed_by(
    payload_type: str, payload: bytes, signatures: Mapping[str, bytes], public_keys: Mapping[str, str]
) -> set[str]:
    """Names of those whose ed25519 signatures hold.

    Args:
        public_keys: Name → public key (64 hex digits). One key counts once, however many names it has.
    """
    message = pae(payload_type, payload)
    names: set[str] = set()
    counted: set[str] = set()
    for name, public_hex in public_keys.items():
        signature = signatures.get(ed25519_keyid(public_hex))
        if signature is not None and public_hex not in counted and _holds(public_hex, signature, message):
            names.add(name)
            counted.add(public_hex)
    return names


def _holds(public_hex: str, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
