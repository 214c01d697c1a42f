"""Which old file a new file is most like, by names alone.

Serves step 5: `patches` makes a new file from the old one that is found here. By path; then by path with the numbers masked
(kernels and Python versions rename their folders); then by name with the numbers masked, wherever it lies; then by ending and
length. Among several, the nearest in length. It reads no content: a wrong guess costs bytes and never rightness, and a patch
that does not pay stays out.
"""

import bisect
import re
from collections.abc import Callable, Iterable

from pcm.content.bundle_index import Listing
from pcm.model.package import PackageFile

_NUMBERS = re.compile(r"[0-9]+(?:[._-][0-9]+)*")
_HASHES = re.compile(r"(?<![0-9a-z])(?=[a-z]*[0-9])[0-9a-f]{6,64}(?![0-9a-z])")
_ALIKE = 16  # the last way takes a file whose length differs by a sixteenth at most


def changed_files(new: Listing, old: Listing) -> list[int]:
    """Indexes of the new files that are not empty and whose content the old version lacks, each content once, in their order."""
    held = {file.sha256 for file in old.files}
    first: dict[str, int] = {}
    for number, file in enumerate(new.files):
        if file.length and file.sha256 not in held:
            first.setdefault(file.sha256, number)
    return list(first.values())


def find_bases(new: Listing, old: Listing) -> dict[int, int]:
    """The old file from which to make each changed file, where one is like it.

    Returns:
        Index in `new.files` to index in `old.files`, for those of `changed_files` that have one, in that order.
    """
    held = {file.sha256 for file in new.files}
    gone = [number for number, file in enumerate(old.files) if file.length and file.sha256 not in held]
    everything = [number for number, file in enumerate(old.files) if file.length]
    ways = [
        _Way(old, everything, _path),
        _Way(old, everything, masked),
        _Way(old, gone, _masked_name),
        _Way(old, everything, _masked_name),
        _Way(old, gone, _ending, _ALIKE),
    ]
    found: dict[int, int] = {}
    for number in changed_files(new, old):
        base = next((base for way in ways if (base := way.nearest(new.files[number])) is not None), None)
        if base is not None:
            found[number] = base
    return found


def masked(path: str) -> str:
    """A path without what changes from version to version: numbers, and hashes in names."""
    return _NUMBERS.sub("0", _HASHES.sub("0", path))


def _path(path: str) -> str:
    return path


def _masked_name(path: str) -> str:
    return masked(path.rpartition("/")[2])


def _ending(path: str) -> str:
    return masked(path.rpartition("/")[2].partition(".")[2])


class _Way:
    """Old files by a key of their path, and among them by length. `limit`: what part of the length may differ; 0: any."""

    def __init__(self, old: Listing, numbers: Iterable[int], key: Callable[[str], str], limit: int = 0) -> None:
        self._key = key
        self._limit = limit
        self._files: dict[str, list[tuple[int, int]]] = {}
        for number in numbers:
            self._files.setdefault(key(old.files[number].path), []).append((old.files[number].length, number))
        for each in self._files.values():
            each.sort()

    def nearest(self, file: PackageFile) -> int | None:
        files = self._files.get(self._key(file.path))
        if not files:
            return None
        place = bisect.bisect_left(files, (file.length, 0))
        length, number = min(files[max(0, place - 1) : place + 1], key=lambda each: abs(each[0] - file.length))
        return number if abs(length - file.length) * self._limit <= file.length else None
