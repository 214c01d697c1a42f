"""Keys come and go, cached files get lost: clients carry on, floors hold, revoked keys are worth nothing."""

import os
import random
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from pcm.distribution.folder import DistributionFolder
from pcm.model.errors import PcmError
from pcm.trust import cache, floors, instruction_repository, metadata, package_repository, roots
from tests.unit.trust.simulated import (
    ME,
    Server,
    SimulatedClient,
    SimulatedSite,
    a_manifest,
    ms,
    named,
    resigned,
    utc_now,
)


@pytest.fixture
def site() -> SimulatedSite:
    return SimulatedSite()


@pytest.fixture
def client(site: SimulatedSite, tmp_path: Path) -> SimulatedClient:
    return SimulatedClient(site, tmp_path)


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(PcmError) as caught:
        action()
    return caught.value.code


def rotate(site: SimulatedSite, repository: str, roles: list[str], old: CryptoSigner, new: CryptoSigner | None) -> None:
    staged = site.next_root(repository)
    for role in roles:
        if new is not None:
            staged.add_key(role, new.public_key)
        staged.remove_key(role, old.public_key.keyid)
    site.release_root(repository, site.sign_root(staged))


FAR = 2**47  # a version that no honest clock reaches: the year 6429


def test_policy_key_rotation(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct()
    client.poll()
    old, site.policy_key = site.policy_key, named("policy-2")
    rotate(site, roots.INSTRUCTIONS, ["targets"], old, site.policy_key)
    site.instruct(site.body(serial=2))
    assert client.poll().instructions.serial == 2
    site.policy_key = old
    site.instruct(site.body(serial=3))
    assert code_of(client.poll) == "trust.unsigned"


def test_lease_key_revocation_leaves_the_other_server(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct(server="b")
    client.poll()
    rotate(site, roots.INSTRUCTIONS, ["snapshot", "timestamp"], site.leases["a"], None)
    site.instruct(site.body(serial=2), server="b")
    assert client.poll().instructions.serial == 2
    site.instruct(site.body(serial=3), server="a")
    assert code_of(client.poll) == "trust.unsigned"


def test_a_revoked_policy_key_cannot_have_pushed_versions_out_of_reach(
    site: SimulatedSite, client: SimulatedClient
) -> None:
    """Fast-forward: the thief signs a serial that no honest signature will ever reach. Revoking heals it."""
    ahead = ms(utc_now()) + floors.AHEAD_MS - 30_000
    signed = instruction_repository.sign_instructions(ME, site.body(serial=2**53), site.policy_key, ahead)
    site.logon.update(
        {
            **signed.files(),
            **instruction_repository.sign_lease(signed.targets, site.leases["a"], ms(utc_now())).files(ME),
        }
    )
    client.poll()
    assert client.seen.floors.version("targets") == ahead
    site.instruct(site.body(serial=3))
    assert code_of(client.poll) in {"trust.rollback", "transfer.stale_server"}
    old, site.policy_key = site.policy_key, named("policy-2")
    rotate(site, roots.INSTRUCTIONS, ["targets"], old, site.policy_key)
    site.instruct(site.body(serial=3))
    assert client.poll().instructions.serial == 3
    assert client.seen.floors.version("targets") < ahead
    site.instruct(site.body(serial=2))
    assert code_of(client.poll) == "trust.rollback"


@pytest.mark.parametrize("version", [FAR, ms(utc_now()) + 3_600_000], ids=["far", "in an hour"])
def test_no_stolen_key_can_push_the_floors_or_the_clock_into_the_future(
    site: SimulatedSite, client: SimulatedClient, version: int
) -> None:
    """Else one lease key on one server stops a client, and its honest servers with it, until a root revokes the key."""
    site.instruct()
    client.poll()
    before = client.state()
    honest = dict(site.logon)
    targets = site.logon[f"clients/{ME}/{site.versions[ME]}.targets.json"]
    lease = instruction_repository.sign_lease(targets, site.leases["a"], version)
    assert code_of(lambda: client.poll(client.server({**honest, **lease.files(ME)}))) == "trust.clock"
    pushed = instruction_repository.sign_instructions(ME, site.body(serial=2), site.policy_key, version)
    lease = instruction_repository.sign_lease(pushed.targets, site.leases["b"], ms(utc_now()))
    assert code_of(lambda: client.poll(client.server({**honest, **pushed.files(), **lease.files(ME)}))) == "trust.clock"
    assert client.state() == before
    site.instruct(site.body(serial=2))
    assert client.poll().instructions.serial == 2
    assert client.poll().time_floor_s < utc_now().timestamp() + 60


def test_a_revoked_lease_key_is_forgotten(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct()
    targets = site.logon[f"clients/{ME}/{site.versions[ME]}.targets.json"]
    ahead = ms(utc_now()) + floors.AHEAD_MS - 30_000
    site.logon.update(instruction_repository.sign_lease(targets, site.leases["a"], ahead).files(ME))
    assert client.poll().time_floor_s == ahead / 1000
    site.instruct(site.body(serial=3), server="b")
    assert client.poll().instructions.serial == 3, "another server's lease is not held to the stolen one's versions"
    rotate(site, roots.INSTRUCTIONS, ["snapshot", "timestamp"], site.leases["a"], None)
    site.instruct(site.body(serial=4), server="b")
    assert client.poll().time_floor_s < utc_now().timestamp() + 60


def test_a_client_may_go_to_a_server_whose_lease_is_hours_older(site: SimulatedSite, client: SimulatedClient) -> None:
    """Each logon server renews when it likes; only its own lease, and the signed targets, can be seen to go back."""
    signed = site.instruct(at=utc_now() - timedelta(hours=9), server="b")
    version = site.versions[ME]
    targets = signed[f"clients/{ME}/{version}.targets.json"]
    fresh = instruction_repository.sign_lease(targets, site.leases["a"], ms(utc_now() - timedelta(minutes=5)))
    client.poll(client.server({**signed, **fresh.files(ME)}))
    client.poll(client.server(signed))
    assert client.poll(client.server({**signed, **fresh.files(ME)})).instructions.serial == 1
    older = instruction_repository.sign_lease(targets, site.leases["a"], ms(utc_now() - timedelta(hours=2)))
    assert code_of(lambda: client.poll(client.server({**signed, **older.files(ME)}))) == "trust.rollback"


def test_an_older_order_under_another_servers_lease_is_a_rollback(site: SimulatedSite, client: SimulatedClient) -> None:
    old = site.instruct(at=utc_now() - timedelta(hours=9), server="b")
    site.instruct(site.body(serial=2), at=utc_now() - timedelta(hours=1))
    client.poll()
    targets = next(data for name, data in old.items() if name.endswith("targets.json"))
    renewed = instruction_repository.sign_lease(targets, site.leases["b"], ms(utc_now()))
    assert code_of(lambda: client.poll(client.server({**old, **renewed.files(ME)}))) == "trust.rollback"


def test_impossible_version_numbers_are_refused(site: SimulatedSite, client: SimulatedClient) -> None:
    """Beyond 2**53 no database or JSON reader agrees with another."""
    signed = instruction_repository.sign_instructions(ME, site.body(), site.policy_key, ms(utc_now()))
    targets = resigned(signed.targets, [site.policy_key], lambda value: value.update(version=2**53 + 1))
    lease = instruction_repository.sign_lease(targets, site.leases["a"], ms(utc_now()))
    site.logon.update({**signed.files(), f"clients/{ME}/{2**53 + 1}.targets.json": targets, **lease.files(ME)})
    assert code_of(client.poll) == "trust.malformed"
    assert list(client.folder.iterdir()) == []


def test_a_floor_stays_while_its_keys_stay(site: SimulatedSite, client: SimulatedClient) -> None:
    """A new root alone, or a new key beside the old one, forgets nothing."""
    yesterday = site.instruct(at=utc_now() - timedelta(days=1))
    site.instruct(site.body(serial=2), at=utc_now() - timedelta(hours=1))
    client.poll()
    staged = site.next_root(roots.INSTRUCTIONS)
    staged.add_key("timestamp", named("lease-c").public_key)
    site.release_root(roots.INSTRUCTIONS, site.sign_root(staged))
    assert (
        code_of(
            lambda: client.poll(
                Server({**yesterday, **{n: d for n, d in site.logon.items() if n.startswith("roots/")}})
            )
        )
        == "trust.rollback"
    )


def test_package_targets_key_rotation(site: SimulatedSite, client: SimulatedClient) -> None:
    site.publish_manifest(a_manifest())
    client.accept(client.look())
    old, site.targets_key = site.targets_key, named("targets-2")
    rotate(site, roots.PACKAGES, ["targets"], old, site.targets_key)
    assert code_of(client.look) == "trust.unsigned"  # the old signature is worth nothing from now on
    site.change_targets(lambda _staged: None)
    client.accept(client.look())
    assert client.packages_floors.version("root") == 2


def test_online_key_rotation(site: SimulatedSite, client: SimulatedClient) -> None:
    client.accept(client.look())
    old, site.online = site.online, named("online-2")
    rotate(site, roots.PACKAGES, ["snapshot", "timestamp"], old, site.online)
    assert code_of(client.look) == "trust.unsigned"
    site.publish({})
    client.accept(client.look())
    site.online = old
    site.publish({})
    assert code_of(client.look) == "trust.unsigned"


def start_again(site: SimulatedSite, everything: dict[str, bytes], version: int) -> metadata.Files:
    return package_repository.publish(everything, None, None, site.online, utc_now().timestamp(), first_version=version)


def test_a_stolen_online_key_cannot_have_pushed_versions_out_of_reach(
    site: SimulatedSite, client: SimulatedClient, tmp_path: Path
) -> None:
    """Fast-forward: no honest snapshot or timestamp comes after 2**53. A new key, and the site starts again below."""
    path = "packages/apps/viewer/1.0/manifest.json"
    site.publish_manifest(a_manifest())
    client.accept(client.look())
    folder = DistributionFolder(tmp_path / "distribution")
    folder.publish(site.distribution)
    honest, own = (
        dict(site.distribution),
        metadata.read_version(site.distribution["metadata/timestamp.json"], "timestamp"),
    )
    everything = {"targets": site.top, **site.team_files}
    site.distribution.update(start_again(site, everything, 2**53))
    client.accept(client.look())
    assert (client.packages_floors.version("snapshot"), client.packages_floors.version("timestamp")) == (2**53, 2**53)
    assert code_of(lambda: client.look(Server(honest))) == "trust.rollback"

    old, site.online, site.distribution = site.online, named("online-2"), dict(honest)
    rotate(site, roots.PACKAGES, ["snapshot", "timestamp"], old, site.online)
    again = start_again(site, everything, own + 1)
    site.distribution.update(again)
    folder.publish(again)  # no file that stood there changes
    packages = client.look()
    assert packages.find(path).length
    client.accept(packages)
    assert client.packages_floors.version("timestamp") == own + 1
    site.publish({})  # from here on as ever
    client.accept(client.look())
    assert code_of(lambda: client.look(Server({**site.distribution, **again}))) == "trust.rollback"
    site.online = old
    site.distribution.update(start_again(site, everything, 2**53))
    assert code_of(client.look) == "trust.unsigned"


def test_team_key_rotation_and_revocation(site: SimulatedSite, client: SimulatedClient) -> None:
    manifest = a_manifest()
    path = "packages/apps/viewer/1.0/manifest.json"
    site.publish_manifest(manifest)
    packages = client.look()
    packages.find(path)
    client.accept(packages)
    old, site.teams["apps"] = site.teams["apps"], named("team-apps-2")
    site.change_targets(lambda staged: staged.set_team("apps", [site.teams["apps"].public_key]))
    assert code_of(lambda: client.look().find(path)) == "trust.unsigned"
    site.publish_manifest(manifest)
    assert client.look().find(path).length
    site.teams["apps"] = old
    site.publish_manifest(manifest)
    assert code_of(lambda: client.look().find(path)) == "trust.unsigned"
    site.change_targets(lambda staged: staged.revoke_team("apps"))
    assert code_of(lambda: client.look().find(path)) == "trust.unsigned_program"


def test_a_revoked_team_key_cannot_have_pushed_its_role_out_of_reach(
    site: SimulatedSite, client: SimulatedClient
) -> None:
    path = "packages/apps/viewer/1.0/manifest.json"
    site.publish_manifest(a_manifest())
    honest = site.team_files["apps"]
    site.publish({"apps": resigned(honest, [site.teams["apps"]], lambda signed: signed.update(version=FAR))})
    packages = client.look()
    packages.find(path)
    client.accept(packages)
    assert client.packages_floors.version("apps") == FAR
    # the site revokes the team's key and, since the snapshot cannot go back, the online key as well (TUF specification, 5.3.11)
    site.teams["apps"], (old, site.online) = named("team-apps-2"), (site.online, named("online-2"))
    rotate(site, roots.PACKAGES, ["snapshot", "timestamp"], old, site.online)
    staged_top = site.top
    site.change_targets(lambda staged: staged.set_team("apps", [site.teams["apps"].public_key]))
    assert site.top != staged_top
    team = resigned(honest, [site.teams["apps"]], lambda signed: signed.update(version=3))
    begun = metadata.read_version(site.distribution["metadata/timestamp.json"], "timestamp") + 1
    everything = {"targets": site.top, "apps": team, "games": site.team_files["games"]}
    site.distribution.update(start_again(site, everything, begun))
    packages = client.look()
    packages.find(path)
    client.accept(packages)
    assert client.packages_floors.version("apps") == 3


def test_many_roots_in_one_go(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct()
    client.poll()
    for _ in range(300):  # more than tuf's own limit of 256
        site.release_root(roots.INSTRUCTIONS, site.sign_root(site.next_root(roots.INSTRUCTIONS), *site.keepers[:2]))
    site.instruct(site.body(serial=2))
    assert client.poll().seen.floors.version("root") == 301


CACHED = [
    "timestamp.json",
    "snapshot.json",
    "targets.json",
    "root.json",
    "root_history/1.root.json",
    "root_history/2.root.json",
    "instructions.body",
]


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("harm", ["lost", "empty", "truncated", "garbage", "folder", "dangling link", "swapped"])
def test_any_damaged_cache_file_is_fetched_anew(
    site: SimulatedSite, client: SimulatedClient, name: str, harm: str
) -> None:
    site.release_root(roots.INSTRUCTIONS, site.sign_root(site.next_root(roots.INSTRUCTIONS)))
    site.instruct()
    folder = client.poll().folder
    damage(folder / name, harm, folder)
    assert not client.poll().changed
    site.instruct(site.body(serial=2))
    assert client.poll().instructions.serial == 2


def damage(path: Path, harm: str, folder: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    match harm:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(data[: len(data) // 2])
        case "garbage":
            path.write_bytes(b"\x00" * len(data))
        case "folder":
            path.mkdir()
        case "dangling link":
            path.symlink_to("/nowhere/at/all")
        case "swapped":
            path.write_bytes((folder / "targets.json").read_bytes() if path.name != "targets.json" else b"{}")


@pytest.mark.parametrize("harm", ["folder lost", "folder a file", "history lost", "history a file", "strangers"])
def test_a_damaged_folder_is_made_anew(site: SimulatedSite, client: SimulatedClient, harm: str) -> None:
    site.instruct()
    folder = client.poll().folder
    match harm:
        case "folder lost":
            shutil.rmtree(folder)
        case "folder a file":
            shutil.rmtree(folder)
            folder.write_bytes(b"x")
        case "history lost":
            shutil.rmtree(folder / "root_history")
        case "history a file":
            shutil.rmtree(folder / "root_history")
            (folder / "root_history").write_bytes(b"x")
        case "strangers":
            (folder / "apps.json").write_bytes(b"x" * 9_000_000)
            (folder / "tmp1234").write_bytes(b"x")
    assert not client.poll().changed


def test_what_an_interrupted_refresh_left_is_removed(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct()
    (client.folder / "instructions-1").mkdir()
    (client.folder / "instructions-1" / "timestamp.json").write_bytes(b"half")
    (client.folder / "instructions-1" / "apps.json").write_bytes(b"of another time")
    folder = client.poll().folder
    assert folder.name == "instructions-1"
    assert not (folder / "apps.json").exists()


def test_only_ordinary_files_of_ordinary_length_are_copied(tmp_path: Path) -> None:
    """A link may lead anywhere, a pipe never ends, and a long file is no metadata of ours."""
    current, following = tmp_path / "current", tmp_path / "following"
    current.mkdir()
    (current / "targets.json").write_bytes(b"fine")
    (current / "snapshot.json").write_bytes(b"x" * 101)
    (tmp_path / "secret").write_bytes(b"secret")
    (current / "timestamp.json").symlink_to(tmp_path / "secret")
    os.mkfifo(current / "apps.json")
    cache.copy(current, following, 100)
    assert sorted(path.name for path in following.iterdir()) == ["root_history", "targets.json"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_any_mix_of_damage_is_survived_and_floors_hold(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    chance = random.Random(seed)
    site = SimulatedSite()
    client = SimulatedClient(site, tmp_path_factory.mktemp("any"))
    yesterday = site.instruct(at=utc_now() - timedelta(days=1))
    site.instruct(site.body(serial=2), at=utc_now() - timedelta(hours=1))
    folder = client.poll().folder
    for path in sorted(folder.rglob("*")):
        if path.is_file() and chance.random() < 0.6:
            data = bytearray(path.read_bytes())
            if data and chance.random() < 0.7:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            else:
                del data[chance.randrange(len(data) + 1) :]
            path.unlink()
            path.write_bytes(data)
    before = client.state()
    assert code_of(lambda: client.poll(Server(yesterday))) == "trust.rollback"
    assert client.state() == before
    assert not client.poll().changed


def test_the_copy_is_complete_and_durable_before_it_is_handed_over(
    site: SimulatedSite, client: SimulatedClient
) -> None:
    site.instruct()
    folder = client.poll().folder
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert names == [
        "instructions.body",
        "root.json",
        "root_history",
        "root_history/1.root.json",
        "snapshot.json",
        "targets.json",
        "timestamp.json",
    ]
    assert folder.stat().st_mode & 0o777 == 0o700
