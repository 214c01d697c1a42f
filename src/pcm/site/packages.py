"""Publications: a team's next signed targets are checked, stored, and made visible.

Step 2 of 12, the site's half: after `pcm package publish` has signed on the packager's machine and brought the
objects, before jobs can name the package. The site adds nothing to what may run: it checks that the team signed,
that versions never change and releases never go back, and that every object stands on every distribution server
before any metadata names it (KB Q235837). Withdrawing is the same call: targets without that manifest.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from securesystemslib.signer import Signer
from sqlalchemy import Connection, func, insert, or_, select, update

from pcm.model.errors import RequestError
from pcm.model.names import check_name
from pcm.model.package import PackageFile
from pcm.protocol import codec
from pcm.protocol.admin_packages import Publication, PublicationAnswer
from pcm.protocol.manifest import Manifest, manifest_target, read_manifest
from pcm.site import audit, clients, job_life, repository
from pcm.site.db.database import take_turn
from pcm.site.db.tables import assignments, jobs
from pcm.site.db.tables_content import deliveries
from pcm.site.db.tables_packages import manifests, package_versions, packages, programs, version_platforms
from pcm.trust import ceremony, delegations, metadata, package_repository


class Folder(repository.Folder, Protocol):
    """A distribution server's folder, as publications see it."""

    def missing_objects(self, manifest: Manifest) -> list[PackageFile]:
        """Files of a manifest whose objects are not there."""


def publish(
    connection: Connection,
    offered: Publication,
    folders: Sequence[Folder],
    online: Signer,
    actor: str,
    now: datetime,
) -> PublicationAnswer:
    """Take a publication in, in the caller's transaction; its files are written after the commit (`repository`).

    The same publication again is answered as before, so a packager may repeat one whose answer was lost.

    Raises:
        RequestError: `not_allowed`, `conflict`, `request.metadata`, `request.publication`, `package.immutable`,
            `package.release`, `package.objects_missing`, `protocol.*`, or the code of a rule that a manifest breaks.
    """
    take_turn(connection, "publication")
    team = check_name("team", offered.team)
    top = repository.require(connection, repository.PACKAGES, "targets")
    current = repository.newest(connection, repository.PACKAGES, team)
    if current is not None and current.body == offered.metadata:
        return PublicationAnswer(team, current.version, (), ())
    version = delegations.check_team_targets(
        top.body, team, offered.metadata, None if current is None else current.body
    )
    _check_expiry(team, offered.metadata, now)
    named = package_repository.list_targets(offered.metadata)
    before = {} if current is None else package_repository.list_targets(current.body)
    fresh = _check_fresh(team, named, before, {file.path: file.body for file in offered.manifests})
    for manifest, _ in fresh.values():
        _check_objects(manifest, folders)
    for path, (manifest, body) in sorted(fresh.items(), key=lambda item: item[1][0].release):
        _keep_version(connection, team, path, manifest, body, now)
        audit.record(
            connection, now, actor, "package.publish", f"{manifest.package} {manifest.version}", f"team {team}"
        )
    gone = sorted(set(before) - set(named))
    for path in gone:
        _withdraw(connection, path, actor, now)
    repository.sign_roles(connection, {team: offered.metadata}, online, now)
    return PublicationAnswer(team, version, tuple(sorted(fresh)), tuple(gone))


def _check_expiry(team: str, offered: bytes, now: datetime) -> None:
    if ceremony.load_targets(offered).signed.expires <= now:
        raise RequestError(f"Team {team}'s metadata has expired already; check the clock.", code="request.metadata")


def _check_fresh(
    team: str, named: Mapping[str, Any], before: Mapping[str, Any], given: Mapping[str, bytes]
) -> dict[str, tuple[Manifest, bytes]]:
    """New targets with their manifests, each checked against what the team signed."""
    if len(named) > package_repository.MAX_TARGETS:
        raise RequestError(
            f"A team has at most {package_repository.MAX_TARGETS} manifests; withdraw old versions.",
            code="request.too_many_targets",
        )
    fresh: dict[str, tuple[Manifest, bytes]] = {}
    for path, described in named.items():
        if path in before:
            if before[path] != described:
                raise RequestError(
                    f"{path} is published; a version never changes. Publish a new one.", code="package.immutable"
                )
            continue
        if path not in given:
            raise RequestError(f"The manifest of {path} is not given.", code="request.publication")
        body = given[path]
        if metadata.target(body) != {"length": described.get("length"), "hashes": described.get("hashes")}:
            raise RequestError(
                f"The manifest given for {path} is not the one that team {team} signed.", code="request.publication"
            )
        manifest = read_manifest(body)
        expected = manifest_target(team, manifest.package, manifest.version)
        if path != expected:
            raise RequestError(f"The manifest at {path} belongs at {expected}.", code="request.publication")
        fresh[path] = manifest, body
    for path in given:
        if path not in named:
            raise RequestError(
                f"A manifest is given for {path}, which team {team} did not sign.", code="request.publication"
            )
    return fresh


def _check_objects(manifest: Manifest, folders: Sequence[Folder]) -> None:
    for folder in folders:
        missing = folder.missing_objects(manifest)
        if missing:
            raise RequestError(
                f"{manifest.package} {manifest.version}: {len(missing)} files are not on every distribution server yet, "
                f"{missing[0].path} for one. Upload them first.",
                code="package.objects_missing",
            )


def _keep_version(connection: Connection, team: str, path: str, manifest: Manifest, body: bytes, now: datetime) -> None:
    package = _package_id(connection, team, manifest, now)
    described = metadata.target(body)
    sha256 = described["hashes"]["sha256"]
    known = connection.execute(
        select(package_versions.c.id, package_versions.c.manifest_sha256).where(
            package_versions.c.package == package, package_versions.c.version == manifest.version
        )
    ).first()
    if known is not None:
        if known.manifest_sha256 != sha256:
            raise RequestError(
                f"{manifest.package} {manifest.version} was published with other contents before. Publish a new version.",
                code="package.immutable",
            )
        connection.execute(update(package_versions).where(package_versions.c.id == known.id).values(withdrawn=None))
        # both its manifest and its content may have been cleared away meanwhile
        connection.execute(update(manifests).where(manifests.c.sha256 == sha256).values(unwritten=True))
        connection.execute(
            update(deliveries)
            .where(deliveries.c.package_version == known.id)
            .values(complete=None, pending=True, wanted=deliveries.c.wanted + 1, attempts=0, next_try=None, changed=now)
        )
        return
    newest = connection.execute(
        select(func.max(package_versions.c.release)).where(package_versions.c.package == package)
    ).scalar()
    if newest is not None and manifest.release <= newest:
        raise RequestError(
            f"{manifest.package} {manifest.version} has release {manifest.release}, but release {newest} is published; "
            "releases only go up.",
            code="package.release",
        )
    repository.store_target(connection, path, body)
    key = connection.execute(
        insert(package_versions).values(
            package=package,
            version=manifest.version,
            release=manifest.release,
            min_release=manifest.min_release,
            signed_at=manifest.signed_at.astimezone(UTC),
            published=now,
            manifest_path=path,
            manifest_length=described["length"],
            manifest_sha256=sha256,
            files=len(manifest.files),
            bytes=manifest.content_bytes(),
        )
    ).inserted_primary_key
    assert key is not None
    _keep_details(connection, key[0], manifest)


def _package_id(connection: Connection, team: str, manifest: Manifest, now: datetime) -> int:
    row = connection.execute(select(packages.c.id, packages.c.team).where(packages.c.name == manifest.package)).first()
    described = {"summary": manifest.summary, "publisher": manifest.publisher}
    if row is None:
        key = connection.execute(
            insert(packages).values(name=manifest.package, team=team, created=now, **described)
        ).inserted_primary_key
        assert key is not None
        return int(key[0])
    if row.team != team:
        raise RequestError(
            f"Package {manifest.package} belongs to team {row.team}; team {team} cannot publish it.", code="not_allowed"
        )
    connection.execute(update(packages).where(packages.c.id == row.id).values(**described))
    return int(row.id)


def _keep_details(connection: Connection, version: int, manifest: Manifest) -> None:
    connection.execute(
        insert(version_platforms),
        [{"package_version": version, "platform": platform} for platform in sorted(set(manifest.platforms))],
    )
    connection.execute(
        insert(programs),
        [
            {
                "package_version": version,
                "name": name,
                "argv": codec.encode(program.argv).decode(),
                "run_as": program.run_as,
                "approvals": program.approvals,
                "user_requestable": program.user_requestable,
            }
            for name, program in manifest.programs.items()
        ],
    )


def _withdraw(connection: Connection, path: str, actor: str, now: datetime) -> None:
    """Clients refuse a withdrawn version from now on; those that were to run it get files without it (KB Q269768)."""
    row = connection.execute(
        select(package_versions.c.id).where(
            package_versions.c.manifest_path == path, package_versions.c.withdrawn.is_(None)
        )
    ).first()
    if row is None:
        return
    connection.execute(update(package_versions).where(package_versions.c.id == row.id).values(withdrawn=now))
    concerned = connection.execute(
        select(assignments.c.client)
        .join(jobs, jobs.c.id == assignments.c.job)
        .where(jobs.c.package_version == row.id, jobs.c.state == "active")
        .where(or_(assignments.c.state.in_(job_life.OPEN), jobs.c.recurrence.is_not(None)))
        .distinct()
    ).scalars()
    clients.mark_dirty(connection, concerned.all())
    audit.record(connection, now, actor, "package.withdraw", path)
