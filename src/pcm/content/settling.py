"""Making what has come survive a power cut, without keeping the disk busy with it.

Serves step 8, under `assembly`. A part stays until what was made of it is on the disk for good. On a link so quick that fetching
again takes less time than writing out, nothing is waited for: the kernel writes it out soon, and a damaged file is found by its
hash.
"""

import threading
import time
from collections.abc import Iterable

from pcm.content.client_store import ClientStore
from pcm.content.parts import Parts
from pcm.content.tally import Tally
from pcm.model.package import PackageFile

UNSETTLED_BYTES = 4 * 1024 * 1024
QUICK = 32e6  # bytes a second of a link that needs no waiting
_SHARE = 10  # settling takes at most one part in so many of the time


class Settling:
    """Counts what is not on the disk for good yet."""

    def __init__(self, store: ClientStore, parts: Parts, tally: Tally) -> None:
        self._store, self._parts, self._tally = store, parts, tally
        self._spent: list[str] = []
        self._unsettled = 0
        self._files: list[str] = []
        self._lock = threading.Lock()
        self._after = self._began = time.monotonic()

    def added(self, file: PackageFile, part: str | None = None) -> None:
        """A file was stored.

        Args:
            part: Path of the object whose part it was made of, to be dropped when it is safe.
        """
        with self._lock:
            self._unsettled += file.length
            self._files.append(file.sha256)
            if part is not None:
                self._spent.append(part)
            if self._is_quick():
                self._drop(())
            elif self._unsettled >= UNSETTLED_BYTES and time.monotonic() >= self._after:
                self._settle()

    def finish(self, paths: Iterable[str]) -> None:
        """Everything has come: settle it, and drop what it was made of, also by an attempt that was killed."""
        with self._lock:
            if not self._is_quick():
                self._settle()
            self._drop(paths)

    def _settle(self) -> None:
        began = time.monotonic()
        self._store.settle(self._files)
        took = time.monotonic() - began
        self._after = began + took + took * _SHARE
        self._drop(())

    def _is_quick(self) -> bool:
        return self._tally.travelled > QUICK * max(time.monotonic() - self._began, 0.05)

    def _drop(self, others: Iterable[str]) -> None:
        self._parts.drop(*self._spent, *others)
        self._spent.clear()
        self._files.clear()
        self._unsettled = 0
