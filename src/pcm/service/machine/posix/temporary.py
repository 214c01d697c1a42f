"""Step 10: a folder for temporary files that one run has for itself. Removed once its tree is gone.

A run as system has it inside its own run folder; emptied, it may be the next run's (`posix.spare`). A run as a user cannot get
there, so it has one in /tmp: made exclusively under a name with the run's random id, and only then given to the user.
"""

import contextlib
import os
from pathlib import Path

from pcm.model.errors import MachineError
from pcm.service.machine.durable import storing_error
from pcm.service.machine.posix import spare
from pcm.service.machine.posix.removal import remove_tree

_SHARED = Path("/tmp")  # noqa: S108 - the folder below it is made exclusively


def make_temporary(run_folder: Path, run_id: str, user_id: int, group_id: int) -> str:
    """Make the folder, mode 0700, and return its path.

    Raises:
        MachineError: `machine.run_folder`, the name is taken.
        StoreError: `store.full`.
    """
    parent, name = _place(run_folder, run_id, user_id)
    if user_id == os.geteuid() and _take_over(run_folder, name):
        return f"{parent}/{name}"
    try:
        folder = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
            if user_id != os.geteuid():
                made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                try:
                    os.fchown(made, user_id, group_id)
                finally:
                    os.close(made)
        finally:
            os.close(folder)
    except FileExistsError:
        raise MachineError(f"{parent / name} is there already.", code="machine.run_folder") from None
    except OSError as error:
        raise storing_error(error, parent / name) from error
    return f"{parent}/{name}"


def remove_temporary(run_folder: Path, run_id: str, user_id: int) -> None:
    """Remove it and all the program left there; nothing there is fine.

    Raises:
        MachineError: `machine.remove`, `machine.mounted`.
    """
    parent, name = _place(run_folder, run_id, user_id)
    with contextlib.suppress(FileNotFoundError):
        keep = user_id == os.geteuid() and spare.is_ours_alone(run_folder.parent)
        folder = os.open(run_folder.parent if keep else parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if keep:
                spare.give_folder(folder, f"{run_folder.name}/{name}", spare.FOLDER)
            else:
                remove_tree(folder, name)
        finally:
            os.close(folder)


def holds_little(run_folder: Path, run_id: str, user_id: int) -> bool:
    """Whether removing it takes no longer than a moment."""
    parent, name = _place(run_folder, run_id, user_id)
    try:
        return spare.is_small(os.lstat(f"{parent}/{name}"))
    except FileNotFoundError:
        return True


def _take_over(run_folder: Path, name: str) -> bool:
    """Take the folder that an earlier run has left; False: there is none."""
    with contextlib.suppress(OSError, MachineError):
        if spare.is_ours_alone(run_folder.parent):
            folder = os.open(run_folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                taken = spare.take_folder(folder, spare.FOLDER, f"{run_folder.name}/{name}")
                if taken >= 0:
                    os.close(taken)
                return taken >= 0
            finally:
                os.close(folder)
    return False


def _place(run_folder: Path, run_id: str, user_id: int) -> tuple[Path, str]:
    if user_id == os.geteuid():
        return run_folder, "tmp"
    return _SHARED, f"pcm-{run_id}"
