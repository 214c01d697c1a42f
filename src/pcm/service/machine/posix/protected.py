"""Folders that only administrators can change. Serves steps 8 and 10, and `pcmsvc check` (KB Q181118, Q191328, Q189809).

Before: the service is about to trust a place (its binaries, configuration, state, staging). A place is protected if nobody but
root (or, for a service without root, its own account) can change it *or any folder above it*; whoever can rename a parent owns
all that lies below. Access lists need no look of their own: their mask shows as the group bits.
"""

import os
import stat
from pathlib import Path

from pcm.model.errors import MachineError
from pcm.service.machine.interface import Problem

_LOOK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC


def check_protected(path: Path) -> list[Problem]:
    """Name each reason why `path`, or a folder above it, is open to somebody else.

    A missing last part is a problem (`missing`) too. Every component is looked at through its parent's descriptor.
    """
    descriptor, problems = _walk(path)
    if descriptor >= 0:
        os.close(descriptor)
    return problems


def open_protected(path: Path) -> int:
    """Open a folder, having checked on the way that it is protected; what was checked is what is open.

    Returns:
        A descriptor of the folder, for use as `dir_fd`.

    Raises:
        MachineError: `machine.unprotected`, with every problem.
    """
    look, problems = _walk(path)
    try:
        if problems:
            listed = " ".join(problem.message for problem in problems)
            raise MachineError(f"{path} is not safe to use as administrator. {listed}", code="machine.unprotected")
        # opened through the descriptor: the very folder that was looked at, not whatever bears its name now
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=look)
    except NotADirectoryError:
        raise MachineError(f"{path} is not a folder.", code="machine.unprotected") from None
    finally:
        if look >= 0:
            os.close(look)


class ProtectedFolder:
    """A protected folder that is needed again and again: held open, and every name that leads to it looked at anew each time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names = [str(each) for each in (*reversed(path.parents), path)]
        self._descriptor = -1
        self._seen: list[tuple[int, int, int, int]] = []

    def descriptor(self) -> int:
        """Of the folder, for use as `dir_fd`; it stays this object's own. As `open_protected` in what it refuses, and raises."""
        if self._descriptor < 0 or os.fstat(self._descriptor).st_nlink == 0 or self._look() != self._seen:
            self.close()
            self._descriptor = open_protected(self.path)
            # if one of the names leads elsewhere by now, the next look finds something else again, and walks
            self._seen = self._look()
            here = os.fstat(self._descriptor)
            self._seen[-1] = (here.st_dev, here.st_ino, here.st_mode, here.st_uid)
        return self._descriptor

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()

    def _look(self) -> list[tuple[int, int, int, int]]:
        """Which folders stand under the names now, whose they are, and who may change them."""
        try:
            found = [os.lstat(name) for name in self._names]
        except OSError:
            return [(0, 0, 0, 0)]
        return [(each.st_dev, each.st_ino, each.st_mode, each.st_uid) for each in found]


def _walk(path: Path) -> tuple[int, list[Problem]]:
    if not path.is_absolute() or ".." in path.parts:
        return -1, [Problem(str(path), "relative", f"{path} is not an absolute path.")]
    current = os.open("/", _LOOK)
    problems = _problems_of(Path("/"), os.fstat(current), is_last=len(path.parts) == 1)
    parts = path.parts
    for index, part in enumerate(parts[1:], start=2):
        try:
            deeper = os.open(part, _LOOK, dir_fd=current)
        except OSError as error:
            here = Path(*parts[:index])
            problems.append(Problem(str(here), "missing", f"{here} cannot be looked at: {error.strerror}."))
            os.close(current)
            return -1, problems
        os.close(current)
        current = deeper
        status = os.fstat(current)
        if not _is_ours_alone(status):
            problems += _problems_of(Path(*parts[:index]), status, is_last=index == len(parts))
    return current, problems


def _is_ours_alone(status: os.stat_result) -> bool:
    """Whether there is surely nothing to say: a folder of root's that nobody else can change."""
    return status.st_uid == 0 and stat.S_ISDIR(status.st_mode) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _problems_of(path: Path, status: os.stat_result, *, is_last: bool) -> list[Problem]:
    if stat.S_ISLNK(status.st_mode):
        return [Problem(str(path), "symlink", f"{path} is a symbolic link; name the real folder.")]
    problems = []
    if status.st_uid not in {0, os.geteuid()}:
        problems.append(
            Problem(str(path), "owner", f"{path} belongs to user {status.st_uid}: chown it to an administrator.")
        )
    # in a sticky folder of root's (such as /tmp) others may add names, but not move or replace ours
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX and status.st_uid == 0 and not is_last
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        problems.append(
            Problem(
                str(path),
                "writable",
                f"{path} (mode {stat.S_IMODE(status.st_mode):04o}) can be changed by others: chmod go-w it.",
            )
        )
    return problems
