"""How fast content may come now: the site's content policy, asked before and during each transfer.

Serves step 8, under `content_carrier`. The clock is the client's own; whether its network is paid by volume, the computer says.
It decides how fast, never what.
"""

import time
from collections.abc import Callable
from datetime import datetime

from pcm.model.content_policy import ContentPolicy, rate_at
from pcm.model.errors import Retry, TransferError

METERED = "wait.metered"
LOOK_S = 10.0  # between two looks at clock and network
_REASON = (
    "The network is paid by volume, and the site's policy is to bring no content over such a one; it is brought as soon as "
    "another network is there."
)


class Limits:
    """The limits of one fetch.

    Args:
        local_time: A reading of the client's clock.
        metered: Whether the network is paid by volume; asked now and then.
    """

    def __init__(
        self,
        policy: ContentPolicy,
        local_time: Callable[[], datetime],
        metered: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy, self._local_time, self._metered, self._clock = policy, local_time, metered, clock
        self._looked: float | None = None
        self._rate: int | None = 0

    def rate(self) -> int:
        """Bytes a second; 0: as fast as it comes.

        Raises:
            TransferError: `wait.metered`: nothing may come now.
        """
        now = self._clock()
        if self._looked is None or now - self._looked >= LOOK_S:
            self._looked = now
            asks = self._policy.metered != "as_usual"
            self._rate = rate_at(self._policy, self._local_time(), asks and self._metered())
        if self._rate is None:
            raise TransferError(_REASON, code=METERED, retry=Retry.LATER)
        return self._rate
