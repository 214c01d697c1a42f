"""Step 8: the package directory is made of exactly the signed bytes, in a place that only administrators can write to."""

import dataclasses
import errno
import hashlib
import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.model.errors import MachineError, PcmError, RequestError, StoreError, TrustError
from pcm.model.package import PackageFile
from pcm.service.machine.posix.beneath import Opener, open_by_components, open_by_kernel
from pcm.service.machine.posix.staging import StagingDirectory, remove_staging

RUN = "ab" * 16


def described(path: str, content: bytes, *, executable: bool = False) -> PackageFile:
    return PackageFile(path, len(content), hashlib.sha256(content).hexdigest(), executable)


@pytest.fixture(params=[open_by_kernel, open_by_components])
def opener(request: pytest.FixtureRequest) -> Opener:
    made: Opener = request.param
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def staging(root: Path, opener: Opener) -> Iterator[StagingDirectory]:
    with StagingDirectory.create(root, RUN, opener=opener) as made:
        yield made


def test_files_arrive_with_their_bytes_and_bits(staging: StagingDirectory) -> None:
    setup, data = described("setup", b"#!/bin/sh\n", executable=True), described("a/b/c.dat", b"x" * 3_000_000)
    staging.add(setup, [b"#!/bin", b"", b"/sh\n"])
    staging.add(data, [b"x" * 1_000_000] * 3)
    staging.verify([setup, data])
    assert (staging.path / "setup").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((staging.path / "setup").stat().st_mode) == 0o700
    assert stat.S_IMODE((staging.path / "a/b/c.dat").stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in (staging.path, staging.path / "a", staging.path / "a/b")} == {
        0o700
    }


def test_a_umask_changes_nothing(root: Path) -> None:
    old = os.umask(0)
    try:
        with StagingDirectory.create(root, RUN) as staging:
            staging.add(described("a/f", b"x"), [b"x"])
            assert stat.S_IMODE((staging.path / "a").stat().st_mode) == 0o700
            assert stat.S_IMODE((staging.path / "a/f").stat().st_mode) == 0o600
    finally:
        os.umask(old)


@pytest.mark.parametrize(
    ("chunks", "code"),
    [
        ([b"right bytez"], "trust.wrong_content"),
        ([b"right"], "trust.wrong_content"),
        ([], "trust.wrong_content"),
        ([b"right bytes", b"!"], "trust.endless_data"),
    ],
)
def test_other_bytes_than_the_signed_ones_leave_nothing(
    staging: StagingDirectory, chunks: list[bytes], code: str
) -> None:
    with pytest.raises(TrustError) as refused:
        staging.add(described("setup", b"right bytes"), chunks)
    assert refused.value.code == code
    assert list(staging.path.iterdir()) == []


def test_endless_bytes_are_cut_off(staging: StagingDirectory) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    with pytest.raises(TrustError) as refused:
        staging.add(described("setup", b"x" * 100_000), endless())
    assert refused.value.code == "trust.endless_data"
    assert list(staging.path.iterdir()) == []


def test_a_source_that_fails_leaves_nothing(staging: StagingDirectory) -> None:
    def failing() -> Iterator[bytes]:
        yield b"half"
        raise StoreError("the store is damaged")

    with pytest.raises(StoreError):
        staging.add(described("setup", b"half and half"), failing())
    assert list(staging.path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "a//b", "", ".", "a/./b", "a\\b", "c:x", "a\0b", "nul", "x. "]
)
def test_paths_that_leave_or_lie_are_refused(staging: StagingDirectory, path: str) -> None:
    with pytest.raises((RequestError, MachineError)):
        staging.add(described(path, b"x"), [b"x"])
    assert list(staging.path.iterdir()) == []


@pytest.mark.parametrize("run_id", ["..", ".", "", "a/b", "/tmp"])
def test_a_run_id_is_one_name(root: Path, run_id: str) -> None:
    with pytest.raises(MachineError):
        StagingDirectory.create(root, run_id)
    with pytest.raises(MachineError):
        remove_staging(root, run_id)


@pytest.mark.parametrize("trap", ["link", "dangling", "fifo", "file", "folder", "hard link"])
def test_whatever_is_in_the_way_is_not_written_through(staging: StagingDirectory, tmp_path: Path, trap: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    place = staging.path / "setup"
    match trap:
        case "link":
            place.symlink_to(victim)
        case "dangling":
            place.symlink_to(tmp_path / "made by the link")
        case "fifo":
            os.mkfifo(place)
        case "file":
            place.write_bytes(b"other")
        case "folder":
            place.mkdir()
        case "hard link":
            place.hardlink_to(victim)
    with pytest.raises(MachineError) as refused:
        staging.add(described("setup", b"evil"), [b"evil"])
    assert refused.value.code == "machine.staging_exists"
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "made by the link").exists()


def test_a_folder_swapped_for_a_link_is_not_followed(staging: StagingDirectory, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    staging.add(described("bin/one", b"x"), [b"x"])
    (staging.path / "bin").rename(staging.path / "gone")
    (staging.path / "bin").symlink_to(outside)
    with pytest.raises(MachineError) as refused:
        staging.add(described("bin/two", b"x"), [b"x"])
    assert refused.value.code == "machine.staging_exists"
    assert list(outside.iterdir()) == []


def test_a_race_of_folder_and_link_never_writes_outside(root: Path, opener: Opener, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with StagingDirectory.create(root, RUN, opener=opener) as staging:
        staging.add(described("bin/first", b"x"), [b"x"])
        stop = threading.Event()
        folder, link, aside = staging.path / "bin", staging.path / "link", staging.path / "aside"

        def swap() -> None:
            while not stop.is_set():
                link.symlink_to(outside)
                folder.rename(aside)
                link.rename(folder)
                folder.unlink()
                aside.rename(folder)

        racer = threading.Thread(target=swap)
        racer.start()
        written = refused = number = 0
        end = time.monotonic() + 20
        try:
            while (number < 400 or not (written and refused)) and time.monotonic() < end:
                number += 1
                try:
                    staging.add(described(f"bin/f{number}", b"x"), [b"x"])
                    written += 1
                except PcmError:
                    refused += 1
        finally:
            stop.set()
            racer.join()
    assert list(outside.iterdir()) == []
    assert min(written, refused) > 0, "the race was not close enough to prove anything"


def test_a_second_staging_of_one_run_is_refused(root: Path, staging: StagingDirectory) -> None:
    with pytest.raises(MachineError) as refused:
        StagingDirectory.create(root, RUN)
    assert refused.value.code == "machine.staging_exists"


def test_an_ancestor_that_others_can_write_to_is_refused(root: Path) -> None:
    root.parent.chmod(0o777)
    with pytest.raises(MachineError, match="chmod go-w") as refused:
        StagingDirectory.create(root, RUN)
    assert refused.value.code == "machine.unprotected"
    assert list(root.iterdir()) == []


def test_an_ancestor_that_is_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    with pytest.raises(MachineError) as refused:
        StagingDirectory.create(tmp_path / "alias", RUN)
    assert refused.value.code == "machine.unprotected"


@pytest.mark.needs("root")
def test_a_file_system_that_runs_nothing_is_refused(root: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,mode=700", "none", str(root)], check=True)
    try:
        with pytest.raises(MachineError) as refused:
            StagingDirectory.create(root, RUN)
        assert refused.value.code == "machine.noexec"
    finally:
        subprocess.run(["umount", str(root)], check=True)


@pytest.mark.needs("root")
def test_q137610_a_full_disk_is_told_and_leaves_no_half_file(root: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(root)], check=True)
    try:
        with StagingDirectory.create(root, RUN) as staging:
            with pytest.raises(StoreError) as refused:
                staging.add(described("big", b"x" * 4_000_000), [b"x" * 500_000] * 8)
            assert refused.value.code == "store.full"
            assert list(staging.path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(root)], check=True)


CHANGES = {
    "bytes": "printf '#!/bin/sH\\n' >setup",
    "longer": "echo 'rm -rf /' >>setup",
    "missing": "rm setup",
    "added": "touch planted.so",
    "added below": "touch lib/planted.so",
    "added link": "ln -s /etc/passwd lib/link",
    "bit": "chmod 600 setup",
    "writable": "chmod 722 setup",
    "second name": "ln setup ../second",
    "link": "mv setup ../x && ln -s ../x setup",
    "folder link": "mv lib ../y && ln -s ../y lib",
    "fifo": "rm setup && mkfifo setup",
    "folder": "rm setup && mkdir setup",
}


@pytest.mark.parametrize("how", CHANGES)
def test_the_file_that_was_hashed_is_the_file_that_runs(staging: StagingDirectory, how: str) -> None:
    files = [described("setup", b"#!/bin/sh\n", executable=True), described("lib/data", b"data")]
    staging.add(files[0], [b"#!/bin/sh\n"])
    staging.add(files[1], [b"data"])
    staging.verify(files)
    subprocess.run(["/bin/sh", "-c", CHANGES[how]], cwd=staging.path, check=True)
    with pytest.raises(TrustError) as refused:
        staging.verify(files)
    assert refused.value.code == "trust.staging_changed"


def test_a_staging_directory_swapped_for_another_is_not_looked_at(staging: StagingDirectory) -> None:
    file = described("setup", b"good")
    staging.add(file, [b"good"])
    staging.path.rename(staging.path.with_name("aside"))
    staging.path.mkdir()
    (staging.path / "setup").write_bytes(b"evil")
    staging.verify([file])  # the held folder, wherever it is called now


def with_another_hash(file: PackageFile) -> PackageFile:
    return PackageFile(file.path, file.length, "0" * 64, file.executable)


@pytest.mark.needs("users")
def test_the_one_reader_reads_and_runs_and_never_writes(root: Path) -> None:
    file = described("bin/setup", b"#!/bin/sh\necho hello\n", executable=True)
    for folder in (root, *root.parents):
        if folder not in {Path("/tmp"), Path("/")}:
            folder.chmod(0o711)
    with StagingDirectory.create(root, RUN, reader=65534) as staging:
        staging.add(file, [b"#!/bin/sh\necho hello\n"])
        staging.verify([file])

        def as_nobody(script: str) -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(
                ["/bin/sh", "-c", script],
                user=65534,
                group=65534,
                extra_groups=[],
                capture_output=True,
                check=False,
                cwd="/",
            )

        assert as_nobody(f"{staging.path}/bin/setup").stdout == b"hello\n"
        for script in ("echo x >>bin/setup", "rm -f bin/setup", "touch bin/new", "mv bin away", "chmod 777 bin"):
            assert as_nobody(f"cd {staging.path} && {script}").returncode != 0, script
        staging.verify([file])


def test_without_the_kernels_help_the_errors_are_the_same(root: Path) -> None:
    """Both openers name a link on the way as such."""
    (root / "link").symlink_to("/etc")
    folder = os.open(root, os.O_RDONLY)
    try:
        for opener in (open_by_kernel, open_by_components):
            with pytest.raises(OSError) as refused:
                opener(folder, ("link", "passwd"), os.O_RDONLY)
            assert refused.value.errno in {errno.ELOOP, errno.ENOTDIR}
            with pytest.raises(OSError) as refused:
                opener(folder, ("link",), os.O_RDONLY)
            assert refused.value.errno == errno.ELOOP
    finally:
        os.close(folder)


def test_staging_takes_any_description_of_a_file(staging: StagingDirectory) -> None:
    @dataclasses.dataclass
    class Plain:
        path: str
        length: int
        sha256: str
        executable: bool

    staging.add(Plain("x", 1, hashlib.sha256(b"x").hexdigest(), False), [b"x"])
