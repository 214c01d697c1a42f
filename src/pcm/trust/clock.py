"""Checks 2 and 13: this computer's clock is not behind what signed metadata proves, and what was verified is still valid.

Serves step 6, before anything is fetched, and step 10 once more before anything runs. A clock that was set back would
make expired metadata and expired orders valid again. Pure: the caller reads the clock and keeps the floor.
"""

from datetime import UTC, datetime, timedelta

from pcm.trust.codes import refuse

TOLERANCE = timedelta(minutes=2)


def check_clock(now: datetime, time_floor: datetime) -> None:
    """Check 2.

    Args:
        now: By this computer's clock. Aware.
        time_floor: The latest time that signed metadata has proven here. Aware.

    Raises:
        TrustError: `trust.clock`.
    """
    if now < time_floor - TOLERANCE:
        raise refuse(
            "trust.clock",
            f"This computer's clock says {_show(now)}, but signed files prove that it is at least {_show(time_floor)}. "
            "Set the clock; nothing new runs until then.",
        )


def check_validity(now: datetime, valid_until: datetime) -> None:
    """Check 13: immediately before execution, what was verified earlier has not expired meanwhile.

    Args:
        now: Aware.
        valid_until: The earlier one of both repositories' (`VerifiedInstructions`, `Packages`). Aware.

    Raises:
        TrustError: `trust.expired`.
    """
    if now >= valid_until:
        raise refuse("trust.expired", f"The signatures behind this order were valid until {_show(valid_until)}.")


def _show(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
