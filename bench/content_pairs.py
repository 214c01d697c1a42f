"""Real software in two consecutive versions, unpacked, for the measurements of content: from the registries, kept in a cache.

Wheels come by name from the Python package index, Debian packages by name from the archive that this machine uses; nothing is
built or altered. What cannot be had is named and left out. The cache is `~/.cache/pcm-bench/content` (or `PCM_BENCH_CACHE`).
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.measure import succeed

WHEELS = {"PySide6-Essentials": ("6.11.2", "6.11.3"), "pyarrow": ("26.0.0", "26.0.1")}
KERNEL = "linux-image-6.1.0-{}-amd64"
DEBIAN = ("libreoffice-core",)


@dataclass(frozen=True)
class Pair:
    """Two consecutive versions of one piece of software, as folders of files."""

    name: str
    old: Path
    new: Path


def cache() -> Path:
    """Where downloads and unpacked versions stay."""
    base = os.environ.get("PCM_BENCH_CACHE") or Path.home() / ".cache" / "pcm-bench"
    return Path(base, "content")


def pairs(names: list[str] | None = None) -> Iterator[Pair]:
    """The pairs that can be had, each unpacked. `names`: only these."""
    sources: dict[str, Callable[[], tuple[Path, Path]]] = {
        **{name: partial(_wheels, name) for name in WHEELS},
        "linux-image": _kernels,
        **{name: partial(_debian, name) for name in DEBIAN},
    }
    for name, make in sources.items():
        if names and name not in names:
            continue
        try:
            old, new = make()
        except (RuntimeError, OSError, ValueError) as error:
            print(f"{name} is left out: {str(error)[:300]}", file=sys.stderr)
            continue
        yield Pair(name, old, new)


def _wheels(name: str) -> tuple[Path, Path]:
    old, new = (_once(f"{name}-{version}", partial(_fetch_wheel, f"{name}=={version}")) for version in WHEELS[name])
    return old, new


def _fetch_wheel(requirement: str, to: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    succeed([*pip, "--dest", str(to / "wheel"), requirement])
    [wheel] = (to / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(to / "files")
    shutil.rmtree(to / "wheel")


def _kernels() -> tuple[Path, Path]:
    """The two newest kernels of the archive's series."""
    pattern = re.compile(KERNEL.format(r"([0-9]+)") + r"\Z")
    known = sorted(
        int(match[1])
        for line in succeed(["apt-cache", "pkgnames", KERNEL.partition("{")[0]]).splitlines()
        if (match := pattern.match(line))
    )
    if len(known) < 2:
        raise ValueError("the archive has not two kernels of one series")
    old, new = (KERNEL.format(number) for number in known[-2:])
    return _once(old, partial(_fetch_debian, old)), _once(new, partial(_fetch_debian, new))


def _debian(name: str) -> tuple[Path, Path]:
    """The two newest versions that the archive and its security updates have."""
    lines = succeed(["apt-cache", "madison", name]).splitlines()
    versions = list(dict.fromkeys(line.split("|")[1].strip() for line in lines))
    if len(versions) < 2:
        raise ValueError("the archive has one version only")
    new, old = (f"{name}={version}" for version in versions[:2])
    return _once(old, partial(_fetch_debian, old)), _once(new, partial(_fetch_debian, new))


def _fetch_debian(requirement: str, to: Path) -> None:
    done = subprocess.run(["apt-get", "download", requirement], cwd=to, capture_output=True, text=True, check=False)
    [package, *_] = [*to.glob("*.deb"), None]
    if package is None:
        raise ValueError(f"apt-get download {requirement}: {done.stderr.strip()}")
    succeed(["dpkg-deb", "--extract", str(package), str(to / "files")])
    package.unlink()
    for path in (to / "files").rglob("*"):
        if path.is_symlink():
            path.unlink()  # a package carries files only


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """The unpacked files of that name, made if they are not there; never half of them."""
    final = cache() / name.replace("/", "_")
    if not final.is_dir():
        fresh = final.with_name(f".{final.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        make(fresh)
        fresh.rename(final)
    return final / "files"


def archive(folder: Path, to: Path) -> None:
    """The folder as one plain tar, the same bytes for the same files: what peers work on that know no folders."""
    with tarfile.open(to, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tar.gettarinfo(path, str(path.relative_to(folder)))
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
            with path.open("rb") as file:
                tar.addfile(entry, file)
