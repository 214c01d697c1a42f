"""Writing the package repository: a team's targets, and the online snapshot and timestamp over all roles.

Serves step 2 (`pcm package publish`): the packager's machine signs the team's targets, the site checks them and signs
snapshot and timestamp. Root and top-level targets come from ceremonies (`pcm.trust.roots`, `pcm.trust.delegations`).
Pure: values in, signed bytes out.

A role is one file that a client reads whole, so it holds at most 10,000 targets.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from securesystemslib.signer import Signer

from pcm.model.errors import RequestError
from pcm.model.names import check_name
from pcm.trust import ceremony, metadata

MAX_TARGETS = 10_000
TEAM_DAYS = 365
SNAPSHOT_DAYS = 30
TIMESTAMP_DAYS = 3


def team_targets(
    team: str, targets: Mapping[str, Mapping[str, Any]], version: int, signers: Iterable[Signer], expires_s: float
) -> bytes:
    """Sign a team's delegated targets role.

    Args:
        targets: Target path → `{"length": ..., "hashes": {"sha256": ...}}`; every path below `packages/<team>/`.
        version: One more than before.
        expires_s: Unix time in seconds.

    Raises:
        RequestError: `request.too_many_targets`; `request.target_path` for a path that the team's delegation does not cover.
    """
    if len(targets) > MAX_TARGETS:
        raise RequestError(
            f"Team {team} would have {len(targets)} manifests; a role holds at most {MAX_TARGETS}. Withdraw old versions, "
            "or give some packages to a second team.",
            code="request.too_many_targets",
        )
    for path in targets:
        _check_path(team, path)
    signed = metadata.header("targets", version, expires_s)
    signed["targets"] = {path: dict(value) for path, value in targets.items()}
    return metadata.sign(signed, signers)


def add_target(
    team: str, current: bytes | None, path: str, manifest: bytes, signers: Iterable[Signer], expires_s: float
) -> bytes:
    """The team's next targets with one manifest more (or replaced).

    Args:
        current: The team's targets until now; None for the first.

    Raises:
        RequestError: as `team_targets`.
    """
    targets, version = _targets_of(current)
    targets[path] = metadata.target(manifest)
    return team_targets(team, targets, version + 1, signers, expires_s)


def remove_target(team: str, current: bytes, path: str, signers: Iterable[Signer], expires_s: float) -> bytes:
    """The team's next targets without one manifest: the version is withdrawn, and clients refuse it.

    Raises:
        RequestError: `not_found`; as `team_targets`.
    """
    targets, version = _targets_of(current)
    if targets.pop(path, None) is None:
        raise RequestError(f"Team {team} has published no {path}.", code="not_found")
    return team_targets(team, targets, version + 1, signers, expires_s)


def sign_team_again(team: str, current: bytes, signers: Iterable[Signer], expires_s: float) -> bytes:
    """The same targets with a later expiry, or with a new key after a rotation."""
    targets, version = _targets_of(current)
    return team_targets(team, targets, version + 1, signers, expires_s)


def cosign_team(listed: bytes, signers: Iterable[Signer]) -> bytes:
    """The same list, with signatures of more of the team's keys.

    Raises:
        RequestError: `request.metadata`.
    """
    document = ceremony.load_targets(listed)
    for signer in signers:
        document.sign(signer, append=True)
    return document.to_bytes()


def sign_snapshot(
    roles: Mapping[str, bytes], previous: bytes | None, signer: Signer, expires_s: float, *, first_version: int = 1
) -> tuple[int, bytes]:
    """Sign the next snapshot: which version of each targets role belongs together.

    Args:
        roles: `targets` and each team → its file. A role of the previous snapshot that is missing here (a revoked team) keeps its
            entry, because a client refuses a snapshot that forgets one (TUF specification, 5.5.5).
        previous: The snapshot until now.
        first_version: Where to begin if there is no previous one.

    Returns:
        Its version and its file.

    Raises:
        RequestError: `request.rollback`: a role would go back, which every client would refuse.
    """
    version = first_version
    meta: dict[str, Any] = {}
    if previous is not None:
        before = metadata.read_signed(previous, "snapshot")
        version, meta = before["version"] + 1, dict(before["meta"])
    for role, data in roles.items():
        entry = metadata.entry(data, metadata.read_version(data, "targets"))
        if entry["version"] < meta.get(f"{role}.json", entry)["version"]:
            raise RequestError(f"Role {role} would go back to version {entry['version']}.", code="request.rollback")
        meta[f"{role}.json"] = entry
    if "targets.json" not in meta:
        raise RequestError("A snapshot needs the top-level targets.", code="request.metadata")
    signed = metadata.header("snapshot", version, expires_s)
    signed["meta"] = meta
    return version, metadata.sign(signed, (signer,))


def sign_timestamp(
    snapshot: bytes, previous: bytes | None, signer: Signer, expires_s: float, *, first_version: int = 1
) -> bytes:
    """Sign the next timestamp over a snapshot; also how a timestamp is renewed."""
    version = first_version if previous is None else metadata.read_version(previous, "timestamp") + 1
    signed = metadata.header("timestamp", version, expires_s)
    signed["meta"] = {"snapshot.json": metadata.entry(snapshot, metadata.read_version(snapshot, "snapshot"))}
    return metadata.sign(signed, (signer,))


def publish(
    roles: Mapping[str, bytes],
    snapshot: bytes | None,
    timestamp: bytes | None,
    online: Signer,
    now_s: float,
    *,
    snapshot_days: float = SNAPSHOT_DAYS,
    timestamp_days: float = TIMESTAMP_DAYS,
    first_version: int = 1,
) -> metadata.Files:
    """Make changed roles visible: the files to write below a distribution server's root, the timestamp last.

    After the theft of an online key, what was signed with it may bear versions out of reach, or name roles' versions that never
    were. Once a root has replaced the key, clients forget its floors (`floors.forget_revoked`), and the site starts again: all
    roles, neither snapshot nor timestamp, and a `first_version` above those that it signed itself, so that no file changes.

    Args:
        roles: `targets` and teams that are new or changed (all of them the first time).
        snapshot: The snapshot until now, None the first time. Same for `timestamp`.
        online: The key of the online roles.
        now_s: Unix time in seconds.
        first_version: Of snapshot and timestamp where there is none until now.

    Raises:
        RequestError: as `sign_snapshot`.
    """
    files: metadata.Files = {}
    for role, data in roles.items():
        files[f"metadata/{metadata.read_version(data, 'targets')}.{role}.json"] = data
    version, next_snapshot = sign_snapshot(
        roles, snapshot, online, now_s + snapshot_days * metadata.DAY_S, first_version=first_version
    )
    files[f"metadata/{version}.snapshot.json"] = next_snapshot
    files["metadata/timestamp.json"] = sign_timestamp(
        next_snapshot, timestamp, online, now_s + timestamp_days * metadata.DAY_S, first_version=first_version
    )
    return files


def target_name(path: str, sha256: str) -> str:
    """Name of a target's file below a distribution server's root (TUF's consistent-snapshot name)."""
    folder, _, name = path.rpartition("/")
    return f"targets/{folder}/{sha256}.{name}"


def list_targets(team_file: bytes) -> dict[str, dict[str, Any]]:
    """Target path → length and hashes, as a team's targets name them."""
    return _targets_of(team_file)[0]


def _targets_of(current: bytes | None) -> tuple[dict[str, dict[str, Any]], int]:
    if current is None:
        return {}, 0
    signed = metadata.read_signed(current, "targets")
    return dict(signed["targets"]), signed["version"]


def _check_path(team: str, path: str) -> None:
    parts = path.split("/")
    if len(parts) != 5 or parts[:2] != ["packages", team] or parts[4] != "manifest.json":
        raise RequestError(
            f"Target {path!r} is not packages/{team}/<package>/<version>/manifest.json.", code="request.target_path"
        )
    check_name("package", parts[2])
    check_name("version", parts[3])
