"""Disks that fill up while content comes, packages without files, paths of 400 characters: one clear error or none, nothing by halves."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.content.assembly import Wanted, bring, missing_files
from pcm.content.client_store import ClientStore
from pcm.content.package_directory import scan
from pcm.distribution.folder import DistributionFolder
from pcm.distribution.publish import StoreUploader, upload_missing
from pcm.model.errors import StoreError
from pcm.service.machine.here import this_machine
from tests.content_sources import Sources, honest, listing_of, objects_of

CONTENTS = {f"file{number}": bytes([number + 1]) * 700_000 + bytes(range(256)) * 1000 for number in range(6)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for what the service leaves free and a little more."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80m,mode=0700", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.needs("root")
def test_q184169_q193766_a_disk_that_fills_up_meanwhile_is_one_clear_error_and_nothing_is_half_there(
    disk: Path,
) -> None:
    store, files = ClientStore(disk / "store"), listing_of(CONTENTS, "1").files
    sources = Sources(objects_of(CONTENTS), a=honest)
    filler = disk / "filler"

    def fill(_source: str, _count: int) -> None:
        if len(sources.asked) >= 3 and not filler.exists():
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(65536))

    sources.on_bytes = fill
    with pytest.raises(StoreError) as caught:
        bring(Wanted(files), store, ["a"], sources)
    assert caught.value.code == "store.disk_full"
    assert "room" in caught.value.message or "free" in caught.value.message
    assert missing_files(files, store)
    for held in store.list():
        assert b"".join(store.read(held.sha256, held.length))
    assert not list(store.root.glob("*/.incoming-*"))
    filler.unlink()
    sources.on_bytes = lambda _source, _count: None
    bring(Wanted(files), store, ["a"], sources)
    assert missing_files(files, store) == []


@pytest.mark.needs("root")
def test_q139590_a_disk_without_room_is_told_before_anything_travels(disk: Path) -> None:
    store, files = ClientStore(disk / "store"), listing_of(CONTENTS, "1").files
    (disk / "filler").write_bytes(bytes(14_000_000))
    sources = Sources(objects_of(CONTENTS), a=honest)
    with pytest.raises(StoreError) as caught:
        bring(Wanted(files), store, ["a"], sources)
    assert caught.value.code == "store.disk_full"
    assert sources.asked == []
    lack = int(caught.value.message.split("free another ")[1].split(".")[0])
    (disk / "filler").write_bytes(bytes(14_000_000 - lack - 4096))
    bring(Wanted(files), store, ["a"], sources)
    assert missing_files(files, store) == []


def test_q139589_a_package_without_files_needs_no_server_and_no_room(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    brought = bring(Wanted((), listing_of({}, "1"), staging_bytes=1 << 60), store, [], Sources({}))
    assert (brought.files, brought.bytes, brought.complaints) == (0, 0, ())
    empty = listing_of({"only": b""}, "2")
    assert bring(Wanted(empty.files, empty), store, [], Sources({})).files == 1


def test_q182419_a_path_of_400_characters_arrives_and_is_staged(tmp_path: Path) -> None:
    path = "/".join(["deep" * 12] * 8)[:390] + "/setup"
    source = tmp_path / "package" / path
    source.parent.mkdir(parents=True)
    source.write_bytes(b"#!/bin/sh\nexit 0\n")
    files = scan(tmp_path / "package")
    assert 390 < len(files[0].path) <= 400
    folder = DistributionFolder(tmp_path / "server")
    upload_missing(tmp_path / "package", files, StoreUploader(folder.objects))
    holds = {str(each.relative_to(folder.root)): each.read_bytes() for each in folder.root.rglob("*.zst")}
    store = ClientStore(tmp_path / "store")
    bring(Wanted(files), store, ["a"], Sources(holds, a=honest))
    staging = tmp_path / "staging"
    staging.mkdir(mode=0o700)
    staged = this_machine().stage(staging, "ab" * 16)
    try:
        staged.add(files[0], store.read(files[0].sha256, files[0].length))
        assert (staged.path / files[0].path).read_bytes() == b"#!/bin/sh\nexit 0\n"
    finally:
        staged.close()
