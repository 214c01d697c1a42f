"""What a dead worker left open, with real processes: survivors, kept results, restarts, leftovers."""

import contextlib
import hashlib
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.model.assignment import State as Stage
from pcm.model.detection import FileDetection
from pcm.model.program import ExitCodes, Program
from pcm.service import recovery
from pcm.service.machine.here import this_machine
from pcm.service.machine.interface import Launch, RunningProgram, RunReference
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.planner import plan
from pcm.service.records import RunRecord
from pcm.service.work import Needed
from tests.integration.service_engine.trivial import Client, Rebooted, wait_for


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def launch_of(client: Client) -> Launch:
    return Launch(
        run_id="ab" * 16,
        argv=("/bin/true",),
        working_directory=client.home,
        output_path=client.context.runs / ("ab" * 16) / "output",
        timeout_s=5,
    )


def leave_open(client: Client, *, reference: dict[str, object] | None = None, boot_id: str = "") -> RunRecord:
    """Record that a run started, as a worker did that died then."""
    client.take_in(client.instruction())
    [line] = plan(client.context.journal.records(), client.situation(), client.now()).lines
    run = RunRecord(
        run="ab" * 16,
        instruction=line.id,
        generation=1,
        attempt=1,
        program=line.instruction.program,
        manifest_sha256=line.record.manifest_sha256,
        argv=("/x",),
        run_as="system",
        started=client.now(),
        reference=reference or {"run_id": "no reference at all"},
        boot_id=boot_id or client.machine.boot_id(),
    )
    client.context.history.begin_run(run)
    return run


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    made = Client(home)
    yield made
    made.close()


def state_of(client: Client) -> tuple[Stage, str]:
    [record] = client.context.journal.records()
    return record.state, record.code


@pytest.mark.parametrize(("installed", "state"), [(True, Stage.SUCCEEDED), (False, Stage.FAILED)])
def test_q164887_an_interrupted_run_is_judged_by_detection_and_not_run_again(
    client: Client, installed: bool, state: Stage
) -> None:
    if installed:
        (client.home / "installed").touch()
    leave_open(client)
    assert len(recovery.reconcile(client.context)) == 1
    assert state_of(client) == (state, "run.interrupted")
    client.check(client.instruction())
    assert client.counted() == 0
    assert recovery.reconcile(client.context) == []
    assert [(outcome.state, outcome.code) for _, outcome in client.context.journal.unreported()] == [
        (state, "run.interrupted")
    ]
    assert client.state.rows("SELECT count(*) FROM ledger") == [(1,)]


def test_q175652_without_detection_an_interrupted_run_is_unknown_and_stays_so(home: Path) -> None:
    client = Client(home, {"install": Program(argv=("setup", str(home)))})
    leave_open(client)
    client.check(client.instruction())
    assert (state_of(client), client.counted()) == ((Stage.UNKNOWN, "run.interrupted"), 0)
    client.check(client.instruction(generation=2))
    assert (state_of(client)[0], client.counted()) == (Stage.SUCCEEDED, 1)
    client.close()


def test_a_run_whose_manifest_is_gone_still_ends(client: Client) -> None:
    leave_open(client)
    with client.state.transaction() as connection:
        connection.execute("DELETE FROM manifests")
    recovery.reconcile(client.context)
    assert state_of(client) == (Stage.UNKNOWN, "run.interrupted")


def run_in_a_worker_that_dies(home: Path, script: bytes, program: Program) -> int:
    """Start a check in a child process; the caller kills it when it likes."""
    child = os.fork()
    if child == 0:
        try:
            client = Client(home, {"install": program}, setup=script)
            client.check(client.instruction())
        finally:
            os._exit(0)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


class LetsGo(LinuxMachine):
    """Lets the program end once it has been found again, and not before."""

    def __init__(self, go: Path) -> None:
        super().__init__()
        self.go = go

    def find_again(self, reference: RunReference) -> RunningProgram | None:
        found = super().find_again(reference)
        self.go.touch()
        return found


def test_q158644_survivors_of_a_dead_worker_are_waited_for_and_run_only_once(home: Path) -> None:
    script = b'#!/bin/sh\necho x >> "$1/counter"\necho begun\nwhile [ ! -e "$1/go" ]; do sleep 0.05; done\ntouch "$1/installed"\n'
    program = Program(argv=("setup", str(home)), detect=FileDetection(path=str(home / "installed")), timeout_s=60)
    child = run_in_a_worker_that_dies(home, script, program)
    wait_for((home / "counter").exists)
    kill(child)
    client = Client(home, {"install": program}, machine=LetsGo(home / "go"), setup=script)
    [open_run] = client.context.history.open_runs()
    client.check(client.instruction())
    assert (state_of(client), client.counted()) == ((Stage.SUCCEEDED, "run.interrupted"), 1)
    [ended] = client.context.history.runs(open_run.instruction, 1)
    assert ended.result is not None
    assert "begun" in ended.result.output_tail
    assert list(client.context.staging.iterdir()) == []
    client.close()


def test_q193784_survivors_that_hang_are_ended_at_their_time_limit(home: Path) -> None:
    script = b'#!/bin/sh\necho x >> "$1/counter"\nsleep 600\n'
    program = Program(argv=("setup", str(home)), timeout_s=2)
    child = run_in_a_worker_that_dies(home, script, program)
    wait_for((home / "counter").exists)
    kill(child)
    client = Client(home, {"install": program}, setup=script)
    client.check(client.instruction())
    assert (state_of(client), client.counted()) == ((Stage.FAILED, "run.timed_out"), 1)
    client.close()


@pytest.mark.parametrize(("installed", "state"), [(True, Stage.SUCCEEDED), (False, Stage.FAILED)])
def test_q164329_a_restart_is_verified_by_boot_id_and_ends_what_waited_for_it(
    home: Path, installed: bool, state: Stage
) -> None:
    done = FileDetection(path=str(home / "installed"))
    programs = {"install": Program(argv=("setup",), detect=done, exit_codes=ExitCodes(restart=(42,)))}
    client = Client(home, programs, setup=b"#!/bin/sh\nexit 42\n")
    order = client.instruction()
    client.check(order)
    client.check(order)
    assert state_of(client) == (Stage.RESTART_PENDING, "wait.restart")  # the same boot: nothing has restarted
    if installed:
        (home / "installed").touch()
    client.close()
    later = Client(home, programs, machine=Rebooted("another"), setup=b"#!/bin/sh\nexit 42\n")
    later.check(order)
    assert state_of(later)[0] is state
    assert len(later.context.history.runs(order.id, 1)) == 1
    later.close()


def test_a_run_that_a_restart_cut_off_is_never_taken_for_one_that_did_not_start(home: Path) -> None:
    """After a power cut a missing output file proves nothing."""
    before = Client(home, {"install": Program(argv=("setup", str(home)))})
    reference = this_machine().reference_of(launch_of(before))
    leave_open(before, reference=dict(reference.to_json()))
    before.close()
    after = Client(home, {"install": Program(argv=("setup", str(home)))}, machine=Rebooted("another"))
    after.check(after.instruction())
    assert (state_of(after), after.counted()) == ((Stage.UNKNOWN, "run.interrupted"), 0)
    after.close()


def test_a_run_that_provably_never_started_is_simply_planned_again(home: Path) -> None:
    client = Client(home, {"install": Program(argv=("setup", str(home)))})
    reference = client.machine.reference_of(launch_of(client))
    leave_open(client, reference=dict(reference.to_json()))
    client.check(client.instruction())
    assert (state_of(client)[0], client.counted()) == (Stage.SUCCEEDED, 1)
    client.close()


@pytest.mark.parametrize(
    "left", [b"", b"{", b'{"exit_code": 0}', b"\0" * 200, b'{"exit_code": "0", "output_tail": ""}']
)
def test_q140810_a_result_that_cannot_be_read_is_no_success(home: Path, left: bytes) -> None:
    client = Client(home, {"install": Program(argv=("setup", str(home)))})
    reference = client.machine.reference_of(launch_of(client))
    run = leave_open(client, reference=dict(reference.to_json()))
    folder = client.context.runs / run.run
    folder.mkdir(mode=0o700)
    (folder / "output").touch()
    (folder / "ended.json").write_bytes(left)
    client.check(client.instruction())
    assert (state_of(client), client.counted()) == ((Stage.UNKNOWN, "run.interrupted"), 0)
    client.close()


REMOVES_ITS_FOLDER = b"""#!/bin/sh
echo x >> "$1/counter"
rm -rf "$1"/var/runs/*
touch "$1/removed"
while [ ! -e "$1/go" ]; do sleep 0.05; done
touch "$1/installed"
"""


@pytest.mark.parametrize("lives", [True, False], ids=["still works", "has ended"])
def test_an_installer_that_removes_the_runs_folder_is_not_run_again(home: Path, lives: bool) -> None:
    program = Program(argv=("setup", str(home)), detect=FileDetection(path=str(home / "installed")), timeout_s=60)
    child = run_in_a_worker_that_dies(home, REMOVES_ITS_FOLDER, program)
    wait_for((home / "removed").exists)
    kill(child)
    if not lives:
        (home / "go").touch()
        wait_for((home / "installed").exists)
        wait_for(lambda: not any(b"PCM_RUN_ID=" in environment for environment in environments(home)))
        (home / "installed").unlink()  # without it, only the journal can tell that it ran
    client = Client(home, {"install": program}, machine=LetsGo(home / "go"), setup=REMOVES_ITS_FOLDER)
    client.check(client.instruction())
    expected = (Stage.SUCCEEDED if lives else Stage.FAILED, "run.interrupted")
    assert (state_of(client), client.counted()) == (expected, 1)
    client.check(client.instruction())
    assert (state_of(client), client.counted()) == (expected, 1)
    client.close()


def environments(home: Path) -> list[bytes]:
    """Of every process that has something of this client in its environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return [each for each in found if str(home).encode() in each]


def test_old_records_go_once_a_day(client: Client) -> None:
    client.check(client.instruction())
    client.context.journal.mark_reported([seq for seq, _ in client.context.journal.unreported()], 1)
    client.take_in()
    client.shift = recovery.KEPT_FOR - timedelta(hours=1)
    recovery.sweep(client.context)
    assert len(client.context.journal.records()) == 1
    client.shift = recovery.KEPT_FOR + timedelta(hours=1)
    recovery.sweep(client.context)
    assert len(client.context.journal.records()) == 1  # looked a moment ago
    client.shift = recovery.KEPT_FOR + timedelta(days=2)
    recovery.sweep(client.context)
    assert client.context.journal.records() == []
    assert client.state.rows("SELECT count(*) FROM steps") == [(0,)]


def test_leftovers_are_removed_and_the_newest_outputs_stay(client: Client) -> None:
    (client.context.staging / "deadbeef").mkdir()
    (client.context.staging / "deadbeef" / "setup").touch()
    for number in range(recovery.KEPT_RUNS + 5):
        folder = client.context.runs / f"{number:08x}"
        folder.mkdir()
        os.utime(folder, (number, number))
    recovery.reconcile(client.context)
    assert list(client.context.staging.iterdir()) == []
    kept = sorted(path.name for path in client.context.runs.iterdir())
    assert (len(kept), kept[0]) == (recovery.KEPT_RUNS, "00000005")


def test_q227032_package_files_that_nothing_refers_to_any_more_go(client: Client) -> None:
    store, ordered = client.context.store, set(client.content)
    client.take_in(client.instruction(mandatory_after=client.now() + timedelta(days=30)))
    client.bring(Needed("0" * 64, client.manifest, 0))
    store.add(hashlib.sha256(b"stray").hexdigest(), 5, [b"stray"], "memory")
    recovery.sweep(client.context)
    assert {held.sha256 for held in store.list()} == ordered
    client.take_in()  # the newest file does not name it any more
    client.shift = timedelta(hours=1)
    recovery.sweep(client.context)
    assert {held.sha256 for held in store.list()} == ordered  # looked a moment ago
    client.shift = timedelta(days=2)
    recovery.sweep(client.context)
    assert list(store.list()) == []


def test_q227032_what_is_installed_stays_as_far_as_there_is_room(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.check(client.instruction())
    client.take_in()
    client.shift = timedelta(days=2)
    recovery.sweep(client.context)
    assert {held.sha256 for held in client.context.store.list()} == set(client.content)
    monkeypatch.setattr(recovery, "KEPT_BYTES", 1)
    client.shift = timedelta(days=4)
    recovery.sweep(client.context)
    assert list(client.context.store.list()) == []
