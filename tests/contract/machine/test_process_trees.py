"""Every back end owns the whole tree of a program (kb-regressions, section B)."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pcm.service.machine.interface import TAIL_BYTES
from pcm.service.machine.linux.proctable import all_processes, has_variable
from tests.contract.machine.conftest import Runs


def living_members(run_id: str) -> list[int]:
    """Ids of living processes that carry a run's mark, found independently of the code under test."""
    mark = f"PCM_RUN_ID={run_id}".encode()
    return [each.id for each in all_processes().values() if each.alive and has_variable(each.id, mark)]


@pytest.mark.parametrize("code", [0, 1, 7, 199, 200, 203, 243, 244, 255])
def test_the_exit_code_is_the_programs_own(runs: Runs, code: int) -> None:
    ended = runs.shell(f"echo {code}; exit {code}")
    assert (ended.exit_code, ended.signal, ended.timed_out) == (code, None, False)


@pytest.mark.parametrize("code", [0, 1, 200, 203])
def test_an_exit_code_needs_no_words(runs: Runs, code: int) -> None:
    assert runs.shell(f"exit {code}").exit_code == code


def test_an_end_by_signal_is_no_exit_code(runs: Runs) -> None:
    ended = runs.shell("kill -9 $$")
    assert (ended.exit_code, ended.signal, ended.timed_out) == (None, 9, False)


@pytest.mark.parametrize(
    ("how", "script"),
    [
        ("child", "(sleep 0.3; echo done) & exit 3"),
        ("grandchild", "(sh -c '(sleep 0.3; echo done) &') & exit 3"),
        ("new session", "setsid sh -c 'sleep 0.3; echo done' & exit 3"),
        ("double fork", "(setsid sh -c '(sleep 0.3; echo done) &' &) ; exit 3"),
        ("chain", "(sleep 0.1; (sleep 0.1; (sleep 0.1; echo done) & ) & ) & exit 3"),
        ("own environment", "(env -i setsid sh -c '(sleep 0.3; echo done) &' &) ; exit 3"),
    ],
)
def test_q128612_children_keep_the_run_alive(runs: Runs, how: str, script: str) -> None:
    ended = runs.shell(script)
    assert ended.output_tail == b"done\n", how
    assert ended.exit_code == 3
    assert ended.duration_s >= 0.29


def test_q156271_a_daemon_without_output_keeps_the_run_alive(runs: Runs, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    ended = runs.shell(f"(setsid sh -c 'exec >/dev/null 2>&1 </dev/null; (sleep 0.3; touch {proof}) &' &)")
    assert ended.exit_code == 0
    assert proof.exists(), "the run ended before its daemon"


def test_q158734_the_tree_is_gone_when_the_run_has_ended(runs: Runs) -> None:
    launch = runs.launch("/bin/sh", "-c", "for i in 1 2 3 4 5; do (setsid sleep 0.$i &); done")
    ended = runs.start(launch).wait()
    assert ended.survivors_left == 0
    assert living_members(launch.run_id) == []


def test_q150089_many_short_orphans_are_all_awaited(runs: Runs) -> None:
    ended = runs.shell("for i in $(seq 60); do (sh -c 'sleep 0.05; echo x' &) ; done")
    assert ended.output_bytes == 120


PYTHON_DAEMON = """
import os, sys, time
def daemonise():
    # as daemon(7) tells: twice away from the parent, a session of its own, no folder, no terminal, no descriptor
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
    os.chdir("/"); os.umask(0)
    for descriptor in range(256):
        try: os.close(descriptor)
        except OSError: pass
    os.open("/dev/null", os.O_RDWR); os.dup2(0, 1); os.dup2(0, 2)
pid = os.fork()
if pid == 0:
    daemonise()
    time.sleep(0.4)
    open(sys.argv[1], "w").close()
    os._exit(0)
os.waitpid(pid, 0)
sys.exit(6)
"""


def test_q153819_a_daemon_by_the_book_keeps_the_run_alive(runs: Runs, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    ended = runs.run("/usr/bin/python3", "-c", PYTHON_DAEMON, str(proof))
    assert (ended.exit_code, proof.exists()) == (6, True)


def test_q274592_children_that_change_their_parent_are_awaited_and_ended(runs: Runs, tmp_path: Path) -> None:
    # each one's parent ends before it begins to work, so that all are handed on to somebody else several times
    script = f"hop() {{ [ $1 -gt 0 ] && (hop $(($1 - 1)) $2 &) || (sleep 0.3; touch {tmp_path}/$2) & }}; hop 5 a; hop 9 b; exit 0"
    assert runs.shell(script).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "runs") == ["a", "b"]
    hangs = runs.launch(
        "/bin/sh", "-c", "hop() { [ $1 -gt 0 ] && (hop $(($1 - 1)) &) || sleep 60 & }; hop 6; exit 0", timeout_s=1
    )
    ended = runs.start(hangs).wait()
    assert (ended.timed_out, ended.survivors_left, living_members(hangs.run_id)) == (True, 0, [])


def test_q214898_what_a_finished_setup_needs_stays_until_its_children_are_done(runs: Runs, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "data").write_text("still here\n")
    ended = runs.shell("(sleep 0.3; cat data) & exit 0", working_directory=files)
    # whoever waited may take the files away now, and not before
    shutil.rmtree(files)
    assert (ended.exit_code, ended.output_tail) == (0, b"still here\n")


def test_q214448_a_hidden_prompt_gets_no_answer_and_ends(runs: Runs) -> None:
    ended = runs.shell("echo 'Continue (y/n)?'; read answer || echo 'nobody there'; exit 4", timeout_s=10)
    assert ended.exit_code == 4
    assert ended.output_tail == b"Continue (y/n)?\nnobody there\n"
    assert not ended.timed_out


def test_q201764_the_time_limit_ends_the_whole_tree_and_keeps_the_output_so_far(runs: Runs) -> None:
    launch = runs.launch("/bin/sh", "-c", "echo working; (setsid sleep 60 &); sleep 60", timeout_s=0.4)
    ended = runs.start(launch).wait()
    assert ended.timed_out
    assert ended.output_tail == b"working\n"
    assert ended.survivors_killed == 3
    assert living_members(launch.run_id) == []
    assert ended.duration_s < 5


def test_what_ignores_term_is_killed_after_the_grace_time(runs: Runs) -> None:
    script = "trap '' TERM; (trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &); while :; do sleep 1; done"
    launch = runs.launch("/bin/sh", "-c", script, timeout_s=0.3, grace_s=0.3)
    ended = runs.start(launch).wait()
    assert ended.timed_out
    assert ended.signal == 9
    assert 0.6 <= ended.duration_s < 10
    assert living_members(launch.run_id) == []


def test_term_comes_first_so_that_a_program_can_tidy_up(runs: Runs) -> None:
    ended = runs.shell("trap 'echo tidied; exit 9' TERM; while :; do sleep 0.05; done", timeout_s=0.3, grace_s=5)
    assert ended.timed_out
    assert ended.exit_code == 9
    assert ended.output_tail.endswith(b"tidied\n")


def test_a_hung_child_of_a_finished_program_is_timed_out_with_exit_code(runs: Runs) -> None:
    ended = runs.shell("(setsid sleep 60 &) ; exit 0", timeout_s=0.4)
    assert (ended.exit_code, ended.timed_out, ended.survivors_killed) == (0, True, 1)


def test_a_small_fork_bomb_is_ended(runs: Runs) -> None:
    # each generation leaves its parents and its session, and ignores TERM; about thirty live at any time
    script = (
        "trap '' TERM; bomb() { sleep 0.02; [ $(ls -d /proc/[0-9]* | wc -l) -lt 2000 ] && (setsid sh \"$0\" &) ; }; "
        "for i in $(seq 30); do (bomb &) ; done; sleep 60"
    )
    path = runs.folder / "bomb.sh"
    path.write_text(f"#!/bin/sh\n{script.replace('seq 30', 'seq ${1:-1}')}\n")
    launch = runs.launch("/bin/sh", str(path), "30", timeout_s=0.5, grace_s=0.1)
    ended = runs.start(launch).wait()
    assert ended.timed_out
    assert ended.survivors_killed > 30
    assert ended.survivors_left == 0
    assert living_members(launch.run_id) == []


def test_q193784_a_hung_command_can_be_run_again(runs: Runs) -> None:
    assert runs.shell("sleep 60", timeout_s=0.2).timed_out
    assert runs.shell("exit 5").exit_code == 5


def test_kill_from_another_thread_ends_the_tree(runs: Runs) -> None:
    running = runs.start(runs.launch("/bin/sh", "-c", "(setsid sleep 60 &) ; sleep 60"))
    threading.Timer(0.2, running.kill).start()
    ended = running.wait()
    assert not ended.timed_out
    assert ended.survivors_killed >= 2
    assert ended.duration_s < 10


def test_waiting_twice_gives_the_same_answer(runs: Runs) -> None:
    running = runs.start(runs.launch("/bin/sh", "-c", "echo once"))
    assert running.wait() == running.wait()


def test_output_is_bounded_and_its_end_is_kept(runs: Runs) -> None:
    launch = runs.launch("/bin/sh", "-c", "head -c 100000000 /dev/zero; echo last words", output_limit_bytes=50_000)
    ended = runs.start(launch).wait()
    assert ended.exit_code == 0
    assert ended.output_bytes == 100_000_011
    assert len(ended.output_tail) == TAIL_BYTES
    assert ended.output_tail.endswith(b"last words\n")
    stored = launch.output_path.read_bytes()
    assert len(stored) < 50_000 + TAIL_BYTES + 100
    assert stored.endswith(ended.output_tail)
    assert f"{100_000_011 - 50_000 - TAIL_BYTES} bytes of output were not kept".encode() in stored


def test_output_of_both_streams_is_kept_in_order_for_its_owner_alone(runs: Runs) -> None:
    launch = runs.launch("/bin/sh", "-c", "echo out; echo err >&2; echo out again")
    runs.start(launch).wait()
    assert launch.output_path.read_bytes() == b"out\nerr\nout again\n"
    assert launch.output_path.stat().st_mode & 0o777 == 0o600
    assert launch.output_path.parent.stat().st_mode & 0o777 == 0o700


def test_a_flood_does_not_outlive_the_time_limit(runs: Runs) -> None:
    ended = runs.run("/usr/bin/yes", timeout_s=0.5)
    assert ended.timed_out
    assert ended.output_bytes > 1_000_000
    assert ended.duration_s < 10


def test_q241656_many_runs_leave_no_descriptor_and_no_process(runs: Runs) -> None:
    runs.shell("exit 0")
    before = len(list(Path("/proc/self/fd").iterdir()))
    me = os.getpid()
    zombies = {each.id for each in all_processes().values() if each.parent == me and not each.alive}
    for _ in range(20):
        runs.shell("(sleep 0.01 &) ; echo x")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert {each.id for each in all_processes().values() if each.parent == me and not each.alive} <= zombies


def test_suspended_processes_are_ended_too(runs: Runs, wait_for: Callable[[Callable[[], bool]], None]) -> None:
    launch = runs.launch("/bin/sh", "-c", "(setsid sh -c 'kill -STOP $$' &) ; sleep 0.1", timeout_s=0.5)
    started = time.monotonic()
    ended = runs.start(launch).wait()
    assert ended.timed_out
    assert time.monotonic() - started < 10
    assert living_members(launch.run_id) == []
