"""How a client may use its network and its disk for content: rates by the hour, metered networks, store budget, peers.

Serves steps 5 (the site says it in the header of every instruction file) and 8 (the client fetches by it). Pure: the time is
always an argument, and it is a reading of the client's own clock.
"""

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec

from pcm.model.schedule import Weekday

Rate = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
"""Bytes a second; 0: as fast as it goes."""
Metered = Literal["as_usual", "limit", "wait"]
_TIME = r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)"
_END = r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$(?!\n)"
_WEEK: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class RateHours(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Another rate at certain hours, from `start` to `end` by the client's clock; 24:00 is the end of the day.

    An `end` not after `start` is the next day's. `days`: on which the hours begin; none: on each day.
    """

    start: Annotated[str, msgspec.Meta(pattern=_TIME)]
    end: Annotated[str, msgspec.Meta(pattern=_END)]
    rate: Rate
    days: Annotated[tuple[Weekday, ...], msgspec.Meta(max_length=7)] = ()


class ContentPolicy(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the site asks of its clients.

    `rate`: where no `hours` fit. `metered`: what to do on a network that is paid by volume; `metered_rate` is its rate if it is
    `limit`. `store_bytes`: budget of the content store, 0: the built-in one. `background`: give way to other programs' traffic.
    `peers`: ask and serve clients of the same subnet, at `peer_port`.
    """

    rate: Rate = 0
    hours: Annotated[tuple[RateHours, ...], msgspec.Meta(max_length=64)] = ()
    metered: Metered = "limit"
    metered_rate: Rate = 128 * 2**10
    store_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**50)] = 0
    background: bool = True
    peers: bool = False
    peer_port: Annotated[int, msgspec.Meta(ge=1024, le=65_535)] = 8441


def rate_at(policy: ContentPolicy, local_time: datetime, metered: bool) -> int | None:
    """How fast content may be fetched now.

    Args:
        local_time: The client's wall clock.
        metered: Whether the network is paid by volume.

    Returns:
        Bytes a second, 0: without limit; None: wait for another network.
    """
    if metered and policy.metered == "wait":
        return None
    rates = [hours.rate for hours in policy.hours if _within(hours, local_time)] or [policy.rate]
    if metered and policy.metered == "limit":
        rates.append(policy.metered_rate)
    limits = [rate for rate in rates if rate]
    return min(limits, default=0)


def next_change(policy: ContentPolicy, local_time: datetime) -> datetime | None:
    """The wall-clock time at which other hours begin or end next, within a week; None if there are none."""
    midnight = local_time.replace(hour=0, minute=0, second=0, microsecond=0)
    edges = {
        midnight + timedelta(days=day, hours=int(text[:2]), minutes=int(text[3:]))
        for hours in policy.hours
        for text in (hours.start, hours.end)
        for day in range(9)
    }
    now = rate_at(policy, local_time, metered=False)
    changes = (edge for edge in sorted(edges) if edge > local_time and rate_at(policy, edge, metered=False) != now)
    return next(changes, None)


def _within(hours: RateHours, local_time: datetime) -> bool:
    days = hours.days or _WEEK
    today, yesterday = _WEEK[local_time.weekday()], _WEEK[local_time.weekday() - 1]
    clock = local_time.strftime("%H:%M")
    if hours.start < hours.end:
        return today in days and hours.start <= clock < hours.end
    return (today in days and clock >= hours.start) or (yesterday in days and clock < hours.end)
