"""The processes of the service themselves: what they take over from whoever starts them, and what others see of them."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service_shell.static_site import Client, StaticSite, shared_folder
from tests.integration.service_shell.test_supervisor import Resident

RUN = "cd" * 16
SABOTAGE = "import os; os.write(2, b'sabotaged by ' + __file__.encode()); os._exit(99)\n"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with shared_folder() as folder:
        site = StaticSite(folder)
        made = Client(site, tmp_path / "client")
        site.order(made.client_id, [])
        yield made


def test_a_service_that_a_package_started_anew_bears_no_mark_of_that_run(client: Client) -> None:
    """Else recovery, which believes the mark on processes of root, would end the service as a part of the run."""
    resident = Resident(client, PCM_RUN_ID=RUN, PCM_JOB="1", SECRET="x")
    try:
        names = {
            entry.partition(b"=")[0]
            for entry in Path(f"/proc/{resident.process.pid}/environ").read_bytes().split(b"\0")
        }
        assert not {b"PCM_RUN_ID", b"PCM_JOB", b"SECRET"} & names
    finally:
        resident.stop()


def test_code_in_the_current_folder_is_never_loaded(client: Client, tmp_path: Path) -> None:
    """`cd /tmp; sudo pcmsvc once`, where somebody has left modules with the names of ours and of Python's."""
    trap = tmp_path / "trap"
    (trap / "pcm").mkdir(parents=True)
    for name in ("pcm/__init__.py", "json.py", "socket.py", "sitecustomize.py", "usercustomize.py", "msgspec.py"):
        (trap / name).write_text(SABOTAGE)
    command = Path(sys.executable).with_name("pcmsvc")
    if not command.exists():
        pytest.skip("pcmsvc is not installed beside this interpreter")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for verb in ("check", "once", "status"):
        done = subprocess.run(
            [str(command), "--home", str(client.home), "--json", verb],
            cwd=trap,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "sabotaged" not in done.stderr
        assert json.loads(done.stdout.splitlines()[0])


def test_no_file_of_the_state_is_readable_by_others(client: Client) -> None:
    resident = Resident(client)
    try:
        resident.wait_until(lambda: client.answer("status").get("last_check"))
    finally:
        resident.stop()
    readable = [
        path.name
        for path in client.places.state.rglob("*")
        if path.is_file() and path.parent == client.places.state and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert readable == []


@pytest.mark.needs("root")
def test_something_in_the_sockets_place_is_replaced(client: Client) -> None:
    socket_path = client.places.socket
    victim = client.home / "victim"
    victim.write_text("untouched")
    socket_path.symlink_to(victim)
    resident = Resident(client)
    try:
        resident.wait_until(lambda: socket_path.is_socket() and not socket_path.is_symlink())
        assert stat.S_ISSOCK(socket_path.lstat().st_mode)
        assert victim.read_text() == "untouched"
        assert stat.S_IMODE(victim.stat().st_mode) != 0o666
    finally:
        resident.stop()
