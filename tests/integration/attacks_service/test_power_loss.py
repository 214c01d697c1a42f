"""What a power cut can leave of the client's files, as far as no fault point reaches it: each is mended by the next check."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pcm.service.inbox import INSTRUCTIONS
from pcm.service.state import State
from tests.integration.service_shell.static_site import Client, StaticSite, shared_folder
from tests.unit.trust.simulated import utc_now

pytestmark = pytest.mark.needs("users")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def floors_of(client: Client) -> dict[str, int]:
    with State.open(client.places.state, utc_now()) as state:
        return {role: floor.version for role, floor in state.floors(INSTRUCTIONS).roles.items()}


@pytest.mark.parametrize("spoil", [truncate, empty, zero, Path.unlink])
def test_metadata_that_was_pointed_at_but_never_written_is_fetched_anew(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    with shared_folder() as folder:
        site = StaticSite(folder)
        client = Client(site, tmp_path / "client")
        marker = tmp_path / "installed"
        site.order(client.client_id, [])
        client.once()
        before = floors_of(client)
        for path in client.places.metadata.rglob("*"):
            if path.is_file():
                spoil(path)
        site.order(client.client_id, [client.mandatory(site.package(marker))])
        client.once()
        assert marker.read_text() == "installed\n"
        assert all(floors_of(client)[role] >= version for role, version in before.items())


@pytest.mark.parametrize("lost", [("state.db-wal", "state.db-shm"), ("state.db",), ("floors.json",)])
def test_a_done_program_is_not_run_again_after_a_file_of_the_state_was_lost(
    tmp_path: Path, lost: tuple[str, ...]
) -> None:
    """Detection, not memory, says that its work is done; and yesterday's files are still refused."""
    with shared_folder() as folder:
        site = StaticSite(folder)
        client = Client(site, tmp_path / "client")
        marker = tmp_path / "installed"
        site.order(client.client_id, [])
        old = {path: path.read_bytes() for path in site.logon_folder.rglob("timestamp.json")}
        manifest = site.package(marker)
        site.order(client.client_id, [client.mandatory(manifest)])
        client.once()
        before = floors_of(client)
        for name in lost:
            (client.places.state / name).unlink(missing_ok=True)
        for path, data in old.items():
            path.write_bytes(data)
        client.run("once", code=None)
        assert marker.read_text() == "installed\n"
        assert floors_of(client) == before


@pytest.mark.parametrize("left", ["staging", "runs", "metadata", "store"])
def test_leftovers_of_a_killed_worker_hold_nothing_up(tmp_path: Path, left: str) -> None:
    with shared_folder() as folder:
        site = StaticSite(folder)
        client = Client(site, tmp_path / "client")
        marker = tmp_path / "installed"
        rubbish = client.places.state / left / ("ab" * 16)
        (rubbish / "deep" / "er").mkdir(parents=True)
        (rubbish / "file").write_bytes(b"half")
        (rubbish / "link").symlink_to("/")
        os.mkfifo(rubbish / "pipe")
        shutil.copytree(rubbish / "deep", client.places.state / left / "instructions-1")
        (client.places.state / left / "plain").write_text("")
        site.order(client.client_id, [client.mandatory(site.package(marker))])
        client.once()
        assert marker.read_text() == "installed\n"
        assert left != "staging" or list((client.places.state / left).iterdir()) == []
