"""Refreshing one repository with the unmodified tuf client, in a copy of its metadata folder.

Serves step 6, checks 3 and 8: comes after the transport, before `instructions` and `packages`. All TUF rules
(signatures, thresholds, root chain, expiry, consistent versions) are `tuf.ngclient.Updater`'s. This is the thin
driver around it: bounded fetching, the root's mark, one place where tuf's errors become ours. It decides nothing
about floors and never touches the current folder.

tuf is loaded when this module is, so a client imports it only when something has changed.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from pcm.model.errors import PcmError, StoreError, TrustError
from pcm.trust import cache, roots
from pcm.trust.codes import refuse
from pcm.trust.fetching import NOT_FOUND, Deadline, Fetch, read_file
from pcm.trust.floors import Floor, Floors, leased

_T = TypeVar("_T")
# Every refresh starts from the pinned root and walks all roots since, so this bounds a site's life, not one refresh.
MAX_ROOT_ROTATIONS = 1024
MAX_VERSION = 2**53  # what every JSON reader and database holds exactly


@dataclass(frozen=True)
class Limits:
    """Bytes that are read of each role's file at most."""

    root: int
    timestamp: int
    snapshot: int
    targets: int

    def of(self, role: str) -> int:
        """The limit of a role; delegated roles are targets."""
        return {"root": self.root, "timestamp": self.timestamp, "snapshot": self.snapshot}.get(role, self.targets)


INSTRUCTION_LIMITS = Limits(root=64 * 2**10, timestamp=4 * 2**10, snapshot=4 * 2**10, targets=8 * 2**10)
PACKAGE_LIMITS = Limits(root=64 * 2**10, timestamp=4 * 2**10, snapshot=2_000_000, targets=5_000_000)


@dataclass(frozen=True)
class Repository:
    """Which repository is read, and where its files are.

    `kind`: `roots.INSTRUCTIONS` or `roots.PACKAGES`. `pinned_root`: came with the installer. `place`: a metadata file's name
    (`5.snapshot.json`) → its name below the server's root.
    """

    kind: str
    site: str
    pinned_root: bytes
    limits: Limits
    place: Callable[[str], str]

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.kind} of site {self.site}"


def instruction_repository(site: str, client_id: str, pinned_root: bytes) -> Repository:
    """One client's instruction repository on a logon server."""

    def place(name: str) -> str:
        return f"roots/{name}" if name.endswith(".root.json") else f"clients/{client_id}/{name}"

    return Repository(roots.INSTRUCTIONS, site, pinned_root, INSTRUCTION_LIMITS, place)


def package_repository(site: str, pinned_root: bytes) -> Repository:
    """The package repository on a distribution server."""
    return Repository(roots.PACKAGES, site, pinned_root, PACKAGE_LIMITS, lambda name: f"metadata/{name}")


class _Fetcher(FetcherInterface):
    """tuf's fetcher over ours. Our own errors pass through tuf untouched; only a missing root is told in its terms."""

    def __init__(self, repository: Repository, fetch: Fetch, deadline: Deadline) -> None:
        self._repository = repository
        self._fetch_file = fetch
        self._deadline = deadline
        self.role = ""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        name = url.rpartition("/")[2]
        self.role = name.removesuffix(".json").rpartition(".")[2]
        # A length in signed metadata may be anything if an online key was stolen: our limit holds as well.
        limit = min(max_length, self._repository.limits.of(self.role))
        try:
            return read_file(self._fetch_file, self._repository.place(name), limit, self._deadline)
        except PcmError as error:
            if error.code == NOT_FOUND and self.role == Root.type:
                raise exceptions.DownloadHTTPError(error.message, 404) from error
            raise

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, PACKAGE_LIMITS.targets)


class Refreshed:
    """A refreshed copy: what tuf verified, read back from it.

    `folder`: the copy. `offered`: versions and keys of root, timestamp, snapshot, targets and each team that was looked into.
    """

    def __init__(self, repository: Repository, folder: Path, updater: Updater, fetcher: _Fetcher) -> None:
        self.folder = folder
        self._repository = repository
        self._updater = updater
        self._fetcher = fetcher
        self._entries: dict[str, dict[str, dict[str, Any]]] = {}
        self.root: Root = self._read("root")
        self.timestamp: Timestamp = self._read("timestamp")
        self.snapshot: Snapshot = self._read("snapshot")
        self.targets: Targets = self._read("targets")
        self._floors = {
            self._floor_name(role): Floor(signed.version, tuple(self.root.roles[role].keyids))
            for role, signed in (
                ("root", self.root),
                ("timestamp", self.timestamp),
                ("snapshot", self.snapshot),
                ("targets", self.targets),
            )
        }

    def _read(self, role: str) -> Any:
        return self._load(role).signed

    def _load(self, role: str) -> Metadata[Any]:
        # tuf has just written or verified these very files; its own set of trusted metadata is private.
        return Metadata.from_file(str(self.folder / f"{role}.json"))

    def _floor_name(self, role: str) -> str:
        if self._repository.kind != roots.INSTRUCTIONS or role not in {"timestamp", "snapshot"}:
            return role
        lease = self._load(role)
        by = self.root.get_verification_result(role, lease.signed_bytes, lease.signatures).signed
        return leased(role, min(by))

    @property
    def offered(self) -> Floors:
        """Versions and keys that were verified so far."""
        return Floors(dict(self._floors))

    @property
    def valid_until(self) -> datetime:
        """When the first of the top-level roles expires."""
        return min(self.root.expires, self.timestamp.expires, self.snapshot.expires, self.targets.expires)

    def find(self, path: str) -> tuple[int, dict[str, str]] | None:
        """Length and hashes (algorithm → hex) of a target; None if there is no such target. Loads the team's role if need be.

        Raises:
            TrustError: the team's metadata does not hold.
            TransferError: it did not arrive.
            StoreError: it could not be written.
        """
        role = self._role_of(path)
        if role not in self._entries:
            # the first question about a role is tuf's, which fetches and verifies it; any other is read from what it verified
            _guarded(lambda: self._updater.get_targetinfo(path), self._fetcher, self._repository)
            self._note_team(role)
            self._entries[role] = self._read_entries(role)
        entry = self._entries[role].get(path)
        return None if entry is None else (entry["length"], entry["hashes"])

    def _role_of(self, path: str) -> str:
        """The one role that tuf's walk ends in: the top-level targets if they name the path, else the first team that may.

        A walk sees no second team, because `_refresh` allows it one delegation.
        """
        delegations = self.targets.delegations
        if path in self.targets.targets or delegations is None:
            return Targets.type
        return next((role for role, _ in delegations.get_roles_for_target(path)), Targets.type)

    def _read_entries(self, role: str) -> dict[str, dict[str, Any]]:
        # as written down: of a role with ten thousand targets, only those that are asked for become objects
        document = json.loads((self.folder / f"{quote(role, '')}.json").read_bytes())
        entries: dict[str, dict[str, Any]] = document["signed"]["targets"]
        return entries

    def _note_team(self, role: str) -> None:
        if role in self._floors:
            return
        delegations, loaded = self.targets.delegations, self.snapshot.meta.get(f"{role}.json")
        if loaded is not None and delegations is not None and delegations.roles is not None:
            floor = Floor(loaded.version, tuple(delegations.roles[role].keyids))
            _check_versions(self._repository, Floors({role: floor}))
            self._floors[role] = floor


def refresh(
    repository: Repository, current: Path | None, following: Path, fetch: Fetch, deadline: Deadline | None = None
) -> Refreshed:
    """Check 3 (and 8): refresh a copy of a repository's metadata.

    Args:
        repository: Which one.
        current: Its metadata folder in use, or None. Never changed.
        following: The copy; discarded if anything is wrong.
        fetch: Asks one server.
        deadline: For the whole refresh.

    Raises:
        TrustError: anything that a server must not do, with the code of the attack.
        TransferError: what `fetch` raises; `transfer.too_slow`.
        StoreError: the copy cannot be written.
    """
    cache.copy(current, following, max(repository.limits.targets, 8 * 2**20))
    fetcher = _Fetcher(repository, fetch, deadline or Deadline())
    try:
        refreshed = _refresh_twice(repository, following, fetcher)
        _check_mark(repository, refreshed.root)
        _check_versions(repository, refreshed.offered)
    except PcmError:
        discard(following)
        raise
    return refreshed


def discard(folder: Path) -> None:
    """Remove a refused copy.

    Raises:
        StoreError: it cannot be removed.
    """
    try:
        cache.discard(folder)
    except OSError as error:
        raise StoreError(f"The folder {folder} cannot be removed: {error.strerror}.") from error


def _refresh_twice(repository: Repository, folder: Path, fetcher: _Fetcher) -> Refreshed:
    try:
        return _guarded(lambda: _refresh(repository, folder, fetcher), fetcher, repository)
    except TrustError as error:
        # tuf also compares with the cached roles. They may be damaged, or signed by a key that has been revoked since;
        # the floors in the database are the authority, and the caller checks them next. So once more, without the cache.
        if error.code == "trust.endless_data" or not cache.forget_roles(folder):
            raise
    return _guarded(lambda: _refresh(repository, folder, fetcher), fetcher, repository)


def _refresh(repository: Repository, folder: Path, fetcher: _Fetcher) -> Refreshed:
    limits = repository.limits
    config = UpdaterConfig(
        max_root_rotations=MAX_ROOT_ROTATIONS,
        max_delegations=1,  # top-level targets, then one team; a team cannot delegate further
        root_max_length=limits.root,
        timestamp_max_length=limits.timestamp,
        snapshot_max_length=limits.snapshot,
        targets_max_length=limits.targets,
    )
    fetcher.role = Root.type
    updater = Updater(str(folder), "/", fetcher=fetcher, config=config, bootstrap=repository.pinned_root)
    updater.refresh()
    return Refreshed(repository, folder, updater, fetcher)


def _check_mark(repository: Repository, root: Root) -> None:
    # The same keepers sign both roots of a site. Without the mark, one repository's root would pass for the other's.
    if roots.mark_of(root) != roots.mark(repository.kind, repository.site):
        raise refuse("trust.rogue_root", f"{repository.title}: root {root.version} belongs to another repository.")


def _check_versions(repository: Repository, offered: Floors) -> None:
    for role, floor in offered.roles.items():
        if floor.version > MAX_VERSION:
            raise refuse("trust.malformed", f"{repository.title}: {role} has an impossible version number.")


def _guarded(action: Callable[[], _T], fetcher: _Fetcher, repository: Repository) -> _T:
    """The one place where tuf's errors become ours."""
    try:
        return action()
    except exceptions.RepositoryError as error:
        raise refuse(_code(error, fetcher.role), f"{repository.title}, {fetcher.role}: {error}") from error
    except OSError as error:
        raise StoreError(f"{repository.title}: metadata cannot be kept: {error}.") from error


def _code(error: exceptions.RepositoryError, role: str) -> str:
    if isinstance(error, exceptions.ExpiredMetadataError):
        return "trust.freeze"
    if role == Root.type:
        return "trust.rogue_root"
    if isinstance(error, exceptions.UnsignedMetadataError):
        return "trust.unsigned"
    if isinstance(error, (exceptions.LengthOrHashMismatchError, exceptions.BadVersionNumberError)):
        return "trust.mix_and_match"
    return "trust.malformed"
