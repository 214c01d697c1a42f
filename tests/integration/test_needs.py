"""What happens to tests whose needs a machine cannot give: skipped and listed, or failed where set-up owes the need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import pytest

@pytest.mark.needs("{need}")
def test_it():
    pass
"""


def run(folder: Path, need: str, reason: str, **environment: str) -> tuple[int, str]:
    """Run one small test with a need that this 'machine' cannot give, under this project's own conftest."""
    (folder / "conftest.py").write_text(
        "from tests import capabilities\n"
        f"capabilities.PROBES[{need!r}] = lambda: {reason!r} or None\n"
        "from tests.conftest import *\n"
    )
    (folder / "test_it.py").write_text(PROBE.format(need=need))
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            "/dev/null",
            f"--rootdir={folder}",
            str(folder),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CI": "false", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode, answer.stdout + answer.stderr


def test_a_skip_is_listed_by_name_and_reason(tmp_path: Path) -> None:
    code, said = run(tmp_path, "nspawn", "the moon is not full")

    assert code == 0
    assert "not run on this machine: 1" in said
    assert "test_it.py::test_it: the moon is not full" in said


def test_a_need_that_is_met_runs(tmp_path: Path) -> None:
    code, said = run(tmp_path, "nspawn", "")

    assert code == 0
    assert "1 passed" in said
    assert "not run on this machine" not in said


@pytest.mark.needs("root")
def test_in_ci_as_root_a_missing_need_is_a_failure(tmp_path: Path) -> None:
    code, said = run(tmp_path, "nspawn", "the moon is not full", CI="true")

    assert code == 1
    assert "set-up should have provided this in CI: the moon is not full" in said


@pytest.mark.needs("root")
def test_what_only_the_kernel_decides_is_still_skipped_in_ci(tmp_path: Path) -> None:
    code, said = run(tmp_path, "userns", "this kernel forbids it", CI="true")

    assert code == 0
    assert "1 skipped" in said


def test_a_misspelt_need_is_refused(tmp_path: Path) -> None:
    code, said = run(tmp_path, "nspawn", "")
    (tmp_path / "test_it.py").write_text(PROBE.format(need="postgres"))
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            "/dev/null",
            f"--rootdir={tmp_path}",
            str(tmp_path),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (code, answer.returncode) == (0, 4), said
    assert "unknown need ['postgres']" in answer.stdout + answer.stderr
