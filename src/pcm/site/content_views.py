"""Content as people see it: each distribution server and its rows, what lies there, what was saved.

Serves step 2 from outside; `pcm distribution list|show`, `pcm content stats`, `pcm package show`. It reads,
but for `retry_now`.
"""

from typing import Any

from sqlalchemy import Connection, Select, func, select, update

from pcm.distribution.shelf import FolderShelf
from pcm.model.errors import RequestError
from pcm.protocol.admin_content import (
    ContentStats,
    DeliveryState,
    DeliveryView,
    DistributionDetail,
    DistributionView,
    ImprovementView,
)
from pcm.site import audit, content_care, delivery
from pcm.site.authority import Site
from pcm.site.db.tables import AnyRow
from pcm.site.db.tables_content import deliveries, distribution_states, improvements
from pcm.site.db.tables_packages import package_versions, packages
from pcm.site.distribution_servers import DistributionServer

_MOST = 1000


def servers(connection: Connection, site: Site) -> tuple[DistributionView, ...]:
    """All distribution servers, in the order of site.yaml."""
    states = {row.server: row for row in connection.execute(select(distribution_states)).all()}
    counted = connection.execute(
        select(
            deliveries.c.server, deliveries.c.complete.is_not(None).label("complete"), func.count().label("versions")
        )
        .join(package_versions, package_versions.c.id == deliveries.c.package_version)
        .where(package_versions.c.withdrawn.is_(None))
        .group_by(deliveries.c.server, "complete")
    ).all()
    counts = {(row.server, bool(row.complete)): int(row.versions) for row in counted}
    newest = delivery.newest_timestamp(connection)
    return tuple(_view(server, states.get(server.name), counts, newest) for server in site.servers)


def server(connection: Connection, site: Site, name: str) -> DistributionDetail:
    """One distribution server with its rows. Raises RequestError `not_found`."""
    view = next((each for each in servers(connection, site) if each.name == name), None)
    if view is None:
        raise RequestError(
            f"There is no distribution server {name[:100]!r}. `pcm distribution list` shows them.", code="not_found"
        )
    rows = connection.execute(
        _rows()
        .where(deliveries.c.server == name)
        .order_by(deliveries.c.pending.desc(), deliveries.c.package_version.desc())
        .limit(_MOST)
    ).all()
    return DistributionDetail(view, tuple(map(_delivery, rows)))


def of_version(connection: Connection, manifest: str) -> tuple[DeliveryView, ...]:
    """Where one version, by its manifest's SHA-256, is complete, and where not yet."""
    query = _rows().where(package_versions.c.manifest_sha256 == manifest).order_by(deliveries.c.server)
    return tuple(map(_delivery, connection.execute(query).all()))


def retry_now(connection: Connection, site: Site, name: str, actor: str) -> int:
    """Have everything that waits for one server tried at once; how many rows. Attempts stay counted.

    Raises:
        RequestError: `not_found`.
    """
    server(connection, site, name)
    connection.execute(update(distribution_states).where(distribution_states.c.server == name).values(next_try=None))
    waiting = (deliveries.c.server == name) & deliveries.c.pending
    rows = connection.execute(update(deliveries).where(waiting).values(next_try=None)).rowcount
    audit.record(connection, site.clock(), actor, "distribution.retry", name, f"{rows} versions")
    return rows


def stats(connection: Connection, site: Site) -> ContentStats:
    """What lies at home, and what was saved."""
    in_force = package_versions.c.withdrawn.is_(None)
    totals = connection.execute(
        select(func.count(), func.sum(package_versions.c.files), func.sum(package_versions.c.bytes)).where(in_force)
    ).one()
    named = content_care.wanted(connection, site)
    objects = packed = bundles = bundle_bytes = 0
    for each in FolderShelf(site.home.root).list(""):
        if each.name.startswith("objects/") and each.name.endswith(".zst"):
            objects, packed = objects + 1, packed + each.size
        elif each.name.endswith(".bundle"):
            bundles, bundle_bytes = bundles + 1, bundle_bytes + each.size
    rows = connection.execute(
        select(improvements, packages.c.name, package_versions.c.version)
        .join(package_versions, package_versions.c.id == improvements.c.package_version)
        .join(packages, packages.c.id == package_versions.c.package)
        .order_by(improvements.c.package_version.desc())
        .limit(100)
    ).all()
    saved = connection.execute(
        select(func.sum(improvements.c.objects_before - improvements.c.objects_after)).where(
            improvements.c.objects_after > 0
        )
    ).scalar()
    return ContentStats(
        versions=totals[0],
        files=int(totals[1] or 0),
        named=int(totals[2] or 0),
        plain=sum(named.lengths.values()),
        objects=objects,
        packed=packed,
        bundles=bundles,
        bundle_bytes=bundle_bytes,
        saved=int(saved or 0),
        improvements=tuple(map(_improvement, rows)),
        improving=site.configuration.content.improve.enabled,
        policy=site.configuration.content.policy(),
    )


def _rows() -> "Select[*tuple[Any, ...]]":
    return (
        select(deliveries, packages.c.name, package_versions.c.version)
        .join(package_versions, package_versions.c.id == deliveries.c.package_version)
        .join(packages, packages.c.id == package_versions.c.package)
        .where(package_versions.c.withdrawn.is_(None))
    )


def _view(
    server: DistributionServer, row: AnyRow | None, counts: dict[tuple[str, bool], int], newest: int
) -> DistributionView:
    waiting = counts.get((server.name, False), 0)
    timestamp = 0 if row is None else int(row.timestamp)
    away = None if row is None else row.away_since
    state = "away" if away is not None else "behind" if waiting or timestamp < newest else "in_step"
    return DistributionView(
        name=server.name,
        location=server.location,
        written_to=None if server.own else server.shelf.title,
        home=server.home,
        state=state,
        complete=counts.get((server.name, True), 0),
        waiting=waiting,
        timestamp=timestamp,
        newest=newest,
        attempts=0 if row is None else row.attempts,
        next_try=None if row is None else row.next_try,
        away_since=away,
        succeeded=None if row is None else row.succeeded,
        error="" if row is None else row.error,
        error_code="" if row is None else row.error_code,
    )


def _delivery(row: AnyRow) -> DeliveryView:
    state: DeliveryState = "retrying" if row.attempts else "complete" if row.complete is not None else "waiting"
    return DeliveryView(
        server=row.server,
        package=row.name,
        version=row.version,
        state=state,
        complete=row.complete,
        attempts=row.attempts,
        next_try=row.next_try,
        files=row.files,
        bytes=row.bytes,
        changed=row.changed,
        error=row.error,
        error_code=row.error_code,
    )


def _improvement(row: AnyRow) -> ImprovementView:
    return ImprovementView(
        package=row.name,
        version=row.version,
        state=row.state,
        attempts=row.attempts,
        next_try=row.next_try,
        objects_before=row.objects_before,
        objects_after=row.objects_after,
        whole=row.whole,
        patches=row.patches,
        bundles=row.bundles,
        error=row.error,
    )
