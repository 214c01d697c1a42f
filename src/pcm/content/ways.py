"""By which way does each missing file come here soonest? Pure arithmetic over what the indexes at hand say.

Serves step 8: `assembly` asks it, once the indexes of the bundles that may help have come, and then does what it says; `pcmsvc
why` shows its reasons. It reads nothing, opens nothing, and knows no servers.

    have     its bytes are in the store                       nothing travels
    patch    units of a bundle made against an older version  the fewest bytes; costs time to undo
    small    units of small files packed together             the fewest requests
    whole    its object                                       always possible; the least work on a quick link
    peer     the plain file, from a computer of this subnet   nothing through the uplink

Units that share a file are taken together or not at all (an `_Offer`). Every choice is one of a family of plans that depends on
the indexes alone, not on the link: for some prices of a byte, the plan that is cheapest then. Of those that move no more bytes
than the whole files would, the one wins that is over soonest on this link. So a slower link never takes more bytes, and
nothing takes more than the whole: both follow from the form, and the tests hold it to that.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from pcm.content.bundle_index import Unit
from pcm.model.package import PackageFile

Way = Literal["have", "patch", "small", "whole", "peer"]

FEW_FILES, FEW_BYTES = 2, 64 * 1024  # so little is asked for at once, without a look at any index
MOST_RANGES = 512  # of one bundle
UNKNOWN_RATE = 4e6  # bytes a second, until something was measured
_PRICES = (0.0, *(1 / rate for rate in (4e9, 1e9, 250e6, 64e6, 16e6, 4e6, 1e6, 64e3)), 1.0)  # seconds a byte


class Link(NamedTuple):
    """What things cost here.

    Attributes:
        rate: Bytes a second from the distribution server, as measured or as policy limits it; 0: unknown.
        latency_s: Of one more request.
        unpack_rate: Plain bytes a second that patches are undone with.
        object_rate: Plain bytes a second that whole objects are unpacked with.
        peers: How many computers of this subnet give content, and share the uplink.
        peer_rate: Bytes a second from one of them.
    """

    rate: float = 0.0
    latency_s: float = 0.03
    unpack_rate: float = 150e6
    object_rate: float = 400e6
    peers: int = 0
    peer_rate: float = 50e6


class Bundle(NamedTuple):
    """A bundle whose index is here.

    Attributes:
        path: Below a distribution server.
        old: What people call the version that its patches start from; empty: it needs none.
        units: Of its index.
        files: Of the new manifest, which the units' targets count in.
        held: Numbers of the old manifest's files whose bytes are in the store.
        here: So many of its first bytes came with the index.
    """

    path: str
    old: str
    units: Sequence[Unit]
    files: Sequence[PackageFile]
    held: Collection[int] = frozenset()
    here: int = 0


class Range(NamedTuple):
    """Bytes `start` to before `end` of a bundle, one request. `units`: numbers of those in it that are wanted, in order."""

    bundle: int
    start: int
    end: int
    units: tuple[int, ...]


class Reason(NamedTuple):
    """Why so many files come that way. `bytes` travel; `instead`: what their objects would take, as far as that is known."""

    way: Way
    text: str
    files: int
    bytes: int
    instead: int


class Choice(NamedTuple):
    """What to do.

    Attributes:
        ranges: Of bundles, in order; those of `here` are not among them.
        ready: Per bundle, the units that came whole with its index.
        whole: Files to fetch as objects, smallest first.
        peer: Files to ask other computers of this subnet for, smallest first.
        ways: Way of each missing content, by SHA-256.
        reasons: For people and for the record.
        bytes: That will travel through the uplink.
        whole_bytes: What would, if everything came as objects.
        requests: That all of this takes.
    """

    ranges: tuple[Range, ...]
    ready: Mapping[int, tuple[int, ...]]
    whole: tuple[PackageFile, ...]
    peer: tuple[PackageFile, ...]
    ways: Mapping[str, Way]
    reasons: tuple[Reason, ...]
    bytes: int
    whole_bytes: int
    requests: int


class _Offer(NamedTuple):
    """Units that only make sense together: what they bring, and what that costs. `size`, `length`: of its files as objects."""

    bundle: int
    units: tuple[int, ...]
    files: tuple[str, ...]
    bytes: int
    plain: int
    size: int
    length: int


class _Plan(NamedTuple):
    taken: tuple[_Offer, ...]
    ranges: tuple[Range, ...]
    whole: tuple[PackageFile, ...]
    peer: tuple[PackageFile, ...]
    bytes: int
    fixed_s: float
    requests: int


def is_little(missing: Collection[PackageFile]) -> bool:
    """Whether there is so little to bring that looking for a better way would take longer than bringing it."""
    return len(missing) <= FEW_FILES and sum(file.length for file in missing) <= FEW_BYTES


def uncovered(missing: Iterable[PackageFile], bundles: Iterable[Bundle]) -> list[PackageFile]:
    """Those that no unit of these bundles brings, so that another index may be worth its request."""
    wanted = {file.sha256: file for file in missing}
    for bundle in bundles:
        for sha256 in _producible(bundle, wanted):
            del wanted[sha256]
    return list(wanted.values())


def choose(missing: Iterable[PackageFile], bundles: Sequence[Bundle], link: Link) -> Choice:
    """Find the way of each missing file.

    Args:
        missing: Without those of length 0, which need no bytes.
        bundles: In the order in which to prefer them: patches from the newest version first, bundles of small files last.

    Returns:
        The choice that is over soonest. The same arguments always give the same one.
    """
    wanted = {file.sha256: file for file in sorted(missing, key=lambda file: (file.length, file.sha256))}
    sizes = _sizes(wanted, bundles)
    offers = [_offers(number, bundle, wanted, sizes) for number, bundle in enumerate(bundles)]
    limit = sum(sizes.values())
    price = (1 + link.peers) / (link.rate or UNKNOWN_RATE)  # an uplink that all of them use at this moment
    affordable = (plan for plan in _family(wanted, sizes, bundles, offers, link) if plan.bytes <= limit)  # never empty
    best = min(affordable, key=lambda plan: (plan.bytes * price + plan.fixed_s, plan.bytes, plan.requests))
    return _choice(best, wanted, sizes, bundles, offers)


def _family(
    wanted: Mapping[str, PackageFile],
    sizes: Mapping[str, int],
    bundles: Sequence[Bundle],
    offers: Sequence[Sequence[_Offer]],
    link: Link,
) -> Iterator[_Plan]:
    """The plans that there are, whatever the rate: from everything whole to the fewest bytes."""
    yield _plan(wanted, sizes, bundles, (), 0.0, link._replace(peers=0))
    sets = [tuple(each) for each in offers if each]
    if len(sets) > 1:
        sets.append(tuple(offer for each in offers for offer in each))
    for given in ((), *sets):
        for price in _PRICES:
            yield _plan(wanted, sizes, bundles, given, price, link)


def _plan(
    wanted: Mapping[str, PackageFile],
    sizes: Mapping[str, int],
    bundles: Sequence[Bundle],
    offers: Sequence[_Offer],
    price: float,
    link: Link,
) -> _Plan:
    """Take every offer that pays at this price of a byte, in their order, and the rest file by file."""
    taken: list[_Offer] = []
    done: set[str] = set()
    several = len({offer.bundle for offer in offers}) > 1
    for offer in offers:
        left: Sequence[str] = [sha for sha in offer.files if sha not in done] if several else offer.files
        if not left:
            continue
        size, length = offer.size, offer.length
        if len(left) != len(offer.files):
            size, length = sum(sizes[sha] for sha in left), sum(wanted[sha].length for sha in left)
        whole = size * price + length / link.object_rate + len(left) * link.latency_s
        if link.peers:
            whole = min(whole, length / link.peer_rate + len(left) * link.latency_s)
        if offer.bytes * price + offer.plain / link.unpack_rate <= whole:
            taken.append(offer)
            done.update(left)
    ranges = _ranges(taken, bundles, price, link.latency_s)
    whole_files: list[PackageFile] = []
    peer_files: list[PackageFile] = []
    for sha, file in wanted.items():
        if sha not in done:
            near = (
                link.peers > 0 and file.length / link.peer_rate <= sizes[sha] * price + file.length / link.object_rate
            )
            (peer_files if near else whole_files).append(file)
    requests = len(ranges) + len(whole_files) + len(peer_files)
    fixed = (
        requests * link.latency_s
        + sum(offer.plain for offer in taken) / link.unpack_rate
        + sum(file.length for file in whole_files) / link.object_rate
        + sum(file.length for file in peer_files) / link.peer_rate
    )
    travel = sum(each.end - each.start for each in ranges) + sum(sizes[file.sha256] for file in whole_files)
    return _Plan(tuple(taken), ranges, tuple(whole_files), tuple(peer_files), travel, fixed, requests)


def _ranges(taken: Iterable[_Offer], bundles: Sequence[Bundle], price: float, latency_s: float) -> tuple[Range, ...]:
    """One request for units that lie together; a gap is read through where that is sooner than another request."""
    ranges: list[Range] = []
    by_bundle: dict[int, set[int]] = {}
    for offer in taken:
        by_bundle.setdefault(offer.bundle, set()).update(offer.units)
    for number, units in sorted(by_bundle.items()):
        bundle = bundles[number]
        runs: list[tuple[int, int, tuple[int, ...]]] = []
        for unit in sorted(units, key=lambda each: bundle.units[each].offset):
            start, end = bundle.units[unit].offset, bundle.units[unit].offset + bundle.units[unit].packed
            start = max(start, min(bundle.here, end))
            if end > bundle.here:
                runs.append((start, end, (unit,)))
        gaps = sorted((after[0] - before[1] for before, after in itertools.pairwise(runs)), reverse=True)
        # so many gaps stay at most, the widest ones
        least = gaps[MOST_RANGES - 1] if len(gaps) >= MOST_RANGES else -1
        merged: list[tuple[int, int, list[int]]] = []
        for start, end, wanted in runs:
            gap = start - merged[-1][1] if merged else 0
            if merged and (gap <= least or gap * price <= latency_s):
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]), [*merged[-1][2], *wanted])
            else:
                merged.append((start, end, list(wanted)))
        ranges += [Range(number, start, end, tuple(wanted)) for start, end, wanted in merged]
    return tuple(ranges)


def _offers(number: int, bundle: Bundle, wanted: Mapping[str, PackageFile], sizes: Mapping[str, int]) -> list[_Offer]:
    """What a bundle can bring, in the smallest parts that make sense."""
    made = _producible(bundle, wanted)
    root: dict[int, int] = {}

    def find(unit: int) -> int:
        while (above := root.setdefault(unit, unit)) != unit:
            root[unit] = root[above]
            unit = root[unit]
        return unit

    for units in made.values():
        for unit in units[1:]:
            root[find(unit)] = find(units[0])
    together: dict[int, tuple[set[int], list[str]]] = {}
    for sha256, units in made.items():
        group = together.setdefault(find(units[0]), (set(), []))
        group[0].update(units)
        group[1].append(sha256)
    found = []
    for units_of, files in together.values():
        units = tuple(sorted(units_of))
        parts = [bundle.units[unit] for unit in units]
        found.append(
            _Offer(
                number,
                units,
                tuple(files),
                sum(min(part.packed, max(0, part.offset + part.packed - bundle.here)) for part in parts),
                sum(piece.length for part in parts for piece in part.targets),
                sum(sizes[sha] for sha in files),
                sum(wanted[sha].length for sha in files),
            )
        )
    return found


def _producible(bundle: Bundle, wanted: Mapping[str, PackageFile]) -> dict[str, tuple[int, ...]]:
    """The wanted contents that a bundle can bring whole from what is held, each with its units in the order of its bytes."""
    parts: dict[int, list[tuple[int, int, int]]] = {}
    for number, unit in enumerate(bundle.units):
        if all(base.file in bundle.held for base in unit.bases):
            for piece in unit.targets:
                if bundle.files[piece.file].sha256 in wanted:
                    parts.setdefault(piece.file, []).append((piece.offset, piece.length, number))
    made: dict[str, tuple[int, ...]] = {}
    for index, pieces in sorted(parts.items()):
        file = bundle.files[index]
        if file.sha256 in made:
            continue
        reached, units = 0, []
        for offset, length, number in sorted(pieces):
            if offset <= reached < offset + length:
                reached = offset + length
                units.append(number)
        if reached >= file.length:
            made[file.sha256] = tuple(dict.fromkeys(units))
    return made


def _sizes(wanted: Mapping[str, PackageFile], bundles: Iterable[Bundle]) -> dict[str, int]:
    """Bytes that each file takes as an object: its part of what an index says; its length where none says anything."""
    sizes: dict[str, int] = {}
    for bundle in bundles:
        told: dict[str, int] = {}
        for unit in bundle.units:
            plain = sum(piece.length for piece in unit.targets) or 1
            for piece in unit.targets:
                sha256 = bundle.files[piece.file].sha256
                if sha256 in wanted and sha256 not in sizes:
                    told[sha256] = told.get(sha256, 0) - (-unit.whole * piece.length // plain)  # rounded up
        sizes.update(told)
    return {sha256: min(sizes.get(sha256, file.length), file.length + 1024) for sha256, file in wanted.items()}


def _choice(
    plan: _Plan,
    wanted: Mapping[str, PackageFile],
    sizes: Mapping[str, int],
    bundles: Sequence[Bundle],
    offers: Sequence[Sequence[_Offer]],
) -> Choice:
    """Say what a plan means for each file, and why."""
    ways: dict[str, Way] = {}
    ready: dict[int, list[int]] = {}
    notes: dict[tuple[Way, str], list[int]] = {}

    def note(way: Way, text: str, files: int, travel: int, instead: int) -> None:
        sums = notes.setdefault((way, text), [0, 0, 0])
        for place, number in enumerate((files, travel, instead)):
            sums[place] += number

    for offer in plan.taken:
        bundle = bundles[offer.bundle]
        way: Way = "patch" if bundle.old else "small"
        new = [sha for sha in offer.files if sha not in ways]
        ways.update(dict.fromkeys(new, way))
        text = f"patches from {bundle.old} take fewer bytes" if bundle.old else "small files travel together"
        note(way, text, len(new), offer.bytes, sum(sizes[sha] for sha in new))
        for unit in offer.units:
            if bundle.units[unit].offset + bundle.units[unit].packed <= bundle.here:
                ready.setdefault(offer.bundle, []).append(unit)
    offered = {sha: bundles[offer.bundle].old for each in offers for offer in each for sha in offer.files}
    for file in plan.whole:
        ways[file.sha256] = "whole"
        note("whole", _why_whole(offered.get(file.sha256)), 1, sizes[file.sha256], sizes[file.sha256])
    for file in plan.peer:
        ways[file.sha256] = "peer"
        note("peer", "computers of this subnet may have it", 1, 0, sizes[file.sha256])
    return Choice(
        plan.ranges,
        {number: tuple(dict.fromkeys(units)) for number, units in sorted(ready.items())},
        plan.whole,
        plan.peer,
        ways,
        tuple(Reason(way, text, *sums) for (way, text), sums in notes.items()),
        plan.bytes,
        sum(sizes[sha] for sha in wanted),
        plan.requests,
    )


def _why_whole(old: str | None) -> str:
    if old is None:
        return "nothing here that it could be made from"
    return f"on this link sooner than its patch from {old}" if old else "on this link sooner than by the bundle"
