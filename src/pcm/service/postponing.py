"""How far somebody may put something off: one rule for mandatory work and for restarts. Pure; no clock.

Serves step 9, between `local_acts`, which was asked, and `journal` or `restart`, which write down what was granted. Who may ask,
and whether there is anything to put off, is theirs to say.
"""

from datetime import datetime

from pcm.model.errors import RequestError
from pcm.service.records import to_text


def grant(until: datetime, end: datetime, now: datetime, *, may_again: bool, so_far: str) -> datetime:
    """Until when it is put off: `until`, or the end of its budget if that is sooner (KB Q122202, Q187287).

    Args:
        end: Of its budget.
        may_again: Its budget has a time left.
        so_far: How often it was put off, in words (`2 of 3 times`).

    Raises:
        RequestError: `not_allowed`: nothing is left of the budget, or `until` has passed.
    """
    if not may_again or end <= now:
        raise RequestError(
            f"It was postponed {so_far}, at the latest until {to_text(end)}; it cannot be postponed again.",
            code="not_allowed",
        )
    granted = min(until, end)
    if granted <= now:
        raise RequestError("The time to postpone to has passed.", code="not_allowed")
    return granted
