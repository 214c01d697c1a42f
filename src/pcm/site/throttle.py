"""Who may try how often: wrong tokens, new computers and reports are counted by where they come from, in bounded memory.

Serves every call of the API and step 12, before anything is looked up in earnest. Tokens have 256 bits or a signature, so nobody
guesses one; counting keeps those who try from filling the log, the database and the queue for approval. Behind a proxy
that hides who asks, all of them share one count: whoever has the right token is never held up by it.
"""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from pcm.model.errors import RequestError, Retry

MAX_SOURCES = 10_000


class TooOftenError(RequestError):
    """Too much from one source. `wait_s`: after how many seconds another try is looked at (HTTP's Retry-After)."""

    def __init__(self, message: str, wait_s: int) -> None:
        super().__init__(f"{message} Try again in {wait_s} s.", code="request.too_many", retry=Retry.LATER)
        self.wait_s = wait_s


class Throttle:
    """Counts per source in windows of time. May be used by several threads.

    Args:
        most: How many in one window.
        window_s: Seconds from the first of them until the count begins anew.
        max_sources: How many are remembered; the one that was quiet longest is forgotten first.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        most: int,
        window_s: float,
        *,
        max_sources: int = MAX_SOURCES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._window_s = window_s
        self._max_sources = max_sources
        self._clock = clock
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, source: str) -> int:
        """Seconds until this source may try again; 0: now."""
        with self._lock:
            since, count = self._counts.get(source, (0.0, 0))
            left = since + self._window_s - self._clock()
        return max(1, round(left + 0.5)) if count >= self._most and left > 0 else 0

    def count(self, source: str) -> None:
        """Note one more of what is limited."""
        with self._lock:
            now = self._clock()
            since, count = self._counts.pop(source, (now, 0))
            self._counts[source] = (since, count + 1) if now - since < self._window_s else (now, 1)
            while len(self._counts) > self._max_sources:
                self._counts.popitem(last=False)

    def __len__(self) -> int:
        """How many sources are remembered."""
        return len(self._counts)


class Acquaintances:
    """Hashes of what was right lately: at most so many, the one not seen for longest is forgotten first."""

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, digest: bytes) -> None:
        """Remember one."""
        with self._lock:
            self._known[digest] = None
            self._known.move_to_end(digest)
            while len(self._known) > self._most:
                self._known.popitem(last=False)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known


def source_of(host: str) -> str:
    """What counts as one source: an IPv4 address, the /64 network of an IPv6 one (it is one connection's own)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
