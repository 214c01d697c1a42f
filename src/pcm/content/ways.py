"""By which way does each missing file come here soonest? Pure arithmetic over what the indexes at hand say.

Serves step 8: `assembly` asks it, once the indexes of the bundles that may help have come, and then does what it says; `pcmsvc
why` shows its reasons. It reads nothing, opens nothing, and knows no servers.

    have     its bytes are in the store                       nothing travels
    patch    units of a bundle made against an older version  the fewest bytes; costs time to undo
    small    units of small files packed together             the fewest requests
    whole    its object                                       always possible; the least work on a quick link
    peer     the plain file, from a computer of this subnet   nothing through the uplink

Units that share a file are taken together or not at all (an `Offer`). Every choice is one of a family of plans that depends on
the indexes alone, not on the link: for some prices of a byte, the plan that is cheapest then. Of those that move no more bytes
than the whole files would, the one wins that is over soonest on this link. So a slower link never takes more bytes, and
nothing takes more than the whole: both follow from the form, and the tests hold it to that.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from pcm.content.offers import Bundle, Offer, find_offers, object_sizes
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
        ready: Per bundle, the units that are here already.
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


class _Plan(NamedTuple):
    taken: tuple[Offer, ...]
    ranges: tuple[Range, ...]
    whole: tuple[PackageFile, ...]
    peer: tuple[PackageFile, ...]
    bytes: int
    fixed_s: float
    requests: int


def is_little(missing: Collection[PackageFile]) -> bool:
    """Whether there is so little to bring that looking for a better way would take longer than bringing it."""
    return len(missing) <= FEW_FILES and sum(file.length for file in missing) <= FEW_BYTES


def choose(missing: Iterable[PackageFile], bundles: Sequence[Bundle], link: Link) -> Choice:
    """Find the way of each missing file.

    Args:
        missing: Without those of length 0, which need no bytes.
        bundles: In the order in which to prefer them: patches from the newest version first, bundles of small files last.

    Returns:
        The choice that is over soonest. The same arguments always give the same one.
    """
    wanted = {file.sha256: file for file in sorted(missing, key=lambda file: (file.length, file.sha256))}
    sizes = object_sizes(wanted, bundles)
    offers = [find_offers(number, bundle, wanted, sizes) for number, bundle in enumerate(bundles)]
    limit = sum(sizes.values())
    price = (1 + link.peers) / (link.rate or UNKNOWN_RATE)  # an uplink that all of them use at this moment
    affordable = (plan for plan in _family(wanted, sizes, bundles, offers, link) if plan.bytes <= limit)  # never empty
    best = min(affordable, key=lambda plan: (plan.bytes * price + plan.fixed_s, plan.bytes, plan.requests))
    return _choice(best, wanted, sizes, bundles, offers)


def _family(
    wanted: Mapping[str, PackageFile],
    sizes: Mapping[str, int],
    bundles: Sequence[Bundle],
    offers: Sequence[Sequence[Offer]],
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
    offers: Sequence[Offer],
    price: float,
    link: Link,
) -> _Plan:
    """Take every offer that pays at this price of a byte, in their order, and the rest file by file."""
    taken: list[Offer] = []
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


def _ranges(taken: Iterable[Offer], bundles: Sequence[Bundle], price: float, latency_s: float) -> tuple[Range, ...]:
    """One request for units that lie together; a gap is read through where that is sooner than another request."""
    ranges: list[Range] = []
    by_bundle: dict[int, set[int]] = {}
    for offer in taken:
        by_bundle.setdefault(offer.bundle, set()).update(offer.units)
    for number, units in sorted(by_bundle.items()):
        bundle = bundles[number]
        runs: list[tuple[int, int, int]] = []
        for unit in sorted(units):
            start, end = bundle.left(bundle.units[unit])
            if start < end:
                runs.append((start, end, unit))
        gaps = sorted((after[0] - before[1] for before, after in itertools.pairwise(runs)), reverse=True)
        # so many gaps stay at most, the widest ones
        least = gaps[MOST_RANGES - 1] if len(gaps) >= MOST_RANGES else -1
        merged: list[tuple[int, int, list[int]]] = []
        for start, end, unit in runs:
            gap = start - merged[-1][1] if merged else 0
            begins = start == bundle.units[unit].offset  # else it goes on in the part file that has its beginning
            if merged and begins and (gap <= least or gap * price <= latency_s):
                merged[-1][2].append(unit)
                merged[-1] = (merged[-1][0], end, merged[-1][2])
            else:
                merged.append((start, end, [unit]))
        ranges += [Range(number, start, end, tuple(wanted)) for start, end, wanted in merged]
    return tuple(ranges)


def _choice(
    plan: _Plan,
    wanted: Mapping[str, PackageFile],
    sizes: Mapping[str, int],
    bundles: Sequence[Bundle],
    offers: Sequence[Sequence[Offer]],
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
            start, end = bundle.left(bundle.units[unit])
            if start == end:
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
