"""kill -9 of the worker at every step of a restart, while the computer stays up or goes down: one restart, and no result is lost.

The same with real power failures on a real host: `tests/e2e/test_host_restart.py`.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pcm.service import faults

SCRIPT = Path(__file__).parent / "restarting_once.py"
ROOT = SCRIPT.parents[3]
AROUND = [point for point in faults.POINTS if point.startswith("restart.")] + ["recovery.restarted"]
OF_THE_RUN = ["run.ended", "result.before_commit", "result.committed", "cleanup.end"]
MINUTES = (0, 1, 5, 11, 16, 30, 60, 600)


def check(home: Path, minutes: float, fault: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", faults.VARIABLE: fault}
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(home), str(minutes)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(home: Path, minutes: float) -> dict[str, Any]:
    ended = check(home, minutes)
    assert ended.returncode == 0, ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


def require_one_restart(home: Path) -> None:
    for minutes in MINUTES:
        after = told(home, minutes)
    assert (after["counter"], after["ledger"], after["asked"]) == (1, 1, 1)
    assert after["states"] == [["succeeded", "restarted"]]
    assert after["outcomes"] == [["restart_pending", True], ["succeeded", False]]
    assert after["restarts"][-1] == "restarted"


@pytest.mark.parametrize("point", AROUND)
def test_q164329_a_kill_at_any_step_of_a_restart_neither_loses_it_nor_repeats_it(tmp_path: Path, point: str) -> None:
    killed = check(tmp_path, 0, point)
    if killed.returncode == 0:  # a point of the boot after
        killed = check(tmp_path, 0, point)
    assert killed.returncode == -signal.SIGKILL, f"{point} was not reached: {killed.stdout}{killed.stderr}"
    require_one_restart(tmp_path)


@pytest.mark.parametrize("second", AROUND)
def test_a_kill_at_each_of_two_steps_changes_nothing_either(tmp_path: Path, second: str) -> None:
    assert check(tmp_path, 0, "restart.kept").returncode == -signal.SIGKILL
    for minutes in (0, 1):
        if check(tmp_path, minutes, second).returncode == -signal.SIGKILL:
            break
    require_one_restart(tmp_path)


@pytest.mark.parametrize("point", OF_THE_RUN)
def test_q158644_a_kill_around_the_result_loses_no_wish_for_a_restart(tmp_path: Path, point: str) -> None:
    assert check(tmp_path, 0, point).returncode == -signal.SIGKILL
    require_one_restart(tmp_path)
