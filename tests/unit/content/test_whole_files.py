"""Files that are there whole or not at all, however they replace each other."""

from pathlib import Path

import pytest

from pcm.content import whole_files
from pcm.content.whole_files import write_unnamed, write_whole
from pcm.model.errors import StoreError

both = pytest.mark.parametrize("durable", [True, False], ids=["durable", "made again"])


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@both
def test_a_new_file_replaces_the_old_one_and_nothing_else_stays(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "folder" / "timestamp.json"
    for content in (b"old", b"", b"new and longer"):
        write_whole(path, content, mode=0o640, durable=durable)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o640
        assert names(path.parent) == ["timestamp.json"]


@both
def test_whoever_has_the_old_file_open_reads_it_to_its_end(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "timestamp.json"
    write_whole(path, b"old" * 1000, durable=durable)
    with path.open("rb") as reading:
        assert reading.read(3) == b"old"
        write_whole(path, b"new", durable=durable)
        assert reading.read() == b"old" * 999
    assert path.read_bytes() == b"new"


def test_where_names_cannot_be_swapped_one_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def refuse(_a: int, source: bytes, *_rest: object) -> int:
        asked.append(source)
        return -1

    monkeypatch.setattr(whole_files, "_rename_at", refuse)
    for content in (b"old", b"new"):
        write_whole(tmp_path / "timestamp.json", content, durable=False)
        assert (tmp_path / "timestamp.json").read_bytes() == content
    assert len(asked) == 2
    assert names(tmp_path) == ["timestamp.json"]


@both
def test_a_folder_in_the_way_is_told_and_nothing_is_left(tmp_path: Path, durable: bool) -> None:
    (tmp_path / "timestamp.json").mkdir()
    (tmp_path / "timestamp.json" / "inside").touch()
    with pytest.raises(StoreError):
        write_whole(tmp_path / "timestamp.json", b"x", durable=durable)
    assert (tmp_path / "timestamp.json" / "inside").exists()
    assert names(tmp_path) == ["timestamp.json"]


def test_what_an_interrupted_writer_left_under_a_name_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "5.snapshot.json").write_bytes(b"ha")
    write_unnamed(tmp_path / "5.snapshot.json", b"half and whole", durable=False)
    assert (tmp_path / "5.snapshot.json").read_bytes() == b"half and whole"
    assert names(tmp_path) == ["5.snapshot.json"]
