"""Plans and units: everything that is planned is made whole, within the limits of clients, in as few bytes as any way gives."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm.content import patches
from pcm.content.bundle_index import MAX_BASE, MAX_PLAIN, SMALL_FILE, Listing, Piece
from pcm.content.patches import (
    GROUP,
    SEGMENT,
    SOLID_FILE,
    THOROUGH_BYTES,
    Draft,
    make_unit,
    pack_zstd,
    plan_patches,
    plan_small,
)
from pcm.content.unpacking import unpack_unit
from pcm.model.package import PackageFile

NOISE = random.Random(7).randbytes(300_000)


def listing(name: str, files: dict[str, int]) -> Listing:
    return Listing(
        hashlib.sha256(name.encode()).hexdigest(),
        [
            PackageFile(path, size, hashlib.sha256(f"{name} {path}".encode()).hexdigest())
            for path, size in files.items()
        ],
    )


_SIZES = st.sampled_from(
    [0, 1, 5000, SMALL_FILE, SMALL_FILE + 1, SOLID_FILE, SOLID_FILE + 1, SEGMENT, SEGMENT + 1, 50 * 2**20]
)
_FILES = st.dictionaries(st.sampled_from([f"{folder}/f{n}.so" for folder in "ab" for n in "xyz"]), _SIZES)


@given(_FILES, _FILES)
def test_a_plan_makes_files_whole_and_within_the_limits(new: dict[str, int], old: dict[str, int]) -> None:
    after, before = listing("new", new), listing("old", old)
    at: dict[int, int] = {}
    for draft in plan_patches(after, before):
        assert 0 < sum(piece.length for piece in draft.targets) <= max(GROUP, SEGMENT) <= MAX_PLAIN
        assert sum(piece.length for piece in draft.bases) <= MAX_BASE
        for piece in draft.targets:
            assert piece.offset == at.get(piece.file, 0)
            at[piece.file] = piece.offset + piece.length
        for piece in (*draft.bases, *draft.near):
            assert piece.length > 0
            assert piece.offset + piece.length <= before.files[piece.file].length
        if draft.near != draft.bases:
            (base,), (near,) = draft.bases, draft.near
            assert base.offset <= near.offset
            assert near.offset + near.length <= base.offset + base.length
    assert at == {number: after.files[number].length for number in at}
    assert plan_patches(after, before) == plan_patches(after, before)


def test_a_large_file_is_cut_and_each_part_sees_the_old_data_around_its_place() -> None:
    drafts = plan_patches(listing("new", {"big": 40 * 2**20 + 5}), listing("old", {"big": 80 * 2**20}))
    assert len(drafts) == 11
    fifth = drafts[5]
    assert fifth.targets == (Piece(0, 20 * 2**20, SEGMENT),)
    (base,), (near,) = fifth.bases, fifth.near
    middle = 40 * 2**20  # the old file is twice as long
    assert base.offset <= middle - 8 * 2**20 + 20
    assert base.offset + base.length >= middle + 8 * 2**20
    assert near.length < base.length <= 20 * 2**20
    assert drafts[-1].targets == (Piece(0, 40 * 2**20, 5),)


def test_small_files_share_units_and_new_ones_go_with_them() -> None:
    new = {f"{number:04}.py": 3000 for number in range(2000)} | {"large-new.bin": SMALL_FILE + 1}
    drafts = plan_patches(listing("new", new), listing("old", {f"{number:04}.py": 2900 for number in range(1, 1500)}))
    assert 3 <= len(drafts) <= 4
    assert sum(len(draft.targets) for draft in drafts) == 2000
    assert all(draft.near == draft.bases for draft in drafts)


def test_nothing_changed_costs_nothing() -> None:
    same = listing("x", {f"{number}": 10 for number in range(50)})
    assert plan_patches(same, same) == []


def test_whole_small_files_lie_beside_their_like_each_once() -> None:
    new = listing("new", {"a.py": 10, "b.txt": 10, "c.py": 10, "e": 0, "big": SMALL_FILE + 1, "edge": SMALL_FILE})
    again = Listing(new.sha256, [*new.files, PackageFile("copy.py", 10, new.files[0].sha256)])
    (draft,) = plan_small(again)
    assert [new.files[piece.file].path for piece in draft.targets] == ["edge", "a.py", "c.py", "b.txt"]
    assert draft.bases == draft.near == ()


def test_an_index_that_would_be_too_long_leaves_files_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "MAX_PIECES", 7)
    old = listing("old", {"a": 3 * SEGMENT, "b": 3 * SEGMENT})
    drafts = plan_patches(listing("new", {"a": 3 * SEGMENT, "b": 3 * SEGMENT}), old)
    assert [piece.file for draft in drafts for piece in draft.targets] == [0, 0, 0]


def made(plain: bytes, base: bytes, *, thorough: bool = True) -> tuple[str, int]:
    bases = (Piece(0, 0, len(base)),) if base else ()
    draft = Draft((Piece(0, 0, len(plain)),), bases, bases)
    unit = make_unit(draft, plain, base, base, thorough=thorough)
    given_base = base if unit.bases else b""
    assert unpack_unit(unit.kind, unit.packed, given_base, len(plain)) == plain
    return unit.kind, len(unit.packed)


def test_the_cheapest_kind_is_taken() -> None:
    assert made(NOISE[:5000], b"") == ("raw", 5000)
    assert made(NOISE[:5000], NOISE[5000:9000]) == ("raw", 5000)
    assert made(NOISE + b"x", NOISE)[1] < 100
    moved = bytes(
        (byte + (place % 97 == 0)) % 256 for place, byte in enumerate(NOISE)
    )  # as addresses do when code moves
    kind, packed = made(moved, NOISE)
    assert kind == "bsdiff"
    assert packed < made(moved, NOISE, thorough=False)[1] / 3


def test_large_units_do_without_what_takes_minutes() -> None:
    assert SEGMENT + 2 * patches.AROUND + SEGMENT > THOROUGH_BYTES >= 2 * GROUP


@given(st.binary(min_size=1, max_size=3000), st.binary(max_size=3000), st.booleans())
@settings(max_examples=40)
def test_whatever_is_made_comes_back_and_is_no_larger(plain: bytes, base: bytes, thorough: bool) -> None:
    assert made(plain, base, thorough=thorough)[1] <= len(plain)


def test_packing_is_deterministic() -> None:
    assert pack_zstd(NOISE, NOISE[1000:], 12) == pack_zstd(NOISE, NOISE[1000:], 12)
