"""kill -9 at every journalled step: no second blind run, no lost result, the right state after the next start."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pcm.service import faults
from tests.integration.service_engine.trivial import BLOCKER

SCRIPT = Path(__file__).parent / "trivial.py"
ROOT = SCRIPT.parents[3]
# what asks servers and reports to them is killed in `service_shell/test_kill.py`, in the whole worker
# and what restarts the computer in `test_restart_kill.py`
ELSEWHERE = ("recovery.", "instructions.", "packages.", "report.", "restart.")
# what only some programs come past, and which one does
OF_A_CHECKED_ONE = ("close_blocking.", "health.")
OF_AN_UNHEALTHY_ONE = ("rollback.", "return.")
OF_THE_RUN = [
    point for point in faults.POINTS if not point.startswith((*ELSEWHERE, *OF_A_CHECKED_ONE, *OF_AN_UNHEALTHY_ONE))
]
# where the first of two orders has not begun yet, or only it is at work
WHILE_THE_SECOND_WORKS = {"detect.end", "cleanup.begin", "cleanup.end"}  # of the first
BEFORE_THE_SECOND = {"plan.adopted", "check.begin"}
# the two points between which a kill leaves nobody who saw the end, so that detection has to tell
UNSEEN = {"run.launched"}


def check(home: Path, fault: str = "", *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", faults.VARIABLE: fault}
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(home), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def killed(home: Path, fault: str, *words: str) -> None:
    ended = check(home, fault, *words)
    assert ended.returncode == -signal.SIGKILL, f"{fault} was not reached: {ended.stdout}{ended.stderr}"


def told(home: Path, *words: str) -> dict[str, Any]:
    ended = check(home, "", *words)
    assert ended.returncode == 0, ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


def assert_done_once(after: dict[str, Any], code: str = "") -> None:
    [(_, state, its_code)] = after["records"]
    assert (state, its_code) == ("succeeded", code)
    assert (after["counter"], after["runs"], after["open"], after["ledger"], after["staging"]) == (1, [1], 0, 1, [])
    results = [outcome for outcome in after["outcomes"] if outcome[2]]
    assert results == [["succeeded", code, True]]


@pytest.mark.parametrize("point", OF_THE_RUN)
def test_a_kill_anywhere_loses_nothing_and_runs_nothing_twice(tmp_path: Path, point: str) -> None:
    killed(tmp_path, point)
    assert_done_once(told(tmp_path), "run.interrupted" if point in UNSEEN else "")
    assert_done_once(told(tmp_path), "run.interrupted" if point in UNSEEN else "")


def assert_both_done_once(after: dict[str, Any], second: str = "") -> None:
    assert [record[1:] for record in after["records"]] == [["succeeded", ""], ["succeeded", second]]
    assert (after["counter"], after["runs"], after["open"], after["ledger"], after["staging"]) == (2, [1, 1], 0, 2, [])
    results = [outcome for outcome in after["outcomes"] if outcome[2]]
    assert results == [["succeeded", "", True], ["succeeded", second, True]]


@pytest.mark.parametrize("point", [point for point in OF_THE_RUN if point not in BEFORE_THE_SECOND])
def test_a_kill_where_one_run_hands_over_to_the_next_loses_neither(tmp_path: Path, point: str) -> None:
    code = "run.interrupted" if point in UNSEEN | WHILE_THE_SECOND_WORKS else ""
    killed(tmp_path, point, "pair")
    assert_both_done_once(told(tmp_path, "pair"), code)
    assert_both_done_once(told(tmp_path, "pair"), code)


def test_two_runs_in_a_row_simply_work(tmp_path: Path) -> None:
    assert_both_done_once(told(tmp_path, "pair"))


def assert_returned_once(after: dict[str, Any]) -> None:
    assert [record[1:] for record in after["records"]] == [["failed", "health.failed"]]
    assert (after["counter"], after["undone"], after["runs"], after["open"], after["ledger"]) == (1, 1, [2], 0, 2)
    assert after["staging"] == []
    assert [outcome for outcome in after["outcomes"] if outcome[2]] == [
        ["running", "health.failed", True],
        ["failed", "health.failed", True],
    ]


@pytest.fixture
def blocker(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is in the way."""
    program = tmp_path / BLOCKER
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "600"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("point", [point for point in faults.POINTS if point.startswith(OF_A_CHECKED_ONE)])
def test_a_kill_while_something_is_closed_or_looked_at_loses_nothing(
    tmp_path: Path, blocker: subprocess.Popen[bytes], point: str
) -> None:
    home = tmp_path / "home"
    killed(home, point, "checked")
    assert_done_once(told(home, "checked"))
    assert blocker.wait(10) == -signal.SIGTERM
    assert_done_once(told(home, "checked"))


@pytest.mark.parametrize("point", [point for point in faults.POINTS if point.startswith(OF_AN_UNHEALTHY_ONE)])
def test_a_kill_anywhere_returns_to_the_last_good_version_exactly_once(tmp_path: Path, point: str) -> None:
    killed(tmp_path, point, "unhealthy")
    assert_returned_once(told(tmp_path, "unhealthy"))
    assert_returned_once(told(tmp_path, "unhealthy"))


@pytest.mark.parametrize("first", ["run.ended", "result.committed", "rollback.begin", "return.run.started"])
def test_a_kill_during_the_recovery_of_a_return_changes_nothing_either(tmp_path: Path, first: str) -> None:
    killed(tmp_path, first, "unhealthy")
    killed(tmp_path, "recovery.returns", "unhealthy")
    killed(tmp_path, "return.result.before_commit", "unhealthy")
    assert_returned_once(told(tmp_path, "unhealthy"))


@pytest.mark.parametrize("second", ["recovery.found", "recovery.ended", "result.before_commit", "recovery.committed"])
@pytest.mark.parametrize("first", ["run.launched", "run.ended"])
def test_a_kill_during_recovery_from_a_kill_changes_nothing_either(tmp_path: Path, first: str, second: str) -> None:
    killed(tmp_path, first)
    killed(tmp_path, second)
    killed_or_done = check(tmp_path, second)
    assert killed_or_done.returncode in {0, -signal.SIGKILL}
    assert_done_once(told(tmp_path), "run.interrupted" if first in UNSEEN else "")


def test_a_kill_after_a_restart_was_noticed_counts_it_once(tmp_path: Path) -> None:
    check(tmp_path, "", "restart", "boot-1")
    ended = check(tmp_path, "recovery.restarted", "restart", "boot-2")
    assert ended.returncode == -signal.SIGKILL
    after = json.loads(check(tmp_path, "", "restart", "boot-2").stdout)
    assert [record[1:] for record in after["records"]] == [["succeeded", "restarted"]]
    assert [outcome[:2] for outcome in after["outcomes"]] == [
        ["restart_pending", "wait.restart"],
        ["succeeded", "restarted"],
    ]
    assert (after["counter"], after["ledger"]) == (1, 1)


def test_without_a_fault_it_simply_works(tmp_path: Path) -> None:
    assert_done_once(told(tmp_path))
