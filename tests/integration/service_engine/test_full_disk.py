"""A disk that is really full, under the database: clear error, nothing half-done, and all is well once there is room."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pcm.model.errors import StoreError
from pcm.service.state import State

pytestmark = pytest.mark.needs("root")
NOW = datetime(2026, 3, 4, tzinfo=UTC)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0755", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take every byte that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


def store_much(state: State) -> None:
    with state.transaction() as connection:
        connection.executemany("INSERT INTO manifests VALUES (?, ?)", [(str(n), b"x" * 9000) for n in range(50)])


def test_q137610_a_full_disk_is_named_and_nothing_is_half_done(small_disk: Path) -> None:
    with State.open(small_disk / "var", NOW) as state:
        state.set_meta("before", "1")
        filler = fill(small_disk)
        with pytest.raises(StoreError) as caught:
            store_much(state)
        assert caught.value.code == "store.disk_full"
        assert (state.meta("before"), state.rows("SELECT count(*) FROM manifests")) == ("1", [(0,)])
        filler.unlink()
        store_much(state)
        assert state.rows("SELECT count(*) FROM manifests") == [(50,)]


def test_q137610_a_first_start_on_a_full_disk_is_no_damage(small_disk: Path) -> None:
    filler = fill(small_disk)
    with pytest.raises(StoreError) as caught:
        State.open(small_disk / "var", NOW)
    assert caught.value.code == "store.disk_full"
    filler.unlink()
    with State.open(small_disk / "var", NOW) as state:
        assert (state.rebuilt, state.refusals()) == ("", [])
        state.set_meta("works", "1")
