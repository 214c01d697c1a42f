"""Names and paths: what may appear in files, URLs and command lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import RequestError
from pcm.model.names import check_name, check_platform, instruction_id, platform_fits
from pcm.model.paths import check_paths, check_relative_path

BAD_PATHS = [
    ("", "empty"),
    ("/etc/passwd", "absolute"),
    ("a//b", "component ''"),
    ("a/../b", "component '..'"),
    ("..", "component '..'"),
    ("./a", "component '.'"),
    ("a/", "component ''"),
    ("a\\b", "character '\\\\'"),
    ("C:/windows", "character ':'"),
    ("a\0b", "character '\\x00'"),
    ("a\nb", "character '\\n'"),
    ("a\u202eb", "character '\\u202e'"),
    ("name.", "dot or a space"),
    ("name ", "dot or a space"),
    ("nul", "reserved"),
    ("sub/CON.txt", "reserved"),
    ("com1.tar.gz", "reserved"),
    ("LPT¹", "reserved"),
    ("aux .txt", "reserved"),
    ("e\u0301", "normalisation form C"),
    ("x" * 401, "longer than 400"),
    ("é" * 128, "longer than 255 bytes"),
    ("a\ud800", "valid Unicode"),
    ('quo"te', "character"),
]


@pytest.mark.parametrize(("path", "why"), BAD_PATHS)
def test_a_bad_path_is_refused_with_its_reason(path: str, why: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_relative_path(path)
    assert caught.value.code == "request.path"
    assert why in caught.value.message


@pytest.mark.parametrize(
    "path", ["a", "a/b c/d.txt", ".hidden", "deep/" * 60 + "end", "console", "ünïcode/日本語.txt", "x" * 255]
)
def test_a_good_path_passes(path: str) -> None:
    assert check_relative_path(path) == path


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (["Read.me", "README", "read.ME"], "same file"),
        (["a", "a"], "same file"),
        (["straße", "STRASSE"], "same file"),
        (["bin", "bin/tool"], "a file and"),
        (["bin/tool", "BIN"], "a file and"),
        (["Lib/a", "lib/b"], "same folder"),
    ],
)
def test_paths_that_collide_on_windows_are_refused(paths: list[str], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        check_paths(paths)


def test_software_for_linux_alone_may_tell_upper_and_lower_case_apart() -> None:
    check_paths(["net/xt_DSCP.ko", "net/xt_dscp.ko", "Lib/a", "lib/b"], folding=False)


@pytest.mark.parametrize("paths", [["a", "a"], ["bin", "bin/tool"], ["../a"], ["a/con"]])
def test_everything_else_is_refused_there_too(paths: list[str]) -> None:
    with pytest.raises(RequestError):
        check_paths(paths, folding=False)


def test_one_hundred_thousand_paths_in_a_tree_pass() -> None:
    check_paths(f"d{i % 100}/e{i % 1000}/f{i}" for i in range(20_000))


@given(st.text(max_size=60))
def test_whatever_passes_stays_below_the_package_directory(path: str) -> None:
    try:
        check_relative_path(path)
    except RequestError:
        return
    assert not path.startswith("/")
    assert "\\" not in path
    assert ":" not in path
    assert "\0" not in path
    assert all(part not in {"", ".", ".."} for part in path.split("/"))


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("package", "seven-zip", "Seven Zip"),
        ("package", "lib.a+b", "a..b"),
        ("package", "x", "x."),
        ("version", "24.08~rc1", "1/2"),
        ("version", "1.10", "../1"),
        ("version", "A_b", ""),
        ("client", "0123456789abcdef" * 2, "0123456789ABCDEF" * 2),
        ("job", "j0123456789", "x0123456789"),
        ("program", "install", "Install"),
        ("team", "desktop-team", "a/b"),
        ("site", "hq.example", "-x"),
        ("sha256", "0" * 64, "0" * 63),
    ],
)
def test_names(kind: str, good: str, bad: str) -> None:
    assert check_name(kind, good) == good
    with pytest.raises(RequestError) as caught:
        check_name(kind, bad)
    assert caught.value.code == "request.name"
    assert "expected" in caught.value.message


def test_a_newline_at_the_end_is_not_overlooked() -> None:
    for kind, text in (("package", "tree\n"), ("version", "1\n"), ("client", "0" * 32 + "\n")):
        with pytest.raises(RequestError):
            check_name(kind, text)


def test_platforms() -> None:
    assert check_platform("linux-any") == "linux-any"
    assert platform_fits("linux-any", "linux-arm64")
    assert platform_fits("windows-x86_64", "windows-x86_64")
    assert not platform_fits("windows-x86_64", "windows-arm64")
    assert not platform_fits("linux-any", "windows-x86_64")
    with pytest.raises(RequestError):
        check_platform("alpha-nt")


def test_an_instruction_id_names_job_and_client() -> None:
    assert instruction_id("j0123456789", "0f1e2d3c4b5a69788796a5b4c3d2e1f0") == "j0123456789.0f1e2d3c4b5a"
