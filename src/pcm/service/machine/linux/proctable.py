"""Looking at other processes through /proc. Serves `linux.tree` and `linux.survivors` (step 10).

Only reads and, by `signal_process`, signals. A process id alone names nobody for long: everything here carries the start time
with it, and a signal goes through a descriptor of the very process whose start time was compared. Source: proc(5),
pidfd_open(2).
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_LINKS_OF_ONE = 3

# mount and inode: as /proc/<pid>/fdinfo tells them
FileIdentity = tuple[int, int]


class Process(NamedTuple):
    """One process as it was when looked at. `started_ticks`: clock ticks after boot; with the id, unique for a boot."""

    id: int
    parent: int
    state: str
    started_ticks: int

    @property
    def alive(self) -> bool:
        """Whether it still executes (a zombie does not)."""
        return self.state not in {"Z", "X", "x"}


def read_process(process_id: int) -> Process | None:
    """Look at one process; None if there is none."""
    try:
        descriptor = os.open(f"/proc/{process_id}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(descriptor, 4096)  # one record, which the kernel gives in one piece
        finally:
            os.close(descriptor)
    except OSError:
        return None
    # the name in parentheses may itself hold spaces and parentheses
    rest = text[text.rfind(b")") + 2 :].split()
    return Process(process_id, int(rest[1]), rest[0].decode(), int(rest[19]))


def _read(path: str) -> bytes:
    """The whole of a small file of procfs: several times at each run."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(descriptor, 1 << 16):
            pieces.append(piece)
    finally:
        os.close(descriptor)
    return b"".join(pieces)


def all_processes() -> dict[int, Process]:
    """Look at every process of this computer (or container)."""
    found = {}
    with os.scandir(_PROC) as entries:
        ids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    for process_id in ids:
        process = read_process(process_id)
        if process is not None:
            found[process_id] = process
    return found


def own_children() -> list[int]:
    """Ids of this process's children, zombies included.

    Reliable, although the kernel's list is not in general: an entry could be missed only if one before it were reaped during
    the reading, and we alone reap our children.
    """
    ids: list[int] = []
    try:
        for thread in _own_threads():
            ids += map(int, _read(f"/proc/self/task/{thread}/children").split())
    except FileNotFoundError:  # a kernel without that list
        me = os.getpid()
        return [process.id for process in all_processes().values() if process.parent == me]
    return ids


def _own_threads() -> list[str]:
    # the folder has a link for each thread (and two of its own): of one only, which asks, nothing has to be listed
    if os.stat("/proc/self/task").st_nlink == _LINKS_OF_ONE:  # noqa: PTH116 - called often
        return [str(threading.get_native_id())]
    return os.listdir("/proc/self/task")  # noqa: PTH208 - called often, names only


def with_descendants(roots: Iterable[int]) -> list[Process]:
    """Return the living processes among these ids and everything below them."""
    table = all_processes()
    below: dict[int, list[int]] = {}
    for process in table.values():
        below.setdefault(process.parent, []).append(process.id)
    found: dict[int, Process] = {}
    waiting = list(roots)
    while waiting:
        process_id = waiting.pop()
        if process_id in found or process_id not in table:
            continue
        found[process_id] = table[process_id]
        waiting += below.get(process_id, [])
    return [process for process in found.values() if process.alive]


def signal_process(process: Process, number: int) -> bool:
    """Send a signal to exactly this process; False if it is gone."""
    try:
        descriptor = os.pidfd_open(process.id)
    except OSError:
        return False
    try:
        now = read_process(process.id)
        if now is None or now.started_ticks != process.started_ticks:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def real_user(process_id: int) -> int | None:
    """Return the real user id: who started it, whatever a set-user-id program made of it since."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_bytes().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(b"Uid:")), None)


def has_variable(process_id: int, assignment: bytes) -> bool:
    """Tell whether a process was started with this environment entry (`NAME=value`)."""
    try:
        return assignment in Path(f"/proc/{process_id}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def open_files(process_id: int) -> Iterator[FileIdentity]:
    """Give the identity of each file a process has open, without touching the files.

    Not by stat through /proc/<pid>/fd: that would ask the file's own file system, and a user's could let us wait for ever.
    """
    folder = f"/proc/{process_id}/fdinfo"
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names only
    except OSError:
        return
    for name in names:
        identity = _identity(f"{folder}/{name}")
        if identity is not None:
            yield identity


def identity_of(descriptor: int) -> FileIdentity | None:
    """Identity of a file that this process has open, to be found again among another's `open_files`."""
    return _identity(f"/proc/self/fdinfo/{descriptor}")


def _identity(path: str) -> FileIdentity | None:
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError:
        return None
    values = dict(line.split(b":\t", 1) for line in lines if b":\t" in line)
    if b"ino" not in values or b"mnt_id" not in values:  # kernels before 5.14 do not tell the inode
        return None
    return (int(values[b"mnt_id"]), int(values[b"ino"]))
