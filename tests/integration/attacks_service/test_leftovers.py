"""What a signed but careless installer leaves behind must not hurt anybody when the service tidies up."""

import os
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.model.program import Program
from pcm.service import recovery
from pcm.service.machine.interface import Launch
from tests.integration.service_engine.test_recovery import leave_open
from tests.integration.service_engine.trivial import Client

pytestmark = pytest.mark.needs("root")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    made = Client(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def mounts() -> Iterator[list[Path]]:
    places: list[Path] = []
    yield places
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


def make_old_runs(client: Client, number: int) -> Path:
    """Folders of runs, oldest first; returns the oldest."""
    for index in range(number):
        folder = client.context.runs / f"{index:032x}"
        (folder / "tmp").mkdir(parents=True)
        (folder / "output").write_text("done")
        os.utime(folder, (1_000_000 + index, 1_000_000 + index))
    return client.context.runs / f"{0:032x}"


def test_old_runs_are_removed(client: Client) -> None:
    oldest = make_old_runs(client, recovery.KEPT_RUNS + 1)
    recovery.sweep(client.context)
    assert not oldest.exists()
    assert len(list(client.context.runs.iterdir())) == recovery.KEPT_RUNS


def test_what_a_program_mounted_in_its_temporary_folder_is_not_emptied(
    client: Client, tmp_path: Path, mounts: list[Path]
) -> None:
    """As debootstrap does in its chroot; with `/` mounted there, tidying up would have emptied the computer."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "everything").write_text("here")
    oldest = make_old_runs(client, recovery.KEPT_RUNS + 1)
    place = oldest / "tmp" / "chroot"
    place.mkdir()
    os.utime(oldest, (1_000_000, 1_000_000))
    mounts.append(place)
    if subprocess.run(["mount", "--bind", str(precious), str(place)], check=False, capture_output=True).returncode:
        pytest.skip("cannot mount here")
    recovery.sweep(client.context)
    assert (precious / "everything").read_text() == "here"


def test_old_records_are_pruned_again_after_the_clock_was_in_another_century(client: Client) -> None:
    client.shift = timedelta(days=74 * 365)
    recovery.sweep(client.context)
    client.shift = timedelta()
    recovery.sweep(client.context)
    assert client.state.meta(recovery.PRUNED)[:4] == str(client.now().year)


def test_a_program_that_removes_its_own_folders_ends_as_any_other(tmp_path: Path) -> None:
    wild = b'#!/bin/sh\ntouch "$1/installed"\nrm -rf "$PCM_PACKAGE_DIRECTORY" "${TMPDIR%/tmp}"\nexit 0\n'
    client = Client(tmp_path / "home", {"install": Program(argv=("setup", str(tmp_path / "home")))}, setup=wild)
    try:
        client.check(client.instruction())
        [record] = client.context.journal.records()
        assert record.state.value == "succeeded", (record.code, record.reason)
    finally:
        client.close()


def test_a_program_that_removed_its_run_folder_is_not_begun_again_beside_itself(client: Client) -> None:
    """The worker died, the program lives on: its missing output is no proof that it never started."""
    run = "ab" * 16
    launch = Launch(run, ("/bin/true",), client.home, client.context.runs / run / "output", 2)
    leave_open(client, reference=dict(client.machine.reference_of(launch).to_json()))
    program = subprocess.Popen(["/bin/sleep", "60"], env={"PCM_RUN_ID": run})
    try:
        recovery.reconcile(client.context)
        client.check(client.instruction())
        assert client.counted() == 0
        [record] = client.context.journal.records()
        assert (record.state.value, record.code) == ("failed", "run.timed_out")
        assert program.wait(5) != 0, "it is followed all the same, and ended at its time limit"
        assert recovery.reconcile(client.context) == []
    finally:
        program.kill()
        program.wait()


def test_what_a_program_leaves_set_user_id_in_its_package_is_gone(tmp_path: Path) -> None:
    script = b'#!/bin/sh\ncp /bin/true "$PCM_PACKAGE_DIRECTORY/again"\nchmod 4755 "$PCM_PACKAGE_DIRECTORY/again"\n'
    client = Client(tmp_path / "home", {"install": Program(argv=("setup", str(tmp_path / "home")))}, setup=script)
    try:
        client.check(client.instruction())
        assert list(client.context.staging.iterdir()) == []
    finally:
        client.close()
