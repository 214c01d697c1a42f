"""Making what was published smaller, in the background: better packed objects, a bundle of small files, patches.

Step 5 of 12: the site calls it once a version is published, for as long as it likes; clients read what comes of it in step 8.
Everything is added beside what is there: nobody waits for it, and without it packages travel as whole objects. Each part is
done or not, whatever interrupts it, and a second call goes on where the first one ended. It is a function of the two manifests
and the objects alone: every site makes the same bundles, byte for byte. How polite it is, its caller decides (niceness).
"""

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pcm.content.base_finding import find_bases
from pcm.content.bundle_index import SMALL_FILE, Listing, bundle_path
from pcm.content.bundle_writing import SPOOL_PREFIX, write_bundle
from pcm.content.object_store import FolderObjectStore
from pcm.content.objects import PIECE, object_path, pack, pieces_of, unpack, verified
from pcm.content.patches import Draft, plan_patches, plan_small
from pcm.content.whole_files import storing, write_all, write_whole
from pcm.model.errors import RequestError
from pcm.model.package import PackageFile

if TYPE_CHECKING:
    from typing_extensions import Buffer  # from Python 3.12 on in collections.abc

RELEASES = 3
LEVEL = 19
THOROUGH_MOST = 2 * 2**30  # bytes of changed files, up to which a bundle is made thoroughly: an hour
LEAST_SMALL = 2  # small files for which a bundle of them is made
_REPACKED = ".repacked"
_ALL = "all"


class ImproveProgress(NamedTuple):
    """How far one part is: `objects`, `small files`, or `patches from <sha256>`. Bytes of plain files."""

    part: str
    bytes_done: int
    bytes_total: int


class Improved(NamedTuple):
    """What there is now, in bytes. `patches`: SHA-256 of each older manifest, and its bundle's length.

    `objects_before` and `objects_after` are of those objects that this call looked at. `whole`: 0 if there is none. `finished`:
    everything is done; else it was ended, and another call goes on.
    """

    objects_before: int
    objects_after: int
    whole: int
    patches: dict[str, int]
    finished: bool


def improve(
    root: Path,
    new: Listing,
    olds: Sequence[Listing],
    *,
    level: int | None = LEVEL,
    thorough: bool = True,
    threads: int = 1,
    on_progress: Callable[[ImproveProgress], None] | None = None,
    go_on: Callable[[], bool] | None = None,
) -> Improved:
    """Make all that makes one version cheaper to fetch.

    Args:
        root: A distribution server's folder, with the objects of all these versions.
        new: The version.
        olds: Versions to make patches from, the likeliest first: usually the last `RELEASES`. One whose content is gone is passed
            over.
        level: To which to pack its objects over 64 KiB again; None leaves them.
        thorough: Also bsdiff and level 19 for patches, at about 1 MB of changed files a second: a third to two thirds of the
            bytes. Not where more than `THOROUGH_MOST` bytes changed.
        threads: Units or objects at a time; each takes a processor and up to 300 MB of memory.
        on_progress: Told of each unit and object.
        go_on: Asked between units and objects; False ends the work for now.

    Raises:
        StoreError: `store.disk_full`, `store.not_writable`. RequestError `not_found`, TrustError: an object is gone or damaged.
    """
    work = _Work(root, new, threads, on_progress, go_on or _always)
    before = after = 0
    finished = True
    if level is not None:
        before, after, finished = _repack(work, [old for old in olds if _is_repacked(root, old, level)], level)
    whole = 0
    patches: dict[str, int] = {}
    if finished:
        drafts = plan_small(new)
        if sum(len(draft.targets) for draft in drafts) >= LEAST_SMALL:
            whole = _bundle(work, None, drafts, thorough=thorough) or 0
            finished = whole > 0
    for old in olds:
        if finished and old.sha256 != new.sha256 and work.has_all(old):
            made = _bundle(work, old, None, thorough=thorough)
            finished = made is not None
            if made is not None:
                patches[old.sha256] = made
    return Improved(before, after, whole, patches, finished)


def bundles_of(root: Path, new: str) -> dict[str, int]:
    """Bundles that lead to a version, in a folder: name below the root, bytes. What is half made is none."""
    folder = (root / bundle_path(new)).parent
    return {
        f"{bundle_path(new).rpartition('/')[0]}/{path.name}": path.stat().st_size
        for path in sorted(folder.glob("*.bundle"))
        if not path.name.startswith(".")
    }


def sweep_bundles(root: Path, wanted: Callable[[str], bool]) -> tuple[int, int]:
    """Remove bundles that lead to, or start from, manifests that nobody wants any more; how many files, and bytes.

    Args:
        wanted: Whether the manifest of this SHA-256 is still named.
    """
    removed = removed_bytes = 0
    for path in sorted(root.glob("bundles/[0-9a-f][0-9a-f]/*/*")):
        start = path.name.removeprefix(SPOOL_PREFIX).removesuffix(".bundle")
        if wanted(path.parent.name) and (start in {"whole", _REPACKED} or wanted(start)):
            continue
        with storing(path), contextlib.suppress(FileNotFoundError):
            removed, removed_bytes = removed + 1, removed_bytes + path.stat().st_size
            path.unlink()
    for folder in root.glob("bundles/[0-9a-f][0-9a-f]/*"):
        if not wanted(folder.name):
            with contextlib.suppress(OSError):  # not empty: somebody else's file
                folder.rmdir()
    return removed, removed_bytes


def _always() -> bool:
    return True


class _Work:
    """What all parts share: the store as a `bundle_writing.Source`, progress, and whether to go on."""

    def __init__(
        self,
        root: Path,
        new: Listing,
        threads: int,
        on_progress: Callable[[ImproveProgress], None] | None,
        go_on: Callable[[], bool],
    ) -> None:
        self.root, self.new, self.threads, self.go_on = root, new, threads, go_on
        self.store = FolderObjectStore(root)
        self._on_progress = on_progress

    def read(self, file: PackageFile) -> Iterator[bytes]:
        with self.store.open(file.sha256) as packed:
            yield from verified(unpack(pieces_of(packed), file.length), file.sha256, file.length, "The store")

    def packed(self, file: PackageFile) -> int:
        try:
            return (self.root / object_path(file.sha256)).stat().st_size
        except OSError as error:
            raise RequestError(f"There is no object {file.sha256} in {self.root}.", code="not_found") from error

    def has_all(self, old: Listing) -> bool:
        """Whether what patches are made from is still here: the content of withdrawn versions goes some day."""
        return all(self.store.has(old.files[base].sha256) for base in set(find_bases(self.new, old).values()))

    def counted(self, part: str, total: int) -> Callable[[int], bool]:
        done = 0

        def count(length: int) -> bool:
            nonlocal done
            done += length
            if self._on_progress is not None:
                self._on_progress(ImproveProgress(part, done, total))
            return self.go_on()

        return count


def _bundle(work: _Work, old: Listing | None, drafts: Sequence[Draft] | None, *, thorough: bool) -> int | None:
    """Bytes of a bundle, made unless it is there; None if the work was ended."""
    path = work.root / bundle_path(work.new.sha256, old.sha256 if old else "")
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    if not work.go_on():
        return None
    if drafts is None and old is not None:
        drafts = plan_patches(work.new, old)
    drafts = drafts or ()
    total = sum(piece.length for draft in drafts for piece in draft.targets)
    part = f"patches from {old.sha256}" if old else "small files"
    counted = work.counted(part, total)
    thorough = thorough and total <= THOROUGH_MOST
    written = write_bundle(path, work.new, old, drafts, work, thorough=thorough, threads=work.threads, on_unit=counted)
    return written.length if written else None


def _repack(work: _Work, done_before: Iterable[Listing], level: int) -> tuple[int, int, bool]:
    """Pack objects again, each once; their bytes before and after, and whether all are done."""
    if _is_repacked(work.root, work.new, level):
        return 0, 0, True
    record = _Record(work.root, work.new, level)
    done = record.done | {file.sha256 for old in done_before for file in old.files}
    files = {file.sha256: file for file in work.new.files if file.length > SMALL_FILE and file.sha256 not in done}
    counted = work.counted("objects", sum(file.length for file in files.values()))
    before = after = 0
    with contextlib.closing(record), ThreadPoolExecutor(work.threads) as pool:
        waiting = iter(sorted(files.values(), key=lambda file: (-file.length, file.sha256)))
        while batch := list(itertools.islice(waiting, work.threads)):
            if not work.go_on():
                return before, after, False
            for file, (was, is_now) in zip(
                batch, pool.map(lambda each: _pack_again(work, each, level), batch), strict=True
            ):
                before, after = before + was, after + is_now
                record.add(file.sha256)
                counted(file.length)
        record.add(_ALL)
    return before, after, True


class _NoSmallerError(Exception):
    """What is being packed again will not be smaller than it is."""


def _pack_again(work: _Work, file: PackageFile, level: int) -> tuple[int, int]:
    """Bytes of an object before and after."""
    before = work.packed(file)
    came = 0

    def smaller() -> Iterator[bytes]:
        nonlocal came
        for piece in pack(io.BufferedReader(_Plain(work.read(file)), PIECE), file.length, level):
            came += len(piece)
            if came >= before:
                raise _NoSmallerError
            yield piece

    try:
        write_whole(work.root / object_path(file.sha256), smaller())
    except _NoSmallerError:
        return before, before
    return before, came


class _Plain(io.RawIOBase):
    """A file's bytes as something that can be read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer") -> int:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        into = memoryview(buffer)
        count = min(len(self._rest), len(into))
        into[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _Record:
    """Which objects of a version were packed again: a line for each, beside its bundles."""

    def __init__(self, root: Path, new: Listing, level: int) -> None:
        path = _record_path(root, new)
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", 0)
            self._file.seek(0)
            lines = self._file.read().decode(errors="replace").splitlines()
        if not lines or lines[0] != str(level):
            lines = []
            self._file.truncate(0)
            self.add(str(level))
        self.done = set(lines[1:])

    def add(self, line: str) -> None:
        with storing(self._file.name):
            write_all(self._file.fileno(), f"{line}\n".encode())

    def close(self) -> None:
        self._file.close()


def _record_path(root: Path, new: Listing) -> Path:
    return (root / bundle_path(new.sha256)).with_name(_REPACKED)


def _is_repacked(root: Path, old: Listing, level: int) -> bool:
    try:
        lines = _record_path(root, old).read_text(errors="replace").splitlines()
    except OSError:
        return False
    return bool(lines) and lines[0] == str(level) and lines[-1] == _ALL
