"""Part files: gone on with where they end, bounded, swept, and nothing in their place is followed."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.content.parts import UNUSED_S, Parts
from pcm.model.errors import StoreError

BUNDLE = "bundles/ab/abcd/whole.bundle"


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


def append(parts: Parts, path: str, start: int, data: bytes) -> None:
    with parts.open(path, start) as part:
        os.write(part.descriptor, data)


def test_a_part_goes_on_where_it_ends(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    append(parts, BUNDLE, 0, b"head")
    append(parts, BUNDLE, 4, b"more")
    append(parts, BUNDLE, 100, b"far away")
    assert parts.stretches(BUNDLE) == ((0, 8), (100, 108))
    assert Parts(tmp_path).stretches(BUNDLE) == ((0, 8), (100, 108))
    assert parts.stretches("another") == ()
    with parts.open(BUNDLE, 8) as part:
        assert (part.start, part.end) == (0, 8)
        assert os.pread(part.descriptor, 8, 0) == b"headmore"
    assert parts.bytes() == 16


def test_bytes_are_found_in_the_part_that_holds_them_all(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    append(parts, BUNDLE, 10, b"0123456789")
    found = parts.holding(BUNDLE, 12, 15)
    assert found is not None
    with found as part:
        assert os.pread(part.descriptor, 3, 12 - part.start) == b"234"
    assert parts.holding(BUNDLE, 12, 21) is None
    assert parts.holding(BUNDLE, 9, 12) is None


def test_what_is_wrong_is_cut_off_or_forgotten(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    append(parts, BUNDLE, 50, b"0123456789")
    with parts.open(BUNDLE, 60) as part:
        part.cut(55)
        assert part.end == 55
        part.cut(1000)
        assert part.end == 55
    append(parts, BUNDLE, 90, b"x")
    append(parts, "another", 0, b"stays")
    parts.drop(BUNDLE)
    assert parts.stretches(BUNDLE) == ()
    assert parts.stretches("another") == ((0, 5),)


def test_what_nobody_goes_on_with_is_swept(tmp_path: Path) -> None:
    clock = Clock()
    parts = Parts(tmp_path, clock)
    append(parts, "old", 0, b"x" * 10)
    os.utime(next(parts.root.iterdir()), (clock.now, clock.now))
    clock.now += UNUSED_S + 1
    append(parts, "new", 0, b"y" * 10)
    os.utime(max(parts.root.iterdir(), key=lambda each: each.stat().st_mtime), (clock.now, clock.now))
    assert parts.sweep(1000) == (1, 10, 1, 10)
    assert (parts.stretches("old"), parts.stretches("new")) == ((), ((0, 10),))


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 10**7)), max_size=12), st.integers(0, 4000))
def test_parts_never_take_more_than_their_budget(
    tmp_path_factory: pytest.TempPathFactory, each: list[tuple[int, int]], budget: int
) -> None:
    clock = Clock()
    parts = Parts(tmp_path_factory.mktemp("parts"), clock)
    for number, (size, age) in enumerate(each):
        append(parts, f"{number}", 0, b"x" * size)
        with parts.open(f"{number}") as part:
            os.utime(part.descriptor, (clock.now - age, clock.now - age))
    swept = parts.sweep(budget)
    assert swept.kept_bytes == parts.bytes() <= budget
    assert swept.kept + swept.removed == len(each)
    assert swept.kept_bytes + swept.removed_bytes == sum(size for size, _ in each)


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_nothing_in_the_place_of_a_part_is_followed(tmp_path: Path, kind: str) -> None:
    parts, victim = Parts(tmp_path / "store"), tmp_path / "victim"
    victim.write_bytes(b"precious")
    append(parts, BUNDLE, 0, b"")
    place = next(parts.root.iterdir())
    place.unlink()
    if kind == "link":
        place.symlink_to(victim)
    else:
        os.mkfifo(place)
    append(parts, BUNDLE, 0, b"content")
    assert victim.read_bytes() == b"precious"
    assert place.is_file()
    assert not place.is_symlink()
    assert place.stat().st_mode & 0o777 == 0o600
    assert parts.root.stat().st_mode & 0o777 == 0o700


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "parts").write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        Parts(tmp_path)
    assert str(tmp_path) in caught.value.message


def test_it_is_synced_when_enough_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    with Parts(tmp_path).open(BUNDLE) as part:
        os.write(part.descriptor, b"x" * 100_000)
        part.sync()
        assert synced == []
        os.write(part.descriptor, b"x" * 500_000)
        part.sync()
        assert synced == [600_000]
        part.sync(now=True)
        assert synced == [600_000, 600_000]
