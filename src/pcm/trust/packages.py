"""What may run: the package repository, verified. Check 8, and what check 9 compares with.

Serves step 6: comes after `instructions`, before `cross_check`. The caller makes the returned folder current and
stores the floors in one transaction, after `close`. A team whose metadata does not hold spoils its own packages only.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pcm.model.errors import PcmError, RequestError
from pcm.protocol import policy
from pcm.protocol.policy import SitePolicy, read_policy
from pcm.trust import cache, floors, refresh
from pcm.trust.codes import refuse, refuse_document
from pcm.trust.fetching import Deadline, Fetch, read_file
from pcm.trust.manifests import Published


class Packages:
    """The refreshed package repository. `folder`: the copy. `policy`: the site's, offline-signed."""

    def __init__(
        self, refreshed: refresh.Refreshed, stored: floors.Floors, title: str, site_policy: SitePolicy
    ) -> None:
        self.folder = refreshed.folder
        self.policy = site_policy
        self.valid_until: datetime = refreshed.valid_until
        self._refreshed = refreshed
        self._stored = stored
        self._title = title
        self._refused: dict[str, PcmError] = {}
        self._checked: set[str] = set()

    def find(self, path: str) -> Published:
        """What is published under a target path.

        Raises:
            TrustError: `trust.unsigned_program`: nothing (or it was withdrawn); any other: its team's metadata does not hold.
            TransferError: its team's metadata did not arrive.
        """
        team = path.split("/")[1] if path.startswith("packages/") else ""
        if team in self._refused:
            raise self._refused[team]
        try:
            found = self._refreshed.find(path)
            self._check_team(team)
        except PcmError as error:
            self._refused[team] = error
            raise
        if found is None:
            raise refuse("trust.unsigned_program", f"No packager has signed {path}, or it was withdrawn.")
        return Published(path, *found)

    def _check_team(self, team: str) -> None:
        # top-level floors were checked at once; a team's when its role is first looked into, and only for its own packages
        if team in self._checked:
            return
        offered = self._refreshed.offered
        floor = floors.forget_revoked(self._stored, offered).roles.get(team)
        if floor is not None:
            floors.check(floors.Floors({team: floor}), offered, self._title)
        if team in offered.roles:
            self._checked.add(team)

    def close(self) -> floors.Floors:
        """Make the copy durable; the floors to store with it.

        Raises:
            StoreError: the disk does not take it.
        """
        cache.make_durable(self.folder)
        offered = self._refreshed.offered
        accepted = floors.Floors({role: floor for role, floor in offered.roles.items() if role not in self._refused})
        return floors.raise_floors(floors.forget_revoked(self._stored, accepted), accepted)


def verify_packages(
    site: str,
    pinned_root: bytes,
    current: Path | None,
    following: Path,
    *,
    stored: floors.Floors,
    least: Mapping[str, int],
    fetch: Fetch,
    deadline: Deadline | None = None,
) -> Packages:
    """Check 8: refresh the package repository from one distribution server.

    Args:
        site: As pinned at enrolment.
        pinned_root: The package repository's root, from the installer.
        current: The metadata folder in use, or None. Never changed.
        following: Where the copy goes; removed if anything is refused.
        stored: The floors from the database.
        least: The instructions' `package_repository_min`: role → version.
        fetch: Asks one distribution server; names are below its root.
        deadline: For everything together.

    Raises:
        TrustError: see `codes.REFUSALS`.
        TransferError: bytes did not arrive.
        StoreError: this disk.
    """
    deadline = deadline or Deadline()
    repository = refresh.package_repository(site, pinned_root)
    refreshed = refresh.refresh(repository, current, following, fetch, deadline)
    try:
        floors.check(floors.forget_revoked(stored, refreshed.offered), refreshed.offered, repository.title)  # check 8
        floors.least_versions(least, refreshed.offered, repository.title)
        site_policy = _read_policy(refreshed, site, fetch, deadline)
    except PcmError:
        refresh.discard(following)
        raise
    return Packages(refreshed, stored, repository.title, site_policy)


def _read_policy(refreshed: refresh.Refreshed, site: str, fetch: Fetch, deadline: Deadline) -> SitePolicy:
    described = refreshed.targets.targets.get(policy.TARGET)
    if described is None or "sha256" not in described.hashes:
        raise refuse("trust.unsigned", "The package repository has no signed policy/site.json.")
    expected = described.hashes["sha256"]
    data = cache.read_kept(refreshed.folder, cache.POLICY, policy.MAX_BYTES)
    if data is None or hashlib.sha256(data).hexdigest() != expected:
        limit = min(described.length, policy.MAX_BYTES)
        data = read_file(fetch, f"targets/policy/{expected}.site.json", limit, deadline)
    if hashlib.sha256(data).hexdigest() != expected or len(data) != described.length:
        raise refuse("trust.mix_and_match", "policy/site.json is not the file that was signed.")
    try:
        parsed = read_policy(data)
    except RequestError as error:
        raise refuse_document(error, "policy/site.json") from None
    if parsed.site != site:
        raise refuse("trust.wrong_site", f"The site policy is for site {parsed.site!r}, not {site!r}.")
    cache.keep(refreshed.folder, cache.POLICY, data)
    return parsed
