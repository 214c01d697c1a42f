"""Counting what comes, by way and by source, and telling how far it is.

Serves step 8, under `assembly`; what it tells is shown in step 9, and kept for `pcmsvc why`. Two threads may count at once. It
decides nothing.
"""

import threading
import time
from collections.abc import Callable, Iterable

from pcm.content.carrying import FetchProgress, Traffic
from pcm.model.package import PackageFile

_TELL_S = 0.2
_WINDOW_S = 3.0  # over which a rate is measured


class Tally:
    """The counts of one fetch.

    Args:
        missing: What is to come, each content once.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        missing: Iterable[PackageFile],
        on_progress: Callable[[FetchProgress], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = {file.sha256: file.length for file in missing}
        self._files = len(self._left)
        self.bytes_total = sum(self._left.values())
        self._on_progress, self._clock = on_progress, clock
        self._came: dict[tuple[str, str], list[int]] = {}
        self._begun: dict[str, int] = {}
        self._done = self._travelled = 0
        self._to_travel = 0
        self._way = self._source = ""
        self._told = self._began = clock()
        self._marks = [(self._told, 0)]
        self._lock = threading.Lock()

    @property
    def travelled(self) -> int:
        """Bytes that came over the network so far."""
        return self._travelled

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._clock() - self._began

    def expect(self, more: int) -> None:
        """So many bytes will travel from here on, as far as is known."""
        with self._lock:
            self._to_travel = self._travelled + more

    def works(self, way: str, source: str) -> None:
        """From now on it is this way, and that source."""
        with self._lock:
            self._way, self._source = way, source

    def moved(self, way: str, source: str, count: int) -> None:
        """So many more bytes came over the network."""
        if count <= 0:
            return
        with self._lock:
            self._row(way, source)[2] += count
            self._travelled += count
        self.tell_sometimes()

    def of_file(self, file: PackageFile, done: int) -> None:
        """So many plain bytes of a file are here that is being made now; 0: it has to begin again."""
        with self._lock:
            self._begun[file.sha256] = done
        self.tell_sometimes()

    def file_done(self, file: PackageFile, way: str, source: str) -> None:
        """A file is in the store."""
        with self._lock:
            if self._left.pop(file.sha256, None) is None:
                return
            row = self._row(way, source)
            row[0] += 1
            row[1] += file.length
            self._done += file.length
            self._begun.pop(file.sha256, None)
        self.tell_sometimes()

    def traffic(self) -> tuple[Traffic, ...]:
        """All of it, most bytes first."""
        rows = [Traffic(way, source, *counts) for (way, source), counts in self._came.items()]
        return tuple(sorted(rows, key=lambda row: (-row.bytes, row.way, row.source)))

    def tell_sometimes(self) -> None:
        """Tell, if the last time is long enough ago."""
        if self._clock() - self._told >= _TELL_S:
            self.tell()

    def tell(self) -> None:
        """Tell how far it is."""
        with self._lock:
            now = self._told = self._clock()
            self._marks.append((now, self._travelled))
            while len(self._marks) > 2 and now - self._marks[1][0] > _WINDOW_S:
                del self._marks[0]
            since, before = self._marks[0]
            rate = (self._travelled - before) / max(now - since, 0.001)
            done = min(self._done + sum(self._begun.values()), self.bytes_total)
            progress = FetchProgress(
                self._files - len(self._left),
                self._files,
                done,
                self.bytes_total,
                rate,
                self._left_s(now, done),
                self._travelled,
                max(self._to_travel, self._travelled) if self._to_travel else 0,
                self._way,
                self._source,
            )
        if self._on_progress is not None:
            self._on_progress(progress)

    def _left_s(self, now: float, done: int) -> float | None:
        """By what is done of the files: nobody knows before how well a file packs."""
        if not self._left:
            return 0.0
        return (now - self._began) * (self.bytes_total - done) / done if done else None

    def _row(self, way: str, source: str) -> list[int]:
        return self._came.setdefault((way, source), [0, 0, 0])
