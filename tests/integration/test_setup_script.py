"""The head of the self-extracting setup: it knows its own options, and refuses others before it unpacks anything."""

import re
import subprocess
from pathlib import Path

import pytest

from tools.packages.formats import make_setup
from tools.packages.inputs import here

EPOCH = 1_790_000_000


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A setup whose tree is one small file: nothing here gets as far as running it."""
    folder = tmp_path_factory.mktemp("setup")
    (folder / "tree" / "bin").mkdir(parents=True)
    (folder / "tree" / "bin" / "pcmsvc").write_text("#!/bin/sh\n")
    make_setup(folder / "tree", folder / "setup.run", "1.0", here(), EPOCH, 0)
    return folder / "setup.run"


def run(setup: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", setup, *options], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("option", ["--nonsense", "nonsense", "-x", "--kitt=x", "--dry-run=yes"])
def test_an_option_that_it_does_not_know_is_answered_with_its_own_usage(setup: Path, option: str) -> None:
    for options in ([option], ["--json", option], ["--verify", option], ["--kit", "k", option]):
        answer = run(setup, *options)
        assert (answer.returncode, answer.stdout) == (2, "")
        assert "usage: sudo sh setup.run [--kit FILE]" in answer.stderr
        assert f"setup.run: there is no option {option}. Nothing was changed." in answer.stderr
        assert "pcmsvc" not in answer.stderr


@pytest.mark.parametrize("option", ["--kit", "--token", "--token-file", "--trial"])
def test_an_option_without_its_value_is_refused_and_a_value_is_no_option(setup: Path, option: str) -> None:
    answer = run(setup, option)
    assert answer.returncode == 2
    assert f"{option} wants a value" in answer.stderr
    assert run(setup, option, "--nonsense", "--verify").returncode == 0
    assert run(setup, f"{option}=x", "--verify").returncode == 0


def test_it_takes_every_option_that_its_usage_names(setup: Path) -> None:
    usage = run(setup, "--help").stdout
    named = set(re.findall(r"^  (--[a-z-]+)(?: ([A-Z]+))?", usage, re.MULTILINE))
    assert len(named) > 8
    for option, value in named - {("--version", "")}:
        assert run(setup, option, *([value] if value else []), "--verify").returncode == 0, option
