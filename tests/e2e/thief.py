"""Whoever has stolen a site's servers, with the keys that lay on them: what they can show to clients, and with which signatures.

A logon server's folder comes with its lease key, the compiler's machine with the policy key, the package server's with the online
key. Nobody here has an offline key.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from securesystemslib.signer import Signer

from pcm.testing.hostile_server import Misbehaviour
from pcm.trust import instruction_repository, metadata
from pcm.trust.keyring import Keyring
from tests.e2e.fleet import Client, Site

Files = dict[str, bytes]


def now_ms() -> int:
    """Unix milliseconds."""
    return int(time.time() * 1000)


def flipped(data: bytes, place: int | None = None) -> bytes:
    """The same with one bit changed, in the middle unless a place is given."""
    place = len(data) // 2 if place is None else place
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@dataclass
class Thief:
    """Owns a site's servers. `logon`, `distribution`: what they have to give, to be changed at will, then `show`n."""

    site: Site
    client: Client
    logon: Files = field(default_factory=dict)
    distribution: Files = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take everything that the honest servers have right now, with a fresh lease for the one client."""
        self.logon = files_below(self.site, "logon")
        self.distribution = files_below(self.site, "distribution")
        self.lease()

    @property
    def mine(self) -> str:
        """Where the client's files are."""
        return f"clients/{self.client.client_id}/"

    def key(self, name: str) -> Signer:
        """The newest key of its kind that lay on a server: `lease-site`, `policy`, `online`."""
        keyring = Keyring(self.site.root / "keys")
        return keyring.signer(max((each for each in keyring.names() if each.partition(".")[0] == name), key=len))

    def versions(self, role: str) -> list[int]:
        """Versions of the client's snapshots or targets that are there, oldest first."""
        end = f".{role}.json"
        names = [name.removeprefix(self.mine) for name in self.logon if name.startswith(self.mine)]
        return sorted(int(name.removesuffix(end)) for name in names if name.endswith(end))

    def targets(self) -> bytes:
        """The client's newest targets metadata."""
        return self.logon[f"{self.mine}{self.versions('targets')[-1]}.targets.json"]

    def body(self) -> dict[str, Any]:
        """The client's newest instruction file."""
        (target,) = json.loads(self.targets())["signed"]["targets"].values()
        found: dict[str, Any] = json.loads(self.logon[f"{self.mine}{target['hashes']['sha256']}.instructions.json"])
        return found

    def lease(
        self,
        *,
        signer: Signer | None = None,
        version: int | None = None,
        days: float = 3.0,
        targets: bytes | None = None,
    ) -> int:
        """Sign a lease over the client's targets; its version."""
        number = version or now_ms()
        made = instruction_repository.sign_lease(
            targets or self.targets(), signer or self.key("lease-site"), number, expires_days=days
        )
        self.logon.update(made.files(self.client.client_id))
        return number

    def instruct(self, signer: Signer, changes: Mapping[str, Any] | None = None, *, more: Any = None) -> None:
        """Sign an instruction file of one's own, and a lease over it. `more`: instructions beside those that are there."""
        body = {**self.body(), **(changes or {})}
        if more is not None:
            body["instructions"] = [*body["instructions"], more]
        data = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        signed = instruction_repository.sign_instructions(self.client.client_id, data, signer, now_ms())
        self.logon.update(signed.files())
        self.lease()

    def instruction(self, like: str, **changes: Any) -> dict[str, Any]:
        """An instruction of one's own, as the one of a job is, under an id of its own."""
        found = next(each for each in self.body()["instructions"] if each["job"] == like)
        job = f"jt{now_ms() % 10**9:09d}"
        return {**found, "job": job, "id": f"{job}.{self.client.client_id[:12]}", **changes}

    def package_role(self, role: str) -> tuple[str, dict[str, Any]]:
        """Name and signed part of the newest metadata of a role of the package repository."""
        if role == "timestamp":
            name = "metadata/timestamp.json"
        else:
            found = [each for each in self.distribution if each.endswith(f".{role}.json") and "metadata/" in each]
            name = max(found, key=lambda each: int(each.split("/")[1].partition(".")[0]))
        return name, json.loads(self.distribution[name])["signed"]

    def sign_packages(self, *, days: float = 3.0, signer: Signer | None = None, **roles: bytes) -> None:
        """With the online key: a new snapshot and timestamp, over other bytes of roles, under the versions that these say."""
        signer = signer or self.key("online")
        _, snapshot = self.package_role("snapshot")
        _, timestamp = self.package_role("timestamp")
        for role, data in roles.items():
            version = json.loads(data)["signed"]["version"]
            self.distribution[f"metadata/{version}.{role}.json"] = data
            snapshot["meta"][f"{role}.json"] = metadata.entry(data, version)
        self.finish_packages(snapshot, timestamp, signer, days)

    def finish_packages(
        self, snapshot: dict[str, Any], timestamp: dict[str, Any], signer: Signer, days: float = 3.0
    ) -> None:
        """Sign these as the next snapshot and timestamp."""
        for signed in (snapshot, timestamp):
            signed["version"] += 1
            signed["expires"] = metadata.date(time.time() + days * metadata.DAY_S)
        data = metadata.sign(snapshot, (signer,))
        self.distribution[f"metadata/{snapshot['version']}.snapshot.json"] = data
        timestamp["meta"]["snapshot.json"] = metadata.entry(data, snapshot["version"])
        self.distribution["metadata/timestamp.json"] = metadata.sign(timestamp, (signer,))

    def show(self, *, logon: bool = True, distribution: bool = True) -> None:
        """From now on, clients get what this thief has."""
        if logon:
            self.site.front.stolen["/logon/"] = dict(self.logon)
        if distribution:
            self.site.front.stolen["/distribution/"] = dict(self.distribution)

    def answer(self, name: str, how: Misbehaviour) -> None:
        """Misbehave at one path (`logon/…`, `distribution/…`)."""
        self.site.front.answers[f"/{name}"] = how


def files_below(site: Site, server: str) -> Files:
    """Everything that one of the site's own servers serves."""
    root = site.root / server
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "client.pub"
    }
