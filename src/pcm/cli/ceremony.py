"""A ceremony's folder: the documents that are about to change, carried from keyring to keyring until enough have signed.

Serves the life of the site's keys (steps 2 and 5), behind `pcm key`. What a document needs and who may sign it is decided in
`pcm.trust`; this keeps the files, in an order that people can follow: `current/` is what counts now, beside it what will.
It holds no key.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from securesystemslib.signer import SSlibKey

from pcm.model.errors import RequestError, StoreError
from pcm.protocol.admin import KeysStatus
from pcm.protocol.policy import Approver, SitePolicy, read_policy, write_policy
from pcm.trust import ceremony, delegations, metadata, package_repository, roots
from pcm.trust.keyring import Keyring
from pcm.trust.keys import key_name

INSTRUCTIONS_ROOT, PACKAGES_ROOT, TARGETS = "instructions.root.json", "packages.root.json", "packages.targets.json"
POLICY = "policy.json"
_ROLES: dict[str, tuple[tuple[str, str], ...]] = {
    "root": ((INSTRUCTIONS_ROOT, "root"), (PACKAGES_ROOT, "root")),
    "targets": ((PACKAGES_ROOT, "targets"),),
    "online": ((PACKAGES_ROOT, "snapshot"), (PACKAGES_ROOT, "timestamp")),
    "policy": ((INSTRUCTIONS_ROOT, "targets"),),
    "lease": ((INSTRUCTIONS_ROOT, "snapshot"), (INSTRUCTIONS_ROOT, "timestamp")),
}
ROLES = (*_ROLES, "approver", "team-NAME")
Staged = roots.StagedRoot | delegations.StagedTargets


class CeremonyFolder:
    """The documents of one ceremony.

    Args:
        folder: `current/` below it holds what counts now; see `begin`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def begun(self) -> bool:
        """Whether the documents that count now were put here."""
        return (self.folder / "current" / PACKAGES_ROOT).is_file()

    def begin(self, keys: KeysStatus) -> None:
        """Put what counts now into the folder."""
        self._keep(f"current/{INSTRUCTIONS_ROOT}", keys.instructions_root)
        self._keep(f"current/{PACKAGES_ROOT}", keys.packages_root)
        self._keep(f"current/{TARGETS}", keys.packages_targets)
        self._keep(f"current/{POLICY}", keys.policy)

    def keep_team(self, team: str, data: bytes) -> bool:
        """Put a team's list into the folder: it must be signed anew when the team's keys change.

        Returns:
            Whether it is news: what was signed over an older list is thrown away.
        """
        name = f"team-{team}.json"
        if self._has(f"current/{name}") and self._read(f"current/{name}") == data:
            return False
        self._keep(f"current/{name}", data)
        (self.folder / name).unlink(missing_ok=True)
        return True

    def staged(self) -> dict[str, Staged]:
        """The documents that will change, by file name."""
        found: dict[str, Staged] = {}
        for name in (INSTRUCTIONS_ROOT, PACKAGES_ROOT):
            if self._has(name):
                found[name] = roots.StagedRoot.load(self._read(name), self._read(f"current/{name}"))
        if self._has(TARGETS):
            found[TARGETS] = self._load_targets()
        return found

    def policy(self) -> bytes | None:
        """The policy that will count, if it changes."""
        return self._read(POLICY) if self._has(POLICY) else None

    def statuses(self) -> dict[str, ceremony.Status]:
        """Where each document stands, by file name: those that change, and the lists that teams must sign because of it."""
        found = {name: document.status() for name, document in self.staged().items()}
        for team in self._owing():
            name = f"team-{team}.json"
            fresh = self._has(name)
            listed = self._read(name if fresh else f"current/{name}")
            signed = ceremony.load_targets(listed).signed
            needed = delegations.team_requirement(self._read(TARGETS), team, listed)
            if not fresh:
                everybody = tuple(sorted((*needed.signed, *needed.unsigned)))
                needed = ceremony.Requirement(needed.source, needed.threshold, (), everybody)
            version = signed.version if fresh else signed.version + 1
            found[name] = ceremony.Status(f"the list of team {team},", version, signed.expires, (needed,), ())
        return found

    def teams(self) -> dict[str, bytes]:
        """Lists of teams whose keys change, signed anew: name → bytes."""
        return {team: self._read(f"team-{team}.json") for team in self._owing() if self._has(f"team-{team}.json")}

    def changed_teams(self) -> list[str]:
        """Teams that are there already and get other keys, or another threshold."""
        if not self._has(TARGETS):
            return []
        before = delegations.StagedTargets.load(self._read(f"current/{TARGETS}"), self._root()).teams()
        return [team for team, role in self._load_targets().teams().items() if team in before and before[team] != role]

    def _owing(self) -> list[str]:
        """Teams whose list in force is not signed by the keys that they will have: clients would refuse it."""
        names = [path.stem.removeprefix("team-") for path in sorted((self.folder / "current").glob("team-*.json"))]
        if not names or not self._has(TARGETS):
            return []
        targets, teams = self._read(TARGETS), self._load_targets().teams()
        return [
            team
            for team in names
            if team in teams
            and not delegations.is_signed_by_team(targets, team, self._read(f"current/team-{team}.json"))
        ]

    def change(
        self, role: str, *, add: SSlibKey | None = None, remove: str | None = None, threshold: int | None = None
    ) -> None:
        """Stage a change of who signs a role; signatures so far are thrown away.

        Args:
            role: One of `ROLES`.
            add: A new key.
            remove: A key's name, or the beginning of its id.

        Raises:
            RequestError: `usage`: no such role; `not_found`: no such key; `request.threshold`.
        """
        if role.startswith("team-"):
            self._change_team(role.removeprefix("team-"), add, remove, threshold)
        elif role == "approver":
            self._change_approvers(add, remove)
        elif role in _ROLES:
            self._change_roots(role, add, remove, threshold)
        else:
            raise RequestError(f"There is no role {role!r}: expected {', '.join(ROLES)}.", code="usage")

    def change_policy(self, **changes: object) -> None:
        """Stage a change of the brake."""
        self._stage_policy(msgspec.structs.replace(self._policy(), **changes))

    def sign(self, keyring: Keyring) -> list[str]:
        """Sign every staged document with every key of a keyring that counts for it.

        Returns:
            Lines for people: which key signed what.
        """
        done: list[str] = []
        for name, document in self.staged().items():
            wanted = document.wanted_keys() if isinstance(document, roots.StagedRoot) else self._targets_keys()
            for signer in keyring.signers_for(wanted):
                document.sign(signer)
                done.append(f"{key_name(signer.public_key)} signed {name}")
            self._keep(name, document.to_bytes())
        return done + self._sign_teams(keyring)

    def _sign_teams(self, keyring: Keyring) -> list[str]:
        done = []
        for team in self._owing():
            name = f"team-{team}.json"
            _, team_keys = self._load_targets().teams()[team]
            signers = keyring.signers_for({key.keyid for key in team_keys})
            if not signers:
                continue
            if self._has(name):
                again = package_repository.cosign_team(self._read(name), signers)
            else:
                expires = time.time() + package_repository.TEAM_DAYS * metadata.DAY_S
                again = package_repository.sign_team_again(team, self._read(f"current/{name}"), signers, expires)
            self._keep(name, again)
            done.append(f"{', '.join(key_name(signer.public_key) for signer in signers)} signed {name}")
        return done

    def _change_roots(self, role: str, add: SSlibKey | None, remove: str | None, threshold: int | None) -> None:
        for name, inner in _ROLES[role]:
            document = self._stage_root(name)
            known = next(entry for entry in document.status().roles if entry.role == inner)
            if add is not None:
                document.add_key(inner, add)
            if remove is not None:
                document.remove_key(inner, find_key(known.keys, remove, role))
            if threshold is not None:
                document.set_threshold(inner, threshold)
            changed = ceremony.load_root(document.to_bytes()).signed.roles[inner]
            ceremony.check_role(inner, len(changed.keyids), changed.threshold)
            self._keep(name, document.to_bytes())
        if role == "targets":
            self._keep(TARGETS, self._stage_targets().to_bytes())

    def _change_team(self, team: str, add: SSlibKey | None, remove: str | None, threshold: int | None) -> None:
        document = self._stage_targets()
        before, team_keys = document.teams().get(team, (1, ()))
        kept = list(team_keys)
        if remove is not None:
            gone = find_key({key_name(key): key.keyid for key in kept}, remove, f"team-{team}")
            kept = [key for key in kept if key.keyid != gone]
        if add is not None:
            kept.append(add)
        document.set_team(team, kept, threshold or before)
        self._keep(TARGETS, document.to_bytes())

    def renew(self, role: str) -> None:
        """Stage the root (of both repositories) or the targets as they are, for another year from now.

        Raises:
            RequestError: `usage`: nothing else is renewed in a ceremony.
        """
        now = time.time()
        if role == "root":
            for name in (INSTRUCTIONS_ROOT, PACKAGES_ROOT):
                document = self._stage_root(name)
                document.set_expiry(now + roots.ROOT_DAYS * metadata.DAY_S)
                self._keep(name, document.to_bytes())
        elif role == "targets":
            targets = self._stage_targets()
            targets.set_expiry(now + delegations.TARGETS_DAYS * metadata.DAY_S)
            self._keep(TARGETS, targets.to_bytes())
        else:
            raise RequestError(f"Only root and targets are renewed in a ceremony, not {role!r}.", code="usage")

    def revoke_team(self, team: str) -> None:
        """Stage that a team may publish nothing any more."""
        document = self._stage_targets()
        document.revoke_team(team)
        self._keep(TARGETS, document.to_bytes())

    def _change_approvers(self, add: SSlibKey | None, remove: str | None) -> None:
        policy = self._policy()
        kept = [approver for approver in policy.approvers if approver.name != remove]
        if remove is not None and len(kept) == len(policy.approvers):
            raise RequestError(f"There is no approver {remove!r}.", code="not_found")
        if add is not None:
            name = key_name(add).removeprefix("approver-")
            kept.append(Approver(name, str(add.keyval["public"])))
        self._stage_policy(msgspec.structs.replace(policy, approvers=tuple(kept)))

    def _stage_policy(self, policy: SitePolicy) -> None:
        body = write_policy(policy)
        read_policy(body)  # holds every limit that clients will hold
        document = self._stage_targets()
        document.set_policy(body)
        self._keep(POLICY, body)
        self._keep(TARGETS, document.to_bytes())

    def _policy(self) -> SitePolicy:
        return read_policy(self.policy() or self._read(f"current/{POLICY}"))

    def _stage_root(self, name: str) -> roots.StagedRoot:
        current = self._read(f"current/{name}")
        if self._has(name):
            return roots.StagedRoot.load(self._read(name), current)
        return roots.StagedRoot.after(current, time.time() + roots.ROOT_DAYS * metadata.DAY_S)

    def _stage_targets(self) -> delegations.StagedTargets:
        if self._has(TARGETS):
            return self._load_targets()
        expires = time.time() + delegations.TARGETS_DAYS * metadata.DAY_S
        return delegations.StagedTargets.after(self._read(f"current/{TARGETS}"), self._root(), expires)

    def _load_targets(self) -> delegations.StagedTargets:
        return delegations.StagedTargets.load(self._read(TARGETS), self._root())

    def _root(self) -> bytes:
        """The package root that staged targets will stand under."""
        return self._read(PACKAGES_ROOT if self._has(PACKAGES_ROOT) else f"current/{PACKAGES_ROOT}")

    def _targets_keys(self) -> frozenset[str]:
        return frozenset(ceremony.load_root(self._root()).signed.roles["targets"].keyids)

    def _has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise RequestError(f"There is no ceremony in {self.folder}: {name} is missing.", code="not_found") from None
        except OSError as error:
            raise StoreError(f"{self.folder / name} cannot be read: {error.strerror}.") from None

    def _keep(self, name: str, data: bytes) -> None:
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}.") from None


def find_key(known: Mapping[str, str], wanted: str, role: str) -> str:
    """The id of a key, by its name or the beginning of its id.

    Raises:
        RequestError: `not_found`; `conflict`: several.
    """
    found = [
        keyid for name, keyid in known.items() if name == wanted or (len(wanted) >= 6 and keyid.startswith(wanted))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError(f"Several keys of {role} are meant by {wanted!r}: write more of the id.", code="conflict")
    raise RequestError(f"Role {role} has no key {wanted!r}; it has {', '.join(known) or 'none'}.", code="not_found")
