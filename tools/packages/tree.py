"""The environment that all packages of the client hold: an interpreter, its libraries, the wheels, and the client's own code.

It runs from wherever it lies, on any Linux with the C library of Debian 12 (2.36) or newer, and needs nothing else of the
computer but certificate authorities. Nothing of it depends on when, where or by whom it was made:

    bin/            python3.11, and the two launchers
    lib/            libraries that the interpreter looks for here alone; `start/`: what the launchers start
    lib/python3.11/ the standard library, pruned; `site-packages/`: wheels and `pcm`, without the site's half
    share/          the unit, what completes commands in shells, licences
    release.json    what this is, what it was made from, and every file's hash (`pcm.service.installation.release` reads it)

Modules are compiled beforehand, so that nothing is ever written here: `pcmsvc check` would name it.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from tools.bootstrap import ROOT
from tools.packages.inputs import PYTHON, Architecture, BuildError, Input, debian_inputs, here, wheel_inputs

PACKAGING = ROOT / "packaging"
LIBRARY = f"lib/python{PYTHON}"
CODE = ("app", "content", "model", "peers", "protocol", "service", "transport", "trust")  # the client's half of `pcm`
# of that half, what reads package directories: packagers do that
PACKAGERS = re.compile(r"protocol/(package_yaml|package_lint|detection_yaml|schema_files|yaml_\w+|admin\w*)\.py")
LAUNCHED = {"pcmsvc": "pcm.service.main", "pcmapp": "pcm.app.main"}
# whatever the computer has: the C library, and the compiler's own part of it
SYSTEMS = re.compile(r"(ld-linux.*|lib(c|m|dl|pthread|rt|util|gcc_s))\.so\.\d+$")
# parts of the standard library that the client never imports, by name or beginning
PRUNED = (
    "__phello__", "_crypt.", "_ctypes_test.", "_curses", "_dbm.", "_test", "_xx", "asyncio", "config-", "curses", "dbm",
    "distutils", "doctest.py", "ensurepip", "idlelib", "lib2to3", "nis.", "ossaudiodev.", "pdb.py", "pydoc", "readline.",
    "sitecustomize.py", "test", "tkinter", "turtle", "unittest", "venv", "wsgiref", "xmlrpc", "xxlimited",
)  # fmt: skip
_VERSION = re.compile(r'^AGENT_VERSION = "([^"]+)"$', re.MULTILINE)
_FACTS = "service/facts.py"


def source_version() -> str:
    """The version that this source says it is."""
    found = _VERSION.search((ROOT / "src" / "pcm" / _FACTS).read_text())
    if found is None:
        raise BuildError(f"src/pcm/{_FACTS} does not say its AGENT_VERSION.")
    return found[1]


def build_tree(tree: Path, version: str, architecture: Architecture, compiler: Path | None = None) -> None:
    """Make the environment in a folder that does not exist yet.

    Args:
        version: what it says it is.
        compiler: an interpreter of the same version that runs here; None: the tree's own.

    Raises:
        BuildError: an input cannot be had, or something in it is not as expected.
    """
    tree.mkdir(parents=True, mode=0o755)
    debian, wheels = debian_inputs(architecture), wheel_inputs(architecture)
    unpacked = tree.with_name(f"{tree.name}.unpacked")
    for each in debian:
        _run(["dpkg-deb", "--extract", str(each.path), str(unpacked)])
    _place_interpreter(tree, unpacked, architecture)
    _place_licences(tree, unpacked)
    shutil.rmtree(unpacked)
    packages = tree / LIBRARY / "site-packages"
    for each in wheels:
        _unpack_wheel(each.path, packages)
    _place_code(packages / "pcm", version)
    _place_launchers(tree)
    _place_completions(tree)
    _require_libraries(tree)
    _compile(tree, version, compiler)
    _normalise(tree)
    _describe(tree, version, architecture, [*debian, *wheels])


def _place_interpreter(tree: Path, unpacked: Path, architecture: Architecture) -> None:
    program = tree / "bin" / f"python{PYTHON}"
    program.parent.mkdir()
    shutil.copyfile(unpacked / "usr" / "bin" / program.name, program)
    program.chmod(0o755)
    # DT_RPATH of the program counts for every library that it loads, and for those that they load
    _run(["patchelf", "--force-rpath", "--set-rpath", "$ORIGIN/../lib", str(program)])
    source = unpacked / "usr" / LIBRARY
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if path.is_symlink() or not path.is_file() or any(part.startswith(PRUNED) for part in inside.parts):
            continue  # Debian's only links lead to /etc, and belong to its own python3
        target = tree / LIBRARY / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    places = [unpacked / top / architecture.triplet for top in ("usr/lib", "lib")]
    for library in sorted(path for place in places for path in place.glob("*.so.*")):
        if library.is_symlink() or re.fullmatch(r".*\.so\.\d+", library.name):
            name = _run(["patchelf", "--print-soname", str(library)]).strip()
            if name == library.name:
                shutil.copyfile(library, tree / "lib" / name)


def _place_licences(tree: Path, unpacked: Path) -> None:
    licences = tree / "share" / "licences"
    licences.mkdir(parents=True)
    shutil.copyfile(ROOT / "LICENSE", licences / "pcm")
    for path in sorted((unpacked / "usr" / "share" / "doc").glob("*/copyright")):
        if path.is_file():
            shutil.copyfile(path, licences / path.parent.name)


def _unpack_wheel(wheel: Path, packages: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(("/", ".pyi", ".c", ".h")) or ".data/" in name or "/tests/" in name:
                continue
            if name.startswith("zstandard/_cffi."):
                continue  # 12 MB for other Pythons than this one
            target = (packages / name).resolve()
            if not target.is_relative_to(packages.resolve()):
                raise BuildError(f"{wheel.name} would write outside of its folder: {name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))


def _place_code(target: Path, version: str) -> None:
    source = ROOT / "src" / "pcm"
    for path in [source / "__init__.py", *(file for part in CODE for file in sorted((source / part).rglob("*.py")))]:
        if PACKAGERS.fullmatch(str(path.relative_to(source))):
            continue
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    facts = target / _FACTS
    facts.write_text(_VERSION.sub(f'AGENT_VERSION = "{version}"', facts.read_text()))


def _place_launchers(tree: Path) -> None:
    (tree / "lib" / "start").mkdir()
    for name, module in LAUNCHED.items():
        launcher = (PACKAGING / "launch.sh").read_text().replace("@NAME@", name)
        (tree / "bin" / name).write_text(launcher)
        start = (PACKAGING / "start.py.in").read_text().replace("@MODULE@", module)
        (tree / "lib" / "start" / f"{name}.py").write_text(start)
    shutil.copyfile(PACKAGING / "systemd" / "pcmsvc.service", tree / "share" / "pcmsvc.service")


def _place_completions(tree: Path) -> None:
    """As the commands of this very source print them; the tree's own interpreter may be of another architecture."""
    folder = tree / "share" / "completions"
    folder.mkdir()
    for name, module in LAUNCHED.items():
        for shell in ("bash", "zsh", "fish"):
            text = _run([sys.executable, "-B", "-m", module, "completion", shell], {"PYTHONPATH": str(ROOT / "src")})
            (folder / f"{name}.{shell}").write_text(text)


def _require_libraries(tree: Path) -> None:
    """Refuse a tree in which something needs a library that is neither here nor every computer's."""
    present = {path.name for path in (tree / "lib").glob("*.so.*")}
    lacking: dict[str, str] = {}
    used: set[str] = set()
    for path in sorted(tree.rglob("*")):
        if path.is_file() and _is_elf(path):
            for needed in _run(["patchelf", "--print-needed", str(path)]).split():
                used.add(needed)
                bundled = next(path.parent.parent.glob(f"*.libs/{needed}"), None)  # of a wheel, beside its package
                if not SYSTEMS.match(needed) and needed not in present and bundled is None:
                    lacking[str(path.relative_to(tree))] = needed
    for unused in present - used:
        (tree / "lib" / unused).unlink()
    if lacking:
        raise BuildError(f"These need a library that is not in the tree: {lacking}. Add it, or prune what needs it.")


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _compile(tree: Path, version: str, compiler: Path | None) -> None:
    # in one process, one order, and with one order of sets: all of these decide over the bytes that are written
    command = [str(compiler or tree / "bin" / f"python{PYTHON}"), "-B", "-s", "-S", "-m", "compileall", "-q", "-f"]
    command += ["--invalidation-mode", "unchecked-hash", "-s", str(tree), "-p", f"/opt/pcm/versions/{version}"]
    _run([*command, str(tree / "lib")], {"PYTHONHASHSEED": "0"})


def _normalise(tree: Path) -> None:
    for path in tree.rglob("*"):
        if path.is_symlink():
            raise BuildError(f"{path} is a link; a tree holds files and folders only.")
        executable = path.is_dir() or path.parent == tree / "bin"
        path.chmod(0o755 if executable else 0o644)
    tree.chmod(0o755)


def _describe(tree: Path, version: str, architecture: Architecture, inputs: Iterable[Input]) -> None:
    files = [
        {
            "path": str(path.relative_to(tree)),
            "length": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "executable": bool(path.stat().st_mode & 0o100),
        }
        for path in sorted(tree.rglob("*"))
        if path.is_file()
    ]
    described = {
        "type": "pcm.release",
        "spec": "1.0",
        "version": version,
        "platform": f"linux-{architecture.name}",
        "made_from": [{"name": each.name, "version": each.version, "sha256": each.sha256} for each in inputs],
        "files": files,
    }
    target = tree / "release.json"
    target.write_text(json.dumps(described, indent=0, sort_keys=True) + "\n")
    target.chmod(0o644)


def interpreter_for_here(folder: Path) -> Path:
    """An interpreter that runs on this machine, to compile modules for another architecture with."""
    unpacked = folder / "compiler"
    if not unpacked.exists():
        for each in debian_inputs(here()):
            _run(["dpkg-deb", "--extract", str(each.path), str(unpacked)])
    return unpacked / "usr" / "bin" / f"python{PYTHON}"


def _run(command: list[str], more: dict[str, str] | None = None) -> str:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **(more or {})}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise BuildError(f"`{' '.join(command)}` failed:\n{answer.stdout}{answer.stderr}")
    return answer.stdout
