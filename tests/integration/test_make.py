"""What a person meets first: `make help`, set-up on a machine with nothing but Python, and the pinned pip."""

import hashlib
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tools import bootstrap

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
# Named for parts of the product; help shows each once its part is there.
PART_TARGETS = {
    "demo": "demo/run.py",
    "bench-agent": "bench/agent.py",
    "bench-content": "bench/content.py",
    "bench-site": "bench/site.py",
    "bench-faces": "bench/faces.py",
    "bench-windows": "bench/windows.py",
}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def targets() -> set[str]:
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    return set(phony.group(1).replace("\\", "").split())


def test_help_is_what_a_bare_make_shows() -> None:
    assert make().stdout == make("help").stdout


def test_help_lists_each_target_once_with_what_it_does() -> None:
    lines = [line for line in make("help").stdout.splitlines() if line]
    shown = [re.fullmatch(r"make ([a-z-]+) +(\S.*)", line) for line in lines]

    assert all(shown), lines
    names = [match[1] for match in shown if match]
    hidden = {target for target, part in PART_TARGETS.items() if not (ROOT / part).exists()}
    if not any((ROOT / "bench").glob("*.py")):
        hidden.add("bench")
    assert len(names) == len(set(names))
    assert set(names) == targets() - hidden
    assert {"help", "setup", "test", "check", "docs", "clean"} <= set(names)


def test_every_rule_is_phony_and_documented() -> None:
    rules = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))

    assert rules == targets()
    assert set(re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE)) == rules


def test_a_part_that_is_not_built_yet_says_so() -> None:
    answer = subprocess.run(
        [sys.executable, "tools/run_part.py", "bench/none.py", "--"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (0, "bench/none.py: not built yet.\n")


def test_the_vendored_pip_is_the_one_that_its_note_names() -> None:
    digest = hashlib.sha256(bootstrap.PIP_WHEEL.read_bytes()).hexdigest()

    assert digest == bootstrap.PIP_SHA256
    assert f"`{bootstrap.PIP_WHEEL.name}`" in (bootstrap.PIP_WHEEL.parent / "README.md").read_text()
    assert digest in (bootstrap.PIP_WHEEL.parent / "README.md").read_text()
    assert len(list(bootstrap.PIP_WHEEL.parent.glob("*.whl"))) == 1


def test_pip_with_other_bytes_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / bootstrap.PIP_WHEEL.name
    wheel.write_bytes(bootstrap.PIP_WHEEL.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(bootstrap, "PIP_WHEEL", wheel)

    with pytest.raises(bootstrap.SetupError, match="restore it from version control"):
        bootstrap.run_pip(Path(sys.executable), ["--help"])


def test_the_lock_has_a_hash_for_everything_and_names_no_index() -> None:
    text = bootstrap.LOCK.read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text[text.index("\n") + 1 :])

    assert "://" not in text
    assert len(entries) > 40
    assert [
        entry for entry in entries if not re.match(r"[a-z0-9._-]+==\S+( ;.*)? \\\n +--hash=sha256:[0-9a-f]{64}", entry)
    ] == []


def test_set_up_runs_on_the_standard_library_alone() -> None:
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "tools/bootstrap.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


def test_set_up_is_done_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    version = bootstrap.interpreter_version(environment / "bin" / "python")
    lock = bootstrap.digest(bootstrap.LOCK, ROOT / "tools" / "bootstrap.py")
    project = bootstrap.digest(ROOT / "pyproject.toml")
    (environment / "pcm-setup-stamp").write_text(f"lock {lock}\nproject {project}\npython {version}\n")

    bootstrap.prepare(environment, quiet=False)

    assert capfd.readouterr().out == ""
    assert not (environment / "bin" / "pytest").exists()


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "venv" / "letters.txt"
    mine.parent.mkdir()
    mine.write_text("dear")

    with pytest.raises(bootstrap.SetupError, match="is not a virtual environment"):
        bootstrap.prepare(mine.parent, quiet=True)
    assert mine.read_text() == "dear"


def test_an_environment_whose_python_is_gone_counts_as_none(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to("/opt/removed/python3.11")

    assert bootstrap.interpreter_version(python) is None
    python.unlink()
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    assert bootstrap.interpreter_version(python) is None
