"""How far the content is that comes now: written by the check that brings it, read by whoever shows it.

Serves step 8 for step 9: `check` writes while `content.assembly` brings files, a few times a second; `views` and `watching`
read. A small file in the runtime folder, which is memory, and not the database: bytes that pass need not outlive a power cut,
and shall not wake the disk. It is written whole or not at all. Nothing is decided by it.
"""

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pcm.model.package import PackageFile
from pcm.protocol import local
from pcm.protocol.manifest import Manifest

if TYPE_CHECKING:
    from pcm.content.carrying import FetchProgress

NAME = "progress"
_MOST_BYTES = 4096


class Snapshot(msgspec.Struct, frozen=True):
    """One moment. `first` (a hash) and `files` tell whose content it is: `fits`. `done`, `total`: of the files as they will be.

    All in bytes. `travelled` came over the network, at `rate` a second, by `way` from `source`; `to_travel` will have in the end.
    """

    first: str
    files: int
    done: int
    total: int
    rate: float
    left_s: float | None
    travelled: int = 0
    to_travel: int = 0
    way: str = ""
    source: str = ""

    def fits(self, manifest: Manifest) -> bool:
        """Whether this is about that package's content."""
        return len(manifest.files) == self.files and bool(manifest.files) and manifest.files[0].sha256 == self.first


class TransferProgress:
    """Writes it down. Not being able to is no error: nothing depends on it.

    Args:
        folder: The runtime folder, which only administrators can write.
        files: All files of the package.
    """

    def __init__(self, folder: Path, files: Sequence[PackageFile]) -> None:
        self._path = folder / NAME
        self._first = files[0].sha256 if files else ""
        self._files = len(files)
        self._lock = threading.Lock()  # files may come in two threads

    def __call__(self, progress: "FetchProgress") -> None:
        """Replace what was written before."""
        snapshot = Snapshot(
            self._first,
            self._files,
            progress.bytes_done,
            progress.bytes_total,
            progress.rate,
            progress.left_s,
            progress.travelled,
            progress.to_travel,
            progress.way,
            progress.source,
        )
        fresh = self._path.with_name(f".{NAME}.new")
        with self._lock, contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(fresh, flags, 0o600)
            try:
                os.write(descriptor, msgspec.json.encode(snapshot))
            finally:
                os.close(descriptor)
            fresh.replace(self._path)

    def end(self) -> None:
        """Nothing comes any more."""
        forget(self._path.parent)


def forget(folder: Path) -> None:
    """Take away what a check left that was killed."""
    with contextlib.suppress(OSError):
        (folder / NAME).unlink(missing_ok=True)


def read(folder: Path) -> Snapshot | None:
    """What comes now; None if nothing does."""
    try:
        with (folder / NAME).open("rb") as file:
            return msgspec.json.decode(file.read(_MOST_BYTES), type=Snapshot)
    except (OSError, msgspec.DecodeError):
        return None


def to_transfer(instruction: str, snapshot: Snapshot) -> local.Transfer:
    """As it is told to whoever watches that instruction."""
    return local.Transfer(
        instruction,
        snapshot.done,
        snapshot.total,
        snapshot.rate,
        snapshot.left_s,
        snapshot.travelled,
        snapshot.to_travel,
        snapshot.way,
        snapshot.source,
    )


def stamp(folder: Path) -> int:
    """Another number whenever it was written anew; 0 if there is none."""
    try:
        return (folder / NAME).stat().st_mtime_ns
    except OSError:
        return 0
