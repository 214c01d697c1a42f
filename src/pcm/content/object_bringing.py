"""Bringing whole files, one object each, going on in the middle of one at whichever source.

Serves step 8, under `assembly`: what no patch brings sooner. Two files at a time where there are several, so that one unpacks
while the other's question travels. Each source is asked in turn; one that breaks off after having given something is asked
again, a few times.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pcm.content.carrying import Carrier, Complaint
from pcm.content.client_store import ClientStore
from pcm.content.objects import largest_packed, object_path
from pcm.content.parts import Part, Parts
from pcm.content.settling import Settling
from pcm.content.tally import Tally
from pcm.model.errors import PcmError, TransferError, TrustError
from pcm.model.package import PackageFile

PART_BYTES = 256 * 1024  # packed, from which on a part is kept
MOST_ROUNDS = 5  # through all sources, as long as something comes
GAINED_BYTES = 64 * 1024
_BESIDE_FILES = 4  # from so many on, two at a time


class ObjectBringing:
    """Brings files as objects.

    Args:
        sources: In order; one that fails moves to the end.
        complain: Told of each source that did not give what it should, once another has.
        keep_bytes: Of the disk that no part may take: where there is little room, an interruption costs more.
    """

    def __init__(
        self,
        store: ClientStore,
        parts: Parts,
        sources: list[str],
        carrier: Carrier,
        tally: Tally,
        settling: Settling,
        complain: Callable[[Complaint], None],
        keep_bytes: int,
    ) -> None:
        self._store, self._parts, self._order = store, parts, sources
        self._carrier, self._tally, self._settling, self._complain = carrier, tally, settling, complain
        self._keep_bytes = keep_bytes
        self._lock = threading.Lock()

    def bring(self, files: Sequence[PackageFile]) -> None:
        """See to it that the store holds these.

        Raises:
            TrustError: no source gives one of them, and at least one gave wrong bytes. TransferError: no source gives it.
            StoreError: this disk.
        """
        left, over = deque(files), threading.Event()

        def work(carrier: Carrier) -> None:
            try:
                while not over.is_set():
                    try:
                        file = left.popleft()
                    except IndexError:
                        return
                    self._bring_one(file, carrier)
                return
            finally:
                if left:  # it ends before its time: so does the other
                    over.set()

        if len(files) < _BESIDE_FILES:
            work(self._carrier)
            return
        with ThreadPoolExecutor(1, "fetch") as lane:
            beside = lane.submit(work, self._carrier.second())
            work(self._carrier)
            beside.result()

    def _bring_one(self, file: PackageFile, carrier: Carrier) -> None:
        complaints: list[Complaint] = []
        for _ in range(MOST_ROUNDS):
            gained = False
            with self._lock:
                order = list(self._order)
            for source in order:
                error, came = self._ask(file, source, carrier)
                if error is None:
                    for complaint in complaints:
                        self._complain(complaint)
                    return
                complaints.append(Complaint(source, file.sha256, error.code, error.message))
                with self._lock:
                    if source in self._order:
                        self._order.remove(source)
                        self._order.append(source)
                gained |= came >= GAINED_BYTES and isinstance(error, TransferError)
            if not gained:
                break
        raise nobody(file, complaints)

    def _ask(self, file: PackageFile, source: str, carrier: Carrier) -> tuple[PcmError | None, int]:
        """Ask one source for one file; what it did wrong, and how many bytes it gave.

        If what is wrong may come from what another source had given of it, it gives all of it, once.
        """
        path = object_path(file.sha256)
        self._tally.works("whole", source)
        packed = largest_packed(file.length)
        if packed < PART_BYTES or self._store.free_bytes() < packed + self._keep_bytes:
            return self._attempt(file, source, carrier, None)
        with self._parts.open(path) as part:
            resumed = part.end > 0
            error, came = self._attempt(file, source, carrier, part)
            if isinstance(error, TrustError):
                part.cut(0)
                if resumed:
                    error, more = self._attempt(file, source, carrier, part)
                    came += more
                    if isinstance(error, TrustError):
                        part.cut(0)
        return error, came

    def _attempt(
        self, file: PackageFile, source: str, carrier: Carrier, part: Part | None
    ) -> tuple[PcmError | None, int]:
        before = counted = 0 if part is None else part.end
        done = 0

        def counting(pieces: Iterator[bytes]) -> Iterator[bytes]:
            nonlocal counted, done
            for piece in pieces:
                done += len(piece)
                if part is None:
                    counted += len(piece)
                    self._tally.moved("whole", source, len(piece))
                else:
                    end = part.end
                    self._tally.moved("whole", source, max(0, end - counted))
                    counted = max(counted, end)
                    part.sync()
                self._tally.of_file(file, done)
                yield piece

        try:
            pieces = carrier.fetch_object(source, file, part)
            self._store.add(file.sha256, file.length, counting(pieces), source)
        except (TransferError, TrustError) as error:
            self._tally.of_file(file, 0)
            return error, counted - before
        if part is not None:
            self._tally.moved("whole", source, max(0, part.end - counted))
        self._tally.file_done(file, "whole", source)
        self._settling.added(file, None if part is None else object_path(file.sha256))
        return None, counted - before


def nobody(file: PackageFile, complaints: Sequence[Complaint]) -> PcmError:
    """The error when no source gives a file; the worst reason is its code."""
    told = "; ".join(
        each.message if each.source in each.message else f"{each.source}: {each.message}" for each in complaints
    )
    told = told or "no server is known"
    message = f"No server gives {file.path}: {told}"[:2000]
    wrong = [each.code for each in complaints if each.code.startswith("trust.")]
    if wrong:
        return TrustError(message, code=wrong[0])
    return TransferError(message, code=complaints[-1].code if complaints else "transfer.unreachable")
