"""The brake: how each client by itself slows down an order that reaches the whole fleet at once.

Serves step 7. The rules come from `policy/site.json`, signed offline in the package repository; no server can loosen them. A
stolen policy key can then at most start signed programs slowly, while people watch. Pure functions; the clock is an argument.
"""

import hashlib
from datetime import datetime, timedelta

SLOTS = 2**32


def slot(client_id: str, work: str) -> float:
    """This client's place among all that do the same work, in [0, 1): evenly spread, the same on every computation.

    Args:
        work: What runs, in the packagers' signed words: package, release, program. Never anything that the site chooses freely,
            such as a job's name: who holds the policy key could try names until each client lands in the pilot share.
    """
    digest = hashlib.sha256(f"pcm-slot\0{client_id}\0{work}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / SLOTS


def earliest_start(
    first_seen: datetime, signed_at: datetime, place: float, *, spread_s: int, pilot_share: float, min_age_s: int
) -> tuple[datetime, str]:
    """When a mandatory instruction may start at the earliest on this client, and which rule says so.

    Args:
        first_seen: When this client first verified the instruction, by its own record. Aware, UTC.
        signed_at: When the package's manifest was signed. Aware, UTC.
        place: The client's slot.
        spread_s: Seconds over which the rest of the fleet starts.
        pilot_share: Share of slots that start at once, 0 to 1.
        min_age_s: Seconds that a manifest must be old outside the pilot share.

    Returns:
        A time (UTC) and `pilot`, `spread` or `min_age`.
    """
    if place < pilot_share:
        return first_seen, "pilot"
    by_spread = first_seen + timedelta(seconds=place * spread_s)
    by_age = signed_at + timedelta(seconds=min_age_s)
    return (by_age, "min_age") if by_age > by_spread else (by_spread, "spread")


def spread_over(
    begins: datetime, place: float, *, spread_s: int, pilot_share: float, room: timedelta | None = None
) -> datetime:
    """When one time of a recurring order may start on this client: each is spread as the first one is.

    Args:
        begins: When it could start without a spread. Aware, UTC.
        place: The client's slot.
        spread_s: Seconds over which the rest of the fleet starts.
        pilot_share: Share of slots that start at once, 0 to 1.
        room: The spread takes no more than this; None: nothing limits it.

    Returns:
        A time (UTC), never before `begins`.
    """
    if place < pilot_share:
        return begins
    spread = timedelta(seconds=spread_s)
    return begins + place * (spread if room is None else max(min(spread, room), timedelta()))
