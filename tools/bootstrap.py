"""Makes the virtual environment that every make target runs in, from nothing but Python 3.11 and its standard library.

Used by the Makefile before anything else, on machines that have no pip and no ensurepip (Debian's python3), root or not:

1. make the environment without pip, or keep a working one;
2. check the vendored pip wheel against its hash and run it in place;
3. install exactly `requirements.lock`, every file held against its hash;
4. install the project itself as editable, without touching the network;
5. leave a stamp, so that the next call returns at once.

It never installs anything outside the environment and never asks.
"""

from __future__ import annotations  # so that an older Python gets as far as saying that it is too old

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP_WHEEL = ROOT / "tools" / "vendor" / "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
LOCK = ROOT / "requirements.lock"
OLDEST = (3, 11)
STAMP_FORMAT = "1"


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


def main() -> int:
    """Make the environment ready, or say in one line why it cannot be."""
    parser = argparse.ArgumentParser(description="Make the virtual environment and fill it from requirements.lock.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where (default: .venv)")
    parser.add_argument("--quiet", action="store_true", help="say nothing when all is well")
    arguments = parser.parse_args()
    if sys.version_info < OLDEST:  # the Makefile's `python3` may be anything
        print(f"set-up: Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}.", file=sys.stderr)
        print("        Name another one: make PYTHON=/path/to/python3.11 setup", file=sys.stderr)
        return 1
    venv = Path.cwd() / arguments.venv
    try:
        with only_one(venv):
            prepare(venv, quiet=arguments.quiet)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    return 0


def prepare(venv: Path, *, quiet: bool) -> None:
    """Bring the environment up to date; quick when it already is."""
    started = time.monotonic()
    python = venv / "bin" / "python"
    stamp = venv / "pcm-setup-stamp"
    wanted = {"lock": digest(LOCK, Path(__file__)), "project": digest(ROOT / "pyproject.toml")}
    done = read_stamp(stamp)
    version = interpreter_version(python)
    if version is not None and done == {**wanted, "python": version}:
        return

    def say(line: str) -> None:
        if not quiet:
            print(f"set-up: {line}", flush=True)

    if version is None:
        say(f"making {venv.name} with Python {sys.version.split()[0]}")
        make_environment(venv)
        version = interpreter_version(python)
        if version is None:
            raise SetupError(f"{python} does not start after `python -m venv`; is the disk full?")
        done = {}
    if done.get("lock") != wanted["lock"] or done.get("python") != version:
        say("installing what requirements.lock names (every file is held against its hash)")
        run_pip(python, ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirement", str(LOCK)])
    say("installing this project as editable")
    run_pip(python, ["--no-index", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
    stamp.write_text("".join(f"{key} {value}\n" for key, value in {**wanted, "python": version}.items()))
    say(f"ready after {time.monotonic() - started:.0f} s")


def digest(*paths: Path) -> str:
    """One hash over the stamp's format and the given files."""
    total = hashlib.sha256(STAMP_FORMAT.encode())
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()


def read_stamp(stamp: Path) -> dict[str, str]:
    """What an earlier set-up finished with; empty if there was none."""
    try:
        lines = stamp.read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(" ", 1) for line in lines if " " in line)


def interpreter_version(python: Path) -> str | None:
    """Version and implementation of an environment's interpreter, or None if it does not run or is too old."""
    if not python.exists():  # follows the link: a removed base interpreter counts as absent
        return None
    code = (
        "import sys; print(sys.implementation.cache_tag, sys.version.split()[0]) if sys.version_info >= (3, 11) else 0"
    )
    try:
        answer = subprocess.run(
            [python, "-I", "-S", "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def make_environment(venv: Path) -> None:
    """Make the environment without pip, replacing one that does not run."""
    if venv.exists():
        if not (venv / "pyvenv.cfg").exists() and any(venv.iterdir()):
            raise SetupError(f"{venv} exists and is not a virtual environment; remove it or set VENV to another place.")
        shutil.rmtree(venv)
    answer = subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", venv], capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise SetupError(f"`{sys.executable} -m venv --without-pip {venv}` failed:\n{answer.stdout}{answer.stderr}")


def run_pip(python: Path, arguments: list[str]) -> None:
    """Run `pip install` from the vendored wheel, with the environment's interpreter."""
    try:
        found = hashlib.sha256(PIP_WHEEL.read_bytes()).hexdigest()
    except OSError as error:
        raise SetupError(f"the vendored pip cannot be read: {error}") from error
    if found != PIP_SHA256:
        raise SetupError(f"{PIP_WHEEL} has SHA-256 {found}, not {PIP_SHA256}: restore it from version control.")
    command = [str(python), str(PIP_WHEEL / "pip"), "install", *arguments]
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--no-warn-script-location"]
    environment = {
        **os.environ,
        "PIP_USER": "0",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PYTHONNOUSERSITE": "1",
    }
    environment.pop("PYTHONPATH", None)
    answer = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if answer.returncode != 0:
        shown = " ".join(command)
        raise SetupError(f"pip failed (network, proxy or index settings?):\n{answer.stdout}\nThe command was: {shown}")


@contextmanager
def only_one(venv: Path) -> Iterator[None]:
    """Let two makes at once take turns."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{venv}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
