"""Signing requests with the client's key, after RFC 9421 (HTTP Message Signatures), in the one form that PCM uses.

Serves steps 6 and 12: `service.inbox` and `service.outbox` sign each request to a logon server; `signature_check` verifies.
The signature covers `@method`, `@target-uri` and, when there is a body, `content-digest` (RFC 9530), with `created`,
`keyid`, `nonce` and `tag="pcm"`; ECDSA P-256 with SHA-256 (RFC 9421, section 3.3.4). Written out here rather than taken from
the library that the server uses, because importing that costs an idle poll 30 ms more than signing does; a contract test
holds the two against each other.
"""

import base64
import hashlib
import secrets
from datetime import datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

TAG = "pcm"
LABEL = "pcm"


def content_digest(body: bytes) -> str:
    """The value of the Content-Digest field (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode('ascii')}:"


def signature_parameters(has_body: bool, created: int, keyid: str, nonce: str) -> str:
    """The covered components with their parameters (RFC 9421, section 2.3), in the order in which PCM writes them."""
    digest = ' "content-digest"' if has_body else ""
    return f'("@method" "@target-uri"{digest});created={created};keyid="{keyid}";nonce="{nonce}";tag="{TAG}"'


def signature_base(method: str, url: str, digest: str | None, parameters: str) -> bytes:
    """The bytes that are signed (RFC 9421, section 2.5)."""
    covered = "" if digest is None else f'"content-digest": {digest}\n'
    return f'"@method": {method}\n"@target-uri": {url}\n{covered}"@signature-params": {parameters}'.encode("ascii")


def sign_request(
    method: str,
    url: str,
    body: bytes | None,
    private_key: EllipticCurvePrivateKey,
    keyid: str,
    now: datetime,
    nonce: str | None = None,
) -> dict[str, str]:
    """Make the headers that prove who asks.

    Args:
        method: Upper case.
        url: Exactly as it will be asked for, with a path; the server compares it with its own public address.
        body: None for requests without one; for POST also b"".
        private_key: P-256.
        keyid: The client's id (`pcm.trust.envelopes.client_id_of`).
        now: Aware. The server accepts 300 s of difference.
        nonce: Letters, digits, `-`, `_`; made here if None.

    Returns:
        Signature-Input, Signature and, with a body, Content-Digest.
    """
    digest = None if body is None else content_digest(body)
    nonce = nonce or secrets.token_urlsafe(16)
    parameters = signature_parameters(digest is not None, int(now.timestamp()), keyid, nonce)
    der = private_key.sign(signature_base(method, url, digest, parameters), ECDSA(hashes.SHA256()))
    r, s = decode_dss_signature(der)
    signature = base64.b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).decode("ascii")
    headers = {"Signature-Input": f"{LABEL}={parameters}", "Signature": f"{LABEL}=:{signature}:"}
    if digest is not None:
        headers["Content-Digest"] = digest
    return headers
