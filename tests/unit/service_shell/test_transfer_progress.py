"""How far content has come: written whole, read whole, and of no consequence if it cannot be."""

from pathlib import Path

import pytest

from pcm.content.carrying import FetchProgress
from pcm.service import transfer_progress
from pcm.service.transfer_progress import TransferProgress
from tests.unit.service_engine.making import instruction, manifest

WANTED = manifest(instruction())
HALF = FetchProgress(0, 1, 50, 100, 10.0, 5.0)


def test_what_was_written_last_is_read_and_says_whose_it_is(tmp_path: Path) -> None:
    progress = TransferProgress(tmp_path, WANTED.files)
    assert transfer_progress.read(tmp_path) is None
    assert transfer_progress.stamp(tmp_path) == 0
    progress(HALF)
    first = transfer_progress.stamp(tmp_path)
    snapshot = transfer_progress.read(tmp_path)
    assert snapshot is not None
    assert (snapshot.done, snapshot.total, snapshot.rate, snapshot.left_s) == (50, 100, 10.0, 5.0)
    assert snapshot.fits(WANTED)
    assert not snapshot.fits(manifest(instruction(), files=()))
    progress(HALF._replace(bytes_done=100))
    assert transfer_progress.stamp(tmp_path) >= first
    progress.end()
    progress.end()
    assert transfer_progress.read(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_it_is_for_the_service_alone(tmp_path: Path) -> None:
    TransferProgress(tmp_path, WANTED.files)(HALF)
    assert (tmp_path / transfer_progress.NAME).stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    progress = TransferProgress(tmp_path / "gone", ())
    progress(HALF)
    progress.end()
    transfer_progress.forget(tmp_path / "gone")


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b'{"first":1}', b"\xff" * 9000])
def test_what_makes_no_sense_is_nothing(tmp_path: Path, left: bytes) -> None:
    (tmp_path / transfer_progress.NAME).write_bytes(left)
    assert transfer_progress.read(tmp_path) is None


def test_no_link_is_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".progress.new").symlink_to(victim)
    TransferProgress(tmp_path, WANTED.files)(HALF)
    assert victim.read_text() == "mine"
