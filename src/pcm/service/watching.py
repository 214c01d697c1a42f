"""One connection that stays: what changes is told as it changes, to whoever watches.

Step 9, behind `local_api`, in the process that answers this one connection; the supervisor sleeps on meanwhile. It holds nothing
open: a few times a second it asks the file system whether anything was written, and only then looks, with the same eyes as `list`
and only at what this user may see. So watching costs next to nothing while nothing happens, never holds up a check, and tells
nobody more than asking would.

It ends when the watcher goes, does not read, or has had nothing to hear for `IDLE_S` (who still cares asks again), and when the
service ends. At most `PER_USER` of one user and `MOST` of all users watch at once, administrators beside them; whoever comes
too late is told `local.busy`, and asks now and then instead.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec.structs import replace

from pcm.protocol import local
from pcm.protocol.local import write_answer
from pcm.service import transfer_progress
from pcm.service.asking import Asker
from pcm.service.machine import resident
from pcm.service.places import Places

IDLE_S = 600.0
LOOK_S, BUSY_LOOK_S = 0.5, 0.2  # between looks at the file system
ANEW_S = 60.0  # what only time changes (an offer begins, a pause ends) is seen this late
WRITE_S = 10.0
MOST, PER_USER, FOR_ADMINISTRATORS = 4, 2, 2
_SHARE = 5  # a look takes at most one part in so many of the time

Look = Callable[[], local.Answer]
Stamp = tuple[object, ...]


def watch(connection: socket.socket, asker: Asker, places: Places, look: Look) -> None:
    """Tell one watcher what changes until either side has enough.

    Args:
        look: What `list` would answer this user now.
    """
    with _seat(places.runtime, asker) as seat:
        if seat is None:
            text = "Enough programs are watching already; ask now and then instead."
            _put(connection, local.Fault("local.busy", text))
            return
        with contextlib.suppress(OSError):  # gone, or too slow to read: its own loss
            _Watch(connection, places, look).run()


class _Watch:
    """One watcher, and what it was told last."""

    def __init__(self, connection: socket.socket, places: Places, look: Look) -> None:
        self._connection = connection
        self._places = places
        self._look = look
        self._told = local.Items(())
        self._stamp: Stamp = ()
        self._progress = 0
        self._looked = self._spoke = time.monotonic()
        self._took = 0.0

    def run(self) -> None:
        """Look and tell, until it is over. Raises OSError when nobody listens."""
        home = self._door()
        if not self._look_again(first=True):
            return
        while home and self._door() == home and time.monotonic() - self._spoke < IDLE_S and not self._has_left():
            now = time.monotonic()
            changed = self._database() != self._stamp or now - self._looked >= ANEW_S
            if changed and now - self._looked >= self._took * _SHARE:
                if not self._look_again():
                    return
            elif transfer_progress.stamp(self._places.runtime) != self._progress:
                self._tell_progress()

    def _has_left(self) -> bool:
        """Wait a little for the watcher to say anything: there is nothing for it to say, so it has gone, or is no watcher."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN | select.POLLHUP)
        return bool(poll.poll((BUSY_LOOK_S if self._progress else LOOK_S) * 1000))

    def _door(self) -> Stamp:
        """The service's socket: it goes when the service ends, and is another one after that."""
        return _stamp_of(self._places.socket)

    def _database(self) -> Stamp:
        database = self._places.database
        return (*_stamp_of(database), *_stamp_of(database.with_name(f"{database.name}-wal")))

    def _look_again(self, *, first: bool = False) -> bool:
        """Tell what is new since the last look; False if there is nothing to be told any more."""
        began = time.monotonic()
        self._stamp = self._database()  # before the look: what is written meanwhile is looked at again
        self._progress = transfer_progress.stamp(self._places.runtime)
        found = self._look()
        self._took, self._looked = time.monotonic() - began, began
        if not isinstance(found, local.Items):
            self._say(found)
            return False
        if first:
            self._say(found)
        else:
            before = {item.id: item for item in self._told.items}
            items = tuple(item for item in found.items if before.pop(item.id, None) != item)
            if items or before or found.standing != self._told.standing:
                self._say(local.Changed(items, tuple(before), found.standing))
        self._told = found
        return True

    def _tell_progress(self) -> None:
        """Of content for something that this user was shown; what else comes is not this user's matter."""
        self._progress = transfer_progress.stamp(self._places.runtime)
        snapshot, before = transfer_progress.read(self._places.runtime), self._told.standing.transfer
        if snapshot is None or before is None or snapshot.total != before.total:
            self._stamp = ()  # something else comes, or it has ended: whose it is, a look will tell
            return
        transfer = transfer_progress.to_transfer(before.id, snapshot)
        if transfer != before:
            self._told = replace(self._told, standing=replace(self._told.standing, transfer=transfer))
            self._say(local.Progress(transfer))

    def _say(self, answer: local.Answer) -> None:
        self._spoke = time.monotonic()
        _put(self._connection, answer)


def _put(connection: socket.socket, answer: local.Answer) -> None:
    from pcm.service.local_api import write_all  # noqa: PLC0415 - it imports this module

    write_all(connection, write_answer(answer), WRITE_S)


@contextlib.contextmanager
def _seat(runtime: Path, asker: Asker) -> Iterator[int | None]:
    """One of the places for watchers, as a lock that ends with this process; None if this user gets none."""
    numbers = range(MOST, MOST + FOR_ADMINISTRATORS) if asker.is_administrator else range(MOST)
    paths = [str(runtime / f"watch.{number}") for number in numbers]
    most = FOR_ADMINISTRATORS if asker.is_administrator else PER_USER
    seat: int | None = None
    if _count(paths, asker) < most:
        seat = next((held for held in map(resident.try_lock, paths) if held is not None), None)
    if seat is not None:
        os.write(seat, b"%d" % asker.user_id)  # below the process id
        if _count(paths, asker) > most:  # several came at once
            os.close(seat)
            seat = None
    try:
        yield seat
    finally:
        if seat is not None:
            os.close(seat)


def _count(paths: Iterable[str], asker: Asker) -> int:
    """How many of these places this user holds."""
    return sum(_holder(path) == f"{asker.user_id}" and not _is_free(path) for path in paths)


def _is_free(path: str) -> bool:
    held = resident.try_lock(path)
    if held is not None:
        os.close(held)
    return held is not None


def _holder(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as `resident` names it
            return file.read(100).decode("ascii", "replace").partition("\n")[2]
    except OSError:
        return ""


def _stamp_of(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
