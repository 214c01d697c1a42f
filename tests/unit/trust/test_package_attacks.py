"""The attack table on the package repository: frozen, rolled back, mixed, withdrawn, unsigned."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.model.errors import PcmError, Retry
from pcm.protocol.instructions import RepositoryFloor
from pcm.protocol.manifest import write_manifest
from pcm.protocol.policy import SitePolicy
from pcm.trust import metadata, package_repository, roots
from pcm.trust.cross_check import gather
from pcm.trust.manifests import Manifests
from tests.unit.trust.simulated import (
    Server,
    SimulatedClient,
    SimulatedSite,
    a_manifest,
    instruction_for,
    named,
    resigned,
    utc_now,
)

PATH = "packages/apps/viewer/1.0/manifest.json"


@pytest.fixture
def site() -> SimulatedSite:
    site = SimulatedSite()
    site.publish_manifest(a_manifest())
    return site


@pytest.fixture
def client(site: SimulatedSite, tmp_path: Path) -> SimulatedClient:
    return SimulatedClient(site, tmp_path)


def refused(client: SimulatedClient, server: Server | None = None, least: RepositoryFloor | None = None) -> PcmError:
    before = client.state()
    with pytest.raises(PcmError) as caught:
        client.look(server, least)
    assert client.state() == before
    return caught.value


def looked(client: SimulatedClient) -> None:
    packages = client.look()
    packages.find(PATH)
    client.accept(packages)


def test_what_packagers_signed_is_found(site: SimulatedSite, client: SimulatedClient) -> None:
    packages = client.look()
    data = write_manifest(a_manifest())
    assert packages.find(PATH).length == len(data)
    assert packages.policy == site.policy
    client.accept(packages)
    server = Server(site.distribution)
    client.look(server).find(PATH)
    assert server.asked == ["metadata/2.root.json", "metadata/timestamp.json"]  # the rest is cached


def test_an_expired_timestamp_is_a_freeze(site: SimulatedSite, client: SimulatedClient) -> None:
    site.publish({}, (utc_now() - timedelta(days=3, minutes=1)).timestamp())
    assert refused(client).code == "trust.freeze"


def test_a_mirror_that_stands_still_is_a_freeze(site: SimulatedSite, client: SimulatedClient) -> None:
    frozen = Server(dict(site.distribution))
    client.accept(client.look())
    site.publish_manifest(a_manifest(version="2.0", release=6))
    for least in (RepositoryFloor(timestamp=3), RepositoryFloor(snapshot=3), RepositoryFloor(root=2)):
        assert refused(client, frozen, least).code == "trust.freeze"
    client.look(None, RepositoryFloor(root=1, timestamp=3, snapshot=3))


def test_yesterdays_mirror_is_a_rollback(site: SimulatedSite, client: SimulatedClient) -> None:
    yesterday = Server(dict(site.distribution))
    site.publish_manifest(a_manifest(version="2.0", release=6))
    looked(client)
    error = refused(client, yesterday)
    assert (error.code, error.retry) == ("trust.rollback", Retry.NEVER)
    client.current["p"] = None
    assert refused(client, yesterday).code == "trust.rollback"


@pytest.mark.parametrize("keep_cache", [True, False])
def test_a_stolen_online_key_cannot_put_back_a_teams_old_targets(
    site: SimulatedSite, client: SimulatedClient, keep_cache: bool
) -> None:
    """Withdrawn on Monday; on Tuesday the thief signs a new snapshot over Sunday's team file."""
    sunday = site.team_files["apps"]
    site.withdraw(a_manifest())
    packages = client.look()
    with pytest.raises(PcmError) as caught:
        packages.find(PATH)
    assert caught.value.code == "trust.unsigned_program"
    client.accept(packages)
    assert client.packages_floors.version("apps") == 3
    if not keep_cache:
        client.current["p"] = None
    snapshot = metadata.header("snapshot", 99, site.year)
    snapshot["meta"] = {
        "targets.json": metadata.entry(site.top, 1),
        "games.json": metadata.entry(site.team_files["games"], 1),
        "apps.json": metadata.entry(sunday, 2),
    }
    signed = metadata.sign(snapshot, [site.online])
    timestamp = metadata.header("timestamp", 99, site.year)
    timestamp["meta"] = {"snapshot.json": metadata.entry(signed, 99)}
    site.distribution.update(
        {"metadata/99.snapshot.json": signed, "metadata/timestamp.json": metadata.sign(timestamp, [site.online])}
    )
    packages = client.look()
    with pytest.raises(PcmError) as caught:
        packages.find(PATH)
    assert caught.value.code == "trust.rollback"
    # another team's packages are not harmed, and the refused team's floor is not touched
    with pytest.raises(PcmError) as caught:
        packages.find("packages/games/x/1/manifest.json")
    assert caught.value.code == "trust.unsigned_program"
    client.accept(packages)
    assert client.packages_floors.version("apps") == 3


def test_one_teams_bad_signature_harms_no_other_team(site: SimulatedSite, client: SimulatedClient) -> None:
    site.teams["games"] = named("stranger")
    site.publish_manifest(a_manifest(package="game"), team="games")
    packages = client.look()
    with pytest.raises(PcmError) as caught:
        packages.find("packages/games/game/1.0/manifest.json")
    assert caught.value.code == "trust.unsigned"
    assert packages.find(PATH)


def test_a_team_cannot_sign_for_another(site: SimulatedSite, client: SimulatedClient) -> None:
    """The games team's key signs a target below packages/apps: its delegation does not reach there."""
    data = write_manifest(a_manifest(version="9.9", release=99))
    site.publish(
        {
            "games": resigned(
                site.team_files["games"],
                [site.teams["games"]],
                lambda signed: signed.update(
                    version=2, targets={"packages/apps/viewer/9.9/manifest.json": metadata.target(data)}
                ),
            )
        }
    )
    with pytest.raises(PcmError) as caught:
        client.look().find("packages/apps/viewer/9.9/manifest.json")
    assert caught.value.code == "trust.unsigned_program"


def test_a_team_cannot_delegate_further(site: SimulatedSite, client: SimulatedClient) -> None:
    third = named("third")
    path = "packages/apps/hidden/1/manifest.json"
    hidden = package_repository.team_targets("apps", {path: metadata.target(b"x")}, 1, [third], site.year)
    delegation = {
        "keys": {third.public_key.keyid: third.public_key.to_dict()},
        "roles": [
            {
                "name": "third",
                "keyids": [third.public_key.keyid],
                "threshold": 1,
                "terminating": True,
                "paths": ["packages/apps/*/*/manifest.json"],
            }
        ],
    }
    team = resigned(
        site.team_files["apps"],
        [site.teams["apps"]],
        lambda signed: signed.update(version=3, targets={}, delegations=delegation),
    )
    site.publish({"apps": team, "third": hidden})
    with pytest.raises(PcmError) as caught:
        client.look().find(path)
    assert caught.value.code == "trust.unsigned_program"


def test_mixed_files_are_mix_and_match(site: SimulatedSite, client: SimulatedClient) -> None:
    old = site.distribution["metadata/2.apps.json"]
    site.publish_manifest(a_manifest(version="2.0", release=6))
    site.distribution["metadata/3.apps.json"] = old
    with pytest.raises(PcmError) as caught:
        client.look().find(PATH)
    assert caught.value.code == "trust.mix_and_match"


def test_a_rogue_root_is_refused(site: SimulatedSite, client: SimulatedClient) -> None:
    staged = site.next_root(roots.PACKAGES)
    staged.sign(site.keepers[2])
    site.distribution["metadata/2.root.json"] = staged.to_bytes()
    assert refused(client).code == "trust.rogue_root"


def test_the_instruction_root_does_not_pass_for_this_one(site: SimulatedSite, client: SimulatedClient) -> None:
    """Both are signed by the same keepers. With it, the policy key, which is online, would define programs."""
    site.distribution["metadata/2.root.json"] = site.sign_root(site.next_root(roots.INSTRUCTIONS))
    top = resigned(site.top, [site.policy_key], lambda signed: signed.update(version=50))
    snapshot = metadata.header("snapshot", 50, site.year)
    snapshot["meta"] = {"targets.json": metadata.entry(top, 50)}
    signed = metadata.sign(snapshot, [site.leases["a"]])
    timestamp = metadata.header("timestamp", 50, site.year)
    timestamp["meta"] = {"snapshot.json": metadata.entry(signed, 50)}
    site.distribution.update(
        {
            "metadata/50.targets.json": top,
            "metadata/50.snapshot.json": signed,
            "metadata/timestamp.json": metadata.sign(timestamp, [site.leases["a"]]),
        }
    )
    assert refused(client).code == "trust.rogue_root"


@pytest.mark.parametrize("which", ["timestamp.json", "snapshot.json", "1.targets.json", "2.root.json", "site.json"])
def test_endless_data_is_cut_off(site: SimulatedSite, client: SimulatedClient, which: str) -> None:
    def endless(_name: str, _data: bytes) -> Iterator[bytes]:
        while True:
            yield b" " * 100_000

    names = [name for name in [*site.distribution, "metadata/2.root.json"] if name.endswith(which)]
    server = Server(site.distribution, dict.fromkeys(names, endless))
    assert refused(client, server).code == "trust.endless_data"


def test_the_policy_is_the_one_that_was_signed(site: SimulatedSite, client: SimulatedClient) -> None:
    name = next(name for name in site.distribution if name.endswith(".site.json"))
    good = site.distribution[name]
    site.distribution[name] = good.replace(b"hq", b"hx")
    assert refused(client).code == "trust.mix_and_match"
    site.distribution[name] = good
    client.accept(client.look())
    server = Server(site.distribution)
    client.look(server)
    assert name not in server.asked  # kept beside the metadata


@pytest.mark.parametrize(
    ("policy", "code"),
    [(SitePolicy(site="other"), "trust.wrong_site"), (SitePolicy(site="hq", spec="2.0"), "trust.unknown_version")],
)
def test_a_policy_for_others(site: SimulatedSite, client: SimulatedClient, policy: SitePolicy, code: str) -> None:
    site.policy = policy
    site.change_targets(lambda _staged: None)
    assert refused(client).code == code


def test_no_policy_no_trust(site: SimulatedSite, client: SimulatedClient) -> None:
    bare = resigned(site.top, [site.targets_key], lambda signed: signed.update(version=2, targets={}))
    site.publish({"targets": bare})
    assert refused(client).code == "trust.unsigned"


def test_manifests_come_by_hash_and_are_kept(site: SimulatedSite, tmp_path: Path) -> None:
    data = next(data for name, data in site.distribution.items() if name.endswith(".manifest.json"))
    server = Server(site.distribution)
    manifests = Manifests(tmp_path / "manifests", server)
    name, sha256 = next(
        (n, n.split("/")[-1].split(".")[0])
        for n in server.files
        if n.endswith(".manifest.json") and site.distribution[n] == data
    )
    assert manifests.read(PATH, len(data), sha256) == data
    assert manifests.read(PATH, len(data), sha256) == data
    assert server.asked == [name]
    kept = tmp_path / "manifests" / f"{sha256}.json"
    for harm in (b"", data[:-1], data + b" ", b"x" * len(data)):
        kept.write_bytes(harm)
        assert manifests.read(PATH, len(data), sha256) == data
    manifests.forget_others({sha256})
    assert kept.exists()
    manifests.forget_others(set())
    assert not kept.exists()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: data.replace(b"setup", b"other"), "trust.mix_and_match"),
        (lambda data: data[:-1], "trust.mix_and_match"),
        (lambda data: data + b" ", "trust.endless_data"),
        (lambda _data: b"", "trust.mix_and_match"),
    ],
)
def test_a_changed_manifest_is_refused(
    site: SimulatedSite, tmp_path: Path, client: SimulatedClient, change: object, code: str
) -> None:
    manifest = a_manifest(version="3.0", release=7)
    site.publish_manifest(manifest)
    instruction = instruction_for(manifest)
    name = f"targets/packages/apps/viewer/3.0/{instruction.manifest.sha256}.manifest.json"
    server = Server(site.distribution, {name: lambda _name, data: [change(data)]})  # type: ignore[operator]
    evidence = gather([instruction], client.look().find, Manifests(tmp_path / "m", server).read)
    error = evidence[instruction.id]
    assert isinstance(error, PcmError)
    assert error.code == code
    assert not list((tmp_path).glob("m/*.json"))
