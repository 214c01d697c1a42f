"""SHA-256 of something large, beside the writing of it: on a second processor where there is one.

Serves step 8: `objects.verified` hashes what passes to the client's store with it. Hashing takes as long as everything else that
a byte needs on its way from the network to the disk; done at the same time, it costs no time. What is hashed is what is written:
both get the very same immutable bytes.
"""

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queue import SimpleQueue
    from threading import Thread

LARGE = 8 * 1024 * 1024  # bytes; below, a thread costs more than it saves
_BATCH = 1024 * 1024
_WAITING = 4  # batches


class Digest:
    """What `hashlib.sha256()` does, for bytes that come piece by piece. Close it if it is not read to its end.

    Args:
        length: How many bytes are expected; decides about the thread alone.
    """

    def __init__(self, length: int) -> None:
        self._hash = hashlib.sha256()
        self._thread: Thread | None = None
        if length >= LARGE and (os.cpu_count() or 1) > 1:
            import queue  # noqa: PLC0415 - most checks bring nothing large
            import threading  # noqa: PLC0415

            self._batches: SimpleQueue[list[bytes]] = queue.SimpleQueue()
            self._free = threading.Semaphore(_WAITING)
            self._batch: list[bytes] = []
            self._size = 0
            self._thread = threading.Thread(target=self._run, name="sha256", daemon=True)
            self._thread.start()

    def update(self, piece: bytes) -> None:
        """Add bytes, which must not change any more."""
        if self._thread is None:
            self._hash.update(piece)
            return
        self._batch.append(piece if isinstance(piece, bytes) else bytes(piece))
        self._size += len(piece)
        if self._size >= _BATCH:
            self._hand_over()

    def hexdigest(self) -> str:
        """The digest of all that was added; nothing can be added any more."""
        self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """End the thread."""
        if self._thread is None:
            return
        if self._batch:
            self._hand_over()
        self._batches.put([])
        self._thread.join()
        self._thread = None

    def _hand_over(self) -> None:
        self._free.acquire()
        self._batches.put(self._batch)
        self._batch, self._size = [], 0

    def _run(self) -> None:
        while batch := self._batches.get():
            for piece in batch:
                self._hash.update(piece)
            del batch
            self._free.release()
