"""The pieces of TUF metadata that all writers share: a signed file, its entry in another file, an expiry date, a version.

Serves steps 2 and 5. Comes after `canonical`, before `package_repository`, `instruction_repository` and the
ceremonies. Pure: values in, bytes out. It decides nothing about trust; what it reads back is the site's own, already
trusted metadata.

Source: TUF specification 1.0.31, section 4.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from securesystemslib.exceptions import Error as ForeignError
from securesystemslib.signer import Signer

from pcm.model.errors import MachineError, RequestError
from pcm.trust import canonical

SPEC_VERSION = "1.0.31"
TOP_LEVEL_ROLES = ("root", "targets", "snapshot", "timestamp")
DAY_S = 86_400
Files = dict[str, bytes]
"""File names → contents, in the order in which they must be written: what is pointed at comes before what points at it."""


def sign(signed: Mapping[str, Any], signers: Iterable[Signer]) -> bytes:
    """Sign one metadata value with each signer; the bytes of its file.

    Raises:
        RequestError: `request.canonical`, see `canonical.encode`.
        MachineError: `machine.signer`: a key's device or service did not sign.
    """
    payload = canonical.encode(signed)
    try:
        signatures = [signer.sign(payload) for signer in signers]
    except (ForeignError, OSError) as error:
        raise MachineError(f"A key could not be used to sign: {error}.", code="machine.signer") from error
    return canonical.lay_out(signed, payload, {item.keyid: item.signature for item in signatures})


def entry(data: bytes, version: int) -> dict[str, Any]:
    """How one metadata file is named in another: version, length in bytes, SHA-256."""
    return {"version": version, **target(data)}


def target(data: bytes) -> dict[str, Any]:
    """How a target file is named in targets metadata: length in bytes and SHA-256."""
    return {"length": len(data), "hashes": {"sha256": hashlib.sha256(data).hexdigest()}}


def header(kind: str, version: int, expires_s: float) -> dict[str, Any]:
    """Fields that every role has.

    Args:
        kind: root, targets, snapshot or timestamp.
        version: At least 1.
        expires_s: Unix time in seconds.
    """
    if version < 1:
        raise RequestError(f"Metadata versions start at 1, not {version}.", code="request.metadata")
    return {"_type": kind, "spec_version": SPEC_VERSION, "version": version, "expires": date(expires_s)}


def date(moment_s: float) -> str:
    """Unix time in seconds as TUF writes it: `2026-01-31T12:00:00Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment_s))


def read_signed(data: bytes, kind: str) -> dict[str, Any]:
    """Read back the signed part of the site's own metadata. Verifies nothing.

    Raises:
        RequestError: `request.metadata`: it is no metadata of this kind.
    """
    try:
        signed = json.loads(data)["signed"]
        if signed["_type"] == kind and isinstance(signed["version"], int):
            return dict(signed)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise RequestError(f"This is not TUF {kind} metadata.", code="request.metadata")


def read_version(data: bytes, kind: str) -> int:
    """Version of the site's own metadata. Raises like `read_signed`."""
    return int(read_signed(data, kind)["version"])
