"""Bringing what is published to every distribution server, by rows that say what is still to be brought and when.

Step 2 of 12: after `packages` and `projection` have put a version into the site's home, while jobs already name it. Each server
is by itself: one that is away holds up no other (KB Q191360). On each, a version's content comes first, then its
manifest, then the metadata that names it, so that no client ever finds a name without its content (KB Q235837). An
attempt that failed is a row with its number and the time of the next: a restart neither forgets nor repeats it.
"""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from pcm.content.object_store import MOST_SMALL, verified_as_it_passes, verify_small
from pcm.content.objects import object_path
from pcm.distribution.improving import bundles_of
from pcm.distribution.shelf import FolderShelf, Shelf, pieces_from
from pcm.model.errors import PcmError, StoreError
from pcm.model.package import PackageFile
from pcm.protocol.manifest import Manifest
from pcm.site import catalogue, repository
from pcm.site.authority import Site
from pcm.site.db.tables import AnyRow
from pcm.site.db.tables_content import deliveries, distribution_states
from pcm.site.db.tables_packages import package_versions
from pcm.site.distribution_servers import DistributionServer
from pcm.site.projection import bring_metadata

_FIRST_S, _LONGEST_S = 10, 3600
_TOGETHER = 16 * 2**20
_log = logging.getLogger(__name__)


class Brought(NamedTuple):
    """What one delivery has written."""

    files: int
    bytes: int


def plan(site: Site) -> None:
    """Make a row for each version on each server that has none; forget servers that are no more."""
    now = site.clock()
    names = [server.name for server in site.servers]
    with site.database.write() as connection:
        for table in (deliveries, distribution_states):
            connection.execute(delete(table).where(table.c.server.not_in(names)))
        known = set(connection.execute(select(distribution_states.c.server)).scalars())
        for name in names:
            if name not in known:
                connection.execute(insert(distribution_states).values(server=name))
            mine = select(deliveries.c.package_version).where(deliveries.c.server == name)
            fresh = connection.execute(
                select(package_versions.c.id).where(
                    package_versions.c.withdrawn.is_(None), package_versions.c.id.not_in(mine)
                )
            ).scalars()
            rows = [{"server": name, "package_version": version, "changed": now} for version in fresh]
            if rows:
                connection.execute(insert(deliveries), rows)


def ask_again(connection: Connection, version: int, now: datetime) -> None:
    """There is more of a version at home than before (bundles, smaller objects): have it brought everywhere."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.package_version == version)
        .values(pending=True, wanted=deliveries.c.wanted + 1, attempts=0, next_try=None, changed=now)
    )


def deliver_all(site: Site) -> None:
    """Bring to every server what is due, one after the other."""
    plan(site)
    for server in site.servers:
        deliver(site, server)


def deliver(site: Site, server: DistributionServer) -> bool:
    """Bring to one server what is due; whether it is in step then. Nobody else does so meanwhile."""
    if not server.turn.acquire(blocking=False):
        return False  # somebody is at it: twice at once would be twice the attempts (KB Q185179)
    try:
        return _deliver(site, server)
    finally:
        server.turn.release()


def wait_s(attempts: int) -> int:
    """Seconds until the next attempt after so many that failed."""
    return min(_FIRST_S << min(attempts - 1, 20), _LONGEST_S)


def _deliver(site: Site, server: DistributionServer) -> bool:
    with site.database.read() as connection:
        state = connection.execute(
            select(distribution_states).where(distribution_states.c.server == server.name)
        ).first()
    if state is None or (state.next_try is not None and state.next_try > site.clock()):
        return False
    try:
        if isinstance(server.shelf, FolderShelf):
            server.shelf.check()
        _notice_loss(site, server)
        for row in _due(site, server):
            try:
                brought = bring_version(site, server.shelf, row.package_version)
            except PcmError as error:
                if isinstance(error, StoreError) and error.code == "store.away":
                    raise
                _put_off(site, server, row, error)
            else:
                _note_brought(site, server, row, brought)
        in_step, timestamp = bring_metadata(site, server)
    except PcmError as error:
        _note_away(site, server, error)
        return False
    _note_reached(site, server, timestamp, in_step=in_step)
    return in_step


def bring_version(site: Site, target: Shelf, version: int) -> Brought:
    """Bring one version's content from home: what is lacking, and what has become smaller.

    Raises:
        StoreError: `store.away` and the like of the target; `store.object_missing`: home lacks it.
        TrustError: home's is damaged. RequestError: the version is unknown.
    """
    with site.database.read() as connection:
        found = connection.execute(
            select(package_versions.c.manifest_sha256).where(package_versions.c.id == version)
        ).scalar_one()
        sha256 = str(found)
        manifest = catalogue.load_manifest(connection, sha256)
    home = FolderShelf(site.home.root)
    files = {object_path(file.sha256): file for file in manifest.files}
    here = home.sizes(files)
    if lacking := [name for name in files if name not in here]:
        raise StoreError(
            f"{manifest.package} {manifest.version}: the site itself lacks {len(lacking)} objects, {lacking[0]} for one. "
            "Bring them back: pcm content verify --repair, or publish it again.",
            code="store.object_missing",
        )
    bundles = bundles_of(site.home.root, sha256)
    there = target.sizes([*files, *bundles])
    objects = [name for name, size in here.items() if there.get(name) is None or there[name] > size]
    count = _copy_objects(home, target, {name: files[name] for name in objects}, here)
    for name, size in bundles.items():
        if there.get(name) != size:
            target.write(name, pieces_from(home.open(name)))
            count = Brought(count.files + 1, count.bytes + size)
    return count


def _copy_objects(home: FolderShelf, target: Shelf, files: dict[str, PackageFile], sizes: dict[str, int]) -> Brought:
    small = [name for name, file in files.items() if file.length <= MOST_SMALL]
    for batch in _batches(small, sizes):
        contents: dict[str, bytes] = {}
        for name in batch:
            contents[name] = b"".join(pieces_from(home.open(name)))
            verify_small(files[name].sha256, contents[name])
        target.write_many(contents)
    for name, file in files.items():
        if file.length > MOST_SMALL:
            target.write(name, verified_as_it_passes(pieces_from(home.open(name)), file.sha256, file.length))
    return Brought(len(files), sum(sizes[name] for name in files))


def _batches(names: list[str], sizes: dict[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for name in names:
        batch.append(name)
        size += sizes[name]
        if size >= _TOGETHER or len(batch) >= 2000:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def missing_at(target: Shelf, manifest: Manifest) -> list[PackageFile]:
    """Files of a manifest whose objects a shelf lacks."""
    files = {object_path(file.sha256): file for file in manifest.files}
    there = target.sizes(files)
    return [file for name, file in files.items() if name not in there]


def _notice_loss(site: Site, server: DistributionServer) -> None:
    """A server without a timestamp is new, or has lost what it had: whatever its rows say, it is filled from the beginning."""
    if server.shelf.size("metadata/timestamp.json") is not None:
        return
    with site.database.write() as connection:
        connection.execute(
            update(deliveries)
            .where(deliveries.c.server == server.name, deliveries.c.complete.is_not(None))
            .values(complete=None, pending=True, next_try=None, changed=site.clock())
        )


def _due(site: Site, server: DistributionServer) -> list[AnyRow]:
    now = site.clock()
    with site.database.read() as connection:
        return list(
            connection.execute(
                select(deliveries)
                .join(package_versions, package_versions.c.id == deliveries.c.package_version)
                .where(deliveries.c.server == server.name, deliveries.c.pending, package_versions.c.withdrawn.is_(None))
                .where(deliveries.c.next_try.is_(None) | (deliveries.c.next_try <= now))
                .order_by(deliveries.c.package_version)
            ).all()
        )


def _note_brought(site: Site, server: DistributionServer, row: AnyRow, brought: Brought) -> None:
    now = site.clock()
    mine = (deliveries.c.server == server.name) & (deliveries.c.package_version == row.package_version)
    with site.database.write() as connection:
        connection.execute(
            update(deliveries)
            .where(mine)
            .values(
                complete=row.complete or now,
                attempts=0,
                next_try=None,
                error_code="",
                error="",
                files=deliveries.c.files + brought.files,
                bytes=deliveries.c.bytes + brought.bytes,
                changed=now,
            )
        )
        # more may have been asked for meanwhile
        connection.execute(update(deliveries).where(mine, deliveries.c.wanted == row.wanted).values(pending=False))


def _put_off(site: Site, server: DistributionServer, row: AnyRow, error: PcmError) -> None:
    _log.warning("%s, version %d: %s (%s)", server.name, row.package_version, error.message, error.code)
    now = site.clock()
    with site.database.write() as connection:
        connection.execute(
            update(deliveries)
            .where(deliveries.c.server == server.name, deliveries.c.package_version == row.package_version)
            .values(
                attempts=row.attempts + 1,
                next_try=now + timedelta(seconds=wait_s(row.attempts + 1)),
                error_code=error.code,
                error=error.message[:1000],
                changed=now,
            )
        )


def _note_away(site: Site, server: DistributionServer, error: PcmError) -> None:
    _log.warning("distribution server %s: %s (%s)", server.name, error.message, error.code)
    now = site.clock()
    mine = distribution_states.c.server == server.name
    with site.database.write() as connection:
        row = connection.execute(select(distribution_states).where(mine)).one()
        connection.execute(
            update(distribution_states)
            .where(mine)
            .values(
                attempts=row.attempts + 1,
                next_try=now + timedelta(seconds=wait_s(row.attempts + 1)),
                error_code=error.code,
                error=error.message[:1000],
                away_since=row.away_since or now,
            )
        )


def _note_reached(site: Site, server: DistributionServer, timestamp: int, *, in_step: bool) -> None:
    now = site.clock()
    values: dict[str, object] = {"attempts": 0, "next_try": None, "error_code": "", "error": "", "away_since": None}
    values["timestamp"] = timestamp
    if in_step:
        values["succeeded"] = now
    with site.database.write() as connection:
        connection.execute(
            update(distribution_states).where(distribution_states.c.server == server.name).values(**values)
        )


def is_under_way(connection: Connection) -> bool:
    """Whether something is to be brought to a server that can be reached, as far as is known, and no attempt failed."""
    newest = newest_timestamp(connection)
    reachable = select(distribution_states.c.server).where(
        distribution_states.c.away_since.is_(None), distribution_states.c.attempts == 0
    )
    late = connection.execute(reachable.where(distribution_states.c.timestamp < newest).limit(1)).first()
    bringing = select(deliveries.c.server).where(
        deliveries.c.pending, deliveries.c.attempts == 0, deliveries.c.server.in_(reachable)
    )
    return late is not None and connection.execute(bringing.limit(1)).first() is not None


def newest_timestamp(connection: Connection) -> int:
    """The version of timestamp.json that every server should have."""
    newest = repository.newest(connection, repository.PACKAGES, "timestamp")
    return 0 if newest is None else newest.version
