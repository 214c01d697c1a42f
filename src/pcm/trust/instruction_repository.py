"""Writing one client's instruction repository: targets by the policy key, and a lease by each logon server's key.

Serves step 5: after `site.compile` made the instruction file, before `logon` serves it. The repository's root is
shared by all clients and comes from a ceremony (`pcm.trust.roots`). Pure: values and the time in, signed bytes out.

Versions are unix milliseconds. They must rise strictly with every signature of one signer and never be equal for
different content, because tuf's client takes an equal timestamp version for 'nothing new' (`next_version` sees to
it).
"""

from typing import NamedTuple

from securesystemslib.signer import Signer

from pcm.protocol.instructions import instructions_target
from pcm.trust import metadata

TARGETS_DAYS = 30
LEASE_DAYS = 3


class SignedInstructions(NamedTuple):
    """One client's instruction file and the targets metadata over it. `version`: milliseconds."""

    client_id: str
    version: int
    sha256: str
    body: bytes
    targets: bytes

    def files(self) -> metadata.Files:
        """Names below a logon server's root → contents, in writing order."""
        folder = f"clients/{self.client_id}"
        return {
            f"{folder}/{self.sha256}.instructions.json": self.body,
            f"{folder}/{self.version}.targets.json": self.targets,
        }


class Lease(NamedTuple):
    """A logon server's word that these targets were the newest at `version` (milliseconds)."""

    version: int
    snapshot: bytes
    timestamp: bytes

    def files(self, client_id: str) -> metadata.Files:
        """Names below a logon server's root → contents, in writing order: the timestamp makes the change visible."""
        folder = f"clients/{client_id}"
        return {
            f"{folder}/{self.version}.snapshot.json": self.snapshot,
            f"{folder}/timestamp.json": self.timestamp,
        }


def next_version(now_ms: int, previous: int | None) -> int:
    """The version to sign with: now in milliseconds, or one more than the last if the clock has not moved on."""
    return now_ms if previous is None else max(now_ms, previous + 1)


def sign_instructions(
    client_id: str, body: bytes, policy: Signer, now_ms: int, *, expires_days: float = TARGETS_DAYS
) -> SignedInstructions:
    """Sign one client's instruction file with the policy key.

    Args:
        client_id: Whose it is; part of the target's path, so it cannot be shown to another client.
        body: The instruction file.
        now_ms: Version and time of signing, from `next_version`.
    """
    signed = metadata.header("targets", now_ms, now_ms / 1000 + expires_days * metadata.DAY_S)
    described = metadata.target(body)
    signed["targets"] = {instructions_target(client_id): described}
    return SignedInstructions(client_id, now_ms, described["hashes"]["sha256"], body, metadata.sign(signed, (policy,)))


def sign_lease(
    targets: bytes, lease: Signer, now_ms: int, *, targets_version: int | None = None, expires_days: float = LEASE_DAYS
) -> Lease:
    """Sign, or renew, a logon server's lease on one client's targets.

    Args:
        targets: The targets metadata as the policy key signed it.
        lease: This logon server's lease key.
        now_ms: Version and time of signing, from `next_version`.
        targets_version: Spares reading it from `targets`.
    """
    if targets_version is None:
        targets_version = metadata.read_version(targets, "targets")
    expires_s = now_ms / 1000 + expires_days * metadata.DAY_S
    snapshot = metadata.header("snapshot", now_ms, expires_s)
    snapshot["meta"] = {"targets.json": metadata.entry(targets, targets_version)}
    snapshot_file = metadata.sign(snapshot, (lease,))
    timestamp = metadata.header("timestamp", now_ms, expires_s)
    timestamp["meta"] = {"snapshot.json": metadata.entry(snapshot_file, now_ms)}
    return Lease(now_ms, snapshot_file, metadata.sign(timestamp, (lease,)))
