"""Everything that a new site needs: all its keys, both roots, and the first metadata of the package repository.

Serves step 2 and 5 from before the first package on (`pcm site init`, `pcm key init`). Comes before everything else
that is signed. It writes keys into two keyrings and returns metadata; it stores no metadata itself.

Offline keyring: `root-1` … `root-n`, `targets`, `team-<name>`, `approver-<name>`. Online keyring, on the site server:
`policy`, `lease-<server>`, `online`. The online ones are all that a stolen site server gives away, and with them
nothing runs that no packager has signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from securesystemslib.signer import SSlibKey

from pcm.model.errors import RequestError
from pcm.protocol.policy import Approver, SitePolicy, write_policy
from pcm.trust import ceremony, delegations, metadata, package_repository, roots
from pcm.trust.keyring import Keyring


@dataclass(frozen=True)
class Plan:
    """How a new site is set up. Of so many `keepers` (root keys), `threshold` must sign."""

    site: str
    servers: Sequence[str]
    teams: Sequence[str]
    keepers: int = 3
    threshold: int = 2
    approvers: Sequence[str] = ()
    root_days: float = roots.ROOT_DAYS


@dataclass(frozen=True)
class NewSite:
    """A new site's signed beginnings.

    `instruction_root`, `package_root`: version 1, which clients pin. `distribution`: files below a distribution server's root.
    `logon`: files below every logon server's root. `policy`: as signed.
    """

    instruction_root: bytes
    package_root: bytes
    distribution: metadata.Files
    logon: metadata.Files
    policy: SitePolicy


def make_site(
    plan: Plan, offline: Keyring, online: Keyring, now_s: float, *, policy: SitePolicy | None = None
) -> NewSite:
    """Make all keys and sign the first metadata of both repositories.

    Args:
        plan: Names and numbers.
        offline: Where root, targets, team and approver keys go.
        online: Where policy, lease and online keys go; best without a passphrase, or the site cannot start unattended.
        now_s: Unix time in seconds.
        policy: The site's policy; None: no brake, and the approvers of the plan. Approvers' keys are put in here.

    Raises:
        RequestError: `conflict`: a key of that name is there already; `request.threshold`; `request.name`.
        StoreError: a keyring cannot be written.
    """
    ceremony.check_role("root", plan.keepers, plan.threshold)
    if not plan.servers or not plan.teams:
        raise RequestError("A site needs at least one logon server and one packaging team.", code="request.metadata")
    root_keys = tuple(offline.create(f"root-{number}") for number in range(1, plan.keepers + 1))
    root_role = ceremony.RoleKeys(root_keys, plan.threshold)
    package_root = _make_package_root(plan, root_role, offline, online, now_s)
    instruction_root = _make_instruction_root(plan, root_role, offline, online, now_s)
    teams = {team: offline.create(f"team-{team}") for team in plan.teams}
    policy = _with_approvers(plan, policy or SitePolicy(site=plan.site), offline)
    distribution = _publish_first(package_root, teams, policy, offline, online, now_s)
    distribution = {"metadata/1.root.json": package_root, **distribution}
    return NewSite(instruction_root, package_root, distribution, {"roots/1.root.json": instruction_root}, policy)


def _make_package_root(
    plan: Plan, root_role: ceremony.RoleKeys, offline: Keyring, online: Keyring, now_s: float
) -> bytes:
    served = ceremony.RoleKeys((online.create("online"),))
    roles = {
        "root": root_role,
        "targets": ceremony.RoleKeys((offline.create("targets"),)),
        "snapshot": served,
        "timestamp": served,
    }
    return _sign_root(plan, roots.PACKAGES, roles, offline, now_s)


def _make_instruction_root(
    plan: Plan, root_role: ceremony.RoleKeys, offline: Keyring, online: Keyring, now_s: float
) -> bytes:
    leases = ceremony.RoleKeys(tuple(online.create(f"lease-{server}") for server in plan.servers))
    roles = {
        "root": root_role,
        "targets": ceremony.RoleKeys((online.create("policy"),)),
        "snapshot": leases,
        "timestamp": leases,
    }
    return _sign_root(plan, roots.INSTRUCTIONS, roles, offline, now_s)


def _sign_root(
    plan: Plan, repository: str, roles: dict[str, ceremony.RoleKeys], offline: Keyring, now_s: float
) -> bytes:
    staged = roots.StagedRoot.first(repository, plan.site, roles, now_s + plan.root_days * metadata.DAY_S)
    for number in range(1, plan.keepers + 1):
        staged.sign(offline.signer(f"root-{number}"))
    return staged.finish()


def _with_approvers(plan: Plan, policy: SitePolicy, offline: Keyring) -> SitePolicy:
    made = tuple(
        Approver(name=name, public_key=offline.create(f"approver-{name}").keyval["public"]) for name in plan.approvers
    )
    if policy.site != plan.site:
        raise RequestError(f"The policy is for site {policy.site!r}, not {plan.site!r}.", code="request.metadata")
    return msgspec.structs.replace(policy, approvers=(*policy.approvers, *made))


def _publish_first(
    root: bytes, teams: dict[str, SSlibKey], policy: SitePolicy, offline: Keyring, online: Keyring, now_s: float
) -> metadata.Files:
    body = write_policy(policy)
    staged = delegations.StagedTargets.first(root, now_s + delegations.TARGETS_DAYS * metadata.DAY_S)
    for team, key in teams.items():
        staged.set_team(team, (key,))
    staged.set_policy(body)
    staged.sign(offline.signer("targets"))
    roles = {"targets": staged.finish()}
    expires_s = now_s + package_repository.TEAM_DAYS * metadata.DAY_S
    for team in teams:
        signer = offline.signer(f"team-{team}")
        roles[team] = package_repository.team_targets(team, {}, 1, (signer,), expires_s)
    name = package_repository.target_name("policy/site.json", metadata.target(body)["hashes"]["sha256"])
    return {name: body, **package_repository.publish(roles, None, None, online.signer("online"), now_s)}
