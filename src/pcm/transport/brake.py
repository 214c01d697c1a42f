"""Keeping to a rate: bytes are read no sooner than they are due.

Serves step 8, inside the transfer process: `wire`, `smb_wire` and `folder` ask it before each read. One for the whole process, so
that many small files together keep to the rate like one large one.
"""

import time
from collections.abc import Callable

STRIDE_S = 0.05  # what is read at once lasts for so long
GRACE_S = 0.1  # who is woken late, or waits for the network, may make up for no more than this
_LEAST = 512


class Brake:
    """A bucket that fills by so many bytes a second.

    Args:
        clock, sleep: Seconds, monotonic.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._due = clock()
        self._rate = 0

    def begin(self, rate: int) -> None:
        """Keep to `rate` bytes a second from now on; 0: no limit. What was not used until now is not saved up."""
        self._rate = rate
        self._due = max(self._due, self._clock())

    def hold(self, most: int) -> int:
        """Wait until the next read is due, and say how many bytes it may bring, of `most`."""
        if not self._rate:
            return most
        while (wait := self._due - self._clock()) > 0:
            self._sleep(wait)
        return min(most, max(int(self._rate * STRIDE_S), _LEAST))

    def spend(self, count: int) -> None:
        """Note that `count` bytes came."""
        if self._rate:
            self._due = max(self._due, self._clock() - GRACE_S) + count / self._rate
