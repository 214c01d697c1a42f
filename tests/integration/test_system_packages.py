"""Debian packages that tests need: installed as root, named without root, and never a reason to stop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import system_packages
from tools.system_packages import PACKAGES, SystemPackage

ROOT = Path(__file__).resolve().parents[2]


def test_without_root_what_is_missing_is_named_with_what_goes_untested(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = SystemPackage("moonlight", "usr/bin/moonlight-that-nobody-has", "tests by night")
    monkeypatch.setattr(system_packages, "PACKAGES", (absent,))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert system_packages.main() == 0

    said = capsys.readouterr().out
    assert "Without root" in said
    assert "moonlight" in said
    assert "tests by night" in said
    assert "apt-get install --no-install-recommends moonlight" in said


def test_where_nothing_is_missing_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system_packages, "PACKAGES", (SystemPackage("sh", "bin/sh", "everything"),))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert system_packages.main() == 0
    assert capsys.readouterr().out == ""


def test_each_package_says_what_it_is_for() -> None:
    assert all(package.purpose and not package.proof.startswith("/") for package in PACKAGES)
    assert len({package.name for package in PACKAGES}) == len(PACKAGES)


def test_it_runs_on_the_standard_library_alone() -> None:
    code = "import runpy; runpy.run_path('tools/system_packages.py', run_name='looked_at')"
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
