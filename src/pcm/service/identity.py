"""Who this client is: a P-256 key pair, made once on this computer, and the id that follows from it.

Serves steps 6 (requests are signed with it) and 12 (reports are). Made by `enrolment`. The private key never leaves this computer
and is written once, exclusively, readable by administrators only. Only `pcmsvc enroll --new-key` puts another in its place, and
then this is another client (KB Q162165, Q183398, Q127052: identity is a key, so it cannot be re-issued, doubled by a database, or
taken over by a name).
"""

import base64
import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
    generate_private_key,
)

from pcm.model.errors import MachineError, RequestError, StoreError
from pcm.service.machine.durable import storing_error, sync_folder, write_all

_MAX_FILE = 4096
# A P-256 key as this module writes it: PKCS #8 (RFC 5958) around RFC 5915, the number and the point between fixed bytes
_KEY_HEAD = bytes.fromhex("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420")
_KEY_MIDDLE = bytes.fromhex("a14403420004")
_POINT_HEAD = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")  # SubjectPublicKeyInfo, RFC 5480


class Identity(NamedTuple):
    """This client's key and id."""

    key: EllipticCurvePrivateKey
    client_id: str

    def public_pem(self) -> str:
        """The public half, PEM SubjectPublicKeyInfo."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415 - at enrolment

        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def fingerprint(self) -> str:
        """The id in groups of four, as people compare it with the console."""
        return " ".join(self.client_id[at : at + 4] for at in range(0, len(self.client_id), 4))


def load_identity(path: Path) -> Identity:
    """Read this client's key.

    Raises:
        RequestError: `not_enrolled`, there is none yet.
        MachineError: `machine.unprotected`, others can read it; `machine.rights`, this process cannot.
        StoreError: `store.damaged`, it is no P-256 key.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        raise RequestError(
            "This computer has no key yet; enrol it with `pcmsvc enroll --kit FILE`.", code="not_enrolled"
        ) from None
    except PermissionError:
        raise MachineError(f"Only administrators can read this client's key {path}.", code="machine.rights") from None
    except OSError as error:
        raise StoreError(f"This client's key {path} cannot be read: {error.strerror}.", code="store.damaged") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if os.name == "posix" and (not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077):
            raise MachineError(
                f"This client's key {path} can be read by others, so it may be known to them. Remove it and enrol anew.",
                code="machine.unprotected",
            )
        data = file.read(_MAX_FILE)
    key = _parse_usual(data) or _parse_any(data)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise StoreError(
            f"This client's key {path} is damaged. Remove it and enrol anew; the site will see a new client.",
            code="store.damaged",
        )
    return Identity(key, _client_id(key))


def _parse_usual(data: bytes) -> EllipticCurvePrivateKey | None:
    """Read a key in the form in which `make_identity` writes it; None for any other. Spares each poll 15 ms of imports."""
    lines = data.split(b"\n")
    if lines[:1] != [b"-----BEGIN PRIVATE KEY-----"] or lines[-2:] != [b"-----END PRIVATE KEY-----", b""]:
        return None
    try:
        der = base64.b64decode(b"".join(lines[1:-2]), validate=True)
    except ValueError:
        return None
    number, point = der[36:68], der[74:]
    if der != _KEY_HEAD + number + _KEY_MIDDLE + point or len(point) != 64:
        return None
    try:
        key = derive_private_key(int.from_bytes(number, "big"), SECP256R1())
    except ValueError:
        return None
    return key if _point(key) == point else None


def _parse_any(data: bytes) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - for keys that came from elsewhere
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        return load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _point(key: EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def _client_id(key: EllipticCurvePrivateKey) -> str:
    """As `trust.envelopes.client_id_of`, which tests hold it against."""
    return hashlib.sha256(_POINT_HEAD + _point(key)).hexdigest()[:32]


def replace_identity(path: Path, successor: Path) -> None:
    """Put a new key in the place of this client's, which is kept aside as `identity-<first 12 of its id>.pem`.

    At every moment there is a whole key at `path`.

    Raises:
        RequestError, MachineError, StoreError: as `load_identity`, or the folder cannot be written.
    """
    aside = path.with_name(f"{path.stem}-{load_identity(path).client_id[:12]}{path.suffix}")
    try:
        with contextlib.suppress(FileExistsError):  # an earlier try came this far
            os.link(path, aside, follow_symlinks=False)
        successor.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storing_error(error, path) from error


def make_identity(path: Path) -> Identity:
    """Return this client's key, and make it first if there is none. An existing one is never replaced.

    Raises:
        MachineError, StoreError: as `load_identity`, or the key could not be stored.
    """
    if os.path.lexists(path):
        return load_identity(path)
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    key = generate_private_key(SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    temporary = path.with_name(f".identity.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            write_all(file.fileno(), pem)
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a rename, this fails if another process was first
        except FileExistsError:
            return load_identity(path)
        finally:
            temporary.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise storing_error(error, path) from error
    return Identity(key, _client_id(key))
