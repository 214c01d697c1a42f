"""The choice of ways: whatever the indexes say, everything is covered, nothing costs more than the whole, slow links fetch least."""

import hashlib
import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm.content.bundle_index import Piece, Unit
from pcm.content.offers import Bundle, uncovered
from pcm.content.ways import Choice, Link, choose, is_little
from pcm.model.package import PackageFile

MB = 1_000_000


def package_file(name: str, length: int) -> PackageFile:
    return PackageFile(name, length, hashlib.sha256(name.encode()).hexdigest())


def units(*described: tuple[int, int, tuple[int, ...], tuple[tuple[int, int, int], ...]]) -> tuple[Unit, ...]:
    """Units back to back, each (packed, whole, old files, targets)."""
    made, offset = [], 100
    for packed, whole, bases, targets in described:
        pieces = tuple(Piece(*target) for target in targets)
        made.append(Unit("zstd", offset, packed, whole, tuple(Piece(base, 0, 10) for base in bases), pieces))
        offset += packed
    return tuple(made)


def update(
    count: int = 40, length: int = MB, packed: int = 20_000, whole: int = 300_000
) -> tuple[list[PackageFile], Bundle]:
    """A plain update: each file has a patch against the file of the same number."""
    files = [package_file(f"file{number}", length) for number in range(count)]
    patches = units(*((packed, whole, (number,), ((number, 0, length),)) for number in range(count)))
    return files, Bundle("a.bundle", "1.0", patches, files, frozenset(range(count)), here=((0, 100),))


SLOW, QUICK = Link(rate=1e6), Link(rate=2e9, latency_s=0.0002)


def test_a_plain_update_over_a_usual_link_is_one_range_of_patches() -> None:
    files, bundle = update()
    choice = choose(files, [bundle], SLOW)
    assert [(each.start, each.end) for each in choice.ranges] == [(100, 100 + 40 * 20_000)]
    assert choice.requests == 1
    assert set(choice.ways.values()) == {"patch"}
    assert (choice.bytes, choice.whole_bytes) == (800_000, 12_000_000)
    assert [(each.way, each.files, each.bytes, each.instead) for each in choice.reasons] == [
        ("patch", 40, 800_000, 12_000_000)
    ]
    assert "1.0" in choice.reasons[0].text


def test_on_a_quick_link_whole_files_are_sooner_than_their_patches() -> None:
    files, bundle = update()
    choice = choose(files, [bundle], QUICK)
    assert set(choice.ways.values()) == {"whole"}
    assert "sooner than its patch from 1.0" in choice.reasons[0].text


def test_what_came_with_the_index_is_not_asked_for_again() -> None:
    files, bundle = update(count=3)
    everything = bundle._replace(here=((0, 100 + 3 * 20_000),))
    choice = choose(files, [everything], SLOW)
    assert (choice.ranges, dict(choice.ready), choice.bytes) == ((), {0: (0, 1, 2)}, 0)
    half = choose(files, [bundle._replace(here=((0, 100 + 30_000),))], SLOW)
    assert (dict(half.ready), [(each.start, each.end) for each in half.ranges]) == ({0: (0,)}, [(30_100, 60_100)])
    assert half.bytes == 30_000


def test_a_patch_needs_its_old_file() -> None:
    files, bundle = update(count=4)
    choice = choose(files, [bundle._replace(held=frozenset({0, 1, 3}))], SLOW)
    assert [choice.ways[file.sha256] for file in files] == ["patch", "patch", "whole", "patch"]
    assert [each.text for each in choice.reasons if each.way == "whole"] == ["nothing here that it could be made from"]
    assert uncovered(files, [bundle._replace(held=frozenset({0, 1, 3}))]) == [files[2]]


def test_a_file_of_several_units_comes_by_all_of_them_or_whole() -> None:
    file = package_file("large", 30 * MB)
    parts = units((9000, 4 * MB, (0,), ((0, 0, 16 * MB),)), (9000, 4 * MB, (1,), ((0, 16 * MB, 14 * MB),)))
    bundle = Bundle("a", "1.0", parts, [file], frozenset({0, 1}), here=((0, 100),))
    assert choose([file], [bundle], SLOW).ways == {file.sha256: "patch"}
    assert choose([file], [bundle._replace(held=frozenset({0}))], SLOW).ways == {file.sha256: "whole"}


def test_a_unit_is_not_fetched_for_one_small_part_of_it() -> None:
    files = [package_file(f"small{number}", 1000) for number in range(100)]
    targets = tuple((number, 0, 1000) for number in range(100))
    bundle = Bundle("whole", "", units((40_000, 50_000, (), targets)), files, here=((0, 100),))
    assert set(choose(files, [bundle], SLOW).ways.values()) == {"small"}
    assert set(choose(files[:3], [bundle], SLOW).ways.values()) == {"whole"}


def test_many_small_files_need_few_requests_on_any_link() -> None:
    files = [package_file(f"small{number}", 3000) for number in range(1000)]
    solid = units(
        *((50_000, 90_000, (), tuple((number + at, 0, 3000) for at in range(100))) for number in range(0, 1000, 100))
    )
    for link in (SLOW, QUICK):
        assert choose(files, [Bundle("whole", "", solid, files, here=((0, 100),))], link).requests == 1


def test_a_patch_that_is_larger_than_its_file_is_left_alone() -> None:
    files, bundle = update(packed=400_000, whole=300_000)
    assert set(choose(files, [bundle], SLOW).ways.values()) == {"whole"}


def test_a_narrow_gap_is_read_through_where_that_is_sooner() -> None:
    files, bundle = update(count=3)
    missing = [files[0], files[2]]
    assert choose(missing, [bundle], Link(rate=4e6, latency_s=0.05)).requests == 1
    assert choose(missing, [bundle], Link(rate=16e3, latency_s=0.05)).requests == 2


def test_peers_spare_an_uplink_that_all_of_them_share() -> None:
    files = [package_file(f"file{number}", 5 * MB) for number in range(5)]
    assert set(choose(files, [], Link(rate=10e6)).ways.values()) == {"whole"}
    choice = choose(files, [], Link(rate=10e6, peers=11))
    assert (set(choice.ways.values()), choice.bytes) == ({"peer"}, 0)
    patched, bundle = update(count=5, length=50 * MB, packed=1000, whole=20 * MB)
    assert set(choose(patched, [bundle], Link(rate=10e6, peers=2)).ways.values()) == {"patch"}


def test_what_an_interrupted_try_has_left_is_gone_on_with() -> None:
    files, bundle = update(count=10)
    left = bundle._replace(here=((0, 100), (100 + 20_000, 100 + 75_000)))
    choice = choose(files, [left], Link(rate=1e5))
    assert [(each.start, each.end, each.units) for each in choice.ranges] == [
        (100, 20_100, (0,)),
        (75_100, 200_100, (3, 4, 5, 6, 7, 8, 9)),
    ]
    assert (dict(choice.ready), choice.bytes) == ({0: (1, 2)}, 145_000)


@pytest.mark.parametrize(
    ("count", "length", "little"), [(1, 100, True), (2, 30_000, True), (3, 10, False), (1, 10**6, False)]
)
def test_a_little_is_asked_for_at_once(count: int, length: int, little: bool) -> None:
    assert is_little([package_file(f"{number}", length) for number in range(count)]) is little


# ---- whatever the indexes say

_rates = st.floats(1e3, 1e10)
_links = st.builds(
    Link,
    rate=_rates,
    latency_s=st.floats(0.0001, 1),
    unpack_rate=st.floats(1e6, 1e9),
    object_rate=st.floats(1e7, 1e9),
    peers=st.integers(0, 20),
    peer_rate=st.floats(1e5, 1e9),
)


@st.composite
def _bundles(draw: st.DrawFn, files: list[PackageFile], old: str) -> Bundle:
    """Any index that `read_index` lets through: files whole, in any order, alone, together or in parts."""
    order = draw(st.permutations(range(len(files))))
    included = order[: draw(st.integers(0, len(files)))]
    pieces: list[tuple[int, int, int]] = []
    for number in included:
        length = files[number].length
        cuts = sorted(draw(st.sets(st.integers(1, max(1, length - 1)), max_size=2))) if length > 1 else []
        edges = [0, *cuts, length]
        pieces += [(number, start, end - start) for start, end in itertools.pairwise(edges) if end > start]
    described, at = [], 0
    while at < len(pieces):
        some = draw(st.integers(1, 4))
        described.append(
            (
                draw(st.integers(1, 50_000)),
                draw(st.integers(0, 60_000)),
                tuple(draw(st.sets(st.integers(0, 5), max_size=2))) if old else (),
                tuple(pieces[at : at + some]),
            )
        )
        at += some
    made = units(*described)
    end = made[-1].offset + made[-1].packed if made else 100
    held = draw(st.frozensets(st.integers(0, 5)))
    here = [(0, draw(st.integers(100, end)))]
    for unit in made:  # what an earlier try has left begins where a unit begins
        if unit.offset >= here[-1][1] and draw(st.booleans()):
            here.append((unit.offset, draw(st.integers(unit.offset + 1, end))))
    return Bundle(f"{old}.bundle", old, made, files, held, tuple(here))


@st.composite
def _cases(draw: st.DrawFn) -> tuple[list[PackageFile], list[Bundle]]:
    lengths = draw(st.lists(st.integers(1, 100_000), min_size=1, max_size=12))
    files = [package_file(f"f{number}", length) for number, length in enumerate(lengths)]
    if draw(st.booleans()):  # the same content at another path
        files.append(PackageFile("again", files[0].length, files[0].sha256))
    bundles = [draw(_bundles(files, old)) for old in draw(st.sampled_from([(), ("1.0",), ("",), ("1.1", "1.0", "")]))]
    contents = {file.sha256: file for file in files}
    missing = draw(st.lists(st.sampled_from(sorted(contents)), unique=True))
    return [contents[sha256] for sha256 in missing], bundles


def brings(choice: Choice, bundles: list[Bundle]) -> dict[str, int]:
    """How many bytes of each content the chosen units bring; asserts that what is asked for is what the ranges hold."""
    came: dict[str, int] = {}
    wanted = {(number, unit) for number, some in choice.ready.items() for unit in some}
    for span in choice.ranges:
        bundle = bundles[span.bundle]
        assert span.start < span.end
        for number in span.units:
            start, end = bundle.left(bundle.units[number])
            assert span.start <= start < end <= span.end
            assert start == bundle.units[number].offset or start == span.start
        wanted |= {(span.bundle, number) for number in span.units}
    for number, some in choice.ready.items():
        for each in some:
            unit = bundles[number].units[each]
            assert any(start <= unit.offset and unit.offset + unit.packed <= end for start, end in bundles[number].here)
    for number, unit_number in wanted:
        bundle = bundles[number]
        unit = bundle.units[unit_number]
        assert all(base.file in bundle.held for base in unit.bases)
        for piece in unit.targets:
            came[bundle.files[piece.file].sha256] = came.get(bundle.files[piece.file].sha256, 0) + piece.length
    return came


@settings(max_examples=300)
@given(_cases(), _links)
def test_every_missing_file_is_covered_and_nothing_costs_more_than_the_whole(
    case: tuple[list[PackageFile], list[Bundle]], link: Link
) -> None:
    missing, bundles = case
    choice = choose(missing, bundles, link)
    assert set(choice.ways) == {file.sha256 for file in missing}
    whole, peer = {file.sha256 for file in choice.whole}, {file.sha256 for file in choice.peer}
    came = brings(choice, bundles)
    for file in missing:
        way = choice.ways[file.sha256]
        assert (way == "whole") == (file.sha256 in whole)
        assert (way == "peer") == (file.sha256 in peer)
        if way in ("patch", "small"):
            assert came[file.sha256] >= file.length
    assert choice.bytes <= choice.whole_bytes
    assert choice.requests == len(choice.ranges) + len(whole) + len(peer)
    assert sum(each.files for each in choice.reasons) == len(missing)
    assert sum(each.instead for each in choice.reasons) == choice.whole_bytes
    edges = [(span.bundle, span.start, span.end) for span in choice.ranges]
    assert edges == sorted(edges)
    assert all(a[0] < b[0] or a[2] <= b[1] for a, b in itertools.pairwise(edges))


@given(_cases(), _links, st.randoms(use_true_random=False))
def test_the_same_choice_whatever_the_order_of_what_is_missing(
    case: tuple[list[PackageFile], list[Bundle]], link: Link, chance: random.Random
) -> None:
    missing, bundles = case
    assert choose(chance.sample(missing, len(missing)), bundles, link) == choose(missing, bundles, link)


@settings(max_examples=300)
@given(_cases(), _links, _rates)
def test_a_slower_link_never_takes_more_bytes(
    case: tuple[list[PackageFile], list[Bundle]], link: Link, other: float
) -> None:
    missing, bundles = case
    slow, quick = sorted((link.rate, other))
    least = choose(missing, bundles, link._replace(rate=slow)).bytes
    assert least <= choose(missing, bundles, link._replace(rate=quick)).bytes


def test_a_hundred_thousand_files_are_chosen_among_in_good_time() -> None:
    files = [package_file(f"f{number}", 2000) for number in range(100_000)]
    solid = units(
        *(
            (20_000, 80_000, (number // 100 % 6,), tuple((number + at, 0, 2000) for at in range(100)))
            for number in range(0, 100_000, 100)
        )
    )
    small = units(
        *((30_000, 80_000, (), tuple((number + at, 0, 2000) for at in range(100))) for number in range(0, 100_000, 100))
    )
    held = frozenset(range(5))
    began = time.process_time()
    choice = choose(
        files,
        [Bundle("a", "1.0", solid, files, held, ((0, 100),)), Bundle("b", "", small, files, held, ((0, 100),))],
        SLOW,
    )
    assert time.process_time() - began < 30
    assert {"patch", "small"} == set(choice.ways.values())
