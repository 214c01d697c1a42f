"""Stretches of bundles, fetched from one source after the other, with their units handed out as they arrive.

Serves step 8, under `assembly`, which undoes the units. A stretch that breaks off goes on where it stopped, at whichever source.
"""

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pcm.content.bundles import MOST_TRIES, KnownBundle
from pcm.content.carrying import Carrier, Complaint
from pcm.content.parts import Parts
from pcm.content.tally import Tally
from pcm.content.ways import Choice, Range
from pcm.model.errors import PcmError, TransferError, TrustError

GAINED_BYTES = 64 * 1024  # whoever broke off after so many may be asked again

Arrivals = Generator[tuple[int, int], None, None]
"""Bundle and unit of what is here now."""


class UnusableError(Exception):
    """Nobody gives a bundle's bytes any more; the next choice does without."""

    def __init__(self, bundle: KnownBundle) -> None:
        super().__init__(bundle.path)
        self.bundle = bundle


class _StoppedError(Exception):
    """Whoever waited for these bytes does not need them any more."""


class Stretches:
    """Fetches the stretches of one choice after the other.

    Args:
        complain: Told of each source that broke off.
    """

    def __init__(self, parts: Parts, carrier: Carrier, tally: Tally, complain: Callable[[Complaint], None]) -> None:
        self._parts, self._carrier, self._tally, self._complain = parts, carrier, tally, complain

    def arrive(self, choice: Choice, bundles: Sequence[KnownBundle]) -> Arrivals:
        """What is here, then each stretch when all of it has come.

        Raises:
            UnusableError: nobody gives one of them.
        """
        yield from _ready(choice)
        for span in choice.ranges:
            self._fetch(span, bundles[span.bundle], lambda _: None)
            yield from ((span.bundle, unit) for unit in span.units)

    def arrive_beside(self, choice: Choice, bundles: Sequence[KnownBundle]) -> Arrivals:
        """The same, but each unit as soon as it is here, while what follows it comes already. Close it."""
        arrived: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        stop = threading.Event()

        def fetch() -> None:
            try:
                for span in choice.ranges:
                    self._fetch(span, bundles[span.bundle], _Watch(span, bundles[span.bundle], arrived, stop))
            finally:
                arrived.put(None)

        with ThreadPoolExecutor(1, "fetch") as lane:
            fetched = lane.submit(fetch)
            try:
                yield from _ready(choice)
                while (each := arrived.get()) is not None:
                    yield each
                fetched.result()
            finally:
                stop.set()

    def _fetch(self, span: Range, bundle: KnownBundle, on_progress: Callable[[int], None]) -> None:
        """Fetch one stretch.

        Raises:
            UnusableError: nobody gives it.
        """
        while bundle.sources:
            source = bundle.sources[0]
            error, gained = self._attempt(span, bundle, source, on_progress)
            if error is None:
                on_progress(span.end)
                return
            self._complain(Complaint(source, bundle.path, error.code, error.message))
            bundle.sources.remove(source)
            bundle.tries += 1
            if gained >= GAINED_BYTES and bundle.tries < MOST_TRIES:
                bundle.sources.append(source)
        raise UnusableError(bundle)

    def _attempt(
        self, span: Range, bundle: KnownBundle, source: str, on_progress: Callable[[int], None]
    ) -> tuple[PcmError | None, int]:
        """Ask one source; what it did wrong, and how many bytes it gave."""
        self._tally.works(bundle.way, source)
        with self._parts.open(bundle.path, span.start) as part:
            before = counted = part.end

            def look() -> None:
                nonlocal counted
                end = part.end
                self._tally.moved(bundle.way, source, end - counted)
                counted = end
                part.sync()
                on_progress(end)

            error: PcmError | None = None
            try:
                self._carrier.fetch_range(source, bundle.path, part, span.end, look)
                if part.end < span.end:
                    error = TransferError(f"{source}: a bundle ends too early.", code="transfer.truncated")
            except (TransferError, TrustError) as failed:  # or an answer that cannot be: one without an end, say
                error = failed
            self._tally.moved(bundle.way, source, max(0, part.end - counted))
            if part.end > before:
                bundle.given.add(source)
            return error, part.end - before


class _Watch:
    """Hands out the units of a stretch as its bytes come."""

    def __init__(
        self,
        span: Range,
        bundle: KnownBundle,
        arrived: "queue.SimpleQueue[tuple[int, int] | None]",
        stop: threading.Event,
    ) -> None:
        self._left = [
            (bundle.index.units[unit].offset + bundle.index.units[unit].packed, unit) for unit in reversed(span.units)
        ]
        self._number, self._arrived, self._stop = span.bundle, arrived, stop

    def __call__(self, end: int) -> None:
        if self._stop.is_set():
            raise _StoppedError
        while self._left and self._left[-1][0] <= end:
            self._arrived.put((self._number, self._left.pop()[1]))


def _ready(choice: Choice) -> Arrivals:
    for number, units in choice.ready.items():
        yield from ((number, unit) for unit in units)
