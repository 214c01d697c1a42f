"""Publishing a large package to a real site over loopback: from a folder to visible, before any patch is made.

Beside it what cannot be done without on this machine: reading the files and writing them to the same disk, hashed on the way.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from bench.content_pairs import Pair
from bench.measure import Report
from bench.place import temporary_folder
from bench.wire import free_port

MIB = 1024 * 1024
AIM_MBS = 200.0
MEMORY_MIB = 200.0
_PATIENCE_S = 30.0
_DESCRIPTION = """name: {name}
version: "1.0"
platforms: [linux-any]
programs:
  install:
    command: /bin/true
"""


def measure(report: Report, pairs: Sequence[Pair]) -> None:
    """Add the figures: all these new versions' files as one package."""
    with temporary_folder() as folder:
        directory = folder / "package"
        total = _gather(pairs, directory)
        copied = _copy_hashed(directory, folder / "copy")
        site = _Site(folder)
        try:
            took, memory = site.publish(directory)
        finally:
            site.stop()
    rate, beside = total / took / 1e6, total / copied / 1e6
    report.add(
        f"publishing {total / 1e6:,.0f} MB over loopback, until it is visible",
        rate,
        "MB/s",
        peer=("cp, hashed", beside),
        at_least=AIM_MBS,
    )
    report.add("  memory of the packager's process", memory, "MiB", at_most=MEMORY_MIB)


def _gather(pairs: Sequence[Pair], directory: Path) -> int:
    for pair in pairs:
        shutil.copytree(pair.new, directory / pair.name)
    (directory / "package.yaml").write_text(_DESCRIPTION.format(name="large"))
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _copy_hashed(directory: Path, to: Path) -> float:
    begun = time.perf_counter()
    for path in directory.rglob("*"):
        if path.is_file():
            target = to / path.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, target.open("wb") as copy:
                digest = hashlib.sha256()
                while piece := source.read(MIB):
                    digest.update(piece)
                    copy.write(piece)
    took = time.perf_counter() - begun
    shutil.rmtree(to)
    return took


class _Site:
    """A site of its own, made and served by the commands that an administrator types."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._site = folder, folder / "site"
        (folder / "passphrase").write_text("only for a measurement\n")
        self._secret = ["--keys", str(folder / "keys"), "--passphrase-file", str(folder / "passphrase")]
        self._url = f"http://127.0.0.1:{free_port()}"
        listen = ["--listen", self._url.removeprefix("http://")]
        self._pcm(
            "site",
            "init",
            str(self._site),
            "--name",
            "bench",
            "--url",
            self._url,
            *listen,
            "--single-key",
            *self._secret,
        )
        with (folder / "serve.log").open("wb") as log:
            argv = [sys.executable, "-m", "pcm.cli.main", "site", "serve", str(self._site)]
            self._server = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment()
            )
        self._await_ready()

    def publish(self, directory: Path) -> tuple[float, float]:
        """Seconds, and the most memory of the process in MiB."""
        begun = time.perf_counter()
        memory = self._pcm(
            "--insecure-http",
            "--site",
            str(self._site),
            "package",
            "publish",
            str(directory),
            "--team",
            "main",
            *self._secret,
        )
        return time.perf_counter() - begun, memory

    def stop(self) -> None:
        """End the server."""
        self._server.send_signal(signal.SIGTERM)
        self._server.wait(60)

    def _pcm(self, *arguments: str) -> float:
        argv = [sys.executable, "-m", "pcm.cli.main", *arguments]
        with (self._folder / "pcm.log").open("wb") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment())
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: {(self._folder / 'pcm.log').read_text()[-2000:]}")
        return usage.ru_maxrss / 1024

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PCM_")}
        places = {"XDG_CONFIG_HOME": str(self._folder / "config"), "XDG_STATE_HOME": str(self._folder / "state")}
        return {**kept, **places, "no_proxy": "127.0.0.1"}

    def _await_ready(self) -> None:
        end = time.monotonic() + _PATIENCE_S
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            try:
                opener.open(f"{self._url}/readyz", timeout=1).close()
            except OSError as error:
                if time.monotonic() > end:
                    raise RuntimeError((self._folder / "serve.log").read_text()[-2000:]) from error
                time.sleep(0.05)
            else:
                return
