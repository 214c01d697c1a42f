"""Removing a folder and all below it as administrator, when whoever ran there may have left traps. Serves 'clean up' in step 11.

Traps it does not fall into: symbolic links (removed, never followed), folders swapped while it works (it holds descriptors, not
names), mount points (refused: a package that bound `/` into its folder must not make the service empty the disk), trees
deeper than there are descriptors (brought up to the top, piece by piece), and a user who goes on adding (an end to patience).
"""

import errno
import os
import stat
import sys
import time
from typing import NamedTuple

from pcm.model.errors import MachineError
from pcm.service.machine.posix.beneath import best_opener, open_by_components

if sys.platform == "linux":
    from pcm.service.machine.linux import syscalls

_MAX_DEPTH = 32
PATIENCE_S = 300.0


class _Level(NamedTuple):
    descriptor: int
    name: str
    names: list[str]


def remove_tree(folder: int, name: str) -> None:
    """Remove `name`, whatever it is, from the open folder; nothing there is fine.

    Raises:
        MachineError: `machine.remove`, naming what could not be removed; `machine.mounted` for a mount point inside.
    """
    try:
        top = _enter(folder, name)
        if top is not None:
            _remove(top, folder)
    except OSError as error:
        raise _explained(error, name) from error


def empty_tree(folder: int, name: str) -> None:
    """Remove everything in the folder `name` of the open folder, but not that one itself; nothing there is fine.

    Raises:
        MachineError: as `remove_tree`.
    """
    try:
        _remove(_list(_open_same_mount(folder, name), name), None)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise _explained(error, name) from error
        remove_tree(folder, name)  # no folder (any more)


def _explained(error: OSError, name: str) -> MachineError:
    code = "machine.mounted" if error.errno in {errno.EXDEV, errno.EBUSY} else "machine.remove"
    reason = "a file system is mounted there" if code == "machine.mounted" else error.strerror
    return MachineError(f"{error.filename or name!r} could not be removed: {reason}.", code=code)


def _remove(top: _Level, folder: int | None) -> None:
    """Remove what is in a level, and the level itself from the open folder, if one is given."""
    levels = [top]
    name = top.name
    patient_until_s = time.monotonic() + PATIENCE_S
    try:
        while levels:
            if time.monotonic() > patient_until_s:
                raise TimeoutError(errno.ETIMEDOUT, "more is added than can be removed", name)
            level = levels[-1]
            if level.names:
                _remove_one(levels, level.names.pop())
                continue
            parent = levels[-2].descriptor if len(levels) > 1 else folder
            os.close(levels.pop().descriptor)
            if parent is not None:
                os.rmdir(level.name, dir_fd=parent)
    finally:
        for level in levels:
            os.close(level.descriptor)


def _remove_one(levels: list[_Level], name: str) -> None:
    level = levels[-1]
    if _unlink(level.descriptor, name):
        return
    if len(levels) < _MAX_DEPTH:
        deeper = _enter(level.descriptor, name)
        if deeper is not None:
            levels.append(deeper)
        return
    raised = f".deep-{os.urandom(8).hex()}"
    os.rename(name, raised, src_dir_fd=level.descriptor, dst_dir_fd=levels[0].descriptor)
    levels[0].names.append(raised)


def _enter(folder: int, name: str) -> _Level | None:
    """Open a subfolder and list it; an empty one, and anything else, is removed at once."""
    if _remove_at_once(folder, name):
        return None
    return _list(_open_same_mount(folder, name), name)


def _list(descriptor: int, name: str) -> _Level:
    try:
        return _Level(descriptor, name, os.listdir(descriptor))
    except OSError:
        os.close(descriptor)
        raise


def _remove_at_once(folder: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=folder)  # follows nothing, and refuses what is mounted and what is not empty
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return _unlink(folder, name)
    except OSError:
        return False  # the long way finds out, and says, why
    return True


def _unlink(folder: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return (
            False  # not looked at any closer: that would ask whatever a user has mounted there, and could wait for ever
        )
    except PermissionError:
        # POSIX leaves EPERM to unlink of a folder, Linux says EISDIR; a file that may not be removed also says EPERM
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise
        return False
    return True


def _open_same_mount(folder: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if sys.platform == "linux" and best_opener() is not open_by_components:
        resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
        return syscalls.openat2(folder, name, flags, 0, resolve)
    descriptor = open_by_components(folder, (name,), flags)
    if os.fstat(descriptor).st_dev != os.fstat(folder).st_dev:
        os.close(descriptor)
        raise OSError(errno.EXDEV, "mount point", name)
    return descriptor
