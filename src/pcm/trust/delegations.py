"""The package repository's top-level targets: which team may publish what, and the site's policy. Signed offline.

Serves steps 2 (a team's key is accepted because this document says so) and 6 (clients read teams and
`policy/site.json` from it). Goes after `roots`, before `package_repository`. Each team has the paths
`packages/<team>/*/*/manifest.json` to itself and nothing else; the delegation is terminating. Pure: bytes in, bytes
out.

Source: TUF specification 1.0.31, section 4.5.
"""

from collections.abc import Sequence

from securesystemslib.signer import Key, Signer, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, TargetFile, Targets

from pcm.model.errors import RequestError
from pcm.model.names import check_name
from pcm.protocol.policy import TARGET as POLICY_TARGET
from pcm.trust import ceremony, keys, metadata

TARGETS_DAYS = 365


def team_paths(team: str) -> str:
    """The target paths that a team may publish, as a TUF path pattern."""
    return f"packages/{team}/*/*/manifest.json"


class StagedTargets:
    """The next top-level targets, while they are changed and signatures are collected.

    Make it with `first`, `after` or `load`; keep `to_bytes` between sessions.
    """

    def __init__(self, document: Metadata[Targets], root: bytes) -> None:
        self._document = document
        self._targets = document.signed
        self._root: Root = ceremony.load_root(root).signed
        if self._targets.delegations is None:
            self._targets.delegations = Delegations({}, {})

    @classmethod
    def first(cls, root: bytes, expires_s: float) -> "StagedTargets":
        """Stage version 1 under a root: no team, no policy yet."""
        targets = Targets(
            version=1,
            spec_version=metadata.SPEC_VERSION,
            expires=ceremony.moment(expires_s),
            delegations=Delegations({}, {}),
        )
        return cls(Metadata(targets), root)

    @classmethod
    def after(cls, current: bytes, root: bytes, expires_s: float) -> "StagedTargets":
        """Stage the successor, equal but for version and expiry; then change it.

        Raises:
            RequestError: `request.metadata`.
        """
        following = ceremony.load_targets(current)
        following.signatures.clear()
        following.signed.version += 1
        following.signed.expires = ceremony.moment(expires_s)
        return cls(following, root)

    @classmethod
    def load(cls, staged: bytes, root: bytes) -> "StagedTargets":
        """Continue with what `to_bytes` gave. Raises RequestError `request.metadata`."""
        return cls(ceremony.load_targets(staged), root)

    @property
    def version(self) -> int:
        """The version that it will have."""
        return self._targets.version

    def to_bytes(self) -> bytes:
        """The staged file, with the signatures so far."""
        return self._document.to_bytes()

    def set_team(self, team: str, team_keys: Sequence[SSlibKey], threshold: int = 1) -> None:
        """Let a team publish with these keys, from now on with no others (also how a team's key is rotated).

        Raises:
            RequestError: `request.name` (a name that TUF uses itself, too), `request.threshold`.
        """
        check_name("team", team)
        if team in metadata.TOP_LEVEL_ROLES:
            raise RequestError(f"A team cannot be called {team}: TUF uses that name.", code="request.name")
        ceremony.check_role(team, len(team_keys), threshold)
        self._document.signatures.clear()
        roles = self._roles()
        roles[team] = DelegatedRole(
            team, [key.keyid for key in team_keys], threshold, terminating=True, paths=[team_paths(team)]
        )
        self._replace(roles, {key.keyid: key for key in team_keys})

    def revoke_team(self, team: str) -> None:
        """Take a team's right to publish: clients refuse all its manifests.

        Raises:
            RequestError: `not_found`.
        """
        roles = self._roles()
        if roles.pop(team, None) is None:
            raise RequestError(f"There is no team {team}.", code="not_found")
        self._document.signatures.clear()
        self._replace(roles, {})

    def teams(self) -> dict[str, tuple[int, tuple[SSlibKey, ...]]]:
        """Each team's threshold and keys."""
        delegations = self._targets.delegations
        assert delegations is not None
        return {
            name: (
                role.threshold,
                tuple(key for keyid in role.keyids if isinstance(key := delegations.keys[keyid], SSlibKey)),
            )
            for name, role in self._roles().items()
        }

    def set_policy(self, policy: bytes) -> None:
        """Name the site's policy; its file goes to `policy/site.json`."""
        self._document.signatures.clear()
        self._targets.targets[POLICY_TARGET] = TargetFile.from_data(POLICY_TARGET, policy, ["sha256"])

    def set_expiry(self, expires_s: float) -> None:
        """Say until when (unix time in seconds) these targets count."""
        self._document.signatures.clear()
        self._targets.expires = ceremony.moment(expires_s)

    def sign(self, signer: Signer) -> None:
        """Add one keeper's signature.

        Raises:
            RequestError: `request.key`: the root does not know this key for targets.
        """
        ceremony.add_signature(self._document, signer, frozenset(self._root.roles[Targets.type].keyids))

    def status(self) -> ceremony.Status:
        """Who has signed, who is missing, and which teams there will be."""
        result = self._root.get_verification_result(
            Targets.type, self._document.signed_bytes, self._document.signatures
        )
        roles = tuple(
            ceremony.RoleStatus(team, threshold, {keys.key_name(key): key.keyid for key in team_keys})
            for team, (threshold, team_keys) in self.teams().items()
        )
        needed = ceremony.requirement(f"targets in root {self._root.version}", result)
        return ceremony.Status("targets", self.version, self._targets.expires, (needed,), roles)

    def finish(self) -> bytes:
        """The finished targets, for `package_repository.publish`.

        Raises:
            RequestError: `request.threshold`: signatures are missing.
        """
        ceremony.check_complete(self.status())
        return self.to_bytes()

    def _roles(self) -> dict[str, DelegatedRole]:
        delegations = self._targets.delegations
        assert delegations is not None
        return dict(delegations.roles or {})

    def _replace(self, roles: dict[str, DelegatedRole], fresh: dict[str, Key]) -> None:
        assert self._targets.delegations is not None
        known = {**self._targets.delegations.keys, **fresh}
        used = {keyid for role in roles.values() for keyid in role.keyids}
        self._targets.delegations = Delegations({keyid: key for keyid, key in known.items() if keyid in used}, roles)


def is_signed_by_team(targets: bytes, team: str, listed: bytes) -> bool:
    """Whether a threshold of the keys that top-level targets give a team has signed a list."""
    return not team_requirement(targets, team, listed).missing


def team_requirement(targets: bytes, team: str, listed: bytes) -> ceremony.Requirement:
    """Who of a team's keys, as top-level targets name them, has signed a list.

    Raises:
        RequestError: `request.metadata`; `not_found`: no such team.
    """
    top, document = ceremony.load_targets(targets).signed, ceremony.load_targets(listed)
    if top.delegations is None or team not in (top.delegations.roles or {}):
        raise RequestError(f"There is no team {team}.", code="not_found")
    result = top.get_verification_result(team, document.signed_bytes, document.signatures)
    return ceremony.requirement(f"team {team}", result)


def check_team_targets(targets: bytes, team: str, offered: bytes, current: bytes | None) -> int:
    """Check what a packager hands in before the site makes it visible.

    Args:
        targets: The top-level targets in force.
        team: Whose role it is.
        offered: The team's new targets file.
        current: Its targets until now, or None.

    Returns:
        The new version.

    Raises:
        RequestError: `not_allowed`: no such team, or not signed by a threshold of its keys; `conflict`: not the next version;
            `request.metadata`.
    """
    top = ceremony.load_targets(targets).signed
    document = ceremony.load_targets(offered)
    delegated = top.delegations is not None and team in (top.delegations.roles or {})
    if not delegated or not top.get_verification_result(team, document.signed_bytes, document.signatures):
        raise RequestError(f"This is not signed by the keys of team {team}.", code="not_allowed")
    expected = 1 if current is None else metadata.read_version(current, Targets.type) + 1
    if document.signed.version != expected:
        raise RequestError(
            f"Team {team}'s targets have version {document.signed.version}; expected {expected}. Fetch the newest, then "
            "publish again.",
            code="conflict",
        )
    if document.signed.delegations is not None:
        raise RequestError("A team cannot delegate any further.", code="not_allowed")
    return expected
