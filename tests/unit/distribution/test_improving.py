"""Making what was published smaller: what comes of it makes the new files, costs fewer bytes, and is the same wherever it is made."""

import hashlib
import io
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcm.content.bundle_index import HEAD_BYTES, BundleIndex, Listing, bundle_path, read_head, read_index
from pcm.content.bundle_writing import SPOOL_PREFIX
from pcm.content.object_store import FolderObjectStore, verify_store
from pcm.content.objects import object_path, pack
from pcm.content.patches import SEGMENT
from pcm.content.unpacking import unpack_index, unpack_unit
from pcm.distribution import improving
from pcm.distribution.improving import Improved, ImproveProgress, bundles_of, improve, sweep_bundles
from pcm.model.errors import RequestError, TrustError
from pcm.model.package import PackageFile

Files = Mapping[str, bytes]
RANDOM = random.Random(11)


def program(seed: int, length: int) -> bytes:
    """Bytes that pack to about two thirds, as machine code does."""
    return bytes(random.Random(seed).choices(range(256), [9] * 64 + [1] * 192, k=length))


def recompiled(old: bytes, seed: int) -> bytes:
    """Moved code and changed addresses."""
    rng, new = random.Random(seed), bytearray(old)
    for place in range(0, len(new), 997):
        new[place] = (new[place] + 8) % 256
    middle = rng.randrange(len(new))
    return bytes(new[:middle]) + rng.randbytes(300) + bytes(new[middle:])


BIG = program(1, 300_000)
WORDS = " ".join(random.Random(4).choices([f"word{n}" for n in range(3000)], k=20_000)).encode()
OLD: Files = {"words": WORDS, "bin/app": BIG, "same.dll": program(2, 90_000), "lib/1.0/x.py": b"print(1)\n" * 300} | {
    f"doc/{number}.txt": f"Chapter {number}. ".encode() * 40 for number in range(30)
}
NEW: Files = {
    "bin/app": recompiled(BIG, 3), "same.dll": OLD["same.dll"], "words": WORDS, "lib/1.1/x.py": b"print(2)\n" * 300,
    "copy.txt": OLD["doc/0.txt"], "empty": b"", "fresh.png": RANDOM.randbytes(70_000),
} | {f"doc/{number}.txt": f"Chapter {number}! ".encode() * 40 for number in range(1, 31)}  # fmt: skip


def listing(files: Files) -> Listing:
    entries = [PackageFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in sorted(files.items())]
    return Listing(hashlib.sha256(repr(entries).encode()).hexdigest(), entries)


def publish(root: Path, *versions: Files) -> list[Listing]:
    store = FolderObjectStore(root)
    for files in versions:
        for data in files.values():
            store.put(hashlib.sha256(data).hexdigest(), len(data), pack(io.BytesIO(data), len(data)))
    return [listing(files) for files in versions]


def read(root: Path, new: Listing, old: Listing | None) -> tuple[BundleIndex, bytes]:
    data = (root / bundle_path(new.sha256, old.sha256 if old else "")).read_bytes()
    head = read_head(data)
    index = read_index(unpack_index(data[HEAD_BYTES : head.end], head), head, new, old)
    assert not index.units or index.end == len(data)
    return index, data


def made_of(root: Path, new: Listing, old: Listing | None, files: Files) -> dict[str, bytes]:
    """New files by path, made of a bundle and the old files, and nothing else."""
    index, data = read(root, new, old)
    result: dict[str, bytes] = {}
    for unit in index.units:
        base = b"".join(
            files[old.files[piece.file].path][piece.offset : piece.offset + piece.length]
            for piece in unit.bases
            if old is not None
        )
        plain = unpack_unit(unit.kind, data[unit.offset : unit.offset + unit.packed], base, unit.plain)
        for piece in unit.targets:
            path = new.files[piece.file].path
            result[path] = result.get(path, b"") + plain[: piece.length]
            plain = plain[piece.length :]
    return result


def all_files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_patches_and_small_files_make_the_new_version(tmp_path: Path) -> None:
    old, new = publish(tmp_path, OLD, NEW)
    improved = improve(tmp_path, new, [old])
    changed = {path: data for path, data in NEW.items() if data and data not in OLD.values()}
    fresh = changed.pop("fresh.png")  # like nothing, and over 64 KiB: it travels as an object
    assert made_of(tmp_path, new, old, OLD) == changed
    small = {path: data for path, data in NEW.items() if 0 < len(data) <= 65536}
    assert made_of(tmp_path, new, None, {}) == small
    sizes = {name: (tmp_path / name).stat().st_size for name in bundles_of(tmp_path, new.sha256)}
    assert bundles_of(tmp_path, new.sha256) == sizes
    assert improved == Improved(
        improved.objects_before, improved.objects_after, sizes[bundle_path(new.sha256)],
        {old.sha256: sizes[bundle_path(new.sha256, old.sha256)]}, finished=True,
    )  # fmt: skip
    as_objects = sum(
        (tmp_path / object_path(hashlib.sha256(data).hexdigest())).stat().st_size for data in changed.values()
    )
    assert improved.patches[old.sha256] < as_objects / 20
    assert improved.whole < sum(map(len, small.values())) / 10
    assert improved.objects_after < improved.objects_before
    assert verify_store(FolderObjectStore(tmp_path), {hashlib.sha256(fresh).hexdigest(): len(fresh)}) == []
    store = FolderObjectStore(tmp_path)
    assert verify_store(store, {file.sha256: file.length for file in (*old.files, *new.files)}) == []


def test_the_same_inputs_make_the_same_bytes_whatever_was_done_at_a_time(tmp_path: Path) -> None:
    for name, threads in (("one", 1), ("two", 2)):
        old, new = publish(tmp_path / name, OLD, NEW)
        improve(tmp_path / name, new, [old], threads=threads)
    assert all_files(tmp_path / "one") == all_files(tmp_path / "two")


def test_large_files_are_made_in_segments(tmp_path: Path) -> None:
    before = program(5, SEGMENT // 64) * 160  # alike in itself, so that it packs at once
    old_files = {"image": before}
    new_files = {"image": before[:SEGMENT] + b"inserted" * 99 + before[SEGMENT : 2 * SEGMENT] + b"end"}
    old, new = publish(tmp_path, old_files, new_files)
    improve(tmp_path, new, [old], level=None, thorough=False)
    assert made_of(tmp_path, new, old, old_files) == new_files
    index, _ = read(tmp_path, new, old)
    assert [unit.plain for unit in index.units] == [SEGMENT, SEGMENT, 795]
    packed = (tmp_path / object_path(new.files[0].sha256)).stat().st_size
    assert sum(unit.whole for unit in index.units) == packed


def test_where_too_much_changed_it_is_not_thorough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = publish(tmp_path, OLD, NEW)
    monkeypatch.setattr(improving, "THOROUGH_MOST", 1000)
    improve(tmp_path, new, [old], level=None)
    assert {unit.kind for unit in read(tmp_path, new, old)[0].units} <= {"zstd", "raw"}
    (tmp_path / bundle_path(new.sha256, old.sha256)).unlink()
    monkeypatch.undo()
    improve(tmp_path, new, [old], level=None)
    assert "bsdiff" in {unit.kind for unit in read(tmp_path, new, old)[0].units}


def test_a_second_call_writes_nothing(tmp_path: Path) -> None:
    old, new = publish(tmp_path, OLD, NEW)
    first = improve(tmp_path, new, [old])
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = improve(tmp_path, new, [old])
    assert second == first._replace(objects_before=0, objects_after=0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_what_the_version_before_had_packed_is_not_packed_again(tmp_path: Path) -> None:
    old, new = publish(tmp_path, OLD, NEW)
    improve(tmp_path, old, [])
    seen: list[ImproveProgress] = []
    improve(tmp_path, new, [old], on_progress=seen.append)
    assert [each.bytes_total for each in seen if each.part == "objects"] == [len(NEW["bin/app"]) + 70_000] * 2
    assert all(each.bytes_done <= each.bytes_total for each in seen)
    assert {each.part for each in seen} == {"objects", "small files", f"patches from {old.sha256}"}


def enough(calls: int) -> Callable[[], bool]:
    """Says yes so many times."""
    left = iter(range(calls))
    return lambda: next(left, None) is not None


@pytest.mark.parametrize("threads", [1, 2])
def test_ended_anywhere_it_goes_on_and_comes_to_the_same(tmp_path: Path, threads: int) -> None:
    old, new = publish(tmp_path / "whole", OLD, NEW)
    improve(tmp_path / "whole", new, [old], thorough=False)
    publish(tmp_path / "parts", OLD, NEW)
    calls = 0
    while not improve(tmp_path / "parts", new, [old], thorough=False, threads=threads, go_on=enough(3)).finished:
        calls += 1
        assert calls < 30
    assert calls >= 2
    assert all_files(tmp_path / "parts") == all_files(tmp_path / "whole")


def test_what_a_power_cut_spoiled_is_made_again(tmp_path: Path) -> None:
    old, new = publish(tmp_path, OLD, NEW)
    improve(tmp_path, new, [old], level=None, thorough=False)
    path = tmp_path / bundle_path(new.sha256, old.sha256)
    good = path.read_bytes()
    spool = path.with_name(SPOOL_PREFIX + path.name)
    path.unlink()
    yes_no = enough(2)
    while not spool.exists():
        improve(tmp_path, new, [old], level=None, thorough=False, go_on=yes_no)
    half = spool.read_bytes()
    for damaged in (half[:-7], half[:40], half[:60] + b"\0" * 500, b"", b"x" * 900, half[:-9] + b"\xff" * 9, half * 2):
        spool.write_bytes(damaged)
        assert improve(tmp_path, new, [old], level=None, thorough=False).finished
        assert path.read_bytes() == good
        assert not spool.exists()
        path.unlink()


def test_an_old_version_whose_content_is_gone_is_passed_over(tmp_path: Path) -> None:
    old, new = publish(tmp_path, OLD, NEW)
    FolderObjectStore(tmp_path).delete(hashlib.sha256(BIG).hexdigest())
    improved = improve(tmp_path, new, [old], level=None, thorough=False)
    assert (improved.patches, improved.finished) == ({}, True)


def test_a_damaged_or_missing_object_is_named(tmp_path: Path) -> None:
    old, new = publish(tmp_path, OLD, NEW)
    path = tmp_path / object_path(hashlib.sha256(NEW["bin/app"]).hexdigest())
    good = path.read_bytes()
    other = program(99, len(NEW["bin/app"]))
    path.write_bytes(b"".join(pack(io.BytesIO(other), len(other))))
    with pytest.raises(TrustError) as caught:
        improve(tmp_path, new, [old], level=None, thorough=False)
    assert caught.value.code == "trust.content"
    assert not (tmp_path / bundle_path(new.sha256, old.sha256)).exists()
    path.unlink()
    with pytest.raises(RequestError) as missing:
        improve(tmp_path, new, [old], thorough=False)
    assert missing.value.code == "not_found"
    path.write_bytes(good)
    assert improve(tmp_path, new, [old], thorough=False).finished


def test_nothing_changed_makes_an_empty_bundle_and_nothing_small_makes_none(tmp_path: Path) -> None:
    big = {"big": program(1, 70_000)}
    old, new = publish(tmp_path, big, {"moved": big["big"]})
    improved = improve(tmp_path, new, [old, new])
    assert improved.whole == 0
    assert read(tmp_path, new, old)[0].units == ()
    assert list(bundles_of(tmp_path, new.sha256)) == [bundle_path(new.sha256, old.sha256)]


def test_a_patch_that_does_not_pay_stays_out(tmp_path: Path) -> None:
    old, new = publish(tmp_path, {"a.bin": RANDOM.randbytes(300_000)}, {"a.bin": RANDOM.randbytes(300_000)})
    improve(tmp_path, new, [old])
    assert read(tmp_path, new, old)[0].units == ()


def test_bundles_that_nobody_wants_are_swept(tmp_path: Path) -> None:
    third = dict(NEW) | {"more": b"x" * 100}
    one, two, three = publish(tmp_path, OLD, NEW, third)
    improve(tmp_path, two, [one], level=None, thorough=False)
    improve(tmp_path, three, [two, one], thorough=False)
    count, size = sweep_bundles(tmp_path, lambda manifest: manifest != one.sha256)
    assert (count, size > 100) == (2, True)
    assert list(bundles_of(tmp_path, three.sha256)) == sorted(
        [bundle_path(three.sha256, two.sha256), bundle_path(three.sha256)]
    )
    assert sweep_bundles(tmp_path, lambda manifest: manifest != one.sha256) == (0, 0)
    sweep_bundles(tmp_path, lambda _: False)
    assert list(tmp_path.rglob("bundles/*/*")) == []


_CONTENT = st.binary(max_size=200) | st.sampled_from([BIG[:5000], BIG[:4000] + b"!" + BIG[4000:6000], BIG[:90_000]])
_VERSION = st.dictionaries(st.sampled_from(["a", "b.so", "c/b.so", "d1", "d2"]), _CONTENT, max_size=5)


@given(_VERSION, _VERSION)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_two_versions(tmp_path: Path, before: Files, after: Files) -> None:
    old, new = publish(tmp_path, before, after)
    improve(tmp_path, new, [old], level=None)
    if old.sha256 != new.sha256:
        assert made_of(tmp_path, new, old, before).items() <= dict(after).items()
    if len({data for data in after.values() if 0 < len(data) <= 65536}) > 1:
        made = made_of(tmp_path, new, None, {})
        assert made.items() <= dict(after).items()
        assert set(made.values()) == {data for data in after.values() if 0 < len(data) <= 65536}
