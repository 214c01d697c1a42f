"""What the supervisor makes of what happens around it: alarms from its server, a clock that jumped, a computer that slept.

Serves step 6: each of these can bring the next check forward, and none may be a weapon. A server that wakes its clients for
nothing gets fewer and fewer checks for it, a clock that jumps all day and a network that comes and goes get one in a while. Pure
arithmetic; the clocks are arguments. Imports nothing, because the supervisor stays in memory for ever.
"""

ALARMS = 12.0  # that a server may give in one go, and in each hour after that
FREE_FALSE = 2  # alarms in a row without any news, before each costs a longer pause
FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 3600.0
APART_S = 60.0  # between two checks that the surroundings ask for
WISHES = 12.0  # checks that people at this computer, administrators aside, may bring about in one go
WISHES_APART_S = 15.0  # between those after that
SLEPT_S = 30.0  # less is no suspend, only a slow moment
JUMPED_S = 30.0


class Alarms:
    """Decides when an alarm of the server's is followed: at once, as long as alarms turn out to be true."""

    def __init__(self) -> None:
        self._left, self._then = ALARMS, 0.0
        self._false = 0
        self._raised = False

    def follow(self, now: float) -> float:
        """An alarm came: when the check for it may start.

        Args:
            now: Seconds by a clock that only goes forward.
        """
        self._left = min(ALARMS, self._left + max(0.0, now - self._then) * ALARMS / 3600.0)
        self._then = now
        self._raised = True
        self._left -= 1.0
        wait = max(0.0, -self._left) * 3600.0 / ALARMS
        if self._false >= FREE_FALSE:
            wait = max(wait, min(FIRST_PAUSE_S * 2.0 ** (self._false - FREE_FALSE), LONGEST_PAUSE_S))
        return now + wait

    def judge(self, *, news: bool) -> None:
        """A check has ended: whether the alarm before it, if there was one, was true."""
        if news:
            self._false = 0
        elif self._raised:
            self._false = min(self._false + 1, 32)
        self._raised = False


class Wishes:
    """Decides when a check starts that somebody here asked for: at once, unless people ask all the time."""

    def __init__(self) -> None:
        self._left, self._then = WISHES, 0.0

    def take(self, now: float) -> float:
        """Somebody asked for something just now: when the check for it may start. Who has to wait shares a check."""
        self._left = min(WISHES, self._left + max(0.0, now - self._then) / WISHES_APART_S)
        self._then = now
        if self._left < 1.0:
            return now + (1.0 - self._left) * WISHES_APART_S
        self._left -= 1.0
        return now


class Clocks:
    """Notices what the clocks of a running computer do not do by themselves.

    Args:
        boot: Seconds since boot, suspended time included. steady: without it. wall: unix seconds.
    """

    def __init__(self, boot: float, steady: float, wall: float) -> None:
        self._asleep = boot - steady
        self._set = wall - boot

    def slept(self, boot: float, steady: float) -> bool:
        """Whether this computer was suspended since the last look."""
        before, self._asleep = self._asleep, boot - steady
        return self._asleep - before > SLEPT_S

    def jumped(self, boot: float, wall: float) -> bool:
        """Whether the wall clock was set to another time since the last look; small steps add up."""
        if abs(wall - boot - self._set) <= JUMPED_S:
            return False
        self._set = wall - boot
        return True


class Occasions:
    """Brings checks forward for what happens around this computer, no two of them soon after each other."""

    def __init__(self) -> None:
        self._last = -APART_S

    def take(self, now: float, delay: float) -> float:
        """When the check for something that happened just now may start; `delay`: after it, at the earliest."""
        at = max(now + delay, self._last + APART_S)
        self._last = at
        return at
