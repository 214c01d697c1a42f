"""A real site in its own process, and the administrator program in the test's."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import pytest

from pcm.cli.main import run

PASSPHRASE = "correct horse battery"


class Answer(NamedTuple):
    """What one call of `pcm` gave."""

    code: int
    out: str
    err: str


Pcm = Callable[..., Answer]


@dataclass
class ServedSite:
    """A site that listens. `keys`: its offline keyring, opened by `passphrase_file`."""

    folder: Path
    keys: Path
    passphrase_file: Path
    url: str
    process: subprocess.Popen[bytes]


def free_port() -> int:
    """A port that nobody listens at right now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def serve(folder: Path, url: str) -> subprocess.Popen[bytes]:
    """Start `pcm site serve` and wait until it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pcm.cli.main", "site", "serve", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with urlopen(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return process
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    process.kill()
    told = process.communicate()[1]
    pytest.fail(f"the site did not come up: {told.decode()}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a site as a supervisor would."""
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedSite]:
    """One site for a file of tests, with two approvers."""
    root = tmp_path_factory.mktemp("served")
    passphrase_file = root / "passphrase"
    passphrase_file.write_text(PASSPHRASE + "\n")
    folder, keys, url = root / "site", root / "keys", f"http://127.0.0.1:{free_port()}"
    made = run(
        [
            "site", "init", str(folder), "--name", "lab", "--url", url, "--keys", str(keys), "--approver", "ada",
            "--approver", "bob", "--passphrase-file", str(passphrase_file),
        ]
    )  # fmt: skip
    assert made == 0
    process = serve(folder, url)
    site = ServedSite(folder, keys, passphrase_file, url, process)
    yield site
    end(site.process)  # a test may have put another in its place


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("COLUMNS", raising=False)
    for name in [name for name in os.environ if name.startswith("PCM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def pcm(served: ServedSite, capsys: pytest.CaptureFixture[str]) -> Pcm:
    """Calls the program, on the served site."""

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = run(["--site", str(served.folder), *(str(argument) for argument in arguments)])
        told = capsys.readouterr()
        return Answer(code, told.out, told.err)

    return call
