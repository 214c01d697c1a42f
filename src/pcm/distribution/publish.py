"""The packager's side of publishing: what a distribution server lacks goes there, object by object.

Step 2 of 12: `pcm package publish` calls this before it sends the signed manifest; who takes the objects (the site's API,
a folder) is an `Uploader`. Interrupted, it goes on where it was: the server says what it lacks. It signs nothing and streams
everything.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from pcm.content.object_store import ObjectStore
from pcm.content.objects import pack
from pcm.model.errors import RequestError
from pcm.model.package import PackageFile


class Uploader(Protocol):
    """A distribution server as a packager sees it."""

    def lacking(self, names: Collection[str]) -> set[str]:
        """Those of the objects that the server does not have."""

    def upload(self, sha256: str, length: int, packed: Iterable[bytes]) -> None:
        """Send one object; the server verifies it before it is visible."""


class StoreUploader:
    """An `Uploader` into an object store on this machine: a folder, a mounted share."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def lacking(self, names: Collection[str]) -> set[str]:
        """See `Uploader.lacking`."""
        return {name for name in names if not self._store.has(name)}

    def upload(self, sha256: str, length: int, packed: Iterable[bytes]) -> None:
        """See `Uploader.upload`."""
        self._store.put(sha256, length, packed)


class UploadProgress(NamedTuple):
    """How far an upload is; bytes of plain files. `path`: the file that was just sent."""

    path: str
    objects_done: int
    objects_total: int
    bytes_done: int
    bytes_total: int


def upload_missing(
    directory: Path,
    files: Sequence[PackageFile],
    uploader: Uploader,
    on_progress: Callable[[UploadProgress], None] | None = None,
) -> int:
    """Send the objects that the server lacks.

    Args:
        directory: The package directory that `files` was scanned from.

    Returns:
        How many objects were sent.

    Raises:
        RequestError: `request.file_changed`: a file is not the one that was scanned.
        StoreError, TransferError, TrustError: as the uploader says.
    """
    unique = {file.sha256: file for file in files}
    lacking = uploader.lacking(unique.keys())
    todo = [file for sha256, file in unique.items() if sha256 in lacking]
    total, done = sum(file.length for file in todo), 0
    for count, file in enumerate(todo, 1):
        uploader.upload(file.sha256, file.length, packed_file(directory, file))
        done += file.length
        if on_progress is not None:
            on_progress(UploadProgress(file.path, count, len(todo), done, total))
    return len(todo)


def packed_file(directory: Path, file: PackageFile) -> Iterator[bytes]:
    """Read and pack one file of a package directory.

    Raises:
        RequestError: `request.file_changed`: gone, a link now, or of another length. Other bytes of the same length are noticed
            by whoever takes the object in.
    """
    place = directory / file.path
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RequestError(f"{place} cannot be read: {error.strerror}.", code="request.file_changed") from error
    with os.fdopen(descriptor, "rb", 0) as opened:
        if os.fstat(descriptor).st_size != file.length:
            raise RequestError(
                f"{place} changed since the package was made. Make it again.", code="request.file_changed"
            )
        yield from pack(opened, file.length)
