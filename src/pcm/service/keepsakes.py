"""The little that must survive even the loss of the state database: floors, and values that are marked as kept.

Serves step 6: a client that lost its database and took an old, once valid file for new would be open to every rollback. So
floors stand twice: in `state.db`, which decides, and in `floors.json` beside it, written whole or not at all. `pcm.service.state`
merges both when it opens and writes the file after each change. It never lowers a floor by itself.
"""

from pathlib import Path

import msgspec
from msgspec.structs import replace

from pcm.service.machine.durable import write_atomically
from pcm.service.records import InstalledRelease
from pcm.trust.floors import Floor, Floors

FILE = "floors.json"
MAX_BYTES = 16 * 2**20


class Keepsakes(msgspec.Struct, frozen=True):
    """What `floors.json` holds. `meta`: rows of the table of that name that are marked as kept."""

    floors: dict[str, Floors] = msgspec.field(default_factory=dict)
    releases: dict[str, InstalledRelease] = msgspec.field(default_factory=dict)
    meta: dict[str, str] = msgspec.field(default_factory=dict)
    spec: str = "1.0"


def read_keepsakes(folder: Path) -> Keepsakes | None:
    """Read the file; None if there is none.

    Raises:
        ValueError: It is damaged. It is written atomically, so this is not the mark of a crash.
        OSError: It cannot be read.
    """
    try:
        data = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{FILE} is longer than {MAX_BYTES} bytes")
    return msgspec.json.decode(data, type=Keepsakes)  # its errors are ValueErrors


def write_keepsakes(folder: Path, keepsakes: Keepsakes) -> None:
    """Replace the file, durably.

    Raises:
        StoreError: The disk is full. MachineError: The folder cannot be written.
    """
    write_atomically(folder / FILE, msgspec.json.encode(keepsakes, order="sorted"))


def merge_floors(mine: Floors, theirs: Floors) -> Floors:
    """Take the higher version of each role, unless its keys were changed in between.

    A floor is forgotten when a newer delegator (root; for a team: targets) takes a key from a role. So where the keys of both
    sides differ, the side with the newer delegator is right, however low its version; otherwise the higher version is.
    """
    merged = dict(mine.roles)
    for role, floor in theirs.roles.items():
        known = merged.get(role)
        if known is None or _is_newer(role, floor, known, theirs, mine):
            merged[role] = floor
    return Floors(merged)


def _is_newer(role: str, offered: Floor, known: Floor, theirs: Floors, mine: Floors) -> bool:
    if role != "root" and set(offered.keys) != set(known.keys):
        delegator = "root" if role in {"targets", "snapshot", "timestamp"} else "targets"
        if theirs.version(delegator) != mine.version(delegator):
            return theirs.version(delegator) > mine.version(delegator)
    return offered.version > known.version


def merge_releases(
    mine: dict[str, InstalledRelease], theirs: dict[str, InstalledRelease]
) -> dict[str, InstalledRelease]:
    """Take what changed last for each package, and the higher floor of both."""
    merged = dict(mine)
    for package, offered in theirs.items():
        known = merged.get(package, offered)
        latest = offered if offered.changed > known.changed else known
        highest = offered if offered.release > known.release else known
        merged[package] = replace(latest, release=highest.release, min_release=highest.min_release)
    return merged
