"""A place for a distribution server's files, by name: a folder, a mounted share, a USB stick; `bucket` and `web` are others.

Serves step 2: `site.delivery` and `mirror` bring files onto shelves, `site.content_care` looks through them. A file on a shelf
is there whole or not at all. A shelf decides nothing about order and verifies nothing: whoever writes does.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from pcm.content.whole_files import TEMPORARY_PREFIX, storing, write_together, write_whole
from pcm.model.errors import RequestError, Retry, StoreError

PIECE = 2**20


class Shelved(NamedTuple):
    """One file. `modified`: unix seconds."""

    name: str
    size: int
    modified: float


class Shelf(Protocol):
    """Files by name, `/` between the parts.

    Every method raises StoreError `store.away` if the place cannot be reached, and others as their names say.
    """

    @property
    def title(self) -> str:
        """What people call the place."""

    def read(self, name: str, most: int) -> bytes | None:
        """A small file, or None. Raises StoreError `store.damaged`: it is longer than `most`."""

    def open(self, name: str) -> BinaryIO:
        """A file's bytes. Raises RequestError `not_found`."""

    def size(self, name: str) -> int | None:
        """A file's length in bytes, or None."""

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Lengths of those of the files that are there."""

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Put a file there, whole; one of that name is replaced. Raises StoreError `store.disk_full`, `store.not_writable`."""

    def write_many(self, files: Mapping[str, bytes]) -> None:
        """Put many small files there, each as `write` does, sooner than one by one."""

    def list(self, prefix: str) -> Iterator[Shelved]:
        """All files whose names begin so, in no particular order."""

    def delete(self, name: str) -> bool:
        """Remove a file; False if it was not there."""


class FolderShelf:
    """A `Shelf` in a folder.

    Args:
        root: Made when first written to.
        mounted: It lies on a file system that is mounted: while none is, the shelf is away, rather than an empty folder.
        sync: Every file reaches the disk before it has its name.
    """

    def __init__(self, root: Path, *, mounted: bool = False, sync: bool = True) -> None:
        self.root = root
        self._mounted = mounted
        self._sync = sync

    @property
    def title(self) -> str:
        """See `Shelf.title`."""
        return str(self.root)

    def read(self, name: str, most: int) -> bytes | None:
        """See `Shelf.read`."""
        with self._reaching():
            try:
                with (self.root / name).open("rb") as file:
                    data = file.read(most + 1)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        if len(data) > most:
            raise StoreError(f"{self.root / name} is longer than {most} bytes.", code="store.damaged")
        return data

    def open(self, name: str) -> BinaryIO:
        """See `Shelf.open`."""
        with self._reaching():
            try:
                return (self.root / name).open("rb")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise RequestError(f"There is no {name} in {self.root}.", code="not_found") from None

    def size(self, name: str) -> int | None:
        """See `Shelf.size`."""
        with self._reaching():
            return self._size(name)

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """See `Shelf.sizes`."""
        with self._reaching():
            return {name: size for name in names if (size := self._size(name)) is not None}

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """See `Shelf.write`."""
        self.check()
        write_whole(self.root / name, pieces, durable=self._sync)

    def write_many(self, files: Mapping[str, bytes]) -> None:
        """See `Shelf.write_many`. They reach the disk together."""
        self.check()
        with storing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        write_together(self.root, {self.root / name: content for name, content in files.items()})

    def list(self, prefix: str) -> Iterator[Shelved]:
        """See `Shelf.list`."""
        folder, _, _ = prefix.rpartition("/")
        with self._reaching():
            waiting = [folder]
            while waiting:
                for entry in _entries(self.root / (inside := waiting.pop())):
                    name = f"{inside}/{entry.name}" if inside else entry.name
                    if not (name.startswith(prefix) or prefix.startswith(name + "/")):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            waiting.append(name)
                        elif stat.S_ISREG(status.st_mode):
                            yield Shelved(name, status.st_size, status.st_mtime)

    def delete(self, name: str) -> bool:
        """See `Shelf.delete`. Folders that become empty go too."""
        self.check()
        path = self.root / name
        with storing(path):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
        with contextlib.suppress(OSError):
            for folder in path.parents:
                if folder == self.root:
                    break
                folder.rmdir()
        return True

    def sweep(self, older_than: float) -> int:
        """Remove what interrupted writers left before that time (unix seconds); how many files."""
        left = [each for each in self.list("") if each.name.rpartition("/")[2].startswith(TEMPORARY_PREFIX)]
        return sum(self.delete(each.name) for each in left if each.modified < older_than)

    def check(self) -> None:
        """Raise unless the place can be reached.

        Raises:
            StoreError: `store.away`.
        """
        with self._reaching():
            with contextlib.suppress(FileNotFoundError):  # made when first written to
                if not stat.S_ISDIR(os.stat(self.root).st_mode):  # noqa: PTH116
                    raise StoreError(f"{self.root} is no folder.", code="store.away", retry=Retry.LATER)
            if self._mounted and not any(
                os.path.ismount(each) for each in (self.root, *self.root.parents) if each != Path("/")
            ):
                raise StoreError(f"Nothing is mounted at {self.root}.", code="store.away", retry=Retry.LATER)

    def _size(self, name: str) -> int | None:
        try:
            status = os.lstat(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def _reaching(self) -> "_Reaching":
        return _Reaching(self.root)


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


class _Reaching:
    """Map what reading refuses to a StoreError: a share that is gone, a disk that fails."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise StoreError(
                f"{self._root} cannot be reached: {error.strerror}.", code="store.away", retry=Retry.LATER
            ) from error


def pieces_from(file: BinaryIO) -> Iterator[bytes]:
    """An open file's bytes in pieces of a MiB; closed afterwards.

    Raises:
        StoreError: `store.damaged`: the disk cannot give them; `store.away`: the share has gone.
    """
    with file:
        while piece := _read(file):
            yield piece


def _read(file: BinaryIO) -> bytes:
    try:
        return file.read(PIECE)
    except OSError as error:
        code = "store.damaged" if error.errno == errno.EIO else "store.away"
        name = getattr(file, "name", "A file")
        raise StoreError(f"{name} cannot be read: {error.strerror}.", code=code, retry=Retry.LATER) from error
