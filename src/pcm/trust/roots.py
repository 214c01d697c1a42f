"""The life of a root: made, changed key by key, signed by its keepers one after another, finished.

Serves steps 2 and 5: a root says whose signatures count in a repository. Comes before everything that is signed; goes
after `keyring`. Both repositories of a site have one, and it says which one it is: otherwise the same keepers'
signatures would let one repository's root be shown as the other's. Pure: bytes in, bytes out.

Version N+1 counts only when a threshold of N's root keys and a threshold of its own have signed it (TUF specification
1.0.31, 5.3.4). Rotating a key is adding the new one and removing the old one in one new version; revoking is
removing.
"""

from collections.abc import Mapping
from typing import Any

from securesystemslib.signer import Signer, SSlibKey
from tuf.api.metadata import Metadata, Role, Root

from pcm.model.errors import RequestError
from pcm.model.names import check_name
from pcm.trust import ceremony, keys, metadata

ROOT_DAYS = 365
MARK = "x-pcm"
PACKAGES = "packages"
INSTRUCTIONS = "instructions"


def mark(repository: str, site: str) -> dict[str, str]:
    """What a root says about itself, signed with it: which repository, of which site."""
    if repository not in {PACKAGES, INSTRUCTIONS}:
        raise RequestError(f"There is no repository {repository!r}.", code="request.metadata")
    return {"repository": repository, "site": check_name("site", site)}


def mark_of(root: Root) -> dict[str, Any]:
    """What a root says about itself, or nothing."""
    said = root.unrecognized_fields.get(MARK)
    return dict(said) if isinstance(said, dict) else {}


class StagedRoot:
    """The next root of a repository, while it is changed and signatures are collected.

    Make it with `first`, `after` or `load`; keep `to_bytes` between sessions.
    """

    def __init__(self, document: Metadata[Root], current: Root | None) -> None:
        self._document = document
        self._root = document.signed
        self._current = current
        if current is not None and self._root.version != current.version + 1:
            raise RequestError(
                f"Root {self._root.version} does not follow root {current.version}: stage it anew.", code="conflict"
            )

    @classmethod
    def first(
        cls, repository: str, site: str, roles: Mapping[str, ceremony.RoleKeys], expires_s: float
    ) -> "StagedRoot":
        """Stage version 1.

        Args:
            repository: `packages` or `instructions`.
            site: Its name.
            roles: All four top-level roles.
            expires_s: Unix time in seconds.

        Raises:
            RequestError: `request.threshold`, `request.metadata`.
        """
        if set(roles) != set(metadata.TOP_LEVEL_ROLES):
            raise RequestError("A root defines exactly root, targets, snapshot, timestamp.", code="request.metadata")
        defined = {name: Role([key.keyid for key in role.keys], role.threshold) for name, role in roles.items()}
        known = {key.keyid: key for role in roles.values() for key in role.keys}
        root = Root(
            version=1,
            spec_version=metadata.SPEC_VERSION,
            expires=ceremony.moment(expires_s),
            keys=dict(known),
            roles=defined,
            consistent_snapshot=True,
            unrecognized_fields={MARK: mark(repository, site)},
        )
        return cls(Metadata(root), None)

    @classmethod
    def after(cls, current: bytes, expires_s: float) -> "StagedRoot":
        """Stage the successor of a root, equal but for version and expiry; then change it.

        Raises:
            RequestError: `request.metadata`.
        """
        following = ceremony.load_root(current)
        following.signatures.clear()
        following.signed.version += 1
        following.signed.expires = ceremony.moment(expires_s)
        return cls(following, ceremony.load_root(current).signed)

    @classmethod
    def load(cls, staged: bytes, current: bytes | None) -> "StagedRoot":
        """Continue with what `to_bytes` gave.

        Raises:
            RequestError: `request.metadata`; `conflict` if it does not follow `current`.
        """
        return cls(ceremony.load_root(staged), None if current is None else ceremony.load_root(current).signed)

    @property
    def version(self) -> int:
        """The version that it will have."""
        return self._root.version

    def to_bytes(self) -> bytes:
        """The staged file, with the signatures so far."""
        return self._document.to_bytes()

    def add_key(self, role: str, key: SSlibKey) -> None:
        """Let one more key sign a role."""
        self._check_role_name(role)
        self._document.signatures.clear()
        self._root.add_key(key, role)

    def remove_key(self, role: str, keyid: str) -> None:
        """Revoke a key for a role: nothing it signed counts any more, and clients forget that role's version floor.

        Raises:
            RequestError: `not_found`.
        """
        self._check_role_name(role)
        if keyid not in self._root.roles[role].keyids:
            raise RequestError(f"Key {keyid[:12]} does not sign {role}.", code="not_found")
        self._document.signatures.clear()
        self._root.revoke_key(keyid, role)

    def set_threshold(self, role: str, threshold: int) -> None:
        """Say how many of a role's keys must sign."""
        self._check_role_name(role)
        self._document.signatures.clear()
        self._root.roles[role].threshold = threshold

    def set_expiry(self, expires_s: float) -> None:
        """Say until when (unix time in seconds) this root counts."""
        self._document.signatures.clear()
        self._root.expires = ceremony.moment(expires_s)

    def sign(self, signer: Signer) -> None:
        """Add one keeper's signature.

        Raises:
            RequestError: `request.key`: a key of neither this root nor the one before; `request.threshold`.
        """
        self._check_roles()
        ceremony.add_signature(self._document, signer, self.wanted_keys())

    def wanted_keys(self) -> frozenset[str]:
        """Ids of the keys whose signatures count here."""
        before = self._current.roles[Root.type].keyids if self._current is not None else []
        return frozenset([*self._root.roles[Root.type].keyids, *before])

    def status(self) -> ceremony.Status:
        """Who has signed, who is missing, and what the roles will be."""
        payload, signatures = self._document.signed_bytes, self._document.signatures
        requirements = []
        for source in (self._current, self._root):
            if source is not None:
                result = source.get_verification_result(Root.type, payload, signatures)
                requirements.append(ceremony.requirement(f"root {source.version}", result))
        return ceremony.Status("root", self.version, self._root.expires, tuple(requirements), role_table(self._root))

    def finish(self) -> bytes:
        """The finished root: publish it as `<version>.root.json`.

        Raises:
            RequestError: `request.threshold`: signatures are missing; `request.too_long`: clients would not read it.
        """
        self._check_roles()
        ceremony.check_complete(self.status())
        data = self.to_bytes()
        if len(data) > ceremony.MAX_ROOT_BYTES:
            raise RequestError(
                f"The root is {len(data)} bytes long; clients read {ceremony.MAX_ROOT_BYTES}. Remove old keys.",
                code="request.too_long",
            )
        return data

    def _check_role_name(self, role: str) -> None:
        if role not in self._root.roles:
            raise RequestError(f"There is no role {role!r} in a root.", code="not_found")

    def _check_roles(self) -> None:
        for name, role in self._root.roles.items():
            ceremony.check_role(name, len(role.keyids), role.threshold)


def role_table(root: Root) -> tuple[ceremony.RoleStatus, ...]:
    """A root's roles with the names and ids of their keys."""
    return tuple(
        ceremony.RoleStatus(
            name,
            root.roles[name].threshold,
            {keys.key_name(root.keys[keyid]): keyid for keyid in root.roles[name].keyids if keyid in root.keys},
        )
        for name in metadata.TOP_LEVEL_ROLES
    )


def read_status(finished: bytes, previous: bytes | None = None) -> ceremony.Status:
    """Status of a root that is in use (`pcm key status`). Raises RequestError `request.metadata`."""
    return StagedRoot.load(finished, previous).status()
