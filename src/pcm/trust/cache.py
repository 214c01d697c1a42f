"""A repository's metadata folder on the client: copied before each refresh, made durable after it, discarded if refused.

Serves step 6, checks 3 and 7. tuf's client works in the copy; the caller makes it the current one in the transaction
that stores the raised floors. Whatever is damaged or missing here is fetched anew: the folder is a cache, the floors
in the database are the authority. tuf's client does not fsync, so `make_durable` does.
"""

import contextlib
import os
import shutil
import stat
from pathlib import Path

from pcm.model.errors import StoreError

HISTORY = "root_history"
BODY = "instructions.body"
POLICY = "site.policy"


def copy(current: Path | None, following: Path, max_bytes: int) -> None:
    """Begin the next folder with what is usable of the current one.

    Args:
        current: The folder in use; None, missing or damaged is no error.
        following: Made anew; whatever an interrupted refresh left there is removed.
        max_bytes: Longer files are no metadata of ours and stay behind.

    Raises:
        StoreError: the new folder cannot be written.
    """
    try:
        discard(following)
        (following / HISTORY).mkdir(mode=0o700, parents=True)
        os.chmod(following, 0o700)  # noqa: PTH101 (parents=True ignores the mode for a parent)
        if current is not None:
            _copy_files(current, following, max_bytes)
            _copy_files(current / HISTORY, following / HISTORY, max_bytes)
    except OSError as error:
        raise StoreError(f"Metadata cannot be copied to {following}: {error.strerror or error}.") from error


def _copy_files(source: Path, target: Path, max_bytes: int) -> None:
    try:
        entries = sorted(os.scandir(source), key=lambda entry: entry.name)
    except OSError:
        return  # lost or not a folder: it is fetched anew
    for entry in entries:
        data = _read_regular(entry, max_bytes) if entry.name.endswith(".json") or entry.name in {BODY, POLICY} else None
        if data is not None:
            (target / entry.name).write_bytes(data)


def _read_regular(entry: os.DirEntry[str], max_bytes: int) -> bytes | None:
    try:
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            return None
        return Path(entry.path).read_bytes()
    except OSError:
        return None


def forget_roles(folder: Path) -> bool:
    """Remove all cached roles but the roots. Tells whether there were any."""
    found = False
    for path in folder.glob("*.json"):
        if path.name != "root.json":
            path.unlink(missing_ok=True)
            found = True
    return found


def read_kept(folder: Path, name: str, max_bytes: int) -> bytes | None:
    """A document kept beside the metadata (`BODY`, `POLICY`), unverified; None if it is not there."""
    try:
        with (folder / name).open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError:
        return None


def keep(folder: Path, name: str, data: bytes) -> None:
    """Keep a verified document beside the metadata.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        (folder / name).write_bytes(data)
    except OSError as error:
        raise StoreError(f"{name} cannot be kept in {folder}: {error.strerror}.") from error


def make_durable(folder: Path) -> None:
    """Write the folder through to the disk, and its name in its parent too.

    Raises:
        StoreError: the disk does not take it.
    """
    try:
        with contextlib.ExitStack() as stack:
            descriptors: list[int] = []
            for path in [*sorted(folder.rglob("*")), folder, folder.parent]:
                if not path.is_symlink() and (
                    os.name == "posix" or not path.is_dir()
                ):  # Windows has no fsync of folders
                    descriptors.append(os.open(path, os.O_RDONLY))
                    stack.callback(os.close, descriptors[-1])
            # all writing is begun before any of it is waited for: half the time of one file after the other
            for descriptor in descriptors if hasattr(os, "posix_fadvise") else ():
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for descriptor in descriptors:
                os.fsync(descriptor)
    except OSError as error:
        raise StoreError(f"Metadata in {folder} cannot be made durable: {error.strerror}.") from error


def discard(folder: Path) -> None:
    """Remove a refused or superseded folder.

    Raises:
        OSError: something in it cannot be removed.
    """
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
