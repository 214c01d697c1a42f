"""The client's packages, built as `make packages` does, twice, in two folders: for the test that compares them, and for hosts.

Test processes share what one of them built. The second build has another place, another time zone, another umask and another home.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("src", "packaging", "tools", "pyproject.toml", "requirements.lock", "LICENSE")
NEWER = "99.1.0"
MOMENT = "1790000000"
_ODD = {"TZ": "Pacific/Chatham", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", "PYTHONHASHSEED": "42"}


class Built(NamedTuple):
    """Folders with packages: twice the same, and a newer version's setup."""

    first: Path
    second: Path
    newer: Path

    def deb(self) -> Path:
        return one(self.first, "*.deb")

    def rpm(self) -> Path:
        return one(self.first, "*.rpm")

    def setup(self) -> Path:
        return one(self.first, "*.run")

    def newer_setup(self) -> Path:
        return one(self.newer, "*.run")


def one(folder: Path, pattern: str) -> Path:
    [found] = folder.glob(pattern)
    return found


def built_packages(shared: Path) -> Built:
    """Build them into a folder that test processes share, if none of them has yet. Half a minute to a minute."""
    built = Built(shared / "first", shared / "second", shared / "newer")
    with (shared.parent / f"{shared.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "complete").exists():
            shutil.rmtree(shared, ignore_errors=True)
            snapshot(shared / "here")
            snapshot(shared / "another-folder/elsewhere", shared / "here")
            build(shared / "here", built.first)
            build(shared / "here", built.newer, "--version", NEWER, "--format", "run")
            build(shared / "another-folder/elsewhere", built.second, environment=_ODD, umask=0o077)
            (shared / "complete").touch()
    return built


def snapshot(folder: Path, source: Path = ROOT) -> None:
    """A build folder of its own, of the source as it is now; what was fetched from elsewhere is shared."""
    folder.mkdir(parents=True)
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        path = source / name
        shutil.copytree(path, folder / name, ignore=ignored) if path.is_dir() else shutil.copyfile(path, folder / name)
    inputs = ROOT / "build" / "packages" / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    (folder / "build" / "packages").mkdir(parents=True)
    (folder / "build" / "packages" / "inputs").symlink_to(inputs)


def build(
    folder: Path, out: Path, *options: str, environment: dict[str, str] | None = None, umask: int = 0o022
) -> None:
    """Build in a folder as `make packages` does."""
    answer = subprocess.run(
        [sys.executable, "-m", "tools.packages", "--level", "0", "--out", str(out), *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "SOURCE_DATE_EPOCH": MOMENT, **(environment or {})},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
