"""Fetches a real Debian package for the demonstration and the tests, without changing this machine's own package lists.

apt works with private folders here, so that no administrator rights are needed and nothing is left behind but a cache.
"""

import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path.home() / ".cache" / "pcm-demo"


def fetch(names: list[str], cache: Path = CACHE) -> dict[str, Path]:
    """Return the newest `.deb` of each name, from the cache if it is there.

    Raises:
        RuntimeError: apt could not be asked, with its own words.
    """
    found = {name: path for name in names if (path := _newest(cache, name)) is not None}
    missing = [name for name in names if name not in found]
    if missing:
        if shutil.which("apt-get") is None:
            raise RuntimeError("apt-get is not here: the demonstration needs Debian or one of its kin")
        for folder in ("state/lists/partial", "apt/archives/partial", "debs"):
            (cache / folder).mkdir(parents=True, exist_ok=True)
        settings = [
            f"Dir::State={cache}/state",
            "Dir::State::status=/var/lib/dpkg/status",
            f"Dir::Cache={cache}/apt",
            "Debug::NoLocking=1",
            "APT::Sandbox::User=",
            "Acquire::Languages=none",
        ]
        options = [part for setting in settings for part in ("-o", setting)]
        _apt(["apt-get", "-q", *options, "update"], cache / "debs")
        _apt(["apt-get", "-q", *options, "download", *missing], cache / "debs")
    return {name: path for name in names if (path := _newest(cache, name)) is not None}


def _newest(cache: Path, name: str) -> Path | None:
    return max((cache / "debs").glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime, default=None)


def _apt(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-500:]}")


def version_of(deb: Path) -> str:
    """The package version, as the file's name carries it, without an epoch: `2.1.0-1`."""
    return deb.stem.split("_")[1].rpartition("%3a")[2]


if __name__ == "__main__":
    for path in fetch(sys.argv[1:]).values():
        print(path)
