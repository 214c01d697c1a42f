"""kill -9 at every journalled step: no second blind run, no lost result, the right state after the next start."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pcm.service import faults

SCRIPT = Path(__file__).parent / "trivial.py"
ROOT = SCRIPT.parents[3]
# what asks servers and reports to them is killed in `service_shell/test_kill.py`, in the whole worker
# and what restarts the computer in `test_restart_kill.py`
ELSEWHERE = ("recovery.", "instructions.", "packages.", "report.", "restart.")
OF_THE_RUN = [point for point in faults.POINTS if not point.startswith(ELSEWHERE)]
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


def killed(home: Path, fault: str) -> None:
    ended = check(home, fault)
    assert ended.returncode == -signal.SIGKILL, f"{fault} was not reached: {ended.stdout}{ended.stderr}"


def told(home: Path) -> dict[str, Any]:
    ended = check(home)
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
