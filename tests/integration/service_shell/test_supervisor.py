"""The resident process: starts at once, sleeps small, answers local users, and survives what they send."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.model.errors import RequestError, TransferError
from pcm.model.program import Program
from pcm.protocol.local import Accepted, Items, LocalRequest, Requirements, Status
from pcm.service.local_client import ask
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.unit.trust.simulated import utc_now


class Resident:
    """`pcmsvc run` as its own process."""

    def __init__(self, client: Client, **environment: str) -> None:
        self.client = client
        self.log = client.home / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pcm.service.main", "--home", str(client.home), "run"],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        self.wait_until((client.places.runtime / "pcmsvc.sock").exists)

    def wait_until(self, holds: Callable[[], object], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def ask(self, verb: str, wanted: str | None = None) -> object:
        return ask(self.client.places.socket, LocalRequest(verb, wanted))  # type: ignore[arg-type]

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        folder = os.open(self.client.places.runtime, os.O_RDONLY)
        connection.connect(f"/proc/self/fd/{folder}/pcmsvc.sock")
        os.close(folder)
        return connection

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def resident(site: StaticSite, client: Client) -> Iterator[Resident]:
    site.order(client.client_id, [])
    running = Resident(client)
    yield running
    running.stop()


def said(connection: socket.socket) -> dict[str, str]:
    with connection, connection.makefile("rb") as answers:
        answer: dict[str, str] = json.loads(answers.readline() or b"{}")
    return answer


def last_check(client: Client) -> str:
    return str(client.answer("status").get("last_check", ""))


def test_q178662_it_is_there_at_once_and_the_network_comes_later(site: StaticSite, client: Client) -> None:
    """The logon server does not exist yet: the socket answers all the same."""
    (site.logon_folder).rename(site.folder / "gone")
    began = time.monotonic()
    running = Resident(client)
    try:
        assert isinstance(running.ask("status"), Status)
        assert time.monotonic() - began < 10
    finally:
        running.stop()


def test_it_checks_by_itself_and_runs_what_is_due(
    site: StaticSite, client: Client, resident: Resident, marker: Path
) -> None:
    site.order(client.client_id, [client.mandatory(site.package(marker))])
    assert isinstance(resident.ask("sync"), Accepted)
    resident.wait_until(marker.exists)
    assert marker.read_text() == "installed\n"


def test_q163488_a_deadline_fires_although_no_file_changes(
    site: StaticSite, client: Client, resident: Resident, marker: Path
) -> None:
    soon = utc_now() + timedelta(seconds=4)
    order = client.mandatory(site.package(marker), mandatory_after=soon)
    site.order(client.client_id, [order], poll_after_s=3600)
    resident.ask("sync")
    resident.wait_until(marker.exists)
    assert utc_now() >= soon


def test_idle_it_is_small_and_has_no_children(client: Client, resident: Resident) -> None:
    resident.wait_until(lambda: last_check(client))
    children = Path(f"/proc/{resident.process.pid}/task/{resident.process.pid}/children")
    resident.wait_until(lambda: not children.read_text().strip())
    maps = Path(f"/proc/{resident.process.pid}/smaps_rollup").read_text()
    private = sum(int(line.split()[1]) for line in maps.splitlines() if line.startswith("Private_"))
    assert private < 9 * 1024  # kilobytes; what is shared with other interpreters costs nothing
    assert len(list(Path(f"/proc/{resident.process.pid}/fd").iterdir())) < 16


def test_a_second_service_does_not_start(client: Client, resident: Resident) -> None:
    second = client.run("run", code=6)
    assert "another PCM service is already running" in second.stderr
    assert resident.process.poll() is None


def test_two_checks_never_work_at_once(site: StaticSite, client: Client, marker: Path) -> None:
    manifest = site.package(marker)
    site.order(client.client_id, [client.mandatory(manifest)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "pcm.service.main", "--home", str(client.home), "once"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]
    codes = sorted(process.wait(60) for process in processes)
    assert codes[0] == 0
    assert set(codes) <= {0, 6}
    assert marker.read_text() == "installed\n"


def test_told_to_stop_it_leaves_nothing_behind_but_a_running_program(
    site: StaticSite, client: Client, resident: Resident
) -> None:
    resident.wait_until(lambda: last_check(client))
    assert resident.stop() == 0
    with pytest.raises(TransferError) as caught:
        resident.ask("status")
    assert caught.value.code == "local.unreachable"
    again = Resident(client)
    assert isinstance(again.ask("status"), Status)
    assert again.stop() == 0


def test_told_to_stop_it_sees_a_running_program_to_its_end_and_begins_no_other(
    site: StaticSite, client: Client, resident: Resident, marker: Path
) -> None:
    began = marker.with_name("began")
    slow = Program(argv=("/bin/sh", "-c", f"touch {began}; sleep 2; echo installed >> {marker}"))
    first = site.package(marker, name="first", files=(), programs={"install": slow})
    second = site.package(marker, name="second", files=(), programs={"install": slow})
    site.order(client.client_id, [client.mandatory(first, number=1), client.mandatory(second, number=2)])
    resident.ask("sync")
    resident.wait_until(began.exists)
    assert resident.stop() == 0
    assert marker.read_text() == "installed\n"
    states = {name: item["state"] for name, item in client.items().items()}
    assert states["first"] == "succeeded"
    assert states["second"] in ("offered", "waiting")
    client.once()
    assert marker.read_text() == "installed\n" * 2


def test_q158644_killed_at_any_moment_it_runs_nothing_twice(site: StaticSite, client: Client, marker: Path) -> None:
    """The supervisor and its worker die together in the middle of a program; the next ones find its end."""
    began = marker.with_name("began")
    slow = Program(argv=("/bin/sh", "-c", f"touch {began}; sleep 2; echo installed >> {marker}"))
    manifest = site.package(marker, files=(), programs={"install": slow})
    site.order(client.client_id, [client.mandatory(manifest)])
    running = Resident(client)
    running.wait_until(began.exists)
    worker = (client.places.runtime / "pcmsvc.lock").read_text().split()[0]
    running.process.kill()
    os.kill(int(worker), signal.SIGKILL)
    running.process.wait()
    again = Resident(client)
    again.wait_until(lambda: client.items()["viewer"]["state"] not in ("running", "offered"))
    again.stop()
    assert marker.read_text() == "installed\n"
    assert client.answer("ledger")["total"] == 1


def test_it_tells_the_init_system(site: StaticSite, client: Client, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as init:
        init.bind(str(tmp_path / "notify"))
        init.settimeout(20)
        running = Resident(client, NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert init.recv(1000).startswith(b"READY=1")
        running.stop()
        assert init.recv(1000) == b"STOPPING=1"


def test_every_verb_answers_an_administrator(
    resident: Resident, site: StaticSite, client: Client, marker: Path
) -> None:
    offer = client.mandatory(site.package(marker), purpose="optional", mandatory_after=None)
    site.order(client.client_id, [offer])
    resident.ask("sync")
    resident.wait_until(lambda: len(items.items) if isinstance(items := resident.ask("list"), Items) else 0)
    assert isinstance(resident.ask("check"), Requirements)
    for verb in ("details", "why"):
        assert resident.ask(verb, offer.id)
    resident.ask("ledger")
    with pytest.raises(RequestError) as caught:
        resident.ask("defer", offer.id)
    assert caught.value.code == "not_allowed"
    assert isinstance(resident.ask("run", offer.id), Accepted)
    resident.wait_until(marker.exists)


def test_forged_ids_are_not_found(resident: Resident) -> None:
    for wanted in ("../../etc/passwd", "j0000000001.000000000000", "'; DROP TABLE instructions; --", "x" * 64):
        with pytest.raises(RequestError) as caught:
            resident.ask("run", wanted)
        assert caught.value.code == "not_found"


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"garbage\n",
        b"\x00\xff\xfe\n",
        b'{"verb":"run","id":"x","argv":["/bin/sh"]}\n',
        b'{"verb":"list"}' + b" " * 5000 + b"\n",
        b"[" * 4000 + b"\n",
        b"x" * 5000,
    ],
)
def test_hostile_lines_get_a_short_refusal(resident: Resident, line: bytes) -> None:
    connection = resident.connect()
    with contextlib.suppress(OSError):
        connection.sendall(line)
    answer = said(connection)
    assert answer["answer"] == "error"
    assert answer["code"].startswith("protocol.")
    assert len(json.dumps(answer)) < 600


def test_a_huge_frame_neither_fills_memory_nor_blocks_others(resident: Resident) -> None:
    connection = resident.connect()
    with contextlib.suppress(OSError):
        for _ in range(1000):
            connection.sendall(b"y" * 65536)
    connection.close()
    assert isinstance(resident.ask("status"), Status)


def test_slow_writers_run_out_of_time_and_block_nobody(resident: Resident) -> None:
    silent = [resident.connect() for _ in range(3)]
    silent[0].sendall(b'{"verb":')
    began = time.monotonic()
    assert isinstance(resident.ask("status"), Status)
    assert time.monotonic() - began < 5
    for connection in silent:
        with contextlib.suppress(ConnectionError):
            assert connection.recv(10) == b""  # closed after the deadline, without a word
        connection.close()


@pytest.mark.needs("root")
def test_a_flood_of_one_user_is_refused_cheaply_and_the_administrator_still_served(
    site: StaticSite, resident: Resident
) -> None:
    folder = os.open(resident.client.places.runtime, os.O_RDONLY)
    flood = f"""
import os, socket
os.setgid(65534); os.setuid(65534)
refused = 0
for _ in range(300):
    s = socket.socket(socket.AF_UNIX); s.settimeout(20)
    try:
        s.connect("/proc/self/fd/{folder}/pcmsvc.sock"); s.sendall(b'{{"verb":"list"}}\\n')
        refused += b"local.busy" in s.recv(10000)
    except OSError:
        refused += 1
    s.close()
print(refused)
"""
    stranger = subprocess.Popen([sys.executable, "-c", flood], stdout=subprocess.PIPE, pass_fds=(folder,))
    os.close(folder)
    for _ in range(3):
        assert isinstance(resident.ask("status"), Status)
    out, _ = stranger.communicate(timeout=100)
    assert int(out) > 200
    assert isinstance(resident.ask("status"), Status)
