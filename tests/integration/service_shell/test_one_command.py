"""The client's whole way, steps 6 to 12, over folders: as real processes, with real signatures."""

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.model.assignment import State as Stage
from pcm.model.program import Program
from pcm.protocol.instructions import Servers
from pcm.service.journal import Journal
from pcm.service.state import State
from pcm.trust.floors import Floor, Floors
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.unit.trust.simulated import utc_now


def test_a_mandatory_order_runs_once_and_is_reported(site: StaticSite, client: Client, marker: Path) -> None:
    manifest = site.package(marker)
    site.order(client.client_id, [client.mandatory(manifest)])
    checked = client.once()
    assert checked["problem"] is None
    assert marker.read_text() == "installed\n"
    assert client.items()["viewer"]["state"] == "succeeded"
    ledger = client.answer("ledger")
    assert ledger["total"] == 1
    assert ledger["broken_at"] is None if "broken_at" in ledger else True
    client.once()
    assert marker.read_text() == "installed\n"
    reports = list((site.logon_folder / "reports").glob(f"{client.client_id}.*.json"))
    assert len(reports) == 1


def test_q269768_what_the_newest_file_does_not_name_is_withdrawn(
    site: StaticSite, client: Client, marker: Path
) -> None:
    manifest = site.package(marker)
    site.order(client.client_id, [client.mandatory(manifest, mandatory_after=utc_now() + timedelta(days=1))])
    client.once()
    site.order(client.client_id, [])
    client.once()
    assert client.items() == {}
    with State.open(client.places.state, utc_now()) as state:
        assert [record.state for record in Journal(state).records()] == [Stage.WITHDRAWN]
    assert not marker.exists()


@pytest.mark.parametrize("purpose", ["mandatory", "optional"])
def test_what_was_done_stays_in_sight_once_the_site_no_longer_names_it(
    site: StaticSite, client: Client, marker: Path, purpose: str
) -> None:
    """A site names what is undone only: what succeeded leaves the file, and is history, not withdrawn."""
    manifest, other = site.package(marker), site.package(marker, name="other", release=6)
    changes = {"purpose": purpose} if purpose == "mandatory" else {"purpose": purpose, "mandatory_after": None}
    wanted = client.mandatory(manifest, **changes)
    site.order(client.client_id, [wanted])
    client.once()
    if purpose == "optional":
        with State.open(client.places.state, utc_now()) as state:
            Journal(state).request(wanted.id, "ann", utc_now())
        client.once()
    site.order(client.client_id, [client.mandatory(other, number=2)])
    client.once()
    items = client.items()
    assert (items["viewer"]["state"], items["other"]["state"]) == ("succeeded", "succeeded")
    assert not items["viewer"].get("can_run")
    why = client.answer("why", wanted.id)
    [target] = [line for line in why["lines"] if line["about"] == "target"]
    assert target.get("holds", True)
    assert target["text"].startswith("It is succeeded.")
    assert marker.read_text() == "installed\n" * 2


def test_q166765_the_same_order_again_runs_nothing_and_a_new_generation_does(
    site: StaticSite, client: Client, marker: Path
) -> None:
    manifest = site.package(marker)
    for _ in range(2):
        site.order(client.client_id, [client.mandatory(manifest)])
        client.once()
    assert marker.read_text() == "installed\n"
    site.order(client.client_id, [client.mandatory(manifest, generation=2)])
    client.once()
    assert marker.read_text() == "installed\n" * 2


def test_q168130_one_bad_instruction_stops_no_other(site: StaticSite, client: Client, marker: Path) -> None:
    good, bad = site.package(marker), site.package(marker, name="bad", release=1)
    site.withdraw(bad)
    site.write()
    site.order(client.client_id, [client.mandatory(bad, number=1), client.mandatory(good, number=2)])
    client.once()
    items = client.items()
    assert (items["bad"]["state"], items["bad"]["code"]) == ("refused", "trust.unsigned_program")
    assert items["viewer"]["state"] == "succeeded"


def test_q156250_another_platforms_package_is_not_applicable(site: StaticSite, client: Client, marker: Path) -> None:
    manifest = site.package(marker, platforms=("windows-x86_64",))
    site.order(client.client_id, [client.mandatory(manifest)])
    client.once()
    assert client.items()["viewer"]["state"] == "not_applicable"


def test_q160855_a_newer_major_version_is_refused_by_name(site: StaticSite, client: Client, marker: Path) -> None:
    body = site.body(client.client_id, serial=1).replace(b'"spec":"1.0"', b'"spec":"2.0"')
    site.instruct(body, client=client.client_id)
    site.write()
    assert client.once(code=1)["problem"]["code"] == "trust.unknown_version"


def test_newer_minor_fields_are_ignored(site: StaticSite, client: Client) -> None:
    body = site.body(client.client_id, serial=1).replace(b'"spec":"1.0"', b'"spec":"1.9","later":[1]')
    site.instruct(body, client=client.client_id)
    site.write()
    assert client.once()["problem"] is None


def test_without_a_distribution_server_it_waits_and_says_so(site: StaticSite, client: Client, marker: Path) -> None:
    site.order(client.client_id, [client.mandatory(site.package(marker))])
    site.distribution_folder.rename(site.folder / "away")
    client.once()
    item = client.items()["viewer"]
    assert (item["state"], item["code"]) == ("waiting", "wait.source")
    assert "NO   source:" in client.run("why", item["job"]).stdout
    (site.folder / "away").rename(site.distribution_folder)
    client.once()
    assert marker.read_text() == "installed\n"


def test_q180151_each_choice_of_a_server_is_told_with_its_reason_in_the_order_in_which_they_were_asked(
    site: StaticSite, client: Client, marker: Path
) -> None:
    servers = Servers(distribution=("file:///nowhere", f"file://{site.distribution_folder}"))
    site.order(client.client_id, [client.mandatory(site.package(marker))], servers=servers)
    said = [line.partition("  ")[2] for line in client.run("once").stdout.splitlines()]
    assert f"instructions: file://{site.logon_folder}: it answered (preferred, number 1)" in said
    asked = [line for line in said if line.startswith("packages: ")]
    assert "packages: file:///nowhere: " in asked[0]
    assert "[transfer.not_found]" in asked[0]
    assert asked[1:] == [f"packages: file://{site.distribution_folder}: it answered (preferred, number 2)"]


@pytest.mark.parametrize("whole_first", [True, False])
def test_q195944_package_files_come_from_servers_in_the_order_that_the_site_has_signed(
    site: StaticSite, client: Client, marker: Path, whole_first: bool
) -> None:
    """The one that the client is configured with is the last resort; here it has a damaged copy."""
    manifest = site.package(marker)
    whole = site.folder / "whole"
    shutil.copytree(site.distribution_folder, whole)
    for path in (site.distribution_folder / "objects").rglob("*.zst"):
        path.write_bytes(b"damaged")
    damaged = f"file://{site.distribution_folder}"
    preferred = (f"file://{whole}",) if whole_first else (damaged, f"file://{whole}")
    site.order(client.client_id, [client.mandatory(manifest)], servers=Servers(distribution=preferred))
    client.once()
    assert marker.read_text() == "installed\n"
    with State.open(client.places.state, utc_now()) as state:
        blamed = [refusal.source for refusal in state.refusals()]
    assert blamed == ([] if whole_first else [damaged])


def test_a_clock_that_is_a_day_behind_starts_nothing(site: StaticSite, client: Client, marker: Path) -> None:
    """As far as this client can know: signed files have proven a later time than its clock shows."""
    soon = utc_now() + timedelta(seconds=1)
    site.order(client.client_id, [client.mandatory(site.package(marker), mandatory_after=soon)])
    client.once()
    with State.open(client.places.state, utc_now()) as state:
        known = state.floors("instructions")
        tomorrow = int((utc_now() + timedelta(days=1)).timestamp() * 1000)
        role = next(name for name in known.roles if name.startswith("timestamp"))
        raised = Floor(tomorrow, known.roles[role].keys)
        state.store_floors("instructions", Floors({**known.roles, role: raised}))
    while utc_now() < soon:
        pass
    assert client.once(code=1)["problem"]["code"] == "trust.clock"
    assert not marker.exists()
    assert client.items()["viewer"]["code"] == "trust.clock"


def test_expired_signatures_start_nothing_although_the_instruction_stands(
    site: StaticSite, client: Client, marker: Path
) -> None:
    """A clock a day ahead, or servers gone for longer than a lease: check 13."""
    soon = utc_now() + timedelta(seconds=1)
    site.order(client.client_id, [client.mandatory(site.package(marker), mandatory_after=soon)])
    client.once()
    with State.open(client.places.state, utc_now()) as state:
        state.set_meta("instructions.valid_until", "2026-01-01T00:00:00.000000+00:00")
    site.logon_folder.rename(site.folder / "away")
    while utc_now() < soon:
        pass
    client.once(code=5)
    assert not marker.exists()
    assert client.items()["viewer"]["code"] == "trust.freeze"
    (site.folder / "away").rename(site.logon_folder)
    client.once()
    assert marker.exists()


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_lets_what_runs_end_and_a_second_one_leaves_it(
    site: StaticSite, client: Client, marker: Path, times: int
) -> None:
    began = marker.with_name("began")
    slow = Program(argv=("/bin/sh", "-c", f"touch {began}; sleep 2; echo installed >> {marker}"))
    site.order(client.client_id, [client.mandatory(site.package(marker, files=(), programs={"install": slow}))])
    command = [sys.executable, "-m", "pcm.service.main", "--home", str(client.home), "once"]
    # a group of its own, as a terminal gives it: Ctrl-C goes to all of it
    once = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 30
    while not began.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(times):
        os.killpg(once.pid, signal.SIGINT)
        time.sleep(0.3)
    out, err = once.communicate(timeout=30)
    assert once.returncode == 130, (out, err)
    assert "stopping; what runs is seen to its end" in err
    assert "Traceback" not in out + err
    state = client.items()["viewer"]["state"]
    assert (state == "succeeded") == (times == 1)
    client.once(code=None)
    if times == 2:
        assert "nobody saw its exit code" in client.run("why", client.items()["viewer"]["id"]).stdout
    time.sleep(max(0.0, 2 * (times - 1)))
    assert marker.read_text() == "installed\n"
