"""A whole site in memory for trust tests: its keys, both repositories as files, and servers that can be made to lie."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner

from pcm.model.errors import TransferError
from pcm.model.instruction import Instruction, ManifestReference
from pcm.model.program import Parameter, Program
from pcm.protocol.instructions import Instructions, RepositoryFloor, write_instructions
from pcm.protocol.manifest import Manifest, manifest_target, write_manifest
from pcm.protocol.policy import SitePolicy, write_policy
from pcm.trust import delegations, instruction_repository, keys, metadata, package_repository, roots
from pcm.trust.ceremony import RoleKeys
from pcm.trust.fetching import Fetch
from pcm.trust.floors import Floors
from pcm.trust.instructions import Recipient, Seen, VerifiedInstructions, verify_instructions
from pcm.trust.packages import Packages, verify_packages

SITE = "hq"
ME = "0" * 31 + "1"
OTHER = "0" * 31 + "2"
Change = Callable[[str, bytes], Iterable[bytes]]


def utc_now() -> datetime:
    return datetime.now(UTC)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def named(name: str) -> CryptoSigner:
    pair = keys.generate()
    return CryptoSigner(pair._private_key, keys.public_form(pair.public_key, name))


def role(*signers: CryptoSigner, threshold: int = 1) -> RoleKeys:
    return RoleKeys(tuple(signer.public_key for signer in signers), threshold)


SIGNED_AT = utc_now() - timedelta(days=9)


@dataclass
class Server:
    """A server over files in memory. `lie` may replace what any file says; `asked` remembers what was wanted."""

    files: dict[str, bytes]
    lie: dict[str, Change] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, name: str, max_length: int) -> Iterator[bytes]:
        self.asked.append(name)
        if name in self.lie:
            yield from self.lie[name](name, self.files.get(name, b""))
            return
        if name not in self.files:
            raise TransferError(f"no {name}", code="transfer.not_found")
        data = self.files[name]
        for start in range(0, max(len(data), 1), 1000):
            yield data[start : start + 1000]


def a_manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "package": "viewer",
        "version": "1.0",
        "release": 5,
        "min_release": 1,
        "platforms": ("linux-any",),
        "programs": {"install": Program(argv=("setup", "--mode", "{mode}"))},
        "parameters": {"mode": Parameter(enum=("full", "small"), default="full")},
        "signed_at": SIGNED_AT,
    }
    return Manifest(**{**values, **changes})


def instruction_for(
    manifest: Manifest, *, team: str = "apps", number: int = 1, client: str = ME, **changes: Any
) -> Instruction:
    data = write_manifest(manifest)
    job = f"j{number:010d}"
    described = metadata.target(data)
    values: dict[str, Any] = {
        "id": f"{job}.{client[:12]}",
        "generation": 1,
        "job": job,
        "package": manifest.package,
        "version": manifest.version,
        "release": manifest.release,
        "program": "install",
        "manifest": ManifestReference(
            manifest_target(team, manifest.package, manifest.version),
            described["length"],
            described["hashes"]["sha256"],
        ),
        "purpose": "optional",
        "offer_after": utc_now() - timedelta(hours=1),
    }
    return Instruction(**{**values, **changes})


class SimulatedSite:
    """Keys and files. Every change re-signs what it must, as the site would."""

    def __init__(self, *, root_threshold: int = 2, policy: SitePolicy | None = None) -> None:
        self.keepers = [named(f"root-{n}") for n in (1, 2, 3)]
        self.policy_key, self.targets_key, self.online = named("policy"), named("targets"), named("online")
        self.leases = {"a": named("lease-a"), "b": named("lease-b")}
        self.teams = {"apps": named("team-apps"), "games": named("team-games")}
        self.policy = policy or SitePolicy(site=SITE)
        self.logon: dict[str, bytes] = {}
        self.distribution: dict[str, bytes] = {}
        self.year = utc_now().timestamp() + 365 * 86_400
        root_role = role(*self.keepers, threshold=root_threshold)
        leases = role(*self.leases.values())
        self.instruction_roots = [
            self.sign_root(
                roots.StagedRoot.first(
                    roots.INSTRUCTIONS,
                    SITE,
                    {"root": root_role, "targets": role(self.policy_key), "snapshot": leases, "timestamp": leases},
                    self.year,
                )
            )
        ]
        self.package_roots = [
            self.sign_root(
                roots.StagedRoot.first(
                    roots.PACKAGES,
                    SITE,
                    {
                        "root": root_role,
                        "targets": role(self.targets_key),
                        "snapshot": role(self.online),
                        "timestamp": role(self.online),
                    },
                    self.year,
                )
            )
        ]
        self.team_files: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}
        self.logon["roots/1.root.json"] = self.instruction_roots[0]
        self.distribution["metadata/1.root.json"] = self.package_roots[0]
        self.top = self._first_targets()
        for team, signer in self.teams.items():
            self.team_files[team] = package_repository.team_targets(team, {}, 1, (signer,), self.year)
        self.publish({"targets": self.top, **self.team_files})

    def sign_root(self, staged: roots.StagedRoot, *signers: CryptoSigner) -> bytes:
        for signer in signers or self.keepers:
            staged.sign(signer)
        return staged.finish()

    def next_root(self, repository: str) -> roots.StagedRoot:
        chain = self.instruction_roots if repository == roots.INSTRUCTIONS else self.package_roots
        return roots.StagedRoot.after(chain[-1], self.year)

    def release_root(self, repository: str, finished: bytes) -> None:
        if repository == roots.INSTRUCTIONS:
            self.instruction_roots.append(finished)
            self.logon[f"roots/{len(self.instruction_roots)}.root.json"] = finished
        else:
            self.package_roots.append(finished)
            self.distribution[f"metadata/{len(self.package_roots)}.root.json"] = finished

    def _first_targets(self) -> bytes:
        staged = delegations.StagedTargets.first(self.package_roots[-1], self.year)
        for team, signer in self.teams.items():
            staged.set_team(team, (signer.public_key,))
        return self.sign_targets(staged)

    def sign_targets(self, staged: delegations.StagedTargets) -> bytes:
        body = write_policy(self.policy)
        staged.set_policy(body)
        staged.sign(self.targets_key)
        name = package_repository.target_name("policy/site.json", metadata.target(body)["hashes"]["sha256"])
        self.distribution[name] = body
        self.top = staged.finish()
        return self.top

    def change_targets(self, change: Callable[[delegations.StagedTargets], None]) -> None:
        staged = delegations.StagedTargets.after(self.top, self.package_roots[-1], self.year)
        change(staged)
        self.publish({"targets": self.sign_targets(staged)})

    def publish(self, changed: dict[str, bytes], now_s: float | None = None, **days: Any) -> None:
        timestamp = self.distribution.get("metadata/timestamp.json")
        snapshot = None
        if timestamp is not None:
            version = json.loads(timestamp)["signed"]["meta"]["snapshot.json"]["version"]
            snapshot = self.distribution[f"metadata/{version}.snapshot.json"]
        files = package_repository.publish(
            changed, snapshot, timestamp, self.online, now_s or utc_now().timestamp(), **days
        )
        self.distribution.update(files)

    def publish_manifest(self, manifest: Manifest, team: str = "apps") -> None:
        data = write_manifest(manifest)
        path = manifest_target(team, manifest.package, manifest.version)
        self.team_files[team] = package_repository.add_target(
            team, self.team_files[team], path, data, (self.teams[team],), self.year
        )
        self.distribution[package_repository.target_name(path, metadata.target(data)["hashes"]["sha256"])] = data
        self.publish({team: self.team_files[team]})

    def withdraw(self, manifest: Manifest, team: str = "apps") -> None:
        path = manifest_target(team, manifest.package, manifest.version)
        self.team_files[team] = package_repository.remove_target(
            team, self.team_files[team], path, (self.teams[team],), self.year
        )
        self.publish({team: self.team_files[team]})

    def body(
        self, client: str = ME, *, serial: int = 1, instructions: Sequence[Instruction] = (), **changes: Any
    ) -> bytes:
        values: dict[str, Any] = {
            "site": SITE,
            "client_id": client,
            "serial": serial,
            "issued": utc_now(),
            "expires": utc_now() + timedelta(days=30),
            "instructions": tuple(instructions),
        }
        return write_instructions(Instructions(**{**values, **changes}))

    def instruct(
        self,
        body: bytes | None = None,
        *,
        client: str = ME,
        at: datetime | None = None,
        server: str = "a",
        **days: float,
    ) -> dict[str, bytes]:
        """Sign a client's instructions and a lease, as of `at`; returns that moment's files of the logon server."""
        now_ms = instruction_repository.next_version(ms(at or utc_now()), self.versions.get(client))
        self.versions[client] = now_ms
        signed = instruction_repository.sign_instructions(
            client, self.body(client) if body is None else body, self.policy_key, now_ms
        )
        lease = instruction_repository.sign_lease(signed.targets, self.leases[server], now_ms)
        self.logon.update({**signed.files(), **lease.files(client)})
        return dict(self.logon)


@dataclass
class SimulatedClient:
    """What a client keeps between polls. `poll` is one transaction: all of it or nothing."""

    site: SimulatedSite
    folder: Path
    me: Recipient = field(default_factory=lambda: Recipient(SITE, ME, "1.0"))
    seen: Seen = field(default_factory=Seen)
    packages_floors: Floors = field(default_factory=Floors)
    current: dict[str, Path | None] = field(default_factory=lambda: {"i": None, "p": None})
    turn: int = 0

    def __post_init__(self) -> None:
        self.pinned = (self.site.instruction_roots[0], self.site.package_roots[0])

    def server(self, files: dict[str, bytes] | None = None) -> Server:
        return Server(self.site.logon if files is None else files)

    def poll(self, fetch: Fetch | None = None, *, now: datetime | None = None) -> VerifiedInstructions:
        self.turn += 1
        verified = verify_instructions(
            self.me,
            self.pinned[0],
            self.current["i"],
            self.folder / f"instructions-{self.turn}",
            seen=self.seen,
            fetch=fetch or self.server(),
            now=now or utc_now(),
        )
        self.seen, self.current["i"] = verified.seen, verified.folder
        return verified

    def look(self, fetch: Fetch | None = None, least: RepositoryFloor | None = None) -> Packages:
        """Refresh the package repository without keeping it yet."""
        self.turn += 1
        least = least or RepositoryFloor()
        return verify_packages(
            SITE,
            self.pinned[1],
            self.current["p"],
            self.folder / f"packages-{self.turn}",
            stored=self.packages_floors,
            least={"root": least.root, "timestamp": least.timestamp, "snapshot": least.snapshot},
            fetch=fetch or Server(self.site.distribution),
        )

    def accept(self, packages: Packages) -> None:
        self.packages_floors, self.current["p"] = packages.close(), packages.folder

    def state(self) -> tuple[object, ...]:
        """Everything that a refusal must leave as it was, files included."""
        files = {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
        return (self.seen, self.packages_floors, dict(self.current), files)


def resigned(data: bytes, signers: Sequence[CryptoSigner], change: Callable[[dict[str, Any]], None]) -> bytes:
    """Metadata with its signed part changed and signed anew: what the holder of a stolen key could make."""
    signed = json.loads(data)["signed"]
    change(signed)
    return metadata.sign(signed, signers)
