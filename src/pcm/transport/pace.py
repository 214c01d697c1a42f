"""The time, the rate and the volume of one exchange: pure arithmetic, told the time by its caller.

Serves steps 6, 8 and 12, inside the transfer process: `wire` asks it before and after each single read from a socket. But
for the brake that it is given, it never sleeps and never reads a clock, so that slow servers are tested without waiting for them.
"""

from pcm.transport.brake import Brake
from pcm.transport.framing import Request, transfer_error


class Pace:
    """Knows how long the next read may wait, and says when an exchange has to be given up.

    Three limits in time: the whole exchange (`total_s`), the first byte (`answer_s`), and from then on at least `min_rate`
    bytes a second over each `rate_window_s` seconds *spent waiting for the network* (a slow disk on our side is not the
    server's fault). One limit in volume: `allow` raises it as the exchange goes on.

    Args:
        request: Its limits.
        now: Seconds on a monotonic clock at the start.
        brake: Keeps the request's largest rate; waits, as the one thing here that does.
    """

    def __init__(self, request: Request, now: float, brake: Brake | None = None) -> None:
        self._request = request
        self._brake = brake
        if brake is not None:
            brake.begin(request.max_rate)
        # a line that is held back on purpose is not to be called slow
        self._min_rate = min(request.min_rate, request.max_rate // 2) if request.max_rate else request.min_rate
        self._started = now
        self._deadline = now + request.total_s
        self._window_waited = 0.0
        self._window_bytes = 0
        self._volume = 0
        self._volume_limit = 0
        self._volume_code = "transfer.too_long"
        self.answered = False

    def allow(self, limit: int, code: str = "transfer.too_long") -> None:
        """Let `limit` more bytes come in from the wire, counted from now; one more raises `code`."""
        self._volume, self._volume_limit, self._volume_code = 0, limit, code

    def timeout(self, now: float) -> float:
        """Seconds that the next read may wait, always > 0.

        Raises:
            TransferError: `transfer.timeout`: no time is left.
        """
        left = self._deadline - now
        if left <= 0:
            raise transfer_error(
                "transfer.timeout", f"The server did not finish within {self._request.total_s:g} seconds."
            )
        if not self.answered:
            until_answer = self._started + self._request.answer_s - now
            if until_answer <= 0:
                raise transfer_error(
                    "transfer.timeout", f"The server did not begin to answer within {self._request.answer_s:g} seconds."
                )
            return min(left, until_answer)
        if self._min_rate:
            return min(left, max(self._request.rate_window_s - self._window_waited, 0.001))
        return left

    def hold(self, most: int) -> int:
        """Wait until bytes may be read, and say how many of `most`."""
        return most if self._brake is None else self._brake.hold(most)

    def spend(self, count: int) -> None:
        """Note that `count` bytes were read, wherever they come from."""
        if self._brake is not None:
            self._brake.spend(count)

    def count(self, count: int) -> None:
        """Note that `count` bytes of the answer came in, without what TLS puts around them.

        Raises:
            TransferError: the code given to `allow`.
        """
        if count:
            self.answered = True
        self._volume += count
        if self._volume > self._volume_limit:
            raise transfer_error(
                self._volume_code, f"The server sent more than the {self._volume_limit} bytes that it may."
            )

    def record(self, count: int, waited: float, *, answers: bool = True) -> None:
        """Note that a read waited for `waited` seconds and brought `count` bytes (0 also when it timed out).

        Args:
            answers: False: under TLS, where what comes may be no answer yet.

        Raises:
            TransferError: `transfer.too_slow`.
        """
        self.spend(count)
        if count and answers:
            self.answered = True
        if not self.answered:
            return
        self._window_waited += waited
        self._window_bytes += count
        if self._window_waited >= self._request.rate_window_s:
            rate = self._window_bytes / self._window_waited
            if rate < self._min_rate:
                raise transfer_error(
                    "transfer.too_slow",
                    f"The server sent {rate:.0f} bytes a second; at least {self._min_rate} are asked for.",
                )
            self._window_waited, self._window_bytes = 0.0, 0
