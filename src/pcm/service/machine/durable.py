"""Writing small files that are there, whole, after any crash. Serves the service's own state, in any step.

Before: somebody holds the bytes. After: either the old file or the new one stands under the name, never half of either (KB
Q140928). It never follows a symbolic link at the name itself, and never changes a file in place.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pcm.model.errors import MachineError, StoreError


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace `path` by a new file with these bytes and permissions, durably.

    The file is synced before the rename, its folder after: a power cut leaves the old or the new one.

    Raises:
        StoreError: `store.full`, the disk or quota is full; the old file still stands.
        MachineError: `machine.write`, anything else the system refused.
    """
    temporary = path.with_name(f".{path.name[:100]}.{os.urandom(8).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _NOFOLLOW, 0o600)
        with contextlib.ExitStack() as undo:
            undo.callback(temporary.unlink)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                write_all(file.fileno(), content)
                _set_mode(file.fileno(), mode)
                os.fsync(file.fileno())
            temporary.replace(path)
            undo.pop_all()
        sync_folder(path.parent)
    except OSError as error:
        raise storing_error(error, path) from error


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write every byte; one write call may take only a part of them."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Does nothing where folders cannot be synced (Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storing_error(error: OSError, place: Path | str) -> StoreError | MachineError:
    """Map what the system said while storing at `place` to this project's errors."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreError(f"There is no space left for {place}; free some and it is tried again.", code="store.full")
    return MachineError(f"{place} could not be written: {error.strerror}.", code="machine.write")


def set_mode(path: Path, mode: int) -> None:
    """Give a file or folder its permissions, but never to what a link leads to: who can change the folder above could put one.

    Raises:
        OSError: the system refused.
    """
    with pinned(path) as (held, status):
        if not stat.S_ISLNK(status.st_mode) and stat.S_IMODE(status.st_mode) != mode:
            held.chmod(mode)


@contextlib.contextmanager
def pinned(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """A path that leads to what stands at `path` now, whatever is put there meanwhile; and what that is, a link for itself.

    Raises:
        OSError: there is nothing.
    """
    if not hasattr(os, "O_PATH"):  # where nothing else can be held by its name
        yield path, path.lstat()
        return
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor)
    finally:
        os.close(descriptor)


_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


def _set_mode(descriptor: int, mode: int) -> None:
    if os.name == "posix":
        os.fchmod(descriptor, mode)
