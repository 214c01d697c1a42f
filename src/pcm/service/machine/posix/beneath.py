"""Opening a path below an open folder without ever leaving it or following a link. Serves step 8 (`stage`) and removal.

Two ways with one meaning, under the same tests: the kernel's own (`openat2` with BENEATH, NO_SYMLINKS, NO_MAGICLINKS) where it
is there, and component by component with `dir_fd` and O_NOFOLLOW elsewhere. Neither trusts what was looked at a moment ago: the
descriptor that comes back is the thing itself.
"""

import contextlib
import errno
import os
import stat
import sys
from functools import cache
from typing import Protocol

from pcm.model.errors import MachineError, Retry

if sys.platform == "linux":
    from pcm.service.machine.linux import syscalls

# O_NONBLOCK: a FIFO that was put in the way must not block the service (it is refused afterwards by its type)
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Opener(Protocol):
    """Opens `parts`, one name after the other, below an open folder; raises OSError."""

    def __call__(self, folder: int, parts: tuple[str, ...], flags: int, mode: int = 0o600) -> int:
        """Return a new descriptor, closed on exec."""


def split_path(path: str) -> tuple[str, ...]:
    """Split a relative path into its names.

    Independent of `pcm.model.paths`, whose rules are stricter: this module is safe by itself.

    Raises:
        MachineError: `machine.path`: absolute, empty, `.` or `..` components, NUL.
    """
    parts = tuple(path.split("/"))
    if "\0" in path or any(part in {"", ".", ".."} for part in parts):
        raise MachineError(
            f"The path {path[:120]!r} does not stay below its folder.", code="machine.path", retry=Retry.NEVER
        )
    return parts


def single_name(name: str) -> str:
    """Return `name` if it names an entry of a folder, nothing else. Raises as `split_path`."""
    if len(split_path(name)) != 1:
        raise MachineError(f"{name[:120]!r} is no single name.", code="machine.path", retry=Retry.NEVER)
    return name


def open_by_kernel(folder: int, parts: tuple[str, ...], flags: int, mode: int = 0o600) -> int:
    """Open with openat2(2); ELOOP for any symbolic link on the way, EXDEV for any way out."""
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
    return syscalls.openat2(folder, "/".join(parts), flags, mode if flags & os.O_CREAT else 0, resolve)


def open_by_components(folder: int, parts: tuple[str, ...], flags: int, mode: int = 0o600) -> int:
    """Open one name at a time, each without following it; ELOOP or ENOTDIR for a symbolic link on the way."""
    current = folder
    try:
        for part in parts[:-1]:
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            if current != folder:
                os.close(current)
            current = deeper
        return os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=current)
    finally:
        if current != folder:
            os.close(current)


@cache
def best_opener() -> Opener:
    """Return the kernel's way if this kernel (and its sandbox: old ones answer EPERM) has it."""
    if sys.platform == "linux":
        root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                os.close(open_by_kernel(root, (".",), os.O_RDONLY | os.O_DIRECTORY))
                return open_by_kernel
        finally:
            os.close(root)
    return open_by_components


def open_folder(folder: int, parts: tuple[str, ...], opener: Opener | None = None) -> int:
    """Open the folder `parts` below `folder`; no names at all gives `folder` again, as a new descriptor."""
    if not parts:
        return os.dup(folder)
    return (opener or best_opener())(folder, parts, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_regular(folder: int, parts: tuple[str, ...], opener: Opener | None = None) -> int:
    """Open an existing regular file for reading; never blocks on a FIFO or device.

    Raises:
        OSError: ENOENT; ELOOP for a link; EINVAL if it is no regular file.
    """
    descriptor = (opener or best_opener())(folder, parts, _READ_FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", "/".join(parts))
    return descriptor
