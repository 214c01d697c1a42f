"""The look-up rule and the environment rule (kb-regressions, section D)."""

import os
from pathlib import Path

import pytest

from pcm.model.errors import MachineError
from pcm.service.machine.commands import (
    SEARCH_PATH,
    check_environment,
    compose_environment,
    is_startable,
    resolve_program,
)
from pcm.service.machine.interface import Account, Launch


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return program(tmp_path / "package" / "bin" / "setup").parents[1]


@pytest.fixture
def path(tmp_path: Path) -> tuple[str, ...]:
    program(tmp_path / "first" / "tool")
    program(tmp_path / "second" / "tool")
    program(tmp_path / "second" / "other")
    return (str(tmp_path / "first"), str(tmp_path / "second"))


def refused(argv0: str, package: Path, path: tuple[str, ...] = ()) -> str:
    with pytest.raises(MachineError) as error:
        resolve_program(argv0, package, path)
    return error.value.code


def test_q160566_a_relative_path_is_looked_for_in_the_package_directory(package: Path, path: tuple[str, ...]) -> None:
    assert resolve_program("bin/setup", package, path) == package / "bin/setup"
    assert resolve_program("./bin/setup", package, path) == package / "bin/setup"


def test_q193224_the_package_comes_before_the_search_path(package: Path, path: tuple[str, ...]) -> None:
    program(package / "tool")
    assert resolve_program("tool", package, path) == package / "tool"
    assert resolve_program("other", package, path) == Path(path[1]) / "other"


def test_q168341_a_bare_name_is_found_in_the_order_of_the_search_path(package: Path, path: tuple[str, ...]) -> None:
    assert resolve_program("tool", package, path) == Path(path[0]) / "tool"
    (Path(path[0]) / "tool").chmod(0o644)
    assert resolve_program("tool", package, path) == Path(path[1]) / "tool"


def test_q195937_an_absolute_path_is_itself(package: Path, tmp_path: Path) -> None:
    elsewhere = program(tmp_path / "elsewhere" / "tool")
    assert resolve_program(str(elsewhere), package) == elsewhere


def test_q152423_neither_the_current_directory_nor_the_environment_matters(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "here" / "planted")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", str(tmp_path / "here"))
    for name in ("planted", "./planted", "here/planted"):
        assert refused(name, package, SEARCH_PATH) == "machine.program_not_found"


@pytest.mark.parametrize(
    "argv0", ["", "\0", "a\0b", "../setup", "bin/../../setup", "bin//setup", "bin/", "none", "bin/none"]
)
def test_what_leaves_the_package_or_is_nowhere_is_refused(package: Path, path: tuple[str, ...], argv0: str) -> None:
    program(package.parent / "setup")
    assert refused(argv0, package, path) == "machine.program_not_found"


def test_a_relative_path_is_never_searched_elsewhere(package: Path, tmp_path: Path) -> None:
    program(tmp_path / "first" / "sub" / "tool")
    assert refused("sub/tool", package, (str(tmp_path / "first"),)) == "machine.program_not_found"


def test_what_is_in_the_package_but_cannot_run_is_told_and_not_replaced(package: Path, path: tuple[str, ...]) -> None:
    program(package / "tool", mode=0o644)
    assert refused("tool", package, path) == "machine.not_executable"
    assert refused("bin", package, path) == "machine.not_executable"


def test_the_message_names_where_was_looked(package: Path, path: tuple[str, ...]) -> None:
    with pytest.raises(MachineError) as error:
        resolve_program("nosuch", package, path)
    for place in (str(package), *path):
        assert place in error.value.message


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "LD_AUDIT", "PCM_RUN_ID", "PCM_ANYTHING", "PATH", "HOME", "USER", "SHELL"]
)
def test_names_of_the_service_and_of_the_loader_are_refused(name: str) -> None:
    with pytest.raises(MachineError, match=name):
        check_environment({"FINE": "x", name: "y"})


@pytest.mark.parametrize("name", ["", "A-B", "1A", "A=B", "Ä", "A\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(MachineError):
        check_environment({name: "x"})


@pytest.mark.parametrize("value", ["\0", "a\x1b[0m", "\r"])
def test_control_characters_are_refused(value: str) -> None:
    with pytest.raises(MachineError):
        check_environment({"NAME": value})


def test_the_environment_is_built_from_empty() -> None:
    launch = Launch(
        "ab" * 8,
        ("/bin/true",),
        Path("/"),
        Path("/r/output"),
        1,
        environment={"LANG": "de_DE.UTF-8", "X": "1"},
        context={"PCM_JOB": "j"},
    )
    account = Account(12, 12, "games", "/usr/games", "/bin/sh")
    assert compose_environment(launch, account, "/private") == {
        "PATH": ":".join(SEARCH_PATH),
        "HOME": "/usr/games",
        "USER": "games",
        "LOGNAME": "games",
        "SHELL": "/bin/sh",
        "LANG": "de_DE.UTF-8",
        "TMPDIR": "/private",
        "X": "1",
        "PCM_JOB": "j",
        "PCM_RUN_ID": "ab" * 8,
    }
    assert os.environ.get("PCM_RUN_ID") is None


@pytest.mark.parametrize("name", ["JOB", "PCM_RUN_ID"])
def test_context_cannot_pose_as_something_else(name: str) -> None:
    launch = Launch("ab" * 8, ("/bin/true",), Path("/"), Path("/r/output"), 1, context={name: "x"})
    with pytest.raises(MachineError, match=name):
        compose_environment(launch, Account(1, 1), "/t")


@pytest.mark.parametrize(
    ("content", "mode", "startable"),
    [
        (b"\x7fELF...", 0o755, True),
        (b"\x7fELF...", 0o644, False),
        (b"#!/bin/sh\n", 0o755, True),
        (b"#! /bin/sh -e\necho", 0o755, True),
        (b"#!/nowhere/sh\n", 0o755, False),
        (b"#!\n", 0o755, False),
        (b"MZ", 0o755, False),
        (b"", 0o755, False),
    ],
)
def test_what_the_kernel_would_start(tmp_path: Path, content: bytes, mode: int, startable: bool) -> None:
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "file").chmod(mode)
    assert is_startable(tmp_path / "file") == startable
    assert not is_startable(tmp_path / "none")
