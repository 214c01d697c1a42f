"""Step 11: what is installed, told by looking; what cannot be told is never an answer (KB Q190135)."""

import hashlib
import itertools
import os
import subprocess
from pathlib import Path

import pytest

from pcm.model.detection import (
    AllOf,
    AnyOf,
    CommandDetection,
    Detection,
    DpkgDetection,
    FileDetection,
    MsiDetection,
    Not,
    RegistryDetection,
    RpmDetection,
)
from pcm.model.errors import MachineError
from pcm.service.machine.detection import Look, detect
from pcm.service.machine.linux.tree import TreeProcesses
from pcm.service.machine.package_database import dpkg_versions
from pcm.service.machine.version_order import compare_debian

WINDOWS = RegistryDetection("HKLM\\Software\\X", "Version")


@pytest.fixture
def look(tmp_path: Path) -> Look:
    package = tmp_path / "package"
    package.mkdir()
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o700)
    installed = {"editor": ["1:2.0-3"], "twice": ["1.0", "3.0"]}
    return Look(TreeProcesses(), runs, package, limit_s=5, dpkg_versions=lambda name: installed.get(name, []))


def there(tmp_path: Path, content: bytes = b"x") -> FileDetection:
    (tmp_path / "there").write_bytes(content)
    return FileDetection(str(tmp_path / "there"))


def absent(tmp_path: Path) -> FileDetection:
    return FileDetection(str(tmp_path / "absent"))


def test_a_file_is_there_or_not(look: Look, tmp_path: Path) -> None:
    assert detect(there(tmp_path), look).found
    assert not detect(absent(tmp_path), look).found
    assert not detect(FileDetection(str(tmp_path / "there" / "below")), look).found
    assert detect(FileDetection(str(tmp_path)), look).found, "folders count"


def test_a_files_bytes_are_compared(look: Look, tmp_path: Path) -> None:
    path = there(tmp_path, b"right").path
    assert detect(FileDetection(path, hashlib.sha256(b"right").hexdigest()), look).found
    other = detect(FileDetection(path, hashlib.sha256(b"wrong").hexdigest()), look)
    assert not other.found
    assert "other bytes" in other.detail


def test_a_fifo_or_folder_does_not_hold_up_hashing(look: Look, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        assert not detect(FileDetection(str(tmp_path / name), "0" * 64), look).found


def test_no_file_is_hashed_for_ever(look: Look, tmp_path: Path) -> None:
    """A user's file may be terabytes long and take no space; the service can do nothing else meanwhile."""
    endless = there(tmp_path)
    os.truncate(endless.path, 1 << 43)
    with pytest.raises(MachineError) as caught:
        detect(FileDetection(endless.path, "0" * 64), look._replace(hash_limit_s=0.2))
    assert caught.value.code == "machine.detection"


def test_a_relative_file_is_an_error(look: Look) -> None:
    with pytest.raises(MachineError):
        detect(FileDetection("etc/passwd"), look)


@pytest.mark.parametrize(
    ("package", "constraint", "found", "version"),
    [
        ("editor", None, True, "1:2.0-3"),
        ("editor", ">= 1:2.0", True, "1:2.0-3"),
        ("editor", "> 9.9", True, "1:2.0-3"),
        ("editor", "= 1:2.0-3", True, "1:2.0-3"),
        ("editor", "< 1:2.0", False, "1:2.0-3"),
        ("twice", ">= 2.0", True, "3.0"),
        ("nosuch", None, False, None),
    ],
)
def test_debian_packages_by_version(
    look: Look, package: str, constraint: str | None, found: bool, version: str | None
) -> None:
    answer = detect(DpkgDetection(package, constraint), look)
    assert (answer.found, answer.version, answer.applicable) == (found, version, True)


@pytest.mark.parametrize(
    ("script", "when", "found"),
    [
        ("exit 0", "exit_zero", True),
        ("exit 1", "exit_zero", False),
        ("exit 1", "exit_nonzero", True),
        ("exit 0", "exit_nonzero", False),
    ],
)
def test_a_command_answers_by_its_exit_code(look: Look, script: str, when: str, found: bool) -> None:
    answer = detect(CommandDetection(["sh", "-c", script], when), look)  # type: ignore[arg-type]
    assert answer.found == found
    assert [each.name for each in look.runs.iterdir() if not each.name.startswith(".spare")] == [], (
        "nothing of it stays"
    )


def test_a_command_is_looked_for_in_the_package_first(look: Look) -> None:
    assert look.package_directory is not None
    own = look.package_directory / "check"
    own.write_text("#!/bin/sh\nexit 0\n")
    own.chmod(0o755)
    assert detect(CommandDetection(["./check"], "exit_zero"), look).found


@pytest.mark.parametrize("when", ["exit_zero", "exit_nonzero"])
def test_a_command_that_is_not_there_means_not_installed(look: Look, when: str) -> None:
    answer = detect(CommandDetection(["no-such-command"], when), look)  # type: ignore[arg-type]
    assert not answer.found
    assert "no-such-command" in answer.detail


@pytest.mark.parametrize("script", ["kill -9 $$", "sleep 60"])
def test_q190135_a_command_without_an_answer_is_never_one(look: Look, script: str) -> None:
    short = look._replace(limit_s=0.3)
    for detection in (
        CommandDetection(["sh", "-c", script], "exit_nonzero"),
        Not(CommandDetection(["sh", "-c", script], "exit_zero")),
    ):
        with pytest.raises(MachineError) as unknown:
            detect(detection, short)
        assert unknown.value.code == "machine.detection"
    assert [each.name for each in look.runs.iterdir() if not each.name.startswith(".spare")] == []


@pytest.mark.parametrize(
    "detection", [WINDOWS, MsiDetection(product_code="{1}"), Not(WINDOWS), AnyOf([WINDOWS]), AllOf([WINDOWS])]
)
def test_windows_kinds_are_not_applicable_here(look: Look, detection: Detection) -> None:
    answer = detect(detection, look)
    assert (answer.found, answer.applicable) == (False, False)
    assert "Windows" in answer.detail


def test_rpm_is_asked_where_it_is_and_not_applicable_elsewhere(look: Look) -> None:
    answer = detect(RpmDetection("no-such-package-of-that-name"), look)
    assert not answer.found
    assert answer.applicable == any(Path(folder, "rpm").exists() for folder in ("/usr/bin", "/bin"))


SPEC = """\
Name: pcm-test
Epoch: 2
Version: {}
Release: 3
Summary: One file
License: MIT
BuildArch: noarch
%description
One file.
%install
mkdir -p %{{buildroot}}/opt/pcm-test && echo 1 > %{{buildroot}}/opt/pcm-test/file-{}
%files
/opt/pcm-test/file-{}
"""


def install_rpm(folder: Path, *versions: str) -> tuple[str, ...]:
    """Build real RPM packages and install them into a database of their own; returns how rpm is called to ask it."""
    rpm = ("rpm", "--dbpath", str(folder / "db"))
    for version in versions:
        spec = folder / "test.spec"
        spec.write_text(SPEC.format(version, version, version))
        subprocess.run(["rpmbuild", "-bb", "--define", f"_topdir {folder}/top", spec], check=True, capture_output=True)
        [made] = (folder / "top" / "RPMS").rglob(f"*-{version}-3*.rpm")
        # only what the database says matters here; the files stay away from this machine
        subprocess.run([*rpm, "--install", "--justdb", "--nodeps", "--force", made], check=True, capture_output=True)
    return rpm


@pytest.mark.needs("rpm")
def test_a_real_rpm_package_is_found_with_its_epoch_version_and_release(look: Look, tmp_path: Path) -> None:
    rpm = install_rpm(tmp_path, "1.2")
    asked = look._replace(rpm=rpm)
    answer = detect(RpmDetection("pcm-test"), asked)
    assert (answer.found, answer.version) == (True, "2:1.2-3")
    fits = {">= 2:1.2": True, ">= 2:1.2-3": True, "> 2:1.2-3": False, ">= 2:1.10": False, "< 3:0": True, ">= 1.9": True}
    assert {constraint: detect(RpmDetection("pcm-test", constraint), asked).found for constraint in fits} == fits
    assert not detect(RpmDetection("pcm-tes"), asked).found
    assert detect(Not(RpmDetection("other")), asked).found
    subprocess.run([*rpm, "--erase", "--justdb", "pcm-test"], check=True)
    assert not detect(RpmDetection("pcm-test"), asked).found


@pytest.mark.needs("rpm")
def test_of_several_installed_versions_one_that_fits_is_enough(look: Look, tmp_path: Path) -> None:
    asked = look._replace(rpm=install_rpm(tmp_path, "1.2", "1.10"))
    assert detect(RpmDetection("pcm-test", "= 2:1.2-3"), asked).found
    assert detect(RpmDetection("pcm-test", "= 2:1.10-3"), asked).found
    assert not detect(RpmDetection("pcm-test", "> 2:1.10-3"), asked).found


@pytest.mark.needs("rpm")
def test_q190135_an_rpm_database_that_cannot_be_read_is_no_answer(look: Look, tmp_path: Path) -> None:
    rpm = install_rpm(tmp_path, "1.2")
    for file in (tmp_path / "db").iterdir():
        file.write_bytes(b"damaged" * 1000)
    with pytest.raises(MachineError) as untold:
        detect(RpmDetection("pcm-test"), look._replace(rpm=rpm))
    assert untold.value.code == "machine.detection"


def test_all_any_and_not_combine_three_answers(look: Look, tmp_path: Path) -> None:
    kinds: dict[str, Detection] = {"yes": there(tmp_path), "no": absent(tmp_path), "none": WINDOWS}
    for first, second in itertools.product(kinds, repeat=2):
        pair = [kinds[first], kinds[second]]
        every = detect(AllOf(pair), look)
        assert every.found == (first == second == "yes")
        some = detect(AnyOf(pair), look)
        assert some.found == ("yes" in (first, second))
        assert some.applicable == ((first, second) != ("none", "none"))
        assert detect(Not(AnyOf(pair)), look).found == (some.applicable and not some.found)


def test_no_more_is_looked_at_than_needed(look: Look, tmp_path: Path) -> None:
    mark = CommandDetection(["touch", str(tmp_path / "ran")], "exit_zero")
    detect(AnyOf([there(tmp_path), mark]), look)
    detect(AllOf([absent(tmp_path), mark]), look)
    assert not (tmp_path / "ran").exists()
    detect(AllOf([there(tmp_path), mark]), look)
    assert (tmp_path / "ran").exists()


def test_endless_nesting_is_refused(look: Look, tmp_path: Path) -> None:
    nested: Detection = there(tmp_path)
    for _ in range(50):
        nested = Not(nested)
    with pytest.raises(MachineError):
        detect(nested, look)


@pytest.mark.skipif(not Path("/usr/bin/dpkg").exists(), reason="needs dpkg")
def test_our_order_of_versions_is_dpkgs() -> None:
    texts = [
        "1.0",
        "1.0-1",
        "1.0~rc1",
        "1.0a",
        "1.0+b",
        "0",
        "1",
        "1.",
        "01",
        "1:0",
        "1.0-0",
        "1.0-0~",
        "1.0-~",
        "1.0.0",
        "10",
        "9",
        "1.0-1~bpo",
        "1a2b",
        "1-a",
        "1.0~~a",
        "2~0-1",
    ]
    script = "for a in $0; do for b in $0; do dpkg --compare-versions $a lt $b && echo '<' || { dpkg --compare-versions $a eq $b && echo '=' || echo '>'; }; done; done"
    answer = subprocess.run(["/bin/sh", "-c", script, " ".join(texts)], capture_output=True, text=True, check=True)
    orders = {"<": -1, "=": 0, ">": 1}
    theirs = dict(zip(itertools.product(texts, repeat=2), map(orders.__getitem__, answer.stdout.split()), strict=True))
    ours = {pair: compare_debian(*pair) for pair in theirs}
    assert {pair: (ours[pair], theirs[pair]) for pair in theirs if ours[pair] != theirs[pair]} == {}


@pytest.mark.skipif(not Path("/var/lib/dpkg/status").exists(), reason="needs a Debian system")
def test_our_reading_of_the_database_is_dpkgs() -> None:
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${binary:Package} ${db:Status-Status} ${Version}\n"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in listed.stdout.splitlines()[:150]:
        package, status, *version = line.split(" ")
        assert dpkg_versions(package) == (version if status == "installed" else [])
