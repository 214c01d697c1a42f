"""`pcmsvc check` on a client where everything holds, and then with one thing wrong at a time: that one is named, with its remedy."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from pcm.protocol import codec
from pcm.protocol.local import Requirement
from pcm.service.configuration import load_configuration
from pcm.service.inbox import INSTRUCTIONS
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.requirements import check_requirements
from pcm.service.state import State
from pcm.trust.floors import Floor, Floors
from tests.integration.service_shell.static_site import Client, StaticSite, shared_folder
from tests.unit.trust.simulated import utc_now

pytestmark = pytest.mark.needs("users")
NOBODY = 65534


@pytest.fixture
def site() -> Iterator[StaticSite]:
    with shared_folder() as folder:
        yield StaticSite(folder)


@pytest.fixture
def client(site: StaticSite, tmp_path: Path) -> Client:
    made = Client(site, tmp_path / "client")
    site.order(made.client_id, [])
    made.once()
    return made


class Powerless(LinuxMachine):
    """This computer, without its administrator."""

    def is_administrator(self) -> bool:
        """No."""
        return False


def check(client: Client, machine: LinuxMachine | None = None) -> dict[str, Requirement]:
    return {each.name: each for each in check_requirements(client.places, machine or LinuxMachine(), utc_now)}


def unmet(client: Client, machine: LinuxMachine | None = None) -> set[str]:
    found = check(client, machine)
    assert all(each.message for each in found.values())
    assert all(each.remedy for each in found.values() if not each.holds)
    return {name for name, each in found.items() if not each.holds}


def configure(client: Client, **changes: object) -> None:
    changed = replace(load_configuration(client.places), **changes)
    client.places.configuration.write_bytes(codec.encode(changed))


def link_state(client: Client) -> None:
    real = client.home / "elsewhere"
    client.places.state.rename(real)
    client.places.state.symlink_to(real)


def set_clock_back(client: Client) -> None:
    """As seen from the files: they prove that it is a day later."""
    tomorrow = int((utc_now() + timedelta(days=1)).timestamp() * 1000)
    with State.open(client.places.state, utc_now()) as state:
        state.store_floors(INSTRUCTIONS, Floors({"timestamp": Floor(tomorrow, ())}))


def chown_parent(client: Client) -> None:
    os.chown(client.home, NOBODY, NOBODY)


WRONG: dict[str, tuple[Callable[[Client], object], set[str]]] = {
    "not enrolled": (lambda client: client.places.configuration.unlink(), {"enrolled"}),
    "configuration is no JSON": (lambda client: client.places.configuration.write_text("{"), {"enrolled"}),
    "key lost": (lambda client: client.places.identity.unlink(), {"key"}),
    "key is no key": (lambda client: client.places.identity.write_text("secret"), {"key"}),
    "key readable by all": (lambda client: client.places.identity.chmod(0o644), {"key"}),
    "root lost": (lambda client: client.places.packages_root.unlink(), {"pinned roots"}),
    "root damaged": (lambda client: client.places.instructions_root.write_text("{}"), {"pinned roots"}),
    "group may write configuration": (lambda client: client.places.config.chmod(0o775), {"protected folders"}),
    "all may write a root": (lambda client: client.places.packages_root.chmod(0o666), {"protected folders"}),
    "state is a link": (link_state, {"protected folders"}),
    "state of somebody else": (lambda client: os.chown(client.places.state, NOBODY, -1), {"protected folders"}),
    "database of somebody else": (lambda client: os.chown(client.places.database, NOBODY, -1), {"protected folders"}),
    "a folder above is somebody else's": (chown_parent, {"protected folders"}),
    "clock behind": (set_clock_back, {"clock"}),
    "no logon server": (lambda client: shutil.rmtree(client.site.logon_folder), {"logon server"}),
    "nothing for this client": (
        lambda client: shutil.rmtree(client.site.logon_folder / "clients" / client.client_id),
        {"logon server"},
    ),
    "logon server is silent": (
        lambda client: configure(client, logon=("http://127.0.0.1:9/logon",)),
        {"logon server"},
    ),
    "no distribution server": (
        lambda client: shutil.rmtree(client.site.distribution_folder),
        {"distribution server"},
    ),
    "transfer account is root": (lambda client: configure(client, transfer_account="root"), {"network side"}),
    "database damaged": (lambda client: client.places.database.write_bytes(b"x" * 8192), {"clock"}),
}


def test_everything_holds(client: Client) -> None:
    assert unmet(client) == set()


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_named(client: Client, wrong: str) -> None:
    provoke, expected = WRONG[wrong]
    provoke(client)
    assert unmet(client) == expected


@pytest.mark.parametrize("ahead", [timedelta(days=400), timedelta(days=74 * 365)])
def test_a_clock_that_is_ahead_is_named_with_what_it_spoils(client: Client, ahead: timedelta) -> None:
    found = check_requirements(client.places, LinuxMachine(), lambda: utc_now() + ahead)
    [told] = [each for each in found if not each.holds]
    assert told.name == "logon server"
    assert "clock" in told.message


@pytest.mark.parametrize(
    "shown", ["", "{}", "[]", '{"signed": {"expires": 5}}', '{"signed": {"expires": "2026-01-01"}}', "[" * 2000]
)
def test_a_logon_server_that_shows_nonsense_is_named(client: Client, shown: str) -> None:
    (client.site.logon_folder / "clients" / client.client_id / "timestamp.json").write_text(shown)
    assert unmet(client) == {"logon server"}


def test_without_administrator_rights(client: Client) -> None:
    assert unmet(client, Powerless()) == {"administrator rights", "network side"}


@pytest.mark.parametrize("limit", ["size=20m", "size=400m,nr_inodes=1"])
def test_a_full_disk_is_named(client: Client, limit: str) -> None:
    """No space, or space but no name left."""
    state = client.places.state
    kept = client.home / "kept"
    state.rename(kept)
    state.mkdir(mode=0o711)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", limit, "pcm", str(state)], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        disk = check(client)["disk space"]
        assert not disk.holds
        assert "free at least" in disk.remedy
    finally:
        subprocess.run(["umount", "--lazy", str(state)], check=True)
