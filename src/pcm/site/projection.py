"""What the database holds, put into folders; and put there again when it is missing.

Serves steps 2 and 5 at the start and at every tick of the site: home gets the package repository at once, other
distribution servers when `delivery` has brought them the content; logon folders get the roots of the instruction repository;
`compile` writes each client's own files. Everything here may be done twice, or be interrupted.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select, update

from pcm.content.objects import object_path
from pcm.distribution.folder import TIMESTAMP, publishing_order
from pcm.distribution.shelf import pieces_from
from pcm.model.errors import RequestError, TrustError
from pcm.protocol.admin import ServerView
from pcm.site import audit, catalogue, repository
from pcm.site.authority import Site
from pcm.site.compile import mark_all
from pcm.site.db.tables import clients, servers, settings
from pcm.site.db.tables_content import deliveries
from pcm.site.db.tables_packages import package_versions, repository_files
from pcm.site.distribution_servers import DistributionServer
from pcm.site.intake import DROP_FOLDER
from pcm.trust import metadata

_CHUNK = 500
MOST_METADATA = 64 * 2**20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def publish_unwritten(site: Site) -> bool:
    """Write what is signed and not yet in the site's home; whether there was anything.

    Where home is no server that clients are told about, it counts as written once one of those has it.

    Raises:
        StoreError: the folder cannot be written. What is there is valid; the rest follows at the next tick.
    """
    anew = site.home.read(TIMESTAMP) is None  # what names only some of what is in force must not stand there alone
    with site.database.read() as connection:
        files, written = repository.files_to_write(connection, everything=anew)
    if not files:
        return False
    with site.content_turn:  # a clean-up that is about to remove one of these names sees that it is young
        site.home.publish(files)
    if any(server.home for server in site.servers):
        with site.database.write() as connection:
            repository.mark_written(connection, written)
    return True


def fill_home(site: Site) -> None:
    """Give a home that is new, or was lost, the repository again; objects come from the other servers that have them."""
    if site.home.read(TIMESTAMP) is not None:
        return
    _fetch_objects(site)
    with site.database.read() as connection:
        files, _ = repository.files_to_write(connection, everything=True)
    site.home.publish(files)


def bring_metadata(site: Site, server: DistributionServer) -> tuple[bool, int]:
    """Bring manifests and metadata to a server that has the content of all that they name.

    Returns:
        Whether the server is in step now, and the version of its timestamp.

    Raises:
        StoreError: the server cannot be reached or written.
    """
    shelf = server.shelf
    standing = shelf.read(TIMESTAMP, MOST_METADATA)
    with site.database.read() as connection:
        timestamp = repository.require(connection, repository.PACKAGES, "timestamp")
        if standing == timestamp.body:
            return True, timestamp.version
        if _is_incomplete(connection, server):
            return False, 0 if standing is None else metadata.read_version(standing, "timestamp")
        _, written = repository.files_to_write(connection)
        roles, bodies = repository.role_files(connection), repository.target_names(connection)
        there = shelf.sizes(bodies)
        for name, sha256 in bodies.items():
            if name not in there:
                shelf.write(name, (repository.target_body(connection, sha256),))
    for name in sorted(roles, key=publishing_order):
        if name == TIMESTAMP or shelf.size(name) is None:
            shelf.write(name, (roles[name],))
    if not any(each.home for each in site.servers):
        with site.database.write() as connection:
            repository.mark_written(connection, written)
    return True, timestamp.version


def _is_incomplete(connection: Connection, server: DistributionServer) -> bool:
    """Whether the server lacks content of any version that is in force."""
    complete = select(deliveries.c.package_version).where(
        deliveries.c.server == server.name, deliveries.c.complete.is_not(None)
    )
    query = select(package_versions.c.id).where(
        package_versions.c.withdrawn.is_(None), package_versions.c.id.not_in(complete)
    )
    return connection.execute(query.limit(1)).first() is not None


def write_roots(site: Site) -> None:
    """Put every root of the instruction repository on every logon folder, and a drop folder on those that others serve."""
    with site.database.read() as connection:
        rows = connection.execute(
            select(repository_files.c.version, repository_files.c.body).where(
                repository_files.c.repository == repository.INSTRUCTIONS, repository_files.c.role == "root"
            )
        ).all()
    for place in site.logon:
        missing = {
            name: bytes(row.body) for row in rows if place.folder.read(name := f"roots/{row.version}.root.json") is None
        }
        place.folder.write(missing)
        if not place.own:
            drop = place.folder.root / DROP_FOLDER
            drop.mkdir(parents=True, exist_ok=True)
            # reports are signed; anybody may leave one, nobody may remove another's
            drop.chmod(0o1777)


def find_missing_clients(site: Site) -> int:
    """Mark clients whose files are not where they should be; how many.

    After a restart of the machine that is all of them: their files are not synced one by one, so a power cut may have spoilt any.
    """
    if _machine_restarted(site):
        with site.database.write() as connection:
            told = update(clients).where(clients.c.state == "enrolled", clients.c.targets_version > 0)
            return connection.execute(told.values(unwritten=True)).rowcount
    with site.database.read() as connection:
        rows = connection.execute(
            select(clients.c.id, clients.c.client_id, clients.c.targets_version).where(
                clients.c.state == "enrolled", clients.c.targets_version > 0, ~clients.c.unwritten
            )
        ).all()
    missing = [
        row.id
        for row in rows
        if any(
            not (place.folder.root / "clients" / row.client_id / f"{row.targets_version}.targets.json").exists()
            for place in site.logon
        )
    ]
    for start in range(0, len(missing), _CHUNK):
        with site.database.write() as connection:
            connection.execute(
                update(clients).where(clients.c.id.in_(missing[start : start + _CHUNK])).values(unwritten=True)
            )
    return len(missing)


def take_up_servers(site: Site) -> bool:
    """Compare the servers of `site.yaml` with those that clients were told; if they differ, tell all (KB Q199994)."""
    wanted = site.configuration.servers()
    with site.database.write() as connection:
        rows = connection.execute(select(servers).order_by(servers.c.kind.desc(), servers.c.position)).all()
        known = tuple(ServerView(row.name, row.kind, row.location, row.folder) for row in rows)
        if known == wanted:
            return False
        connection.execute(delete(servers))
        store_servers(connection, wanted)
        if known:
            mark_all(connection)
        names = ", ".join(f"{server.kind} {server.name}" for server in wanted)
        audit.record(connection, site.clock(), audit.SITE, "servers.change", site.name, names)
    return True


def _machine_restarted(site: Site) -> bool:
    """Whether this is another boot than the last time; note which it is. Where boots have no id, each start counts."""
    try:
        boot = BOOT_ID.read_text().strip()
    except OSError:
        return True
    with site.database.write() as connection:
        known = connection.execute(select(settings.c.value).where(settings.c.name == "boot_id")).scalar()
        if known == boot:
            return False
        connection.execute(delete(settings).where(settings.c.name == "boot_id"))
        connection.execute(insert(settings).values(name="boot_id", value=boot))
    return True


def _fetch_objects(site: Site) -> None:
    with site.database.read() as connection:
        hashes = connection.execute(select(package_versions.c.manifest_sha256)).scalars().all()
        lengths = {
            file.sha256: file.length for sha256 in hashes for file in catalogue.load_manifest(connection, sha256).files
        }
    for server in site.servers:
        lacking = [sha256 for sha256 in lengths if not site.home.objects.has(sha256)]
        if server.home or not lacking:
            continue
        for name in server.shelf.sizes([object_path(sha256) for sha256 in lacking]):
            sha256 = name[-68:-4]
            with contextlib.suppress(TrustError, RequestError):  # damaged there, or gone: others may have it
                site.home.objects.put(sha256, lengths[sha256], pieces_from(server.shelf.open(name)))


def store_servers(connection: Connection, listed: Iterable[ServerView]) -> None:
    """Note the servers that clients are told, in the order of `site.yaml`."""
    connection.execute(
        insert(servers),
        [
            {
                "kind": server.kind,
                "name": server.name,
                "location": server.location,
                "folder": server.folder,
                "position": position,
            }
            for position, server in enumerate(listed)
        ],
    )
