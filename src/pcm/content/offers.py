"""What the indexes at hand offer: which missing files their units can bring, in the smallest parts that make sense. Pure.

Serves step 8, under `ways`, which chooses among the offers. An index was held against both manifests before (`bundle_index`);
what an interrupted try has left of a bundle counts as here.
"""

import bisect
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from pcm.content.bundle_index import Unit
from pcm.model.package import PackageFile


class Bundle(NamedTuple):
    """A bundle whose index is here.

    Attributes:
        path: Below a distribution server.
        old: What people call the version that its patches start from; empty: it needs none.
        units: Of its index.
        files: Of the new manifest, which the units' targets count in.
        held: Numbers of the old manifest's files whose bytes are in the store.
        here: Stretches of it that are here, start and end of each, in order: its index, what was interrupted.
    """

    path: str
    old: str
    units: Sequence[Unit]
    files: Sequence[PackageFile]
    held: Collection[int] = frozenset()
    here: tuple[tuple[int, int], ...] = ()

    def left(self, unit: Unit) -> tuple[int, int]:
        """Start and end of what is to be fetched of a unit; the end twice if it is here.

        Of a unit that is here in part only its beginning counts, because the same part file can go on from there.
        """
        end = unit.offset + unit.packed
        at = bisect.bisect_right(self.here, unit.offset, key=_start) - 1
        reached = self.here[at][1] if at >= 0 else 0
        return min(max(unit.offset, reached), end), end


def _start(stretch: tuple[int, int]) -> int:
    return stretch[0]


class Offer(NamedTuple):
    """Units that only make sense together: what they bring, and what that costs. `size`, `length`: of its files as objects."""

    bundle: int
    units: tuple[int, ...]
    files: tuple[str, ...]
    bytes: int
    plain: int
    size: int
    length: int


def uncovered(missing: Iterable[PackageFile], bundles: Iterable[Bundle]) -> list[PackageFile]:
    """Those that no unit of these bundles brings, so that another index may be worth its request."""
    wanted = {file.sha256: file for file in missing}
    for bundle in bundles:
        for sha256 in _producible(bundle, wanted):
            del wanted[sha256]
    return list(wanted.values())


def find_offers(
    number: int, bundle: Bundle, wanted: Mapping[str, PackageFile], sizes: Mapping[str, int]
) -> list[Offer]:
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
            Offer(
                number,
                units,
                tuple(files),
                sum(end - start for start, end in map(bundle.left, parts)),
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


def object_sizes(wanted: Mapping[str, PackageFile], bundles: Iterable[Bundle]) -> dict[str, int]:
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
