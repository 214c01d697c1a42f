"""Signing keys: ed25519 pairs, their ids and public forms, and the encrypted file that a private one is kept in.

Serves steps 2, 3 and 5, wherever something is signed. Comes before `keyring` (a folder of such files) and the
writers. A private key is found by its URI's scheme in securesystemslib's registry, so that keys in hardware or a
cloud service (`hsm:`, `gcpkms:`, `awskms:`, `azurekms:`, `hv:`) work with no change here; ours are files, `pcmkey:`.
It never prints or returns a private key.

A file is PKCS#8 PEM (RFC 5958, RFC 7468). The encryption that comes with it stretches the passphrase by 2,048 rounds
of PBKDF2 only, too few for a file that may be stolen, so the passphrase goes through scrypt (RFC 7914) first; salt
and cost stand above the PEM.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, SecretsHandler, Signer, SSlibKey

from pcm.model.errors import RequestError

SCHEME = "pcmkey"
NAME_FIELD = "x-pcm-name"
STRETCH_ROUNDS = 2**15  # 32 MB and about 0.1 s for each guess
_HEADER = re.compile(rb"pcm-scrypt: n=(\d{1,8}) salt=([0-9a-f]{32})\n")
_MAX_FILE = 4096

Ask = Callable[[], str]
"""Gives the passphrase when one is needed, from a prompt or a file; called once per key that is opened."""


def public_form(key: Key, name: str) -> SSlibKey:
    """Return the key as it stands in metadata, with the name that people know it by (`root-2`, `lease-hq`).

    The name is signed along with the metadata but is no part of the key id.
    """
    return SSlibKey(key.keyid, key.keytype, key.scheme, dict(key.keyval), {NAME_FIELD: name})


def key_name(key: Key) -> str:
    """The name that people know a key by, or the start of its id."""
    name = key.unrecognized_fields.get(NAME_FIELD)
    return name if isinstance(name, str) else key.keyid[:12]


def generate() -> CryptoSigner:
    """Make a new ed25519 pair in memory. Its id is securesystemslib's: SHA-256 over the canonical public form."""
    return CryptoSigner.generate_ed25519()


def seal(signer: CryptoSigner, passphrase: str | None, *, rounds: int = STRETCH_ROUNDS) -> bytes:
    """Encode a private key for its file: encrypted with `passphrase`, or plain if it is None (online keys).

    Args:
        rounds: scrypt's cost, a power of two.

    Raises:
        RequestError: `request.passphrase`: an empty passphrase.
    """
    if passphrase is None:
        return signer.private_bytes
    if not passphrase:
        raise RequestError(
            "The passphrase is empty; give one, or none at all for an online key.", code="request.passphrase"
        )
    salt = os.urandom(16)
    encryption: KeySerializationEncryption = BestAvailableEncryption(_stretch(passphrase, salt, rounds))
    private = load_pem_private_key(signer.private_bytes, None)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return f"pcm-scrypt: n={rounds} salt={salt.hex()}\n".encode() + pem


def unseal(data: bytes, ask: Ask | None, name: str) -> Ed25519PrivateKey:
    """Decode a private key's file.

    Args:
        data: What `seal` made.
        ask: Gives the passphrase if the file is encrypted.
        name: For messages.

    Raises:
        RequestError: `request.passphrase` (none given, or a wrong one) or `request.key` (not a key of ours).
    """
    header = _HEADER.match(data)
    password: bytes | None = None
    if header is not None:
        if ask is None:
            raise RequestError(f"Key {name} is encrypted: its passphrase is needed.", code="request.passphrase")
        rounds = int(header.group(1))
        if rounds < 2 or rounds > 2**20 or rounds & (rounds - 1):
            raise RequestError(f"Key {name}: its file names an impossible scrypt cost.", code="request.key")
        password = _stretch(ask(), bytes.fromhex(header.group(2).decode()), rounds)
        data = data[header.end() :]
    try:
        private = load_pem_private_key(data, password)
    except (ValueError, TypeError):
        if password is not None and b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data:
            raise RequestError(f"The passphrase of key {name} is wrong.", code="request.passphrase") from None
        raise RequestError(f"The file of key {name} is damaged or not a key of ours.", code="request.key") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise RequestError(f"Key {name} is not an ed25519 key.", code="request.key")
    return private


def _stretch(passphrase: str, salt: bytes, rounds: int) -> bytes:
    return hashlib.scrypt(passphrase.encode(), salt=salt, n=rounds, r=8, p=1, maxmem=2**31 - 1, dklen=32).hex().encode()


def read_private_file(path: Path) -> bytes:
    """Read a private key's file, if nobody but its owner can.

    Raises:
        RequestError: `not_found`, or `request.key_exposed` if its mode lets group or others in, or it is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        raise RequestError(f"There is no private key at {path}.", code="not_found") from None
    except OSError as error:
        raise RequestError(f"The private key at {path} cannot be read: {error.strerror}.", code="request.key") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if os.name == "posix" and (not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077):
            raise RequestError(
                f"The private key at {path} can be read by others: make it private (chmod 600), and consider it known.",
                code="request.key_exposed",
            )
        return file.read(_MAX_FILE)


class FileSigner(CryptoSigner):
    """Keys kept in our files, found by `pcmkey:<absolute path>`."""

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> CryptoSigner:
        """Open the key; see `Signer.from_priv_key_uri`. The secret that is asked for is `passphrase`.

        Raises:
            RequestError: see `read_private_file` and `unseal`; `request.key` if it is not the pair of `public_key`.
        """
        path = Path(priv_key_uri.partition(":")[2])
        ask = None if secrets_handler is None else lambda: secrets_handler("passphrase")
        private = unseal(read_private_file(path), ask, path.stem)
        if (
            not isinstance(public_key, SSlibKey)
            or private.public_key().public_bytes_raw().hex() != public_key.keyval["public"]
        ):
            raise RequestError(f"The private key at {path} is not the pair of its public key.", code="request.key")
        return CryptoSigner(private, public_key)


SIGNER_FOR_URI_SCHEME[SCHEME] = FileSigner


def open_signer(uri: str, public: SSlibKey, ask: Ask | None = None) -> Signer:
    """Open a private key by its URI, whatever keeps it.

    Args:
        uri: `pcmkey:/folder/root-1.pem`, or a scheme that securesystemslib knows.
        public: The public form; a signer for any other key is refused.
        ask: Gives the passphrase or PIN.

    Raises:
        RequestError: `request.key` for an unknown scheme; see `FileSigner`.
    """
    scheme = uri.partition(":")[0]
    if scheme not in SIGNER_FOR_URI_SCHEME:
        raise RequestError(f"No keys of the kind {scheme!r} are known here.", code="request.key")
    handler: Any = None if ask is None else (lambda _secret: ask())
    return Signer.from_priv_key_uri(uri, public, handler)
