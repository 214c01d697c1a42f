"""What tells this client whom to obey is an administrator's, or it counts for nothing: configuration, pinned roots, account.

Serves no step; beside `measures`, which looks and mends. A file here that somebody else owned, or could write, may say anything:
made an administrator's as it was, it would give its writer this computer. So nobody takes it over. It is set aside under a name
that nothing reads, with its owner, for whoever wants to know what happened; and the kit has to be given again.
"""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from pcm.model.errors import MachineError
from pcm.service.machine.durable import storing_error, sync_folder
from pcm.service.places import Places

GIVE_KIT = "sudo pcmsvc install --kit KIT (pcm client kit)"
_MOST_KEPT = 99


class Doubt(NamedTuple):
    """A file that cannot be trusted, and why, in a sentence."""

    path: Path
    why: str


def doubtful(places: Places, *, is_open: bool) -> list[Doubt]:
    """Each file that somebody other than an administrator owned or could write.

    Args:
        is_open: Others can change the folder, or one above: then another name for a file of root's may have been put there too.
    """
    found = []
    for path in (*_pinned(places), places.authority, places.account):
        why = _doubt(path, is_open=is_open)
        if why:
            found.append(Doubt(path, why))
    return found


def needs_kit(doubts: list[Doubt], places: Places) -> bool:
    """Whether this client knows no more whom to obey; an account alone is written anew by hand."""
    return any(each.path != places.account for each in doubts)


def in_words(doubts: list[Doubt], places: Places) -> list[str]:
    """For people, with what has to be done about it."""
    remedy = {places.account: "write it again (docs/smb.md)"}
    return [f"{each.path} {each.why}: give it again, {remedy.get(each.path, GIVE_KIT)}." for each in doubts]


def set_aside(places: Places, doubts: list[Doubt]) -> None:
    """Take these files out of use. The folder must be closed to others by now. What decides together, goes together.

    Raises:
        MachineError, StoreError: it could not be done; done again, it goes on.
    """
    paths = [each.path for each in doubts]
    if any(path in _pinned(places) for path in paths):
        # client.json, first of all: without it nothing here is obeyed any more
        paths = [*_pinned(places), *(path for path in paths if path not in _pinned(places))]
    for path in paths:
        try:
            if os.path.lexists(path):
                path.rename(_free_name(path))
                sync_folder(path.parent)
        except OSError as error:
            raise storing_error(error, path) from error


def _pinned(places: Places) -> tuple[Path, ...]:
    return (places.configuration, places.instructions_root, places.packages_root)


def _doubt(path: Path, *, is_open: bool) -> str:
    try:
        status = path.lstat()
    except OSError:
        return ""
    if status.st_uid not in {0, os.geteuid()}:
        return f"belongs to user {status.st_uid}, who may have written anything into it"
    if not stat.S_ISREG(status.st_mode):
        return ""  # a link of an administrator's: named by the check, and nothing reads through it
    if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid not in {0, os.getegid()}):
        return f"(mode {stat.S_IMODE(status.st_mode):04o}) could be written by others than administrators"
    if is_open and status.st_nlink > 1:
        return "has another name elsewhere, and others could put it here"
    return ""


def _free_name(path: Path) -> Path:
    for number in range(1, _MOST_KEPT + 1):
        free = path.with_name(f"{path.name}.untrusted-{number}")
        if not os.path.lexists(free):
            return free
    raise MachineError(
        f"{path.parent} is full of files {path.name}.untrusted-*: remove those that nobody needs.", code="machine.write"
    )
