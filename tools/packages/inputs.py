"""What the client's packages are made from: Debian's Python 3.11 with the libraries that it needs, and the wheels of the lock.

Everything is fetched once into `build/packages/inputs/` and held against a hash each time: Debian's files against the signed
package lists of this machine's apt, wheels against `requirements.lock`. Two builds from the same inputs are equal bit for bit; a
security update of Debian's Python is another input, and so another build, which `release.json` names.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.bootstrap import LOCK, PIP_SHA256, PIP_WHEEL, ROOT

INPUTS = ROOT / "build" / "packages" / "inputs"
PYTHON = "3.11"
# what the interpreter is made of; the C library alone is the computer's own
DEBIAN = (
    f"python{PYTHON}-minimal",
    f"libpython{PYTHON}-minimal",
    f"libpython{PYTHON}-stdlib",
    "libbz2-1.0",
    "libexpat1",
    "libffi8",
    "liblzma5",
    "libsqlite3-0",
    "libssl3",
    "libuuid1",
    "zlib1g",
)
EXTRAS = ("smb",)  # of pyproject.toml, beside what every client needs
_OFFERED = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) \d+ SHA256:(?P<sha256>[0-9a-f]{64})")
_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)")


class BuildError(Exception):
    """The packages cannot be made; the message says what to do."""


@dataclass(frozen=True)
class Architecture:
    """One kind of processor, by each name that it has.

    Args:
        name: as this project says it (`platforms` of a package).
        debian: as dpkg says it; `rpm`: as rpm and wheels do.
        triplet: of its library folder.
    """

    name: str
    debian: str
    rpm: str
    triplet: str


ARCHITECTURES = {
    "x86_64": Architecture("x86_64", "amd64", "x86_64", "x86_64-linux-gnu"),
    "arm64": Architecture("arm64", "arm64", "aarch64", "aarch64-linux-gnu"),
}


def here() -> Architecture:
    """The kind of processor of this machine."""
    machine = os.uname().machine
    for each in ARCHITECTURES.values():
        if machine in {each.name, each.rpm}:
            return each
    raise BuildError(f"The client is built on {' and '.join(ARCHITECTURES)} only; this machine is {machine}.")


@dataclass(frozen=True)
class Input:
    """One fetched file. `name` and `version`: of the Debian package or Python distribution in it."""

    path: Path
    name: str
    version: str
    sha256: str


def debian_inputs(architecture: Architecture) -> list[Input]:
    """Debian's packages for an architecture, fetched if need be; in the order of `DEBIAN`."""
    folder = INPUTS / f"debian-{architecture.debian}"
    folder.mkdir(parents=True, exist_ok=True)
    options = [] if architecture == here() else _foreign_lists(architecture)
    with tempfile.TemporaryDirectory() as empty:  # apt says nothing of files that lie there already
        offered = _run(["apt-get", *options, "download", "--print-uris", *DEBIAN], Path(empty))
    found = {each["file"]: each["sha256"] for each in _OFFERED.finditer(offered)}
    if len(found) != len(DEBIAN):
        raise BuildError(
            f"apt does not offer all of {', '.join(DEBIAN)} for {architecture.debian}: the client is built on Debian 12, "
            "after `apt-get update`."
        )
    if any(_digest(folder / file) != sha256 for file, sha256 in found.items()):
        _run(["apt-get", "--quiet", *options, "download", *DEBIAN], folder)
    for file, sha256 in found.items():
        if _digest(folder / file) != sha256:
            raise BuildError(f"{folder / file} is not the file that apt's signed list names.")
    inputs = []
    for file, sha256 in found.items():
        name, version, _ = file.removesuffix(".deb").split("_")
        inputs.append(Input(folder / file, name, version.replace("%3a", ":"), sha256))
    return sorted(inputs, key=lambda each: DEBIAN.index(each.name))


def _foreign_lists(architecture: Architecture) -> list[str]:
    """Options that make apt speak for another architecture, from lists of its own, by this machine's sources and keys."""
    lists = INPUTS / f"apt-{architecture.debian}"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    options = [
        f"-oAPT::Architecture={architecture.debian}",
        f"-oAPT::Architectures={architecture.debian}",
        f"-oDir::State::lists={lists}",
        f"-oDir::Cache::pkgcache={lists}/pkgcache.bin",
        f"-oDir::Cache::srcpkgcache={lists}/srcpkgcache.bin",
        "-oAcquire::Languages=none",
    ]
    if not any(lists.glob("*_Packages*")):
        _run(["apt-get", "--quiet", *options, "update"], lists)
    return options


def wheel_inputs(architecture: Architecture) -> list[Input]:
    """Wheels of everything that the client imports, exactly as the lock names them; fetched if need be."""
    names = client_distributions()
    pinned = "".join(block for name, block in _locked() if name in names)
    folder = INPUTS / f"wheels-{architecture.rpm}-{hashlib.sha256(pinned.encode()).hexdigest()[:12]}"
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "requirements.txt").write_text(pinned)
        # every C library since the one that Debian's interpreter asks for itself
        platforms = [f"manylinux_2_{minor}_{architecture.rpm}" for minor in range(35, 4, -1)]
        wanted = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirement", "requirements.txt"]
        wanted += [
            "--python-version",
            PYTHON,
            "--implementation",
            "cp",
            "--abi",
            "cp311",
            "--abi",
            "abi3",
            "--abi",
            "none",
        ]
        wanted += [f"--platform={platform}" for platform in [*platforms, f"manylinux2014_{architecture.rpm}", "any"]]
        if _digest(PIP_WHEEL) != PIP_SHA256:
            raise BuildError(f"{PIP_WHEEL} is not the vendored pip: restore it from version control.")
        pip = [
            sys.executable,
            str(PIP_WHEEL / "pip"),
            "download",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
        ]
        _run([*pip, *wanted], folder)
        (folder / "complete").touch()
    inputs = []
    for path in sorted(folder.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        inputs.append(Input(path, canonicalize_name(name), version, _digest(path)))
    if any(each.sha256 not in pinned for each in inputs) or {each.name for each in inputs} != names:
        raise BuildError(f"{folder} does not hold what requirements.lock names; remove it and build again.")
    return inputs


def client_distributions() -> set[str]:
    """The distributions that the client needs, with all that these need, on Linux with this Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(each for extra in EXTRAS for each in project["optional-dependencies"][extra])]
    found: set[str] = set()
    queue = [Requirement(text) for text in wanted]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        for text in metadata.requires(name) or []:
            deeper = Requirement(text)
            holds = deeper.marker is None or any(
                deeper.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
            )
            if holds and canonicalize_name(deeper.name) not in found:
                queue.append(deeper)
        found.add(name)
    return found


def _locked() -> Iterator[tuple[str, str]]:
    """Each distribution of the lock that Linux has, with its lines."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", LOCK.read_text()):
        pinned = _PINNED.match(block)
        if pinned is not None:
            yield canonicalize_name(pinned["name"]), block.rstrip("\n") + "\n"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _run(command: list[str], folder: Path) -> str:
    answer = subprocess.run(
        command, cwd=folder, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise BuildError(f"`{' '.join(command)}` failed:\n{answer.stdout}{answer.stderr}")
    return answer.stdout
