"""What keepers have signed offline comes in: a new root of either repository, or new top-level targets (teams, policy).

Serves the life of the site's keys, before anything that they sign. A document is taken only if it follows the one
in force and has met every threshold; the site could not make it, and clients check it again. Afterwards the site
takes up the keys that it names.
"""

import hashlib
from datetime import datetime

from securesystemslib.signer import Signer
from sqlalchemy import Connection, update

from pcm.model.errors import RequestError
from pcm.protocol.admin import KeyView, MetadataUpload
from pcm.protocol.admin_packages import TeamView
from pcm.protocol.policy import TARGET as POLICY_TARGET
from pcm.protocol.policy import read_policy
from pcm.site import audit, repository
from pcm.site.db.database import take_turn
from pcm.site.db.tables import clients
from pcm.trust import ceremony, delegations, keys, metadata, package_repository, roots


def take(connection: Connection, upload: MetadataUpload, site: str, online: Signer, actor: str, now: datetime) -> int:
    """Take a signed document in, in the caller's transaction. `Site.reload_signers` and a projection follow the commit.

    Returns:
        Its version.

    Raises:
        RequestError: `conflict` (not the next version), `request.threshold`, `request.metadata`, `request.publication`,
            `not_allowed` (a team's list that is not signed by the team, or changes what it names).
    """
    take_turn(connection, "publication")
    if upload.role == "root":
        version = _take_root(connection, upload, site)
    elif upload.repository == repository.PACKAGES:
        version = _take_targets(connection, upload, site, online, now)
    else:
        raise RequestError(
            "Each client's own targets are signed by the site; none can be uploaded.", code="request.metadata"
        )
    audit.record(connection, now, actor, "metadata.upload", f"{upload.repository} {upload.role} {version}")
    return version


def resign(connection: Connection, repository_name: str, online: Signer, now: datetime) -> None:
    """After a new root: sign with the keys that it names whatever the site itself signs."""
    if repository_name == repository.PACKAGES:
        repository.sign_roles(connection, {}, online, now)
    else:
        connection.execute(update(clients).where(clients.c.state == "enrolled").values(dirty=True, content_sha256=None))


def show_team(connection: Connection, team: str) -> TeamView:
    """What a team's next publication builds on. Raises RequestError `not_found`."""
    root = repository.require(connection, repository.PACKAGES, "root").body
    targets = repository.require(connection, repository.PACKAGES, "targets").body
    known = delegations.StagedTargets.load(targets, root).teams()
    if team not in known:
        raise RequestError(f"There is no team {team[:40]!r}; there are {', '.join(sorted(known))}.", code="not_found")
    threshold, team_keys = known[team]
    current = repository.newest(connection, repository.PACKAGES, team)
    return TeamView(
        team=team,
        metadata=None if current is None else current.body,
        next_version=1 if current is None else current.version + 1,
        keys=tuple(KeyView(key.keyid, keys.key_name(key)) for key in team_keys),
        threshold=threshold,
    )


def _take_root(connection: Connection, upload: MetadataUpload, site: str) -> int:
    current = repository.require(connection, upload.repository, "root")
    staged = roots.StagedRoot.load(upload.body, current.body)
    said = roots.mark_of(ceremony.load_root(upload.body).signed)
    if said != roots.mark(upload.repository, site):
        raise RequestError(
            f"This is not a root of the {upload.repository} repository of {site}.", code="request.metadata"
        )
    staged.finish()
    # as it was signed: writing it anew could change bytes that others have seen
    repository.store(connection, upload.repository, "root", upload.body)
    return staged.version


def _take_targets(connection: Connection, upload: MetadataUpload, site: str, online: Signer, now: datetime) -> int:
    root = repository.require(connection, repository.PACKAGES, "root")
    current = repository.require(connection, repository.PACKAGES, "targets")
    staged = delegations.StagedTargets.load(upload.body, root.body)
    if staged.version != current.version + 1:
        raise RequestError(
            f"These targets have version {staged.version}; expected {current.version + 1}. Fetch the newest and sign again.",
            code="conflict",
        )
    staged.finish()
    _keep_policy(connection, upload, site)
    lists = _check_lists(connection, upload, staged)
    repository.sign_roles(connection, {metadata.TOP_LEVEL_ROLES[1]: upload.body, **lists}, online, now)
    return staged.version


def _check_lists(connection: Connection, upload: MetadataUpload, staged: delegations.StagedTargets) -> dict[str, bytes]:
    """Lists that teams signed anew, each naming just what it named before.

    Targets that take a team's keys away from its list are not taken without a new list: every client would refuse the team's
    packages, and the team itself could not publish any more.
    """
    fresh: dict[str, bytes] = {}
    for team in staged.teams():
        current = repository.newest(connection, repository.PACKAGES, team)
        offered = upload.teams.get(team)
        if current is None or (offered is None and delegations.is_signed_by_team(upload.body, team, current.body)):
            continue
        if offered is None:
            raise RequestError(
                f"Team {team}'s list is not signed by the keys that it would have. Let the team sign it in the same ceremony.",
                code="request.threshold",
            )
        delegations.check_team_targets(upload.body, team, offered, current.body)
        if package_repository.list_targets(offered) != package_repository.list_targets(current.body):
            raise RequestError(f"A ceremony changes nothing of what team {team} has published.", code="not_allowed")
        fresh[team] = offered
    unknown = sorted(set(upload.teams) - set(fresh))
    if unknown:
        raise RequestError(f"{unknown[0][:40]!r} is no team with a list to sign anew.", code="request.publication")
    return fresh


def _keep_policy(connection: Connection, upload: MetadataUpload, site: str) -> None:
    named = ceremony.load_targets(upload.body).signed.targets
    if set(named) != {POLICY_TARGET}:
        raise RequestError(f"The top-level targets name exactly {POLICY_TARGET}.", code="request.publication")
    described = named[POLICY_TARGET]
    given = {file.path: file.body for file in upload.files}
    body = given.get(POLICY_TARGET)
    if body is None:
        body = repository.policy_bytes(connection)
    if described.length != len(body) or described.hashes.get("sha256") != hashlib.sha256(body).hexdigest():
        raise RequestError("The policy given is not the one that was signed.", code="request.publication")
    if read_policy(body).site != site:
        raise RequestError("The policy is for another site.", code="request.publication")
    repository.store_target(connection, POLICY_TARGET, body)
