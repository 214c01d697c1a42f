"""Collecting signatures: what any offline-signed document needs, who has signed, who is missing.

Serves steps 2 and 3, and the life of the site's keys. `roots` and `delegations` stand on it. A staged document
travels from keyring to keyring (on a medium, by mail) until its threshold is met; every change to it throws the
signatures away. Pure: bytes in, bytes out. Nothing here opens a key.

Source: TUF specification 1.0.31, sections 4.3 (root) and 6.1 (key management).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from securesystemslib.signer import Key, Signer, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets, VerificationResult

from pcm.model.errors import RequestError
from pcm.trust import keys

MAX_ROOT_BYTES = 64 * 2**10
MAX_TARGETS_BYTES = 5_000_000


@dataclass(frozen=True)
class RoleKeys:
    """Who may sign a role, and how many of them must."""

    keys: tuple[SSlibKey, ...]
    threshold: int = 1


@dataclass(frozen=True)
class Requirement:
    """One threshold that a document must meet. `signed` and `unsigned`: key names."""

    source: str
    threshold: int
    signed: tuple[str, ...]
    unsigned: tuple[str, ...]

    @property
    def missing(self) -> int:
        """How many signatures are still needed."""
        return max(0, self.threshold - len(self.signed))


@dataclass(frozen=True)
class RoleStatus:
    """One role that a document defines: its threshold and its keys' names and ids."""

    role: str
    threshold: int
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Status:
    """Where a document stands."""

    document: str
    version: int
    expires: datetime
    requirements: tuple[Requirement, ...]
    roles: tuple[RoleStatus, ...]

    @property
    def complete(self) -> bool:
        """Every threshold is met."""
        return not any(requirement.missing for requirement in self.requirements)


def load(data: bytes, kind: str) -> Metadata[Any]:
    """Parse a staged or finished document that people hand around.

    Raises:
        RequestError: `request.metadata`: too long, damaged, or of another kind.
    """
    if len(data) > MAX_TARGETS_BYTES:
        raise RequestError(f"A {kind} document of {len(data)} bytes is too long.", code="request.metadata")
    try:
        document: Metadata[Any] = Metadata.from_bytes(data)
    except RepositoryError:
        raise RequestError(f"This is not TUF {kind} metadata.", code="request.metadata") from None
    if document.signed.type != kind:
        raise RequestError(f"Expected TUF {kind} metadata, got {document.signed.type}.", code="request.metadata")
    return document


def load_root(data: bytes) -> Metadata[Root]:
    """Parse a root. Raises like `load`."""
    return load(data, Root.type)


def load_targets(data: bytes) -> Metadata[Targets]:
    """Parse targets. Raises like `load`."""
    return load(data, Targets.type)


def moment(expires_s: float) -> datetime:
    """Unix time in seconds → aware UTC, whole seconds, as tuf wants it."""
    return datetime.fromtimestamp(int(expires_s), UTC)


def add_signature(document: Metadata[Any], signer: Signer, wanted: frozenset[str]) -> None:
    """Sign a staged document with one more key.

    Raises:
        RequestError: `request.key`: this key's signature would count for nothing.
    """
    if signer.public_key.keyid not in wanted:
        raise RequestError(
            f"Key {keys.key_name(signer.public_key)} is not among those that sign this document.", code="request.key"
        )
    document.sign(signer, append=True)


def requirement(source: str, result: VerificationResult) -> Requirement:
    """Put tuf's verdict into the names that people know."""
    return Requirement(source, result.threshold, _names(result.signed), _names(result.unsigned))


def check_complete(status: Status) -> None:
    """Raise unless every threshold is met.

    Raises:
        RequestError: `request.threshold`, naming how many signatures are missing and who can give them.
    """
    for item in status.requirements:
        if item.missing:
            raise RequestError(
                f"{status.document} {status.version} needs {item.missing} more signature(s) of {item.source}; "
                f"these keys have not signed: {', '.join(item.unsigned) or 'none left'}.",
                code="request.threshold",
            )


def check_role(role: str, count: int, threshold: int) -> None:
    """Raise if a role could never be signed.

    Raises:
        RequestError: `request.threshold`.
    """
    if not 1 <= threshold <= count:
        raise RequestError(
            f"Role {role} would need {threshold} signature(s) from {count} key(s): choose a threshold from 1 to {count}."
            if count
            else f"Role {role} would have no key left: add its new key before removing the old one.",
            code="request.threshold",
        )


def _names(keyed: dict[str, Key]) -> tuple[str, ...]:
    return tuple(sorted(keys.key_name(key) for key in keyed.values()))
