"""Looking after content: what nothing names any more goes, what is there is checked and mended, and all of it is told.

Serves step 2 from outside: `pcm content gc|verify|stats`. Nothing goes that a manifest in force, an instruction, or a client
within its grace time may still name, nor anything young: it may belong to a publication under way (KB Q153637, Q168569). Home is
cleared under `Site.content_turn`, which whoever is about to name objects holds too; another server under its own `turn`.
A clean-up may be killed at any point: what it has not removed is garbage still.
"""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Connection, or_, select

from pcm.content.object_store import verified_as_it_passes
from pcm.content.objects import object_path
from pcm.content.whole_files import TEMPORARY_PREFIX
from pcm.distribution.folder import TIMESTAMP
from pcm.distribution.shelf import FolderShelf, Shelf, Shelved, pieces_from
from pcm.model.errors import PcmError, RequestError, StoreError, TrustError
from pcm.protocol.admin_content import MIN_GRACE_S, Cleared, Damage, Verified
from pcm.site import audit, catalogue, job_life, repository
from pcm.site.authority import Site
from pcm.site.db.tables import assignments, jobs
from pcm.site.db.tables_packages import package_versions
from pcm.site.distribution_servers import DistributionServer
from pcm.site.projection import MOST_METADATA

_BATCH = 200
_EXAMPLES = 20
_TURN_S = 120.0
_OURS = re.compile(
    r"objects/[0-9a-f]{2}/[0-9a-f]{64}\.zst\Z|bundles/[0-9a-f]{2}/[0-9a-f]{64}/[^/]*\Z"
    r"|targets/packages/.*\.manifest\.json\Z|metadata/[0-9]+\.[^/]*\.json\Z"
)
Told = Callable[[str, int, int], None]
"""What is being looked at, how many files are done, of how many (0: unknown)."""


@dataclass
class Wanted:
    """Names that stay. `lengths`: object names with their plain lengths; `bundles`: prefixes; `files`: targets and metadata.

    `timestamp`: the bytes of the newest.
    """

    lengths: dict[str, int] = field(default_factory=dict)
    bundles: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    timestamp: bytes = b""

    def has(self, name: str) -> bool:
        """Whether a file is named."""
        return name in self.lengths or name in self.files or name.rpartition("/")[0] in self.bundles


def wanted(connection: Connection, site: Site) -> Wanted:
    """Everything that somebody may still ask for."""
    oldest = site.clock() - timedelta(days=site.configuration.content.keep_withdrawn_days)
    ordered = select(jobs.c.package_version).where(jobs.c.state == "active")
    held = (
        select(jobs.c.package_version)
        .join(assignments, assignments.c.job == jobs.c.id)
        .where(or_(assignments.c.state.in_(job_life.OPEN), assignments.c.cancelling))
    )
    rows = connection.execute(
        select(package_versions.c.manifest_path, package_versions.c.manifest_sha256).where(
            or_(
                package_versions.c.withdrawn.is_(None),
                package_versions.c.withdrawn > oldest,
                package_versions.c.id.in_(ordered),
                package_versions.c.id.in_(held),
            )
        )
    ).all()
    roles = repository.role_files(connection)
    found = Wanted(files={*roles, *repository.target_names(connection)}, timestamp=roles[TIMESTAMP])
    for row in rows:
        manifest = catalogue.load_manifest(connection, row.manifest_sha256)
        found.lengths.update((object_path(file.sha256), file.length) for file in manifest.files)
        found.bundles.add(f"bundles/{row.manifest_sha256[:2]}/{row.manifest_sha256}")
        found.files.add(repository.target_name_of(row.manifest_path, row.manifest_sha256))
    return found


def clear(site: Site, *, grace_s: float, dry_run: bool, actor: str, told: Told) -> tuple[Cleared, ...]:
    """Remove from home and every server what nothing names; with `dry_run`, only say what would go.

    Args:
        grace_s: Younger files stay, in seconds.

    Raises:
        RequestError: `request.grace`. StoreError: the database.
    """
    check_grace(grace_s, dry_run=dry_run)
    reports = [_clear_home(site, grace_s, dry_run=dry_run, told=told)]
    reports += [
        _clear_server(site, server, grace_s, dry_run=dry_run, told=told) for server in site.servers if not server.home
    ]
    removed = sum(report.removed for report in reports)
    if not dry_run:
        site.uploads.sweep()
        with site.database.write() as connection:
            freed = sum(report.removed_bytes for report in reports)
            audit.record(
                connection, site.clock(), actor, "content.gc", site.name, f"{removed} files removed, {freed} bytes"
            )
    return tuple(reports)


def check_grace(grace_s: float, *, dry_run: bool) -> None:
    """Raise if a publication under way would lose objects. Raises RequestError `request.grace`."""
    if grace_s < MIN_GRACE_S and not dry_run:
        raise RequestError(
            f"A grace of {grace_s:.0f} s is too short: {MIN_GRACE_S} s at least, or publications under way would lose objects.",
            code="request.grace",
        )


def _clear_home(site: Site, grace_s: float, *, dry_run: bool, told: Told) -> Cleared:
    started = time.time()  # of files: the file system's clock, not the site's
    with site.database.read() as connection:
        named = wanted(connection, site)
    sweep = _Sweep("home", FolderShelf(site.home.root), named, started - grace_s, told)
    batch: list[Shelved] = []
    for each in sweep.garbage():
        batch.append(each)
        if len(batch) >= _BATCH:
            _remove(site, sweep, batch, dry_run=dry_run)
            batch = []
    _remove(site, sweep, batch, dry_run=dry_run)
    return sweep.report()


def _remove(site: Site, sweep: "_Sweep", batch: Iterable[Shelved], *, dry_run: bool) -> None:
    """Under the turn, and only what is still old: whatever was published since the clean-up began has been touched."""
    with site.content_turn:
        for each in batch:
            path = site.home.root / each.name
            try:
                modified = path.stat().st_mtime
            except FileNotFoundError:
                continue
            sweep.remove(each._replace(modified=modified), dry_run=dry_run)


def _clear_server(site: Site, server: DistributionServer, grace_s: float, *, dry_run: bool, told: Told) -> Cleared:
    if not server.turn.acquire(timeout=_TURN_S):
        return Cleared(server.name, error="Something is being brought there. Ask again later.")
    try:
        with site.database.read() as connection:  # nothing is brought meanwhile, so nothing more can be named there
            named = wanted(connection, site)
        try:
            sweep = _Sweep(server.name, server.shelf, named, time.time() - grace_s, told)
        except StoreError as error:
            return Cleared(server.name, error=error.message)
        try:
            for each in list(sweep.garbage()):
                sweep.remove(each, dry_run=dry_run)
        except StoreError as error:
            sweep.error = error.message
        return sweep.report()
    finally:
        server.turn.release()


class _Sweep:
    """One look through one shelf."""

    def __init__(self, name: str, shelf: Shelf, named: Wanted, oldest: float, told: Told) -> None:
        self._name, self._shelf, self._named, self._oldest, self._told = name, shelf, named, oldest, told
        # what an older timestamp names is needed until the newest is there
        self._behind = shelf.read(TIMESTAMP, MOST_METADATA) != named.timestamp
        self._kept = self._kept_bytes = self._removed = self._removed_bytes = self._young = self._foreign = 0
        self._examples: list[str] = []
        self.error = ""

    def garbage(self) -> Iterable[Shelved]:
        """What nothing names and is not young."""
        for count, each in enumerate(self._shelf.list("")):
            if count % 1000 == 0:
                self._told(self._name, count, 0)
            left = each.name.rpartition("/")[2].startswith(TEMPORARY_PREFIX)
            if not left and (self._named.has(each.name) or (self._behind and each.name.startswith("metadata/"))):
                self._kept, self._kept_bytes = self._kept + 1, self._kept_bytes + each.size
            elif not left and not _OURS.match(each.name):
                self._foreign += not each.name.startswith(("uploads/", "metadata/", "targets/policy/"))
            elif each.modified > self._oldest:
                self._young += 1
            else:
                yield each

    def remove(self, each: Shelved, *, dry_run: bool) -> None:
        """Remove one, if it is still old."""
        if each.modified > self._oldest:
            self._young += 1
        elif dry_run or self._shelf.delete(each.name):
            self._removed, self._removed_bytes = self._removed + 1, self._removed_bytes + each.size
            if len(self._examples) < _EXAMPLES:
                self._examples.append(each.name)

    def report(self) -> Cleared:
        """What came of it."""
        return Cleared(
            self._name, self._kept, self._kept_bytes, self._removed, self._removed_bytes, self._young, self._foreign,
            tuple(self._examples), self.error,
        )  # fmt: skip


def verify(site: Site, *, repair: bool, actor: str, told: Told) -> tuple[Verified, ...]:
    """Read and hash everything that is named, at home and on every server; mend what can be mended.

    Raises:
        StoreError: the database.
    """
    with site.database.read() as connection:
        named = wanted(connection, site)
    others = [server for server in site.servers if not server.home]
    reports = [
        _verify_home(site, named, repair=repair, told=told),
        *(_verify_server(site, server, named, repair=repair, told=told) for server in others),
    ]
    with site.database.write() as connection:
        bad = sum(len(report.damaged) for report in reports)
        audit.record(connection, site.clock(), actor, "content.verify", site.name, f"{bad} damaged or absent")
    return tuple(reports)


def _verify_home(site: Site, named: Wanted, *, repair: bool, told: Told) -> Verified:
    home = FolderShelf(site.home.root)
    damaged: list[Damage] = []
    for name, what in _check_all("home", home, named, told):
        mended = repair and _mend_home(site, home, name, named.lengths[name])
        damaged.append(Damage(name, what, mended))
    return Verified("home", len(named.lengths), tuple(damaged))


def _mend_home(site: Site, home: FolderShelf, name: str, length: int) -> bool:
    """From a server whose copy is right; else take the damaged one away, so that publishing brings it again."""
    for server in site.servers:
        if server.home:
            continue
        try:
            home.write(name, verified_as_it_passes(pieces_from(server.shelf.open(name)), name[-68:-4], length))
        except PcmError:
            continue
        return True
    with site.content_turn:
        if _is_right(home, name, length):  # whoever publishes it again has brought it meanwhile
            return True
        home.delete(name)
    return False


def _verify_server(site: Site, server: DistributionServer, named: Wanted, *, repair: bool, told: Told) -> Verified:
    home = FolderShelf(site.home.root)
    damaged: list[Damage] = []
    try:
        for name, what in _check_all(server.name, server.shelf, named, told):
            mended = False
            if repair:
                with server.turn:
                    server.shelf.write(
                        name, verified_as_it_passes(pieces_from(home.open(name)), name[-68:-4], named.lengths[name])
                    )
                mended = True
            damaged.append(Damage(name, what, mended))
    except PcmError as error:
        return Verified(server.name, len(named.lengths), tuple(damaged), error.message)
    return Verified(server.name, len(named.lengths), tuple(damaged))


def _is_right(shelf: Shelf, name: str, length: int) -> bool:
    try:
        for _ in verified_as_it_passes(pieces_from(shelf.open(name)), name[-68:-4], length):
            pass
    except PcmError:
        return False
    return True


def _check_all(title: str, shelf: Shelf, named: Wanted, told: Told) -> Iterable[tuple[str, str]]:
    """Names of objects that are not right, and what is wrong with each."""
    for count, (name, length) in enumerate(named.lengths.items()):
        told(title, count, len(named.lengths))
        try:
            for _ in verified_as_it_passes(pieces_from(shelf.open(name)), name[-68:-4], length):
                pass
        except RequestError:
            yield name, "absent"
        except TrustError as error:
            yield name, error.message
        except StoreError as error:  # a sector that cannot be read any more is damage too
            if error.code != "store.damaged":
                raise
            yield name, error.message
