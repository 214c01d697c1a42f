"""What was hashed before is not read again, and never taken for something else."""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.content import package_directory
from pcm.content.package_directory import Mark, ScanProgress, scan
from pcm.distribution.scan_memory import HashedFiles


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    for name in ("changed", "kept"):
        (folder / name).write_bytes(name.encode() * 100)
    time.sleep(2.1)  # what was written to just now is not remembered
    return folder


@pytest.fixture
def memory(tmp_path: Path, package: Path) -> Iterator[HashedFiles]:
    with HashedFiles(tmp_path / "memory", package) as opened:
        yield opened


def read_again(package: Path, memory: HashedFiles, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files a scan reads."""
    read: list[str] = []
    original = package_directory.hash_file

    def noting(directory: Path, path: str, *further: object) -> object:
        read.append(path)
        return original(directory, path, *further)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(package_directory, "hash_file", noting)
        scan(package, memory=memory)
    return read


def test_only_what_anything_changed_about_is_read_again(
    package: Path, memory: HashedFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scan(package, memory=memory)
    assert read_again(package, memory, monkeypatch) == []
    changed = package / "changed"
    before = changed.stat()
    changed.write_bytes(b"x" * before.st_size)  # the same length
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # and the old time, as programs can set it
    assert read_again(package, memory, monkeypatch) == ["changed"]
    second = scan(package, memory=memory)
    assert second[1] == first[1]
    assert second[0].sha256 == hashlib.sha256(b"x" * before.st_size).hexdigest()
    (package / "kept").chmod(0o755)  # the bit is not a part of what is remembered
    assert scan(package, memory=memory)[1].executable


def test_a_file_that_was_written_to_just_now_is_not_remembered(
    package: Path, memory: HashedFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "fresh").write_bytes(b"fresh")
    scan(package, memory=memory)
    assert read_again(package, memory, monkeypatch) == ["fresh"]


def test_another_directory_has_a_memory_of_its_own(tmp_path: Path, package: Path, memory: HashedFiles) -> None:
    scan(package, memory=memory)
    status = (package / "kept").stat()
    mark = Mark(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    assert memory.find("kept", mark) is not None
    with HashedFiles(tmp_path / "memory", tmp_path / "other") as other:
        assert other.find("kept", mark) is None
    assert memory.find("kept", mark._replace(inode=mark.inode + 1)) is None


@pytest.mark.parametrize("damage", [b"", b"no database", bytes(4096)])
def test_a_damaged_memory_is_an_empty_one(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    with HashedFiles(tmp_path / "memory", package) as memory:
        scan(package, memory=memory)
    [file] = (tmp_path / "memory").glob("*.hashes")
    file.write_bytes(damage)
    with HashedFiles(tmp_path / "memory", package) as memory:
        assert sorted(read_again(package, memory, monkeypatch)) == ["changed", "kept"]
        assert read_again(package, memory, monkeypatch) == []


def test_a_memory_that_cannot_be_had_is_none(tmp_path: Path, package: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    told: list[ScanProgress] = []
    with HashedFiles(tmp_path / "file" / "memory", package) as memory:
        assert len(scan(package, told.append, memory)) == 2
    assert told[-1].files_done == 2


def test_what_was_done_before_a_kill_is_not_done_again(tmp_path: Path, package: Path) -> None:
    """The process dies in the middle: what it had committed by then counts for the next one."""
    child = os.fork()
    if child == 0:
        memory = HashedFiles(tmp_path / "memory", package).__enter__()
        memory._committed = 0.0  # a second is over
        scan(package, memory=memory)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    [file] = (tmp_path / "memory").glob("*.hashes")
    with sqlite3.connect(file) as connection:
        assert connection.execute("select count(*) from hashed").fetchone()[0] >= 1
