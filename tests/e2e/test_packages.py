"""The client's packages as files: the same bytes wherever they are built, and nothing in them that does not belong there."""

import hashlib
import json
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from pcm.cli.setup_file import read_setup
from pcm.service.installation.release import read_release, tree_problems
from tests.e2e.client_packages import NEWER, Built
from tools.packages.tree import source_version

pytestmark = [pytest.mark.needs("packages"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def unpacked(client_packages: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .deb's files."""
    folder = tmp_path_factory.mktemp("deb")
    subprocess.run(["dpkg-deb", "--raw-extract", client_packages.deb(), folder], check=True)
    return folder


@pytest.fixture(scope="module")
def tree(client_packages: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The setup's tree."""
    folder = tmp_path_factory.mktemp("setup")
    setup = read_setup(client_packages.setup().read_bytes(), "setup")
    with tarfile.open(fileobj=BytesIO(setup.archive)) as archive:
        archive.extractall(folder, filter="tar")
    return folder / "tree"


def test_two_folders_give_the_same_bytes(client_packages: Built) -> None:
    def digests(folder: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}

    first, second = digests(client_packages.first), digests(client_packages.second)
    assert sorted(Path(name).suffix for name in first) == [".deb", ".rpm", ".run"]
    assert first == second


def test_each_package_says_what_it_is_and_what_it_needs(client_packages: Built) -> None:
    version = source_version()
    shown = subprocess.run(
        ["dpkg-deb", "--field", client_packages.deb()], capture_output=True, text=True, check=True
    ).stdout
    assert f"\nVersion: {version}\n" in shown
    assert "\nDepends: libc6 (>= 2.36), libgcc-s1, systemd (>= 250)\n" in shown
    query = [
        "rpm",
        "--query",
        "--package",
        "--queryformat",
        "%{NAME} %{VERSION} [%{REQUIRENAME} ]",
        str(client_packages.rpm()),
    ]
    told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    assert told.startswith(f"pcm-client {version} ")
    assert "libc.so.6(GLIBC_2.36)(64bit)" in told
    assert " systemd " in told
    assert read_setup(client_packages.newer_setup().read_bytes(), "setup").version == NEWER


def test_q181118_q191328_every_file_is_roots_and_nobody_else_may_write_it(client_packages: Built) -> None:
    listed = subprocess.run(
        ["dpkg-deb", "--contents", client_packages.deb()], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(listed) > 1000
    for line in listed:
        mode, owner, *_ = line.split()
        assert owner == "root/root"
        assert mode[0] in "-dl"
        assert mode[0] == "l" or (mode[5], mode[8]) == ("-", "-"), line
        assert "s" not in mode.lower()
    query = [
        "rpm",
        "--query",
        "--package",
        "--queryformat",
        "[%{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEMODES:perms} %{FILENAMES}\n]",
    ]
    for line in subprocess.run(
        [*query, client_packages.rpm()], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        owner, mode, _ = line.split(maxsplit=2)
        assert owner == "root:root"
        assert mode[0] == "l" or (mode[5], mode[8]) == ("-", "-"), line


def test_all_three_hold_one_tree_which_is_what_it_says(unpacked: Path, tree: Path, client_packages: Built) -> None:
    packaged = unpacked / "opt" / "pcm" / "package"
    release = read_release(tree)
    assert release == read_release(packaged)
    assert (release.version, release.platform.split("-")[0]) == (source_version(), "linux")
    assert tree_problems(tree, release) == []
    assert tree_problems(packaged, release) == []
    in_rpm = subprocess.run(
        ["rpm", "--query", "--package", "--list", client_packages.rpm()], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    assert {f"/opt/pcm/package/{file.path}" for file in release.files} <= set(in_rpm)


def test_shells_find_what_completes_the_commands_where_each_distribution_keeps_it(
    unpacked: Path, tree: Path, client_packages: Built
) -> None:
    shared = {
        *(f"/usr/share/bash-completion/completions/{name}" for name in ("pcmsvc", "pcmapp")),
        *(f"/usr/share/fish/vendor_completions.d/{name}.fish" for name in ("pcmsvc", "pcmapp")),
    }
    debian = shared | {f"/usr/share/zsh/vendor-completions/_{name}" for name in ("pcmsvc", "pcmapp")}
    for path in debian:
        leads_to = (unpacked / path.lstrip("/")).readlink()
        assert (tree / leads_to.relative_to("/opt/pcm/current")).is_file()
    in_rpm = subprocess.run(
        ["rpm", "--query", "--package", "--list", client_packages.rpm()], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    assert shared | {f"/usr/share/zsh/site-functions/_{name}" for name in ("pcmsvc", "pcmapp")} <= set(in_rpm)
    for name, typed in (("pcmsvc", "ledg"), ("pcmapp", "postp")):
        for shell in ("bash", "zsh", "fish"):
            made = tree / "share" / "completions" / f"{name}.{shell}"
            printed = subprocess.run(
                [tree / "bin" / name, "completion", shell], capture_output=True, text=True, check=True
            ).stdout
            assert made.read_text() == printed
        asked = f'COMP_WORDS=({name} {typed}); COMP_CWORD=1; _{name}; echo "${{COMPREPLY[@]}}"'
        loaded = f"source {tree}/share/completions/{name}.bash; {asked}"
        done = subprocess.run(["bash", "-c", loaded], check=True, capture_output=True, text=True)
        assert done.stdout.strip().startswith(typed)


def test_it_holds_the_client_and_nothing_of_the_site(tree: Path) -> None:
    described = json.loads((tree / "release.json").read_text())
    made_from = {each["name"] for each in described["made_from"]}
    assert {"python3.11-minimal", "libssl3", "cryptography", "tuf", "msgspec"} <= made_from
    assert made_from & {"sqlalchemy", "starlette", "click", "httpx", "rich", "pytest", "mypy"} == set()
    code = tree / "lib" / "python3.11" / "site-packages" / "pcm"
    assert {path.name for path in code.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        "app", "content", "model", "peers", "protocol", "service", "transport", "trust",
    }  # fmt: skip
    licences = {path.name for path in (tree / "share" / "licences").iterdir()}
    assert {"pcm", "python3.11-minimal", "libssl3", "zlib1g"} <= licences


def test_every_module_of_the_client_loads_from_its_own_tree_alone(tree: Path) -> None:
    code = """
import importlib, pathlib, sys
tree = pathlib.Path(sys.argv[1])
top = tree / "lib" / "python3.11"
sys.path[:] = [str(top), str(top / "lib-dynload"), str(top / "site-packages")]
for path in sorted((top / "site-packages" / "pcm").rglob("*.py")):
    name = ".".join(path.relative_to(top / "site-packages").with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(name)
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())} - {None}
print([file for file in files if not file.startswith(str(tree))])
maps = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
print(sorted(pathlib.Path(path).name.split(".so")[0] for path in maps if not path.startswith(str(tree))))
"""
    python = tree / "bin" / "python3.11"
    answer = subprocess.run(
        [python, "-I", "-S", "-B", "-c", code, tree], capture_output=True, text=True, check=False, env={}
    )
    assert answer.returncode == 0, answer.stderr
    files, libraries = answer.stdout.splitlines()
    assert files == "[]"
    systems = {"ld-linux-x86-64", "libc", "libm", "libgcc_s", "libdl", "libpthread", "librt", "libutil"}
    assert set(json.loads(libraries.replace("'", '"'))) <= systems


def test_it_runs_from_wherever_it_lies_and_writes_nothing_into_itself(tree: Path) -> None:
    release = read_release(tree)
    for name in ("pcmsvc", "pcmapp"):
        answer = subprocess.run([tree / "bin" / name, "--help"], capture_output=True, text=True, check=True, env={})
        assert answer.stdout.startswith(f"usage: {name}")
    assert tree_problems(tree, release) == []


def test_scripts_of_packages_are_good_shell() -> None:
    root = Path(__file__).resolve().parents[2] / "packaging"
    scripts = [root / "launch.sh", root / "setup" / "head.sh", *(root / "debian").glob("p*")]
    assert len(scripts) == 5
    for script in scripts:
        subprocess.run(["sh", "-n", script], check=True)
        assert script.read_text().startswith("#!/bin/sh\n")
