"""The catalogue: which packages, versions and programs are published, as jobs choose from it and people read it.

Serves steps 2 (shown) and 3 (a job resolves its package here). `packages` fills it. Reads only.
"""

from typing import Any

import msgspec
from sqlalchemy import Connection, Select, func, select

from pcm.model.errors import RequestError
from pcm.model.instruction import ManifestReference
from pcm.protocol.admin import Page
from pcm.protocol.admin_packages import PackageDetail, PackageView, ProgramView, VersionDetail, VersionView
from pcm.protocol.manifest import Manifest, read_manifest
from pcm.site.db.tables import AnyRow
from pcm.site.db.tables_packages import manifests, package_versions, packages, programs, version_platforms
from pcm.site.pages import Slice, page

_ARGV = msgspec.json.Decoder(tuple[str, ...])


def find_package(connection: Connection, name: str) -> AnyRow:
    """A package's row. Raises RequestError `not_found`."""
    row = connection.execute(select(packages).where(packages.c.name == name[:100])).first()
    if row is None:
        raise RequestError(
            f"There is no package {name[:100]!r}. `pcm package list` shows what is published.", code="not_found"
        )
    return row


def find_version(connection: Connection, package: AnyRow, version: str | None) -> AnyRow:
    """A version's row: the one named, or the newest release that is not withdrawn.

    Raises:
        RequestError: `not_found`, `package.withdrawn`.
    """
    query = select(package_versions).where(package_versions.c.package == package.id)
    if version is None:
        query = query.where(package_versions.c.withdrawn.is_(None)).order_by(package_versions.c.release.desc()).limit(1)
    else:
        query = query.where(package_versions.c.version == version[:100])
    row = connection.execute(query).first()
    if row is None:
        what = f"version {version[:100]}" if version is not None else "version that is not withdrawn"
        raise RequestError(
            f"Package {package.name} has no {what}. `pcm package show {package.name}` lists what it has.",
            code="not_found",
        )
    if row.withdrawn is not None:
        raise RequestError(f"Version {row.version} of {package.name} was withdrawn.", code="package.withdrawn")
    return row


def load_manifest(connection: Connection, sha256: str) -> Manifest:
    """A published manifest. Raises RequestError `not_found`."""
    return read_manifest(_manifest_bytes(connection, sha256))


def list_packages(connection: Connection, part: Slice) -> Page[PackageView]:
    """Packages by name."""
    query = _summaries().order_by(packages.c.name).limit(part.limit + 1)
    if part.cursor is not None:
        query = query.where(packages.c.name > part.cursor)
    rows = connection.execute(query).all()
    return page(rows, part, lambda row: _package_view(connection, row), lambda row: str(row.name))


def show_package(connection: Connection, name: str) -> PackageDetail:
    """A package with all its versions, newest release first. Raises RequestError `not_found`."""
    view = _view_of(connection, name)
    rows = connection.execute(
        select(package_versions, packages.c.team)
        .join(packages, packages.c.id == package_versions.c.package)
        .where(packages.c.name == name)
        .order_by(package_versions.c.release.desc())
        .limit(1000)
    ).all()
    return PackageDetail(view, tuple(_version_view(connection, row) for row in rows))


def show_version(connection: Connection, name: str, version: str) -> VersionDetail:
    """One version with its manifest. Raises RequestError `not_found`."""
    view = _view_of(connection, name)
    row = connection.execute(
        select(package_versions, packages.c.team)
        .join(packages, packages.c.id == package_versions.c.package)
        .where(packages.c.name == name, package_versions.c.version == version[:100])
    ).first()
    if row is None:
        raise RequestError(
            f"Package {name} has no version {version[:100]!r}. `pcm package show {name}` lists them.", code="not_found"
        )
    return VersionDetail(view, _version_view(connection, row), _manifest_bytes(connection, row.manifest_sha256))


def _manifest_bytes(connection: Connection, sha256: str) -> bytes:
    body = connection.execute(select(manifests.c.body).where(manifests.c.sha256 == sha256)).scalar()
    if body is None:
        raise RequestError(f"There is no manifest {sha256}.", code="not_found")
    return bytes(body)


def _summaries() -> "Select[*tuple[Any, ...]]":
    counted = (
        select(package_versions.c.package, func.count().label("versions"))
        .group_by(package_versions.c.package)
        .subquery()
    )
    return select(packages, func.coalesce(counted.c.versions, 0).label("versions")).outerjoin(
        counted, counted.c.package == packages.c.id
    )


def _view_of(connection: Connection, name: str) -> PackageView:
    row = connection.execute(_summaries().where(packages.c.name == name[:100])).first()
    if row is None:
        find_package(connection, name)
    assert row is not None
    return _package_view(connection, row)


def _package_view(connection: Connection, row: AnyRow) -> PackageView:
    newest = connection.execute(
        select(package_versions.c.version, package_versions.c.release)
        .where(package_versions.c.package == row.id, package_versions.c.withdrawn.is_(None))
        .order_by(package_versions.c.release.desc())
        .limit(1)
    ).first()
    return PackageView(
        name=row.name,
        team=row.team,
        summary=row.summary,
        publisher=row.publisher,
        versions=row.versions,
        newest=newest.version if newest else None,
        newest_release=newest.release if newest else None,
    )


def _version_view(connection: Connection, row: AnyRow) -> VersionView:
    platforms = connection.execute(
        select(version_platforms.c.platform)
        .where(version_platforms.c.package_version == row.id)
        .order_by(version_platforms.c.platform)
    ).scalars()
    listed = connection.execute(select(programs).where(programs.c.package_version == row.id).order_by(programs.c.name))
    return VersionView(
        version=row.version,
        release=row.release,
        team=row.team,
        platforms=tuple(platforms),
        programs=tuple(
            ProgramView(each.name, _ARGV.decode(each.argv), each.run_as, each.approvals, each.user_requestable)
            for each in listed
        ),
        files=row.files,
        bytes=row.bytes,
        published=row.published,
        withdrawn=row.withdrawn,
        manifest=ManifestReference(row.manifest_path, row.manifest_length, row.manifest_sha256),
    )
