"""Children of this process that are no part of any run: our own programs, and whatever was there before.

Serves `linux.tree`, which counts every other child as part of the run, and `linux.spawning`, which makes the exceptions known.
"""

import threading

from pcm.service.machine.linux.proctable import own_children, read_process

# held while a child is made and made known, and while somebody tells children apart
FAMILY = threading.RLock()
_known: set[tuple[int, int]] = set()


def note_own(process_id: int) -> None:
    """Remember a child as our own (call with FAMILY held, before anybody can reap it)."""
    process = read_process(process_id)
    if process is not None:
        _known.add((process.id, process.started_ticks))


def drop_own(process_id: int) -> None:
    """Forget a child that has been reaped."""
    for entry in [each for each in _known if each[0] == process_id]:
        _known.discard(entry)


def is_own(process_id: int, started_ticks: int) -> bool:
    """Tell whether this is one of our own."""
    return (process_id, started_ticks) in _known


def present_children() -> frozenset[tuple[int, int]]:
    """Id and start time of each child there is now."""
    found = [read_process(process_id) for process_id in own_children()]
    return frozenset((each.id, each.started_ticks) for each in found if each is not None)
