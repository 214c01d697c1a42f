"""What is for me? One client's instruction repository, verified: checks 3 to 6, in this order, and the durable half of 7.

Serves step 6: comes after the transport and check 2 (`clock`), before `packages` and `cross_check`. The caller
(`service.inbox`) makes the returned folder current and stores the returned floors, serial and hash in one transaction
(check 7), or drops them all. Nothing in use is touched here, whatever a server sends.

Source: design, 'What the client checks, in this order'; the numbers below are the document's.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pcm.model.errors import PcmError, RequestError
from pcm.model.versions import compare_versions
from pcm.protocol.instructions import MAX_BYTES, Instructions, instructions_target, read_instructions
from pcm.trust import cache, floors, refresh
from pcm.trust.codes import refuse, refuse_document
from pcm.trust.fetching import Deadline, Fetch, read_file
from pcm.trust.floors import Floors


@dataclass(frozen=True)
class Recipient:
    """Who reads: site and client as pinned at enrolment, and this PCM service's version."""

    site: str
    client_id: str
    client_version: str


@dataclass(frozen=True)
class Seen:
    """What this client has accepted before, from its database."""

    floors: Floors = field(default_factory=Floors)
    serial: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class VerifiedInstructions:
    """An instruction file that may be believed, and what to store with it.

    `seen`: the new floors, serial and hash. `time_floor_s`: unix seconds that signed metadata proves (check 2, next time).
    `valid_until`: when the first signature or the file expires (check 13). `changed`: not the file that was seen before.
    """

    instructions: Instructions
    body: bytes
    folder: Path
    seen: Seen
    time_floor_s: float
    valid_until: datetime
    changed: bool


def verify_instructions(
    me: Recipient,
    pinned_root: bytes,
    current: Path | None,
    following: Path,
    *,
    seen: Seen,
    fetch: Fetch,
    now: datetime,
    deadline: Deadline | None = None,
) -> VerifiedInstructions:
    """Refresh and verify one client's instructions from one logon server.

    Args:
        me: Whose instructions these must be.
        pinned_root: The instruction repository's root, from the installer.
        current: The metadata folder in use, or None. Never changed.
        following: Where the copy goes; removed if anything is refused.
        seen: From the database.
        fetch: Asks one logon server; names are below its root.
        now: Aware.
        deadline: For everything together.

    Raises:
        TrustError: see `codes.REFUSALS`.
        TransferError: bytes did not arrive; `transfer.stale_server`.
        StoreError: this disk.
    """
    deadline = deadline or Deadline()
    repository = refresh.instruction_repository(me.site, me.client_id, pinned_root)
    refreshed = refresh.refresh(repository, current, following, fetch, deadline)  # check 3
    try:
        _check_recipient(refreshed, me)  # check 4
        floors.check_not_ahead(refreshed.offered, floors.now_in_ms(now), repository.title)  # check 5
        kept = floors.forget_revoked(seen.floors, refreshed.offered)
        floors.check_dated(kept, refreshed.offered, floors.now_in_ms(now), repository.title)
        body = _read_body(refreshed, me, fetch, deadline)  # check 6
        instructions = _parse_body(body, me, now)
        digest = hashlib.sha256(body).hexdigest()
        if kept.version("targets") or not seen.floors.version("targets"):  # a revoked policy key's serial binds nobody
            _check_serial(instructions, digest, seen)
        cache.keep(refreshed.folder, cache.BODY, body)
        cache.make_durable(refreshed.folder)  # check 7; the caller switches to the copy
    except PcmError:
        refresh.discard(following)
        raise
    raised = floors.raise_floors(kept, refreshed.offered)
    return VerifiedInstructions(
        instructions,
        body,
        refreshed.folder,
        Seen(raised, instructions.serial, digest),
        floors.dated_floor_s(raised),
        min(refreshed.valid_until, instructions.expires),
        changed=digest != seen.sha256,
    )


def _check_recipient(refreshed: refresh.Refreshed, me: Recipient) -> None:
    """Check 4, before the floors: else another client's files, replayed, would raise them and block the next honest poll."""
    if refreshed.targets.delegations is not None:
        raise refuse("trust.delegation", "The instruction repository delegates to other keys; it never does that.")
    targets = set(refreshed.targets.targets)
    if targets != {instructions_target(me.client_id)}:
        named = ", ".join(sorted(targets))[:200] or "nothing"
        raise refuse(
            "trust.wrong_recipient",
            f"The server showed {named} to client {me.client_id}: not this client's instructions.",
        )


def _read_body(refreshed: refresh.Refreshed, me: Recipient, fetch: Fetch, deadline: Deadline) -> bytes:
    """Check 6: length cap, then hash."""
    path = instructions_target(me.client_id)
    described = refreshed.targets.targets[path]
    expected = described.hashes.get("sha256")
    if expected is None:
        raise refuse("trust.malformed", f"{path} has no SHA-256 in its signed metadata.")
    if described.length > MAX_BYTES:
        raise refuse("trust.endless_data", f"{path} has {described.length} bytes; the limit is {MAX_BYTES}.")
    body = cache.read_kept(refreshed.folder, cache.BODY, MAX_BYTES)
    if body is None or hashlib.sha256(body).hexdigest() != expected:
        folder, _, name = path.rpartition("/")
        body = read_file(fetch, f"{folder}/{expected}.{name}", described.length, deadline)
    if len(body) != described.length or hashlib.sha256(body).hexdigest() != expected:
        raise refuse("trust.mix_and_match", f"{path} is not the file that the policy key signed.")
    return body


def _parse_body(body: bytes, me: Recipient, now: datetime) -> Instructions:
    """Check 6: one parse by one parser, then everything that the file says about itself."""
    try:
        instructions = read_instructions(body)
    except RequestError as error:
        raise refuse_document(error, "instruction file") from None
    if instructions.site != me.site:
        raise refuse("trust.wrong_site", f"The instruction file is for site {instructions.site!r}, not {me.site!r}.")
    if instructions.client_id != me.client_id:
        raise refuse("trust.wrong_recipient", f"The instruction file is for client {instructions.client_id}.")
    if instructions.expires <= now:
        raise refuse("trust.expired", f"The instruction file was valid until {instructions.expires.isoformat()}.")
    if compare_versions(me.client_version, instructions.min_client_version) < 0:
        raise refuse(
            "trust.client_too_old",
            f"The instruction file needs PCM service {instructions.min_client_version}; this is {me.client_version}.",
        )
    return instructions


def _check_serial(instructions: Instructions, digest: str, seen: Seen) -> None:
    """Check 6: the serial never goes back, and one serial means one file."""
    if instructions.serial < seen.serial:
        raise refuse(
            "trust.rollback",
            f"The instruction file has serial {instructions.serial}; {seen.serial} was seen here already.",
        )
    if instructions.serial == seen.serial and digest != seen.sha256:
        raise refuse("trust.equivocation", f"There are two instruction files with serial {instructions.serial}.")
