"""The package repository as the site keeps it: every signed file in the database, and folders that are its projection.

Serves step 2 (`packages` adds to it), step 5 (`package_repository_min`) and every tick (fresh snapshot and
timestamp). The database comes first: a file is signed, stored, committed, and only then written to home and each
distribution server, in publishing order; what is `unwritten` is written again until it stands, with the very same
bytes. So a crash between any two lines leaves a valid repository, and no version number is ever used for two
contents. It holds the online key only; what teams and keepers sign comes in from outside.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

import msgspec
from securesystemslib.signer import Signer
from sqlalchemy import Connection, delete, func, insert, select, update

from pcm.model.errors import RequestError
from pcm.protocol.instructions import RepositoryFloor
from pcm.protocol.policy import TARGET as POLICY_TARGET
from pcm.protocol.policy import SitePolicy, read_policy
from pcm.site.db.tables_packages import manifests, package_versions, repository_files
from pcm.trust import ceremony, metadata, package_repository

PACKAGES = "packages"
INSTRUCTIONS = "instructions"
RENEW_TIMESTAMP = timedelta(days=1.5)  # of three
RENEW_SNAPSHOT = timedelta(days=10)  # of thirty


class Folder(Protocol):
    """Where published files go: a `DistributionFolder`."""

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Write files in publishing order."""


class StoredFile(msgspec.Struct, frozen=True):
    """One role's newest file."""

    role: str
    version: int
    body: bytes
    expires: datetime


class Written(NamedTuple):
    """(role, version) pairs and hashes of target files that were written."""

    roles: tuple[tuple[str, int], ...]
    hashes: tuple[str, ...]


def store(connection: Connection, repository: str, role: str, body: bytes, *, written: bool = False) -> None:
    """Keep a signed file as the newest of its role; of roots, all versions stay.

    Raises:
        RequestError: `request.metadata`.
    """
    kind = role if role in {"root", "snapshot", "timestamp"} else "targets"
    signed = metadata.read_signed(body, kind)
    mine = (repository_files.c.repository == repository) & (repository_files.c.role == role)
    if role != "root":
        connection.execute(delete(repository_files).where(mine))
    connection.execute(
        insert(repository_files).values(
            repository=repository,
            role=role,
            version=signed["version"],
            body=body,
            expires=_moment(signed["expires"]),
            unwritten=not written,
        )
    )


def newest(connection: Connection, repository: str, role: str) -> StoredFile | None:
    """The newest file of a role, or None."""
    row = connection.execute(
        select(repository_files)
        .where(repository_files.c.repository == repository, repository_files.c.role == role)
        .order_by(repository_files.c.version.desc())
        .limit(1)
    ).first()
    return None if row is None else StoredFile(row.role, row.version, bytes(row.body), row.expires)


def require(connection: Connection, repository: str, role: str) -> StoredFile:
    """The newest file of a role that must be there. Raises RequestError `not_found`."""
    found = newest(connection, repository, role)
    if found is None:
        raise RequestError(f"The {repository} repository has no {role} metadata.", code="not_found")
    return found


def floor(connection: Connection) -> RepositoryFloor:
    """The versions that clients must find on any distribution server (check 8)."""
    rows = connection.execute(
        select(repository_files.c.role, func.max(repository_files.c.version))
        .where(repository_files.c.repository == PACKAGES, ~repository_files.c.unwritten)
        .where(repository_files.c.role.in_(("root", "timestamp", "snapshot")))
        .group_by(repository_files.c.role)
    )
    return RepositoryFloor(**{row[0]: row[1] for row in rows})


def current_policy(connection: Connection) -> SitePolicy:
    """The site's signed policy. Raises RequestError `not_found`."""
    return read_policy(policy_bytes(connection))


def policy_bytes(connection: Connection) -> bytes:
    """The bytes of the policy that the current top-level targets name. Raises RequestError `not_found`."""
    targets = ceremony.load_targets(require(connection, PACKAGES, "targets").body).signed.targets
    if POLICY_TARGET in targets:
        sha256 = targets[POLICY_TARGET].hashes["sha256"]
        body = connection.execute(select(manifests.c.body).where(manifests.c.sha256 == sha256)).scalar()
        if body is not None:
            return bytes(body)
    raise RequestError("The site has no signed policy.", code="not_found")


def store_target(connection: Connection, path: str, body: bytes) -> str:
    """Keep a target's bytes; its SHA-256."""
    sha256: str = metadata.target(body)["hashes"]["sha256"]
    if connection.execute(select(manifests.c.sha256).where(manifests.c.sha256 == sha256)).first() is None:
        connection.execute(insert(manifests).values(sha256=sha256, path=path, body=body))
    return sha256


def sign_roles(connection: Connection, roles: Mapping[str, bytes], online: Signer, now: datetime) -> None:
    """Sign the snapshot and timestamp that make changed roles (`targets`, teams) visible, and store all of it, unwritten.

    Raises:
        RequestError: `request.rollback`, `request.metadata`.
        MachineError: `machine.signer`.
    """
    snapshot, timestamp = newest(connection, PACKAGES, "snapshot"), newest(connection, PACKAGES, "timestamp")
    files = package_repository.publish(
        roles,
        None if snapshot is None else snapshot.body,
        None if timestamp is None else timestamp.body,
        online,
        now.timestamp(),
    )
    for role, body in roles.items():
        store(connection, PACKAGES, role, body)
    for name, body in files.items():
        if name.endswith(".snapshot.json"):
            store(connection, PACKAGES, "snapshot", body)
        elif name == "metadata/timestamp.json":
            store(connection, PACKAGES, "timestamp", body)


def renew(connection: Connection, online: Signer, now: datetime) -> bool:
    """Sign snapshot and timestamp again if either would expire soon; whether it did."""
    snapshot = require(connection, PACKAGES, "snapshot")
    timestamp = require(connection, PACKAGES, "timestamp")
    if snapshot.expires - now < RENEW_SNAPSHOT:
        sign_roles(connection, {}, online, now)
        return True
    if timestamp.expires - now < RENEW_TIMESTAMP:
        expires_s = now.timestamp() + package_repository.TIMESTAMP_DAYS * metadata.DAY_S
        again = package_repository.sign_timestamp(snapshot.body, timestamp.body, online, expires_s)
        store(connection, PACKAGES, "timestamp", again)
        return True
    return False


def has_unwritten(connection: Connection) -> bool:
    """Whether something signed does not stand on every distribution folder yet."""
    query = select(repository_files.c.role).where(
        repository_files.c.repository == PACKAGES, repository_files.c.unwritten
    )
    return connection.execute(query.limit(1)).first() is not None


def files_to_write(connection: Connection, *, everything: bool = False) -> tuple[metadata.Files, Written]:
    """The package repository's files that do not stand everywhere yet.

    Args:
        everything: All of them, for a new or damaged folder.

    Returns:
        Names below a distribution server's root → contents, and what to mark as written afterwards.
    """
    roles = select(repository_files).where(repository_files.c.repository == PACKAGES)
    bodies = select(manifests)
    if not everything:
        roles, bodies = roles.where(repository_files.c.unwritten), bodies.where(manifests.c.unwritten)
    files: metadata.Files = {}
    pairs: list[tuple[str, int]] = []
    hashes: list[str] = []
    for row in connection.execute(bodies).all():
        hashes.append(row.sha256)
        files[package_repository.target_name(row.path, row.sha256)] = bytes(row.body)
    for row in connection.execute(roles).all():
        pairs.append((row.role, row.version))
        files[_role_name(row.role, row.version)] = bytes(row.body)
    return files, Written(tuple(pairs), tuple(hashes))


def role_files(connection: Connection) -> metadata.Files:
    """The newest file of every role and all roots, by name below a distribution server's root."""
    rows = connection.execute(select(repository_files).where(repository_files.c.repository == PACKAGES)).all()
    return {_role_name(row.role, row.version): bytes(row.body) for row in rows}


def target_names(connection: Connection) -> dict[str, str]:
    """Where manifests in force and the policy lie below a distribution server's root, with their SHA-256."""
    gone = select(package_versions.c.manifest_sha256).where(package_versions.c.withdrawn.is_not(None))
    rows = connection.execute(select(manifests.c.path, manifests.c.sha256).where(manifests.c.sha256.not_in(gone)))
    return {package_repository.target_name(row.path, row.sha256): str(row.sha256) for row in rows}


def target_name_of(path: str, sha256: str) -> str:
    """Where a target file lies below a distribution server's root."""
    return package_repository.target_name(path, sha256)


def target_body(connection: Connection, sha256: str) -> bytes:
    """A target file's bytes."""
    return bytes(connection.execute(select(manifests.c.body).where(manifests.c.sha256 == sha256)).scalar_one())


def mark_written(connection: Connection, written: Written) -> None:
    """Note that these files stand on every distribution folder."""
    for role, version in written.roles:
        connection.execute(
            update(repository_files)
            .where(
                repository_files.c.repository == PACKAGES,
                repository_files.c.role == role,
                repository_files.c.version == version,
            )
            .values(unwritten=False)
        )
    for sha256 in written.hashes:
        connection.execute(update(manifests).where(manifests.c.sha256 == sha256).values(unwritten=False))


def _role_name(role: str, version: int) -> str:
    return "metadata/timestamp.json" if role == "timestamp" else f"metadata/{version}.{role}.json"


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
