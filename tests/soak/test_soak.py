"""Long lives in short time: what a client holds does not grow with what it has done (KB Q241656).

`make soak` lives as long as it is told; here it is most of a year, and a day of the resident service.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pcm.protocol.local import Items, Status
from tests.integration.service_shell.static_site import Client, StaticSite, shared_folder
from tests.integration.service_shell.test_supervisor import Resident

TICKS = int(os.environ.get("PCM_SOAK_TICKS", "1600"))
ROUNDS = int(os.environ.get("PCM_SOAK_ROUNDS", "25"))
PATIENCE = 300 + TICKS
FULL = 0.5  # from then on nothing more than what is kept for 90 days is there, and it must not grow
KIB = 1024


@pytest.mark.timeout(PATIENCE)
def test_q241656_years_of_work_leave_memory_files_and_rows_as_they_were(tmp_path: Path) -> None:
    assert TICKS >= 1600, "before a hundred days have passed nothing is forgotten yet"
    told = subprocess.run(
        [sys.executable, "-m", "tests.soak.years", str(tmp_path), str(TICKS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert told.returncode == 0, told.stderr
    held = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(held) == 10
    last, later = held[-1], [each for each in held if each["tick"] >= FULL * TICKS]
    assert last["runs"] == TICKS, "each time of the order ran once"
    assert last["ledger"] > TICKS
    for name, slack in (("memory", 2 * KIB), ("descriptors", 0), ("children", 0), ("files", 8), ("rows", 200)):
        values = [each[name] for each in later]
        assert max(values) <= values[0] + slack, (name, values)


class Held:
    """What a process holds: private memory in KiB, descriptors, children."""

    def __init__(self, process_id: int) -> None:
        proc = Path(f"/proc/{process_id}")
        lines = (proc / "smaps_rollup").read_text().splitlines()
        self.memory = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        self.descriptors = len(list((proc / "fd").iterdir()))
        self.children = (proc / f"task/{process_id}/children").read_text().split()


@pytest.fixture
def resident(tmp_path: Path) -> Iterator[Resident]:
    with shared_folder() as folder:
        site = StaticSite(folder)
        client = Client(site, tmp_path / "client")
        site.order(client.client_id, [])
        running = Resident(client)
        yield running
        assert running.stop() == 0, running.log.read_text()


def checked_anew(running: Resident, action: Callable[[], object]) -> None:
    """Do something that makes the service check, and wait until it has."""

    def last() -> object:
        status = running.ask("status")
        assert isinstance(status, Status)
        return status.last_check

    before = last()
    action()
    running.wait_until(lambda: last() not in {None, before})


@pytest.mark.timeout(PATIENCE)
def test_q241656_the_resident_service_holds_as_much_after_many_checks_and_questions(resident: Resident) -> None:
    process_id = resident.process.pid

    def one_round() -> None:
        checked_anew(resident, lambda: resident.process.send_signal(signal.SIGHUP))
        assert isinstance(resident.ask("list"), Items)
        with resident.connect() as impolite:
            impolite.sendall(b"half a li")

    def settled() -> Held:
        resident.wait_until(lambda: len(Held(process_id).children) == least)
        return Held(process_id)

    checked_anew(resident, lambda: None)
    resident.wait_until(lambda: not Held(process_id).children)
    least = 0
    for _ in range(5):
        one_round()
    begun = settled()
    for _ in range(ROUNDS):
        one_round()
    ended = settled()
    assert ended.descriptors == begun.descriptors
    assert ended.memory <= begun.memory + 256, "not even a page for each check"
