"""Reading a package directory: every file by path, length and SHA-256, in an order that is always the same.

Step 1 of 12: `pcm package create` reads `package.yaml` and calls this; the manifest is made of both, and `publish` (step 2)
reads the same files again. What a package cannot carry is named here, on the packager's machine, before anything is signed:
links, devices, names that mean something else on another system. It changes nothing and holds no file in memory.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pcm.model.errors import RequestError
from pcm.model.package import MAX_FILES, PackageFile
from pcm.model.paths import check_paths

DESCRIPTION = "package.yaml"  # at the top: describes the package, and is no part of its content
_PIECE = 1024 * 1024


class ScanProgress(NamedTuple):
    """How far a scan is. `path`: the file that was just read."""

    path: str
    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int


def scan(directory: Path, on_progress: Callable[[ScanProgress], None] | None = None) -> tuple[PackageFile, ...]:
    """List and hash all files below a directory.

    Empty folders do not travel: a program that needs one makes it. The executable bit is the owner's.

    Args:
        directory: The package directory; `package.yaml` at its top is left out.
        on_progress: Called after each file.

    Returns:
        The files, by path in code-point order: the same directory always gives the same value.

    Raises:
        RequestError: `not_found` (no such directory), `request.path` (a name), `request.link`, `request.file_kind` (device,
            socket, FIFO), `request.unreadable`, `request.file_changed` (while it was read), `request.too_many_files`.
    """
    if not directory.is_dir():
        raise RequestError(f"There is no package directory {directory}.", code="not_found")
    found = sorted(_walk(directory, ""))
    if len(found) > MAX_FILES:
        raise RequestError(
            f"{directory} has {len(found)} files; a package carries at most {MAX_FILES}. Pack some together.",
            code="request.too_many_files",
        )
    check_paths(path for path, _ in found)
    total, done = sum(length for _, length in found), 0
    files: list[PackageFile] = []
    for path, _ in found:
        file = hash_file(directory, path)
        files.append(file)
        done += file.length
        if on_progress is not None:
            on_progress(ScanProgress(path, len(files), len(found), done, total))
    return tuple(files)


def _walk(directory: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Relative path and length of each file, in no particular order."""
    folders = [prefix]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(directory / folder))
        except OSError as error:
            raise _unreadable(directory / folder, error) from error
        for entry in entries:
            path = folder + entry.name
            if path == DESCRIPTION:
                continue
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                folders.append(path + "/")
                continue
            _check_kind(directory / path, status.st_mode)
            yield path, status.st_size


def hash_file(directory: Path, path: str) -> PackageFile:
    """Read one file of a package directory.

    Raises:
        RequestError: as `scan`.
    """
    place = directory / path
    try:
        with os.fdopen(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", 0) as file:
            before = os.fstat(file.fileno())
            _check_kind(place, before.st_mode)
            digest, length = hashlib.sha256(), 0
            buffer = bytearray(_PIECE)
            view = memoryview(buffer)
            while count := file.readinto(view):
                digest.update(view[:count])
                length += count
            after = os.fstat(file.fileno())
    except OSError as error:
        raise _unreadable(place, error) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or length != after.st_size:
        raise RequestError(
            f"{place} changed while it was read. Close what writes to it, and try again.", code="request.file_changed"
        )
    return PackageFile(
        path=path, length=length, sha256=digest.hexdigest(), executable=bool(before.st_mode & stat.S_IXUSR)
    )


def _check_kind(place: Path, mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise RequestError(
            f"{place} is a link; a package carries files only. Put the file itself in its place.", code="request.link"
        )
    if not stat.S_ISREG(mode):
        raise RequestError(
            f"{place} is neither a file nor a folder (a device, socket or pipe). Remove it.", code="request.file_kind"
        )


def _unreadable(place: Path, error: OSError) -> RequestError:
    return RequestError(f"{place} cannot be read: {error.strerror}.", code="request.unreadable")
