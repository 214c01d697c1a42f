"""Who of several computers fetches what from the servers first, so that each byte is fetched about once. Pure.

Serves step 8, below `rounds`. The files of a package are cut into groups, the same on every computer that has the manifest: a
file of some size by itself, small ones in a row together. Of the computers that want a group, the one with the highest hash of
both (rendezvous hashing, Thaler and Ravishankar 1998) fetches it, the others take it from there; when one comes or goes, only
what was its own changes hands.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pcm.model.package import PackageFile

GROUP_BYTES = 8 * 1024 * 1024


class Group(NamedTuple):
    """Files that are fetched together. `key` (a SHA-256 in hex) is the file of them that comes last."""

    key: str
    files: tuple[PackageFile, ...]

    @property
    def length(self) -> int:
        """Plain bytes."""
        return sum(file.length for file in self.files)


def make_groups(files: Iterable[PackageFile], most: int = GROUP_BYTES) -> list[Group]:
    """Cut the files of a manifest into groups, each content once; whatever is empty is left out."""
    groups: list[list[PackageFile]] = []
    room = 0
    for file in {file.sha256: file for file in files if file.length}.values():
        if file.length > room:
            groups.append([])
            room = most
        groups[-1].append(file)
        room -= min(file.length, room)
    return [_group(each) for each in groups]


def _group(files: Sequence[PackageFile]) -> Group:
    ordered = sorted(files, key=lambda file: (file.length, file.sha256))
    return Group(ordered[-1].sha256, tuple(ordered))


def weight(key: str, who: bytes) -> bytes:
    """The number by which a computer has a group; the highest has it."""
    return hashlib.sha256(who + bytes.fromhex(key)).digest()


def owner(key: str, candidates: Iterable[bytes]) -> bytes:
    """Who of those that want a group fetches it."""
    return max(candidates, key=lambda who: weight(key, who))
