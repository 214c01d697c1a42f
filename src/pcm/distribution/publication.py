"""Publishing and withdrawing: the packager's next signed word, built only on metadata that this machine has verified.

Step 2 of 12: after `content.package_directory` and `publish` (the objects), before `site.packages`, which makes it visible. A
packager's machine trusts the site no more than a client does: it walks the package repository from its pinned root, keeps
floors, and extends a team's list only if the team itself signed that list and it is not older than one seen here. It never
sends a key, and it never replaces a published version.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from securesystemslib.signer import Signer

from pcm.distribution.packager_memory import PackagerMemory
from pcm.distribution.publish import Uploader, UploadProgress, upload_missing
from pcm.model.errors import PcmError, RequestError
from pcm.model.package import Package
from pcm.protocol.admin import TargetFile
from pcm.protocol.admin_packages import Publication, PublicationAnswer, TeamView
from pcm.protocol.manifest import MAX_BYTES as MAX_MANIFEST
from pcm.protocol.manifest import Manifest, manifest_target, write_manifest
from pcm.trust import ceremony, floors, metadata, package_repository, refresh
from pcm.trust.codes import refuse
from pcm.trust.fetching import Fetch


class PublishingSite(Uploader, Protocol):
    """A site as a packager sees it."""

    def team(self, team: str) -> TeamView:
        """What the team has published so far, as the site says. Raises RequestError `not_found`."""

    def newest_release(self, package: str) -> int:
        """The highest release of a package that was ever published; 0 if none was."""

    def publish(self, publication: Publication) -> PublicationAnswer:
        """Make signed metadata and manifests visible."""


@dataclass(frozen=True)
class Packager:
    """Who publishes, where, and what this machine knows.

    `pinned_root`: of the package repository. `signers_for`: opens those of the keys (by id) that this machine has. `fetch`: one
    distribution server's files. `now_s`: unix time in seconds.
    """

    site_name: str
    team: str
    site: PublishingSite
    pinned_root: bytes
    memory: PackagerMemory
    fetch: Fetch
    signers_for: Callable[[frozenset[str]], Sequence[Signer]]
    now_s: float


@dataclass(frozen=True)
class Team:
    """A team's state, verified: its signed list so far (None: nothing yet), its keys' ids and threshold."""

    current: bytes | None
    keyids: frozenset[str]
    threshold: int
    offered: floors.Floors


def publish_package(
    packager: Packager,
    directory: Path,
    package: Package,
    on_progress: Callable[[UploadProgress], None] | None = None,
) -> tuple[Manifest, PublicationAnswer]:
    """Sign a package and make it visible: objects first, then the manifest and the team's list.

    Args:
        directory: The package directory that `package.files` was scanned from.
        package: Complete; its release must be higher than any before.

    Raises:
        RequestError: `conflict`: the version is published already, or the release is not higher; `not_allowed`: no such team, or
            not enough of its keys here; see `upload_missing`.
        TrustError: what the site or its servers offer is not what was signed, or is older than what was seen here.
        TransferError, StoreError: as their names say.
    """
    team = verify_team(packager)
    path = manifest_target(packager.team, package.package, package.version)
    if team.current is not None and path in package_repository.list_targets(team.current):
        raise RequestError(
            f"{package.package} {package.version} is published already, and a version never changes. Give it a new version "
            "(for the same software: 1.2-2 after 1.2).",
            code="conflict",
        )
    least = next_release(packager, package.package)
    if package.release < least:
        raise RequestError(
            f"Release {package.release} of {package.package} is not higher than the last one: use {least} or more, or leave "
            "release out.",
            code="conflict",
        )
    signers = _enough_signers(packager, team)
    fields = {name: getattr(package, name) for name in package.__struct_fields__}
    signed_at = datetime.fromtimestamp(int(packager.now_s), UTC)
    manifest = Manifest(**fields, signed_at=signed_at)
    body = write_manifest(manifest)
    if len(body) > MAX_MANIFEST:
        raise RequestError(
            f"The manifest of {package.package} {package.version} would have {len(body)} bytes; {MAX_MANIFEST} is the limit. "
            f"{len(package.files)} files with such long paths are too many: pack some together.",
            code="request.too_large",
        )
    upload_missing(directory, package.files, packager.site, on_progress)
    following = package_repository.add_target(packager.team, team.current, path, body, signers, _expiry(packager))
    answer = _send(packager, team, following, (TargetFile(path, body),), {package.package: package.release})
    return manifest, answer


def withdraw_version(packager: Packager, package: str, version: str) -> PublicationAnswer:
    """Take a version back: clients refuse it from then on. Its release number stays used.

    Raises:
        RequestError: `not_found`; else as `publish_package`.
    """
    team = verify_team(packager)
    path = manifest_target(packager.team, package, version)
    if team.current is None or path not in package_repository.list_targets(team.current):
        raise RequestError(f"Team {packager.team} has published no {package} {version}.", code="not_found")
    signers = _enough_signers(packager, team)
    following = package_repository.remove_target(packager.team, team.current, path, signers, _expiry(packager))
    return _send(packager, team, following, (), {})


def sign_again(packager: Packager) -> PublicationAnswer:
    """Sign the team's list again as it is, to last another year: nothing is published, nothing withdrawn.

    Raises:
        RequestError: `not_found`: the team has published nothing; else as `publish_package`.
    """
    team = verify_team(packager)
    if team.current is None:
        raise RequestError(f"Team {packager.team} has published nothing yet.", code="not_found")
    signers = _enough_signers(packager, team)
    following = package_repository.sign_team_again(packager.team, team.current, signers, _expiry(packager))
    return _send(packager, team, following, (), {})


def next_release(packager: Packager, package: str) -> int:
    """The least release that may be published next, by the site's word and by this machine's memory."""
    return max(packager.site.newest_release(package), packager.memory.release(package)) + 1


def verify_team(packager: Packager) -> Team:
    """Verify the package repository from the pinned root, and the team's list in it.

    Raises:
        RequestError: `not_allowed`: there is no such team.
        TrustError: `trust.unsigned`, `trust.rollback` and what `refresh` refuses.
    """
    memory = packager.memory
    repository = refresh.package_repository(packager.site_name, packager.pinned_root)
    refreshed = refresh.refresh(repository, memory.metadata, memory.following, packager.fetch)
    stored = floors.forget_revoked(memory.floors(), refreshed.offered)
    try:
        floors.check(stored, refreshed.offered, repository.title)
        team = _verify_list(packager, refreshed, stored)
    except PcmError:
        refresh.discard(refreshed.folder)
        raise
    memory.settle(refreshed.folder)
    memory.keep_floors(floors.raise_floors(stored, team.offered))
    return team


def _verify_list(packager: Packager, refreshed: refresh.Refreshed, stored: floors.Floors) -> Team:
    name = packager.team
    delegations = refreshed.targets.delegations
    role = (delegations.roles or {}).get(name) if delegations is not None else None
    if role is None:
        raise RequestError(f"The package repository knows no team {name}.", code="not_allowed")
    data = packager.site.team(name).metadata
    listed = refreshed.snapshot.meta.get(f"{name}.json")
    if data is None:
        nothing = floors.Floors({**refreshed.offered.roles, name: floors.Floor(0, tuple(role.keyids))})
        published = listed.version if listed is not None else floors.forget_revoked(stored, nothing).version(name)
        if published:
            # else a list begun anew, at version 1, would take back all that the team ever published
            raise refuse("trust.freeze", f"The site withholds team {name}'s list: version {published} was published.")
        return Team(None, frozenset(role.keyids), role.threshold, refreshed.offered)
    document = ceremony.load_targets(data)
    if not refreshed.targets.get_verification_result(name, document.signed_bytes, document.signatures):
        raise refuse("trust.unsigned", f"Team {name}'s list is not signed by the team's keys.")
    version = document.signed.version
    if listed is not None and version < listed.version:
        raise refuse(
            "trust.rollback", f"The site offers version {version} of team {name}'s list; {listed.version} is published."
        )
    offered = floors.Floors({**refreshed.offered.roles, name: floors.Floor(version, tuple(role.keyids))})
    floors.check(floors.forget_revoked(stored, offered), offered, f"team {name}'s list")
    return Team(data, frozenset(role.keyids), role.threshold, offered)


def _enough_signers(packager: Packager, team: Team) -> Sequence[Signer]:
    signers = packager.signers_for(team.keyids)
    if len(signers) < team.threshold:
        raise RequestError(
            f"Publishing for team {packager.team} takes {team.threshold} of its keys; this keyring has {len(signers)} of them.",
            code="not_allowed",
        )
    return signers


def _expiry(packager: Packager) -> float:
    return packager.now_s + package_repository.TEAM_DAYS * metadata.DAY_S


def _send(
    packager: Packager, team: Team, following: bytes, manifests: Iterable[TargetFile], releases: dict[str, int]
) -> PublicationAnswer:
    answer = packager.site.publish(Publication(packager.team, following, tuple(manifests)))
    version = metadata.read_version(following, "targets")
    raised = floors.Floors({packager.team: floors.Floor(version, tuple(team.keyids))})
    packager.memory.keep_floors(floors.raise_floors(packager.memory.floors(), raised))
    packager.memory.keep_releases(releases)
    return answer
