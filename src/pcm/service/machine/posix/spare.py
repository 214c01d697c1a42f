"""Steps 8 and 10: a folder or file that one run has no use for any more, kept for the next one to take over.

On a disk that anybody syncs, removing a folder waits for that, and each new one looks for its place among those just removed;
giving it another name does neither. Only between runs as this process's own account, and only where nobody else can
write. What is taken over is empty and has its first owner and rights, or it is not taken over. There is at most one spare of each
kind in a place, and it is nobody's loss if it is gone.
"""

import contextlib
import os
import stat
from pathlib import Path

from pcm.model.errors import MachineError
from pcm.service.machine.posix.beneath import open_folder
from pcm.service.machine.posix.removal import empty_tree, remove_tree

FOLDER = ".spare"
FILE = ".spare-result"
_BLOCK_BYTES = 4096
_LINKS = 2  # its name, and its own '.'


def is_ours_alone(place: Path) -> bool:
    """Whether spares may be kept in a folder: nobody else can put anything there."""
    status = os.lstat(place)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def take_folder(folder: int, spare: str, name: str) -> int:
    """Give the empty folder `spare` in the open `folder` another name there or further below.

    Returns:
        A descriptor of it; or -1: there is none that is as good as a new one (what there was is removed, if it can be).
    """
    taken, left = -1, spare
    with contextlib.suppress(OSError):
        taken = open_folder(folder, (spare,))
        if is_like_new(os.fstat(taken)) and not os.listxattr(taken):
            os.rename(spare, name, src_dir_fd=folder, dst_dir_fd=folder)
            left = name
            if os.path.samestat(os.fstat(taken), os.lstat(name, dir_fd=folder)):
                return taken
    if taken >= 0:
        os.close(taken)
    with contextlib.suppress(MachineError):
        remove_tree(folder, left)  # also a link or a file that somebody has put in the folder's place
    return -1


def give_folder(folder: int, name: str, spare: str) -> None:
    """Empty the folder `name` in the open `folder`, or further below, and keep it there as the spare.

    Raises:
        MachineError: something cannot be removed.
    """
    empty_tree(folder, name)
    try:
        os.rename(name, spare, src_dir_fd=folder, dst_dir_fd=folder)  # in place of an older one, if that is empty too
    except OSError:
        remove_tree(folder, name)


def is_small(status: os.stat_result) -> bool:
    """Whether a folder has no folders in it, and no more names than its first block holds."""
    return stat.S_ISDIR(status.st_mode) and status.st_nlink <= _LINKS and status.st_size <= _BLOCK_BYTES


def is_like_new(status: os.stat_result) -> bool:
    """Whether a folder that was emptied has the rights with which it was made, and nothing in it that is a folder itself."""
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return mine and stat.S_IMODE(status.st_mode) == 0o700 and status.st_nlink <= _LINKS
