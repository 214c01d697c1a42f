"""Bringing all files of a package into the client's store, from whichever server gives the right bytes.

Step 8 of 12: called by `service.steps.fetch` with the files of a verified manifest, before `steps/stage`. Nothing that comes is
believed: each file is limited to its signed length and counts only after its own hash. A source that gives wrong bytes is
named, and the next one is asked. What is there already never travels again, so an interrupted fetch goes on where it was
(Q140051). It knows nothing of networks: sources are names, and `fetch` gives their bytes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from pcm.content.client_store import ClientStore
from pcm.model.errors import PcmError, StoreError, TransferError, TrustError
from pcm.model.package import PackageFile

RESERVE_BYTES = 64 * 1024 * 1024  # left on the disk for the system and the service's own records
_PROGRESS_S = 0.2

Fetch = Callable[[str, PackageFile], Iterator[bytes]]
"""Source and file to the file's plain bytes; raises TransferError."""


class FetchProgress(NamedTuple):
    """How far a fetch is; bytes are plain bytes of files. `rate`: bytes a second since it began, `left_s`: at that rate."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    rate: float
    left_s: float | None


class Complaint(NamedTuple):
    """One source that did not give one file."""

    source: str
    sha256: str
    code: str
    message: str


class Brought(NamedTuple):
    """What a fetch did: new files and bytes (plain), and what went wrong on the way."""

    files: int
    bytes: int
    complaints: tuple[Complaint, ...]


def missing_files(files: Iterable[PackageFile], store: ClientStore) -> list[PackageFile]:
    """Those whose bytes are not in the store, each content once, largest last."""
    absent = {file.sha256: file for file in files if not store.has(file.sha256, file.length)}
    return sorted(absent.values(), key=lambda file: (file.length, file.sha256))


def check_space(missing: Sequence[PackageFile], store: ClientStore, staging_bytes: int) -> None:
    """Say before the first byte travels whether there is room (KB Q137610, Q191297).

    Args:
        staging_bytes: What staging and the program itself need besides, on the same disk.

    Raises:
        StoreError: `store.disk_full`, naming place, need and lack.
    """
    needed = sum(file.length for file in missing) + staging_bytes + RESERVE_BYTES
    free = store.free_bytes()
    if free < needed:
        raise StoreError(
            f"{needed} bytes are needed on the disk of {store.root} and {free} are free: free another {needed - free}.",
            code="store.disk_full",
        )


def bring(
    files: Iterable[PackageFile],
    store: ClientStore,
    sources: Sequence[str],
    fetch: Fetch,
    *,
    staging_bytes: int = 0,
    on_progress: Callable[[FetchProgress], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Brought:
    """See to it that the store holds all of `files`.

    Args:
        sources: Servers in the order in which to ask them (`transport.health.order`). One that fails moves to the end.
        fetch: Gives the plain bytes of one file from one source.
        on_progress: Called a few times a second, and at the end.
        clock: Monotonic seconds.

    Returns:
        What came, and each failure that another source made good.

    Raises:
        StoreError: `store.disk_full` (before anything travels, or if the disk fills up meanwhile), `store.not_writable`.
        TrustError: `trust.content` or `trust.endless_data`: no source gives a file, and at least one gave wrong bytes.
        TransferError: no source gives a file; what came until then is kept.
    """
    missing = missing_files(files, store)
    check_space(missing, store, staging_bytes)
    work = _Work(missing, on_progress, clock)
    order = list(sources)
    for file in missing:
        _bring_one(file, store, order, fetch, work)
        work.file_done()
    work.tell()
    return Brought(len(missing), work.bytes_total, tuple(work.complaints))


def _bring_one(file: PackageFile, store: ClientStore, order: list[str], fetch: Fetch, work: "_Work") -> None:
    if file.length == 0:
        store.add(file.sha256, 0, (), "Nothing")  # the hash of nothing needs no server; a wrong one fails here
        return
    complaints: list[Complaint] = []
    for source in list(order):
        try:
            store.add(file.sha256, file.length, work.counted(fetch(source, file)), source)
        except (TransferError, TrustError) as error:
            work.forget_file()
            complaints.append(Complaint(source, file.sha256, error.code, error.message))
            order.remove(source)
            order.append(source)
            continue
        work.complaints += complaints
        return
    raise _nobody(file, complaints)


def _nobody(file: PackageFile, complaints: Sequence[Complaint]) -> PcmError:
    told = "; ".join(
        each.message if each.source in each.message else f"{each.source}: {each.message}" for each in complaints
    )
    told = told or "no server is known"
    message = f"No server gives {file.path}: {told}"[:2000]
    wrong = [each.code for each in complaints if each.code.startswith("trust.")]
    if wrong:
        return TrustError(message, code=wrong[0])
    return TransferError(message, code=complaints[-1].code if complaints else "transfer.unreachable")


class _Work:
    """Counts bytes and tells about them."""

    def __init__(
        self,
        missing: Sequence[PackageFile],
        on_progress: Callable[[FetchProgress], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self.complaints: list[Complaint] = []
        self.bytes_total = sum(file.length for file in missing)
        self._files_total = len(missing)
        self._files_done = 0
        self._bytes_done = 0
        self._of_file = 0
        self._on_progress = on_progress
        self._clock = clock
        self._began = self._told = clock()

    def counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._of_file += len(piece)
            if self._clock() - self._told >= _PROGRESS_S:
                self.tell()
            yield piece

    def forget_file(self) -> None:
        self._of_file = 0

    def file_done(self) -> None:
        self._files_done += 1
        self._bytes_done += self._of_file
        self._of_file = 0

    def tell(self) -> None:
        self._told = self._clock()
        if self._on_progress is None:
            return
        done = self._bytes_done + self._of_file
        rate = done / max(self._told - self._began, 0.001)
        left = (self.bytes_total - done) / rate if rate > 0 else None
        self._on_progress(FetchProgress(self._files_done, self._files_total, done, self.bytes_total, rate, left))
