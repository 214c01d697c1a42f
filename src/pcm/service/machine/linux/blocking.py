"""Programs that are in another one's way: found by name, asked to end, ended. Serves steps 7 (`outlook`) and 10.

Only what a signed program names is ever looked for, and only the process that was found is ever signalled: by a descriptor of
it, whose start time was compared. Never this service's own processes, PID 1, the kernel's threads, or what lives in a container
or sandbox with process numbers of its own (it has its own files too). Sources: proc(5), pidfd_open(2), pid_namespaces(7).

A name is a program's whole file name. Matched are the file that is executed, and, for scripts, the name by which the kernel
calls the process (the script's, cut to 15 bytes: then the command line must say the rest).
"""

import os
import select
import signal
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from pcm.service.machine.interface import Standing
from pcm.service.machine.linux.children import is_own
from pcm.service.machine.linux.proctable import (
    Process,
    all_processes,
    read_process,
    real_user,
    signal_process,
    with_descendants,
)

_COMM_BYTES = 15  # TASK_COMM_LEN - 1
_GONE = " (deleted)"  # what readlink adds for a file that an update has replaced
_LOOKED_AT = 3  # words of a command line in which a script's name can stand: interpreter, its option, script
_KILL_PATIENCE_S = 5.0


def processes_named(names: Collection[str]) -> list[Standing]:
    """See `Machine.processes_named`."""
    if not names:
        return []
    table = all_processes()
    ours = _own_family(table)
    space = _space_of("self")
    found = []
    for process in table.values():
        if not process.alive or process.id in ours:
            continue
        name = _matching_name(process.id, names)
        if name is None or _space_of(str(process.id)) != space:
            continue
        found.append(Standing(process.id, process.started_ticks, name, _user_of(process.id)))
    return found


def close_processes(found: Sequence[Standing], grace_s: float) -> list[Standing]:
    """See `Machine.close_processes`."""
    for each in found:
        _signal(each, signal.SIGTERM)
    left = _wait_for(found, grace_s)
    for each in left:
        _signal(each, signal.SIGKILL)
    _wait_for(left, _KILL_PATIENCE_S)
    return left


def _signal(each: Standing, number: int) -> None:
    signal_process(Process(each.process_id, 0, "", each.started), number)


def _wait_for(found: Iterable[Standing], seconds: float) -> list[Standing]:
    """Wait until these have ended; returns those that have not in time."""
    end_s = time.monotonic() + seconds
    poller = select.poll()
    watched: dict[int, Standing] = {}
    try:
        for each in found:
            descriptor = _open(each)
            if descriptor is not None:
                watched[descriptor] = each
                poller.register(descriptor, select.POLLIN)
        while watched and (left_s := end_s - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(int(left_s * 1000) + 1):
                poller.unregister(descriptor)
                os.close(descriptor)
                del watched[descriptor]
        return list(watched.values())
    finally:
        for descriptor in watched:
            os.close(descriptor)


def _open(each: Standing) -> int | None:
    """A descriptor of this very process; None if it has ended (whoever has its number now)."""
    try:
        descriptor = os.pidfd_open(each.process_id)
    except OSError:
        return None
    now = read_process(each.process_id)
    if now is None or now.started_ticks != each.started or not now.alive:
        os.close(descriptor)
        return None
    return descriptor


def _own_family(table: dict[int, Process]) -> set[int]:
    """This process, everybody above it, what it has started of this service, and the supervisor's other workers."""
    me, parent = os.getpid(), os.getppid()
    above: list[int] = []
    at = table.get(me)
    while at is not None and at.id not in above:
        above.append(at.id)
        at = table.get(at.parent)
    own = [each.id for each in table.values() if each.parent == me and is_own(each.id, each.started_ticks)]
    mine = _executable(me)
    if mine is not None and _executable(parent) == mine:
        siblings = [each.id for each in table.values() if each.parent == parent and each.id != me]
        own += [each for each in siblings if _executable(each) == mine]
    return {1, *above, *(each.id for each in with_descendants(own))}


def _matching_name(process_id: int, names: Collection[str]) -> str | None:
    executable = _executable(process_id)
    if executable is None:
        return None  # a thread of the kernel, or gone
    file = PurePosixPath(executable.removesuffix(_GONE)).name
    if file in names:
        return file
    try:
        called = Path(f"/proc/{process_id}/comm").read_bytes().rstrip(b"\n").decode(errors="replace")
    except OSError:
        return None
    for name in names:
        cut = name.encode()[:_COMM_BYTES]
        if called == cut.decode(errors="replace") and (len(cut) < _COMM_BYTES or _says(process_id, name)):
            return name
    return None


def _says(process_id: int, name: str) -> bool:
    try:
        words = Path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")[:_LOOKED_AT]
    except OSError:
        return False
    return any(PurePosixPath(word.decode(errors="replace")).name == name for word in words)


def _executable(process_id: int) -> str | None:
    try:
        return str(Path(f"/proc/{process_id}/exe").readlink())
    except OSError:
        return None


def _space_of(process_id: str) -> str | None:
    try:
        return str(Path(f"/proc/{process_id}/ns/pid").readlink())
    except OSError:
        return None


def _user_of(process_id: int) -> int:
    user = real_user(process_id)
    return -1 if user is None else user
