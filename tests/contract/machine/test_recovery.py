"""A worker that dies with -9 at any moment loses neither the tree nor, where the system keeps it, the result (design/service.md)."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pcm.model.errors import MachineError
from pcm.service.machine.interface import Launch, RunReference
from tests.contract.machine.conftest import Runs

WORKER = """
import json, sys, time
from pathlib import Path
from pcm.service.machine.interface import Launch
from {module} import {back_end} as BackEnd
given = json.loads(sys.argv[1])
launch = Launch(given["run_id"], tuple(given["argv"]), Path("/"), Path(given["output"]), given["timeout"], grace_s=0.5)
processes = BackEnd()
reference = processes.reference_of(launch)
print(json.dumps(reference.to_json()), flush=True)
running = processes.start(launch, reference)
print("started", flush=True)
if given["waits"]:
    running.wait()
    print("ended", flush=True)
time.sleep(60)
"""


@dataclasses.dataclass
class Worker:
    process: subprocess.Popen[str]
    reference: RunReference

    def die(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def says(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word


@pytest.fixture
def start_worker(runs: Runs) -> object:
    """Start a program from another process, which can then be killed."""
    workers: list[Worker] = []

    def start(script: str, *, timeout_s: float = 20, waits: bool = False) -> Worker:
        launch: Launch = runs.launch("/bin/sh", "-c", script, timeout_s=timeout_s)
        kind = type(runs.processes)
        given = {
            "run_id": launch.run_id,
            "argv": launch.argv,
            "output": str(launch.output_path),
            "timeout": timeout_s,
            "waits": waits,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER.format(module=kind.__module__, back_end=kind.__name__), json.dumps(given)],
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        )
        assert process.stdout is not None
        worker = Worker(process, RunReference.from_json(json.loads(process.stdout.readline())))
        workers.append(worker)
        worker.says("started")
        return worker

    yield start
    for worker in workers:
        worker.die()
        assert worker.process.stdout is not None
        worker.process.stdout.close()
        found = runs.processes.find_again(worker.reference)
        if found is not None:
            found.kill()
            found.wait()
        runs.processes.forget(worker.reference)


Starter = Callable[..., Worker]


def test_a_surviving_tree_is_found_awaited_and_its_output_completed(runs: Runs, start_worker: Starter) -> None:
    worker = start_worker("echo before; (setsid sh -c 'sleep 0.8; echo late' &) ; sleep 0.4; echo after; exit 7")
    worker.die()
    found = runs.processes.find_again(worker.reference)
    assert found is not None
    ended = found.wait()
    assert ended.output_tail == b"before\nafter\nlate\n"
    # the parent that could have asked is dead; systemd still knows
    assert ended.exit_code == (7 if runs.processes.name == "systemd" else None)
    assert ended.signal is None
    assert not ended.timed_out


def test_a_tree_whose_run_folder_was_removed_is_found_and_awaited(
    runs: Runs, start_worker: Starter, tmp_path: Path
) -> None:
    go, gone = tmp_path / "go", tmp_path / "gone"
    worker = start_worker(
        f"rm -rf {runs.folder}/*; touch {gone}; until [ -e {go} ]; do sleep 0.02; done; echo unheard; exit 7"
    )
    end = time.monotonic() + 10
    while not gone.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    worker.die()
    found = runs.processes.find_again(worker.reference)
    assert found is not None
    go.touch()
    ended = found.wait()
    assert ended.exit_code == (7 if runs.processes.name == "systemd" else None)
    assert b"output was lost" in ended.output_tail
    assert (runs.folder / worker.reference.run_id).stat().st_mode & 0o777 == 0o700


def test_a_program_does_not_notice_that_the_worker_died(runs: Runs, start_worker: Starter, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    worker = start_worker(f"sleep 0.3; head -c 5000000 /dev/zero || touch {proof}.pipe; touch {proof}")
    worker.die()
    time.sleep(0.6)
    assert not proof.exists(), "five megabytes do not fit into a pipe: it should be waiting"
    found = runs.processes.find_again(worker.reference)
    assert found is not None
    assert found.wait().output_bytes == 5_000_000
    assert proof.exists()
    assert not proof.with_suffix(".pipe").exists()


def test_a_surviving_tree_can_be_killed(
    runs: Runs, start_worker: Starter, tmp_path: Path, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    worker = start_worker(f"trap '' TERM; (setsid sh -c 'touch {tmp_path}/grown; sleep 60' &) ; sleep 60; sleep 60")
    wait_for((tmp_path / "grown").exists)
    worker.die()
    found = runs.processes.find_again(worker.reference)
    assert found is not None
    found.kill()
    ended = found.wait()
    assert ended.survivors_killed >= 2
    assert ended.survivors_left == 0


def test_the_time_limit_goes_on_counting_over_the_death(runs: Runs, start_worker: Starter) -> None:
    worker = start_worker("sleep 60", timeout_s=1.0)
    worker.die()
    time.sleep(0.3)
    found = runs.processes.find_again(worker.reference)
    assert found is not None
    ended = found.wait()
    assert ended.timed_out
    assert 0.9 < ended.duration_s < 6


def test_a_result_nobody_journalled_is_kept(runs: Runs, start_worker: Starter) -> None:
    worker = start_worker("echo result; exit 7", waits=True)
    worker.says("ended")
    worker.die()
    found = runs.processes.find_again(worker.reference)
    assert found is not None
    ended = found.wait()
    assert (ended.exit_code, ended.output_tail) == (7, b"result\n")
    again = runs.processes.find_again(worker.reference)
    assert again is not None, "asking is no forgetting"
    assert again.wait().exit_code == 7


def test_a_program_that_ends_while_no_worker_lives(runs: Runs, start_worker: Starter) -> None:
    worker = start_worker("sleep 0.3; echo nobody reads this yet; exit 7")
    worker.die()
    time.sleep(0.8)
    found = runs.processes.find_again(worker.reference)
    if runs.processes.name == "tree":
        assert found is None, "how it ended is unknown: the caller detects again"
    else:
        assert found is not None
        ended = found.wait()
        assert (ended.exit_code, ended.output_tail) == (7, b"nobody reads this yet\n")


def test_nothing_is_left_after_forget(runs: Runs, start_worker: Starter) -> None:
    worker = start_worker("exit 7", waits=True)
    worker.says("ended")
    worker.die()
    runs.processes.forget(worker.reference)
    runs.processes.forget(worker.reference)
    assert runs.processes.find_again(worker.reference) is None


def test_a_run_that_was_journalled_but_never_started_is_not_found(runs: Runs) -> None:
    reference = runs.processes.reference_of(runs.launch("/bin/true"))
    assert runs.processes.find_again(reference) is None
    runs.processes.forget(reference)


def test_nobody_outlives_a_restart(runs: Runs, start_worker: Starter) -> None:
    worker = start_worker("sleep 60")
    worker.die()
    assert runs.processes.find_again(worker.reference._replace(boot_id="0" * 32)) is None
    found = runs.processes.find_again(worker.reference)
    assert found is not None
    found.kill()
    found.wait()


def test_a_daemon_that_cleaned_its_environment_is_found_by_its_output(runs: Runs, start_worker: Starter) -> None:
    worker = start_worker("(env -i setsid sh -c 'sleep 0.7; echo found' &) ; exit 0")
    time.sleep(0.2)
    worker.die()
    found = runs.processes.find_again(worker.reference)
    assert found is not None
    assert found.wait().output_tail == b"found\n"


def test_a_damaged_reference_is_told(runs: Runs) -> None:
    document = runs.processes.reference_of(runs.launch("/bin/true")).to_json()
    assert RunReference.from_json(json.loads(json.dumps(document))).to_json() == document
    for name in document:
        with pytest.raises(MachineError, match=name):
            RunReference.from_json(document | {name: None})


def test_living_processes_of_others_are_left_alone(runs: Runs, start_worker: Starter) -> None:
    bystander = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
    try:
        worker = start_worker("sleep 60", timeout_s=0.5)
        worker.die()
        found = runs.processes.find_again(worker.reference)
        assert found is not None
        found.wait()
        assert runs.shell("sleep 60", timeout_s=0.2).timed_out
        assert bystander.poll() is None
        assert os.getpgid(bystander.pid) == bystander.pid
    finally:
        bystander.kill()
        bystander.wait()
