"""Which local connections are answered now: so many at once, so many for one user, so fast for one user.

Serves step 9, inside the supervisor, before a process is spent on a connection. A flood from one user costs that user's own
requests, not the administrator's nor another user's (`not_allowed` is decided later, by `local_api`). Pure: the clock is an
argument. Imports nothing, because the supervisor stays in memory for ever.
"""

AT_ONCE = 16
FOR_ADMINISTRATORS = 4  # of those, kept free for user id 0
PER_USER = 4
BURST = 20.0  # requests that a user may make at once after a pause
PER_SECOND = 1.0
_KNOWN_USERS = 256


class Admission:
    """Counts the connections that are being answered, and remembers how fast each user asks."""

    def __init__(self) -> None:
        self._active: dict[int, int] = {}
        self._buckets: dict[int, tuple[float, float]] = {}  # user id -> (tokens left, seconds at that time)

    @property
    def total(self) -> int:
        """Connections being answered."""
        return sum(self._active.values())

    def enter(self, user_id: int, now_s: float) -> bool:
        """Tell whether this user's connection is answered, and count it if so.

        Args:
            user_id: As the kernel names the other end; 0 is the administrator.
            now_s: Any clock that only goes forward.
        """
        limit = AT_ONCE if user_id == 0 else AT_ONCE - FOR_ADMINISTRATORS
        mine = self._active.get(user_id, 0)
        if self.total >= limit or (user_id != 0 and mine >= PER_USER):
            return False
        tokens, then = self._buckets.get(user_id, (BURST, now_s))
        tokens = min(BURST, tokens + max(0.0, now_s - then) * PER_SECOND)
        if user_id != 0 and tokens < 1.0:
            return False
        if len(self._buckets) >= _KNOWN_USERS:
            self._forget(now_s)
        self._buckets[user_id] = (tokens - 1.0 if user_id != 0 else tokens, now_s)
        self._active[user_id] = mine + 1
        return True

    def leave(self, user_id: int) -> None:
        """A connection of this user has been answered."""
        left = self._active.get(user_id, 0) - 1
        if left > 0:
            self._active[user_id] = left
        else:
            self._active.pop(user_id, None)

    def _forget(self, now_s: float) -> None:
        """Users whose bucket is full again need not be remembered; if all are busy, the longest quiet one goes."""
        for user_id, (tokens, then) in list(self._buckets.items()):
            if tokens + (now_s - then) * PER_SECOND >= BURST:
                del self._buckets[user_id]
        if len(self._buckets) >= _KNOWN_USERS:
            del self._buckets[min(self._buckets, key=lambda user_id: self._buckets[user_id][1])]
