"""What a bundle says it holds: what is written is read, and nothing is believed that the manifests do not say."""

import hashlib
import itertools
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm.content.bundle_index import (
    HEAD_BYTES,
    MAX_BASE,
    MAX_INDEX,
    MAX_PIECES,
    MAX_PLAIN,
    BundleIndex,
    Head,
    Kind,
    Listing,
    Piece,
    Unit,
    bundle_path,
    largest_unit,
    read_head,
    read_index,
    write_head,
    write_index,
)
from pcm.model.errors import RequestError, TrustError
from pcm.model.package import PackageFile


def listing(name: str, lengths: list[int]) -> Listing:
    files = [
        PackageFile(f"{number}", length, hashlib.sha256(f"{name} {number}".encode()).hexdigest())
        for number, length in enumerate(lengths)
    ]
    return Listing(hashlib.sha256(name.encode()).hexdigest(), files)


NEW = listing("new", [10, 0, 2000, 5])
OLD = listing("old", [100, 7])
UNITS = [
    Unit("zstd", 0, 9, 15, (Piece(1, 0, 7), Piece(0, 50, 20)), (Piece(3, 0, 5), Piece(0, 0, 10))),
    Unit("bsdiff", 0, 40, 700, (Piece(0, 0, 100),), (Piece(2, 0, 700),)),
    Unit("raw", 0, 1300, 1301, (), (Piece(2, 700, 1300),)),
]


def placed(units: list[Unit], start: int) -> list[Unit]:
    result = []
    for unit in units:
        result.append(unit._replace(offset=start))
        start += unit.packed
    return result


def read(plain: bytes, new: Listing = NEW, old: Listing | None = OLD, packed: int = 1) -> BundleIndex:
    return read_index(plain, Head(packed, len(plain)), new, old)


def test_bundles_lie_where_the_layout_says() -> None:
    assert bundle_path("ab" * 32) == f"bundles/ab/{'ab' * 32}/whole.bundle"
    assert bundle_path("ab" * 32, "cd" * 32) == f"bundles/ab/{'ab' * 32}/{'cd' * 32}.bundle"


def test_what_is_written_is_read() -> None:
    index = read(write_index(NEW, OLD, UNITS), packed=500)
    assert index == BundleIndex(NEW.sha256, OLD.sha256, tuple(placed(UNITS, HEAD_BYTES + 500)))
    assert index.end == HEAD_BYTES + 500 + sum(unit.packed for unit in UNITS)
    assert [(unit.plain, unit.base) for unit in index.units] == [(15, 27), (700, 100), (1300, 0)]


def test_a_bundle_without_units_is_one() -> None:
    assert read(write_index(NEW, None, []), old=None) == BundleIndex(NEW.sha256, "", ())


@st.composite
def bundles(draw: st.DrawFn) -> tuple[Listing, Listing, list[Unit]]:
    new = listing("new", draw(st.lists(st.integers(0, 3000), max_size=8)))
    old = listing("old", draw(st.lists(st.integers(0, 3000), max_size=8)))
    order = draw(st.permutations([number for number, file in enumerate(new.files) if file.length]))
    pieces: list[Piece] = []
    for number in order:
        length = new.files[number].length
        cuts = sorted({0, length, *draw(st.lists(st.integers(1, length), max_size=3))})
        pieces += [Piece(number, start, end - start) for start, end in itertools.pairwise(cuts)]
    units: list[Unit] = []
    while pieces:
        count = draw(st.integers(1, len(pieces)))
        targets, pieces = tuple(pieces[:count]), pieces[count:]
        full = [number for number, file in enumerate(old.files) if file.length]
        bases = []
        for number in draw(st.lists(st.sampled_from(full), max_size=4)) if full else []:
            start = draw(st.integers(0, old.files[number].length - 1))
            bases.append(Piece(number, start, draw(st.integers(1, old.files[number].length - start))))
        kinds: list[Kind] = ["zstd", "bsdiff"] if bases else ["zstd", "raw"]
        kind = draw(st.sampled_from(kinds))
        plain = sum(piece.length for piece in targets)
        packed = plain if kind == "raw" else draw(st.integers(1, largest_unit(plain)))
        units.append(Unit(kind, 0, packed, draw(st.integers(0, 2**53)), tuple(bases), targets))
    return new, old, units


@given(bundles())
def test_any_index_comes_back(bundle: tuple[Listing, Listing, list[Unit]]) -> None:
    new, old, units = bundle
    plain = write_index(new, old, units)
    assert list(read(plain, new, old).units) == placed(units, HEAD_BYTES + 1)
    assert write_index(new, old, units) == plain


def check_index(index: BundleIndex, new: Listing, old: Listing | None) -> None:
    """What every reader may rely on."""
    at: dict[int, int] = {}
    end = index.units[0].offset if index.units else 0
    for unit in index.units:
        assert unit.offset == end
        end += unit.packed
        assert 0 < unit.plain <= MAX_PLAIN
        assert unit.base <= MAX_BASE
        assert 0 < unit.packed <= largest_unit(unit.plain)
        for piece in unit.targets:
            assert piece.offset == at.get(piece.file, 0)
            at[piece.file] = piece.offset + piece.length
        for piece in unit.bases:
            assert old is not None
            assert 0 <= piece.offset < piece.offset + piece.length <= old.files[piece.file].length
    assert {number: new.files[number].length for number in at} == at


@given(st.data())
@settings(max_examples=400)
def test_no_damage_makes_an_index_that_lies(data: st.DataObject) -> None:
    plain = bytearray(write_index(NEW, OLD, UNITS))
    for place in data.draw(st.lists(st.integers(0, len(plain) - 1), min_size=1, max_size=4)):
        plain[place] = data.draw(st.integers(0, 255))
    try:
        check_index(read(bytes(plain)), NEW, OLD)
    except TrustError as error:
        assert error.code == "trust.content"


def test_every_flip_and_every_cut_is_refused_or_says_something_else() -> None:
    plain = write_index(NEW, OLD, UNITS)
    good = read(plain)
    for place in range(len(plain)):
        for bit in range(8):
            other = bytearray(plain)
            other[place] ^= 1 << bit
            try:
                index = read(bytes(other))
            except TrustError:
                continue
            check_index(index, NEW, OLD)
            assert index != good
        with pytest.raises(TrustError):
            read(plain[:place])
    with pytest.raises(TrustError):
        read(plain + b"\0")
    with pytest.raises(TrustError, match="instead of"):
        read_index(plain, Head(1, len(plain) + 1), NEW, OLD)


def columns(**changes: object) -> bytes:
    """An index of one unit (file 0 from old file 1), with some columns replaced."""
    values: dict[str, object] = {
        "new": bytes.fromhex(NEW.sha256), "old": bytes.fromhex(OLD.sha256), "kinds": b"\x01", "packed": [9], "whole": [9],
        "base_counts": [1], "target_counts": [1], "target_files": [0], "target_lengths": [0],
        "base_files": [1], "base_offsets": [0], "base_lengths": [0],
    }  # fmt: skip
    assert set(changes) <= set(values)
    return msgspec.msgpack.encode(list((values | changes).values()))


def test_the_index_that_is_changed_below_is_good() -> None:
    assert read(columns()).units[0] == Unit("zstd", HEAD_BYTES + 1, 9, 9, (Piece(1, 0, 7),), (Piece(0, 0, 10),))


@pytest.mark.parametrize(
    "changes",
    [
        {"new": bytes(32)},
        {"old": b""},
        {"new": bytes.fromhex(NEW.sha256) + b"x"},
        {"kinds": b"\x03"},
        {"kinds": b"\x02", "base_counts": [0], "base_files": [], "base_offsets": [], "base_lengths": []},
        {"kinds": b"\x00"},
        {"kinds": b"\x01\x01"},
        {"packed": [0]},
        {"packed": [-1]},
        {"packed": [2**53 + 1]},
        {"packed": [2**64 - 1]},
        {"packed": [largest_unit(10) + 1]},
        {"packed": []},
        {"packed": [9, 9]},
        {"whole": [-1]},
        {"whole": []},
        {"base_counts": [2]},
        {"base_counts": [-1]},
        {"target_counts": [0]},
        {"target_counts": [2]},
        {"target_files": [-1]},
        {"target_files": [4]},
        {"target_files": [1], "target_lengths": [0]},  # an empty file
        {"target_files": [2**40]},
        {"target_files": [True]},
        {"target_files": [0.5]},
        {"target_lengths": [9]},  # breaks off
        {"target_lengths": [11]},
        {"target_lengths": [2**53]},
        {"target_lengths": []},
        {"target_counts": [2], "target_files": [0, 0], "target_lengths": [0, 0]},  # twice
        {"target_counts": [2], "target_files": [0, 0], "target_lengths": [5, 6]},
        {"target_counts": [2], "target_files": [0, 2], "target_lengths": [5, 0]},  # another file in between
        {"base_files": [2]},
        {"base_files": [-1]},
        {"base_offsets": [7]},
        {"base_offsets": [-1]},
        {"base_offsets": [2**53], "base_lengths": [2**53]},
        {"base_offsets": [3], "base_lengths": [5]},
        {"base_lengths": [8]},
        {"base_lengths": []},
    ],
)
def test_what_does_not_fit_the_manifests_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TrustError) as caught:
        read(columns(**changes))
    assert caught.value.code == "trust.content"


def test_units_beyond_the_limits_are_refused() -> None:
    huge = listing("new", [MAX_PLAIN + 1, MAX_PLAIN])
    base = listing("old", [MAX_BASE + 1])
    good = Unit("zstd", 0, 5, 5, (Piece(0, 1, MAX_BASE),), (Piece(1, 0, MAX_PLAIN),))
    assert read(write_index(huge, base, [good]), huge, base).units[0][2:] == good[2:]
    for bad in (
        good._replace(targets=(Piece(0, 0, MAX_PLAIN + 1),)),
        good._replace(bases=(Piece(0, 0, MAX_BASE + 1),)),
        good._replace(bases=(Piece(0, 0, MAX_BASE), Piece(0, 0, 1))),
    ):
        with pytest.raises(RequestError):
            write_index(huge, base, [bad])


def test_what_is_no_index_costs_no_memory() -> None:
    """Nested, endless or self-important msgpack: refused before much is set aside for it."""
    bombs = [
        b"\x91" * 1_000_000,
        b"\x81\xa0" * 500_000,
        b"\xdd\xff\xff\xff\xff" * 100_000,
        columns()[:70] + b"\xdd" + b"\x7f\xff\xff\xff" + b"\x00" * 1000,
        columns(packed=[0] * (MAX_PIECES + 1)),
        columns(kinds=b"\x01" * (MAX_PIECES + 1)),
        columns(base_counts=[0] * 400_000, target_counts=[0] * 400_000, kinds=b"\x01" * 400_000),
        b"\xc6\xff\xff\xff\xff",
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"new": 1}),
    ]
    for bomb in bombs:
        tracemalloc.start()
        with pytest.raises(TrustError):
            read(bomb)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 24 * 2**20


def test_a_head_is_read_and_bounded() -> None:
    assert read_head(write_head(7, 9) + b"more") == Head(7, 9)
    assert Head(7, 9).end == HEAD_BYTES + 7
    for start in (b"", write_head(7, 9)[:15], b"x" * 16, write_head(0, 9), write_head(7, 0)):
        with pytest.raises(TrustError) as caught:
            read_head(start)
        assert caught.value.code == "trust.content"
    for head in (write_head(MAX_INDEX + 1, 9), write_head(7, 2**32 - 1)):
        with pytest.raises(TrustError) as caught:
            read_head(head)
        assert caught.value.code == "trust.endless_data"
