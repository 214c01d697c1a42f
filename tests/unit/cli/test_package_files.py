"""`pcm package new`, `lint` and `create` on real folders: each finding, each refusal, and a draft that never varies."""

import json
import os
from pathlib import Path

import pytest

from pcm.model.package import PackageFile
from pcm.protocol.package_lint import Finding, lint_package
from pcm.protocol.package_yaml import read_package_yaml
from tests.unit.cli.conftest import Pcm

GOOD = """name: jq
version: "1.7"
platforms: [linux-any]
programs:
  install:
    command: [dpkg, -i, jq.deb]
    detect: {dpkg: jq}
  uninstall:
    command: [dpkg, -r, jq]
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "jq"
    folder.mkdir()
    (folder / "package.yaml").write_text(GOOD)
    (folder / "jq.deb").write_bytes(b"not really")
    return folder


def findings(text: str, *files: str, executable: bool = False) -> list[Finding]:
    found = tuple(PackageFile(path, 1, "ab" * 32, executable=executable) for path in files)
    return lint_package(read_package_yaml(text.encode()), found)


def rules(text: str, *files: str, executable: bool = False) -> set[tuple[str, str]]:
    return {(finding.level, finding.rule) for finding in findings(text, *files, executable=executable)}


def with_command(command: str, more: str = "") -> str:
    return GOOD.replace("command: [dpkg, -i, jq.deb]", f"command: {command}{more}")


def test_a_good_package_has_no_findings(pcm: Pcm, package: Path) -> None:
    answer = pcm("package", "lint", package)
    assert answer.code == 0
    assert "1 file, 2 programs, no findings" in answer.out


@pytest.mark.parametrize(
    ("command", "files", "expected"),
    [
        ("[dpkg, -i, jq.deb]", (), ("error", "missing-file")),
        ("[dpkg, -i, ./sub/jq.deb]", ("jq.deb",), ("error", "missing-file")),
        ("[./setup.sh]", (), ("error", "missing-file")),
        ("[./setup.sh]", ("setup.sh",), ("error", "not-executable")),
        ("[msiexec.exe, /i, x.msi]", ("x.msi",), ("warning", "interactive")),
        ("[apt-get, install, jq]", (), ("warning", "interactive")),
        ("[setup.exe]", ("setup.exe",), ("warning", "interactive")),
        ("[sh, -c, 'a && b']", (), ("warning", "shell")),
        ("[/bin/bash, -lc, x]", (), ("warning", "shell")),
        ("[powershell.exe, -Command, x]", (), ("warning", "shell")),
        ("[cmd.exe, /c, x]", (), ("warning", "shell")),
        ("[dpkg, -i, '/a;b']", (), ("warning", "shell-characters")),
        ("[dpkg, -i, '$HOME/x']", (), ("warning", "shell-characters")),
        ("[dpkg, -i, '%TEMP%']", (), ("warning", "shell-characters")),
        ("[dpkg, -i, '>', log]", (), ("warning", "shell-characters")),
    ],
)
def test_lint_sees(command: str, files: tuple[str, ...], expected: tuple[str, str]) -> None:
    assert rules(with_command(command), *files) == {expected}


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("[dpkg, -i, ./jq.deb]", ("jq.deb",)),
        ("[dpkg, -i, /var/cache/x.deb]", ()),
        ("['C:\\Windows\\System32\\msiexec.exe', /i, x.msi, /qn]", ("x.msi",)),
        ("[apt-get, install, -y, jq]", ()),
        ("[setup.exe, /S]", ("setup.exe",)),
        ("[sh, ./go.sh]", ("go.sh",)),
    ],
)
def test_lint_lets_pass(command: str, files: tuple[str, ...]) -> None:
    assert rules(with_command(command), *files, executable=True) == set()


def test_lint_sees_what_is_absent() -> None:
    assert rules(GOOD.replace("    detect: {dpkg: jq}\n", ""), "jq.deb") == {("warning", "no-detection")}
    assert rules(GOOD.partition("  uninstall")[0], "jq.deb") == {("warning", "no-uninstall")}
    assert rules("parameters: {A: {enum: [a]}}\n" + GOOD, "jq.deb") == {("warning", "unused-parameter")}
    assert rules(with_command("[dpkg, -i, jq.deb]", "\n    working_directory: sub"), "jq.deb") == {
        ("error", "missing-file")
    }


HEALTH = "\n    health: {file: /usr/bin/jq}"
BACK = "  back:\n    command: [dpkg, -i, jq.deb]\n    detect: {dpkg: jq}\n"


def test_lint_sees_a_health_check_without_a_way_back() -> None:
    assert rules(with_command("[dpkg, -i, jq.deb]", HEALTH), "jq.deb") == {("warning", "no-return")}
    assert rules(with_command("[dpkg, -i, jq.deb]", f"{HEALTH}\n    rollback_to: back") + BACK, "jq.deb") == set()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("jq", set()),
        ("jq-helper.py", set()),
        ("systemd", {("error", "blocking-system")}),
        ("gnome-shell", {("error", "blocking-system")}),
        ("python3.11", {("warning", "blocking-interpreter")}),
        ("java", {("warning", "blocking-interpreter")}),
    ],
)
def test_lint_sees_what_is_never_only_in_the_way_of_one_package(name: str, expected: set[tuple[str, str]]) -> None:
    text = with_command("[dpkg, -i, jq.deb]", f"\n    blocking_processes: [{name}]")
    assert rules(text, "jq.deb") == expected
    places = {finding.key for finding in findings(text, "jq.deb")}
    assert places == ({"programs.install.blocking_processes[0]"} if expected else set())


@pytest.mark.parametrize(("account", "fits"), [("system", False), ("user", True), ("each_user", True)])
def test_lint_sees_windows_where_there_is_no_screen(account: str, fits: bool) -> None:
    text = with_command("[dpkg, -i, jq.deb]", f"\n    run_as: {account}\n    interaction: allowed")
    assert rules(text, "jq.deb") == (set() if fits else {("error", "system-window")})


def test_what_may_show_windows_may_ask_questions() -> None:
    silent = with_command("[apt, install, jq]", "\n    run_as: user")
    assert rules(silent, "jq.deb") >= {("warning", "interactive")}
    shown = with_command("[apt, install, jq]", "\n    run_as: user\n    interaction: allowed")
    assert ("warning", "interactive") not in rules(shown, "jq.deb")


def test_lint_looks_into_the_working_directory() -> None:
    text = with_command("[./setup]", "\n    working_directory: bin")
    assert rules(text, "bin/setup", executable=True) == set()
    assert rules(text, "setup", "bin/x", executable=True) == {("error", "missing-file")}


def test_findings_lead_to_their_line() -> None:
    (finding,) = findings(with_command("[dpkg, -i, JQ.deb]"), "jq.deb")
    assert str(finding).startswith(
        "package.yaml:6:25: error: programs.install.command[2]: JQ.deb is not in the package"
    )
    assert "there is jq.deb" in finding.message


def test_strict_takes_warnings_for_errors(pcm: Pcm, package: Path) -> None:
    (package / "package.yaml").write_text(GOOD.partition("  uninstall")[0])
    assert pcm("package", "lint", package).code == 0
    strict = pcm("package", "lint", package, "--strict")
    assert strict.code == 1
    assert "no-uninstall" in strict.out


def test_all_mistakes_come_with_file_line_and_key(pcm: Pcm, package: Path) -> None:
    (package / "package.yaml").write_text(GOOD.replace("command", "comand").replace('"1.7"', "1..7"))
    for verb in ("lint", "create"):
        answer = pcm("package", verb, package)
        assert answer.code == 1
        assert f"{package}/package.yaml:2:10: version" in answer.err
        assert answer.err.count("did you mean 'command'?") == 2


def test_mistakes_for_programs_are_a_list(pcm: Pcm, package: Path) -> None:
    (package / "package.yaml").write_text(GOOD.replace("command", "comand"))
    problems = json.loads(pcm("package", "lint", package, "--json").err)["error"]["problems"]
    assert [(problem["line"], problem["key"]) for problem in problems] == [
        (6, "programs.install"),
        (9, "programs.uninstall"),
    ]


def test_a_folder_without_a_description_says_how_to_get_one(pcm: Pcm, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    answer = pcm("package", "lint", empty)
    assert answer.code == 3
    assert f"pcm package new {empty}" in answer.err
    assert pcm("package", "lint", tmp_path / "nowhere").code == 3


@pytest.mark.parametrize("name", ["aux.txt", "a:b", "trailing. "])
def test_names_that_windows_could_not_hold_are_refused(pcm: Pcm, package: Path, name: str) -> None:
    (package / name).write_bytes(b"x")
    answer = pcm("package", "create", package)
    assert answer.code == 1
    assert "request.path" in answer.err


def test_links_and_devices_are_refused(pcm: Pcm, package: Path) -> None:
    (package / "link").symlink_to("jq.deb")
    assert "request.link" in pcm("package", "create", package).err
    (package / "link").unlink()
    os.mkfifo(package / "pipe")
    assert "request.file_kind" in pcm("package", "create", package).err


def test_names_that_differ_in_case_only_are_refused(pcm: Pcm, package: Path) -> None:
    (package / "JQ.deb").write_bytes(b"x")
    assert pcm("package", "create", package).code == 0  # for Linux alone
    (package / "package.yaml").write_text(GOOD.replace("[linux-any]", "[linux-any, windows-any]"))
    assert "the same file on Windows" in pcm("package", "create", package).err


def test_the_draft_is_the_same_every_time(pcm: Pcm, package: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert pcm("package", "create", package, "--draft", one).code == 0
    os.utime(package / "jq.deb")
    answer = pcm("package", "create", package, "--draft", two)
    assert one.read_bytes() == two.read_bytes()
    assert json.loads(one.read_text())["files"][0]["path"] == "jq.deb"
    assert "counted when published" in answer.out


def test_a_draft_does_not_become_a_part_of_the_package(pcm: Pcm, package: Path) -> None:
    answer = pcm("package", "create", package, "--draft", package / "manifest.json")
    assert answer.code == 1
    assert not (package / "manifest.json").exists()


@pytest.mark.parametrize(
    ("installer", "name", "version"),
    [
        ("jq_1.7.1-3_amd64.deb", "jq", "1.7.1-3"),
        ("tree-2.1.0.rpm", "tree", "2.1.0"),
        ("7z2408-x64.msi", "7z2408-x64", "1.0"),
        (None, "tools", "1.0"),
    ],
)
def test_a_new_description_fits_the_installer(
    pcm: Pcm, tmp_path: Path, installer: str | None, name: str, version: str
) -> None:
    folder = tmp_path / "tools"
    if installer:
        folder.mkdir()
        (folder / installer).write_bytes(b"x")
    assert pcm("package", "new", folder).code == 0
    package = read_package_yaml((folder / "package.yaml").read_bytes()).package
    assert (package.package, package.version) == (name, version)
    if installer:
        assert pcm("package", "lint", folder).code == 0


def test_a_new_description_never_overwrites_one(pcm: Pcm, package: Path) -> None:
    answer = pcm("package", "new", package)
    assert answer.code == 1
    assert (package / "package.yaml").read_text() == GOOD


@pytest.mark.parametrize("options", [("--name", "A B"), ("--version", "x y"), ("--platform", "amiga")])
def test_a_new_description_refuses_bad_names(pcm: Pcm, tmp_path: Path, options: tuple[str, str]) -> None:
    assert pcm("package", "new", tmp_path / "x", *options).code == 1
    assert not (tmp_path / "x").exists()
