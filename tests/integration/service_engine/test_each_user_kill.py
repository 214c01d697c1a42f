"""kill -9 at every journalled step of a program that runs once for each user: nobody's run twice, nobody's result lost."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pcm.service import faults
from tests.integration.service_engine.each_user_check import USERS
from tests.integration.service_engine.test_kill import OF_THE_RUN, ROOT, UNSEEN
from tests.integration.service_shell.static_site import shared_folder

pytestmark = pytest.mark.needs("root", "users")

SCRIPT = Path(__file__).parent / "each_user_check.py"


@pytest.fixture
def home() -> Iterator[Path]:
    with shared_folder() as folder:
        yield folder


def check(home: Path, fault: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", faults.VARIABLE: fault}
    command = [sys.executable, str(SCRIPT), str(home)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("point", OF_THE_RUN)
def test_a_kill_anywhere_runs_it_for_nobody_twice(home: Path, point: str) -> None:
    killed = check(home, point)
    assert killed.returncode == -signal.SIGKILL, f"{point} was not reached: {killed.stdout}{killed.stderr}"
    for _ in range(2):
        ended = check(home)
        assert ended.returncode == 0, ended.stderr
        told: dict[str, Any] = json.loads(ended.stdout)
        assert told["ran"] == list(USERS)
        # the first user's, whose end nobody saw, and which has no detection that could tell
        first = ["unknown", "run.interrupted"] if point in UNSEEN else ["succeeded", ""]
        assert told["users"] == [[USERS[0], *first], [USERS[1], "succeeded", ""]]
        assert (told["open"], told["results"], told["ledger"], told["staging"]) == (0, 2, 2, [])
