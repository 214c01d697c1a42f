"""The attack table against a real client process: each is refused under its own code, nothing runs, and the next honest poll recovers."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.content.objects import pack
from pcm.model.program import Program
from pcm.protocol.manifest import write_manifest
from pcm.service.identity import make_identity
from pcm.trust import instruction_repository, metadata
from tests.integration.service_shell.static_site import Client, StaticSite, put
from tests.unit.trust.simulated import ms, named, utc_now

Attack = Callable[[StaticSite, Client], None]


def replay_another_clients_files(site: StaticSite, client: Client) -> None:
    other = make_identity(site.folder / "other.pem").client_id
    site.order(other, [client.mandatory(site.latest, client=other)])
    mine, theirs = (site.logon_folder / "clients" / each for each in (client.client_id, other))
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)


def put_yesterdays_files_back(site: StaticSite, client: Client) -> None:
    shutil.rmtree(site.logon_folder / "clients")
    for name, data in site.yesterday.items():
        put(site.logon_folder / name, data)


def freeze(site: StaticSite, client: Client) -> None:
    """The newest files, but their lease has run out and nobody renews it."""
    site.order(client.client_id, [client.mandatory(site.latest)])
    version = site.versions[client.client_id]
    targets = site.logon[f"clients/{client.client_id}/{version}.targets.json"]
    lease = instruction_repository.sign_lease(targets, site.leases["a"], version, expires_days=-1)
    for name, data in lease.files(client.client_id).items():
        put(site.logon_folder / name, data)


def mix(site: StaticSite, client: Client) -> None:
    """The newest targets under an older snapshot's name."""
    site.order(client.client_id, [client.mandatory(site.latest)])
    folder = site.logon_folder / "clients" / client.client_id
    versions = sorted(folder.glob("*.targets.json"), key=lambda path: int(path.name.split(".")[0]))
    put(versions[-1], versions[-2].read_bytes())


def send_without_end(site: StaticSite, client: Client) -> None:
    put(site.logon_folder / "clients" / client.client_id / "timestamp.json", b" " * 10_000_000)


def flip_a_bit(site: StaticSite, client: Client) -> None:
    path = site.logon_folder / "clients" / client.client_id / "timestamp.json"
    data = path.read_bytes()
    put(path, data.replace(b'"version":', b'"versioN":', 1))


def forge_with_another_key(site: StaticSite, client: Client) -> None:
    body = site.body(client.client_id, serial=50, instructions=[client.mandatory(site.latest)])
    signed = instruction_repository.sign_instructions(client.client_id, body, named("thief"), ms(utc_now()))
    lease = instruction_repository.sign_lease(signed.targets, site.leases["a"], ms(utc_now()))
    for name, data in {**signed.files(), **lease.files(client.client_id)}.items():
        put(site.logon_folder / name, data)


def put_a_root_of_ones_own(site: StaticSite, client: Client) -> None:
    thief = named("thief")
    forged = json.loads(site.instruction_roots[0])
    forged["signed"]["version"] = 2
    put(site.logon_folder / "roots" / "2.root.json", metadata.sign(forged["signed"], (thief,)))
    site.order(client.client_id, [client.mandatory(site.latest)])


ATTACKS: dict[str, tuple[Attack, str]] = {
    "replayed": (replay_another_clients_files, "trust.wrong_recipient"),
    "rolled back": (put_yesterdays_files_back, "trust.rollback"),
    "frozen": (freeze, "trust.freeze"),
    "mixed": (mix, "trust.mix_and_match"),
    "endless": (send_without_end, "trust.endless_data"),
    "bit-flipped": (flip_a_bit, "trust.malformed"),
    "forged": (forge_with_another_key, "trust.unsigned"),
    "rogue root": (put_a_root_of_ones_own, "trust.rogue_root"),
}


@pytest.fixture
def settled(site: StaticSite, client: Client, marker: Path) -> Iterator[Client]:
    """A client that has polled honestly, with one optional program on offer that nobody asked for."""
    site.latest = site.package(marker)
    offer = client.mandatory(site.latest, purpose="optional", mandatory_after=None)
    site.order(client.client_id, [offer], at=utc_now() - timedelta(hours=5))
    site.yesterday = dict(site.logon)
    site.order(
        client.client_id, [offer], at=utc_now() - timedelta(hours=1)
    )  # younger ones may be a server that is behind
    assert client.once()["problem"] is None
    yield client
    assert not marker.exists() or marker.read_text() == "installed\n"


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_by_its_code_and_nothing_runs(
    site: StaticSite, settled: Client, marker: Path, attack: str
) -> None:
    act, code = ATTACKS[attack]
    act(site, settled)
    answer = settled.once(code=1)
    assert answer["problem"]["code"] == code, answer
    assert settled.refusals() == [code]
    assert not marker.exists()
    assert code in settled.run("why", settled.items()["viewer"]["id"]).stdout
    told = settled.answer("status")["refusals"]
    assert [(each["code"], each["source"]) for each in told] == [(code, f"file://{site.logon_folder}")]

    # coalesced: the same again counts up, or belongs to the next report
    settled.once(code=1)
    assert set(settled.refusals()) == {code}

    # the next honest poll recovers
    (site.logon_folder / "roots" / "2.root.json").unlink(missing_ok=True)
    shutil.rmtree(site.logon_folder / "clients")
    site.order(settled.client_id, [settled.mandatory(site.latest, generation=2)])
    assert settled.once()["problem"] is None
    assert marker.read_text() == "installed\n"


def test_the_command_line_is_changed_on_the_distribution_server(
    site: StaticSite, settled: Client, marker: Path
) -> None:
    """The thief of both servers and of the policy key orders a program of his own: no packager has signed it."""
    manifest = site.latest
    evil = write_manifest(
        type(manifest)(
            **{
                **{f: getattr(manifest, f) for f in manifest.__struct_fields__},
                "programs": {"install": Program(argv=("/bin/sh", "-c", f"echo evil > {marker}"))},
            }
        )
    )
    order = settled.mandatory(manifest, generation=2)
    described = metadata.target(evil)
    forged = type(order)(
        **{
            **{f: getattr(order, f) for f in order.__struct_fields__},
            "manifest": type(order.manifest)(order.manifest.path, described["length"], described["hashes"]["sha256"]),
        }
    )
    site.order(settled.client_id, [forged])
    put(
        site.distribution_folder / f"targets/packages/apps/viewer/1.0/{described['hashes']['sha256']}.manifest.json",
        evil,
    )
    settled.once()
    item = settled.items()["viewer"]
    assert (item["state"], item["code"]) == ("refused", "trust.mix_and_match")
    assert not marker.exists()


@pytest.mark.parametrize("garbage", ["flipped", "another file", "endless"])
def test_a_package_file_is_changed_on_the_distribution_server(
    site: StaticSite, settled: Client, marker: Path, garbage: str
) -> None:
    (path,) = (site.distribution_folder / "objects").rglob("*.zst")
    honest = path.read_bytes()
    evil = {
        "flipped": honest[:-4] + b"evil",
        "another file": b"".join(pack(io.BytesIO(b"#!/bin/sh\n"), 10)),
        "endless": b"".join(pack(io.BytesIO(bytes(10_000_000)), 10_000_000)),
    }[garbage]
    path.write_bytes(evil)
    site.order(settled.client_id, [settled.mandatory(site.latest, generation=2)])
    settled.once()
    item = settled.items()["viewer"]
    assert item["state"] == "refused"
    assert item["code"] in ("trust.content", "trust.endless_data")
    assert not marker.exists()
    path.write_bytes(honest)
    settled.once()  # an administrator asks again; by itself it would, later
    assert marker.read_text() == "installed\n"


def test_a_withdrawn_package_does_not_run(site: StaticSite, settled: Client, marker: Path) -> None:
    site.withdraw(site.latest)
    site.write()
    site.order(settled.client_id, [settled.mandatory(site.latest, generation=2)])
    settled.once()
    item = settled.items()["viewer"]
    assert (item["state"], item["code"]) == ("refused", "trust.unsigned_program")
    assert not marker.exists()


def test_yesterdays_package_repository_blocks_what_is_new(site: StaticSite, settled: Client, marker: Path) -> None:
    before = dict(site.distribution)
    site.package(marker, name="other", release=1)
    site.order(settled.client_id, [])
    settled.once()
    site.order(settled.client_id, [settled.mandatory(site.latest, generation=2)])
    put(site.distribution_folder / "metadata/timestamp.json", before["metadata/timestamp.json"])
    settled.once()
    assert "trust.rollback" in settled.refusals()
    assert not marker.exists()
    site.write()
    settled.once()
    assert marker.read_text() == "installed\n"


@pytest.mark.parametrize("damage", ["truncate", "remove", "garbage"])
def test_any_damaged_cached_metadata_is_fetched_again(
    site: StaticSite, settled: Client, marker: Path, damage: str
) -> None:
    for path in sorted(settled.places.metadata.rglob("*")):
        if path.is_file():
            if damage == "truncate":
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            elif damage == "remove":
                path.unlink()
            else:
                path.write_bytes(b"\xff" * 100)
    site.order(settled.client_id, [settled.mandatory(site.latest, generation=2)])
    assert settled.once()["problem"] is None
    assert marker.read_text() == "installed\n"
    assert settled.refusals() == []


def test_a_lost_database_keeps_its_floors(site: StaticSite, settled: Client, marker: Path) -> None:
    for path in settled.places.state.glob("state.db*"):
        path.unlink()
    put_yesterdays_files_back(site, settled)
    assert settled.once(code=1)["problem"]["code"] == "trust.rollback"
    assert not marker.exists()
