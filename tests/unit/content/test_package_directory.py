"""Scanning a package directory: every file, always in the same order, and a clear word about what cannot travel."""

import hashlib
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.content.package_directory import ScanProgress, hash_file, scan
from pcm.model.errors import RequestError
from pcm.model.package import PackageFile


def write(root: Path, path: str, content: bytes = b"x") -> Path:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return place


def refusal(root: Path) -> RequestError:
    with pytest.raises(RequestError) as caught:
        scan(root)
    return caught.value


def test_files_come_with_path_length_hash_and_executable_bit(tmp_path: Path) -> None:
    write(tmp_path, "setup.sh", b"#!/bin/sh\n").chmod(0o755)
    write(tmp_path, "data/empty", b"")
    write(tmp_path, "data/a b ü.txt", b"text")
    assert scan(tmp_path) == (
        PackageFile("data/a b ü.txt", 4, hashlib.sha256(b"text").hexdigest()),
        PackageFile("data/empty", 0, hashlib.sha256(b"").hexdigest()),
        PackageFile("setup.sh", 10, hashlib.sha256(b"#!/bin/sh\n").hexdigest(), executable=True),
    )


def test_package_yaml_describes_and_is_no_content_but_only_at_the_top(tmp_path: Path) -> None:
    write(tmp_path, "package.yaml")
    write(tmp_path, "deep/package.yaml")
    assert [file.path for file in scan(tmp_path)] == ["deep/package.yaml"]


@given(st.lists(st.sampled_from(["a", "b/c", "b/d", "e/f/g", "z-1", "Z2"]), unique=True, min_size=1), st.randoms())
def test_the_same_directory_always_gives_the_same_value(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], chance: Random
) -> None:
    first, second = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for path in paths:
        write(first, path, path.encode())
    for path in chance.sample(paths, len(paths)):
        write(second, path, path.encode())
    assert scan(first) == scan(second)
    assert [file.path for file in scan(first)] == sorted(paths)


def test_a_link_is_named_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "to").symlink_to("/etc/passwd")
    error = refusal(tmp_path)
    assert error.code == "request.link"
    assert f"{tmp_path}/to is a link" in error.message


def test_a_link_to_a_folder_is_not_walked_into(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    write(tmp_path, "outside/secret")
    (tmp_path / "package/folder").symlink_to(tmp_path / "outside")
    assert refusal(tmp_path / "package").code == "request.link"


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path).code == "request.file_kind"


@pytest.mark.parametrize("name", ["nul.txt", "a:b", "trailing.", "back\\slash", "tab\tname"])
def test_names_that_mean_something_else_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    assert refusal(tmp_path).code == "request.path"


def test_names_that_collide_elsewhere_are_a_matter_of_the_packages_platforms(tmp_path: Path) -> None:
    write(tmp_path, "Readme")
    write(tmp_path, "README")
    assert [file.path for file in scan(tmp_path)] == ["README", "Readme"]


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff\xfe")).write_bytes(b"x")
    assert refusal(tmp_path).code == "request.path"


def test_paths_of_400_characters_travel_and_longer_ones_do_not(tmp_path: Path) -> None:
    folder = "/".join(["d" * 99] * 3)
    write(tmp_path, f"{folder}/{'f' * 100}")
    assert len(scan(tmp_path)[0].path) == 400
    write(tmp_path, f"{folder}/{'g' * 101}")
    assert "400" in refusal(tmp_path).message


def test_a_directory_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").code == "not_found"
    write(tmp_path, "file")
    assert refusal(tmp_path / "file").code == "not_found"


def test_a_file_that_becomes_a_link_between_listing_and_reading_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "a")
    other = write(tmp_path, "b", b"1")
    later = write(tmp_path, "c", b"1")

    def replace(progress: ScanProgress) -> None:
        if progress.path == "b":
            later.unlink()
            later.symlink_to(other)

    with pytest.raises(RequestError) as caught:
        scan(tmp_path, replace)
    assert caught.value.code == "request.link"
    with pytest.raises(RequestError) as caught:  # and if it becomes one after it was looked at
        hash_file(tmp_path, "c")
    assert caught.value.code == "request.unreadable"


def test_progress_is_told_after_each_file(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path, f"f{number}", b"x" * number)
    told: list[ScanProgress] = []
    scan(tmp_path, told.append)
    assert told == [ScanProgress("f0", 1, 3, 0, 3), ScanProgress("f1", 2, 3, 1, 3), ScanProgress("f2", 3, 3, 3, 3)]


@pytest.mark.needs("root")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    place = write(tmp_path, "secret")
    place.chmod(0)
    tmp_path.chmod(0o755)
    for parent in [tmp_path, *tmp_path.parents][:-2]:  # all but /tmp and /
        parent.chmod(parent.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        error = refusal(tmp_path)
    finally:
        os.seteuid(0)
    assert error.code == "request.unreadable"
    assert "secret" in error.message


def test_large_files_are_hashed_side_by_side_and_come_in_order(tmp_path: Path) -> None:
    contents = {f"f{number}": Random(number).randbytes(2**20 * (number % 3) + number) for number in range(12)}
    for name, content in contents.items():
        write(tmp_path, name, content)
    told: list[ScanProgress] = []
    found = scan(tmp_path, told.append)
    assert [file.path for file in found] == sorted(contents)
    assert all(file.sha256 == hashlib.sha256(contents[file.path]).hexdigest() for file in found)
    assert [each.bytes_done for each in told] == sorted(each.bytes_done for each in told)
    assert told[-1].bytes_done == told[-1].bytes_total == sum(map(len, contents.values()))
    assert told[-1].files_done == told[-1].files_total == 12
