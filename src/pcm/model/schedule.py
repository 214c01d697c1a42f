"""When things may run: maintenance windows, and times that mean UTC or the client's local time.

Serves steps 3 (`site.jobs`), 5 and 7 (`service.planner`). Pure: the time is always an argument, always aware. Local times in a
DST gap move forward by the gap; times in a fold mean the first of the two (KB Q169474, Q186132; RFC 5545, section 3.3.5).
"""

from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Annotated, Literal

import msgspec

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)"
_FIRST_YEAR, _LAST_YEAR = 1971, 9000  # far from where `datetime` ends, so that no order can make a calculation overflow


class Window(msgspec.Struct, frozen=True, omit_defaults=True):
    """A weekly span in which mandatory work may run: on `days`, from `start` for `minutes`, by UTC or the client's clock."""

    days: Annotated[tuple[Weekday, ...], msgspec.Meta(min_length=1, max_length=7)]
    start: Annotated[str, msgspec.Meta(pattern=_TIME)]
    minutes: Annotated[int, msgspec.Meta(ge=1, le=7 * 24 * 60)]
    clock: Literal["utc", "client"] = "client"


def check_moment(moment: datetime, name: str) -> None:
    """Check that a time from elsewhere has an offset, and lies where spans and time zones can be added to it.

    Raises:
        ValueError: naming the field; a Struct's own decoder says where.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{name} needs an offset, such as 2026-01-31T12:00:00Z")
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError(
            f"{name} lies in the year {moment.year}; years from {_FIRST_YEAR} to {_LAST_YEAR} are understood"
        )


def resolve(moment: datetime, clock: Literal["utc", "client"], zone: tzinfo) -> datetime:
    """Turn a time of an instruction into UTC.

    Args:
        moment: Aware; with `clock` = client its wall-clock reading is meant, whatever its offset.
        clock: Which clock the administrator meant.
        zone: The client's time zone.

    Returns:
        Aware, UTC.
    """
    if clock == "utc":
        return moment.astimezone(UTC)
    return local_to_utc(moment.replace(tzinfo=None), zone)


def local_to_utc(wall: datetime, zone: tzinfo) -> datetime:
    """UTC of a naive wall-clock time; a time in a DST gap moves forward by the gap, one in a fold is the first of two."""
    # fold=0 reads a gap with the offset before it, which lands after the gap by exactly its length (PEP 495)
    return wall.replace(tzinfo=zone, fold=0).astimezone(UTC)


def open_span(windows: tuple[Window, ...], now: datetime, zone: tzinfo) -> tuple[datetime, datetime] | None:
    """Give the window span (start, end; UTC) that contains `now` and ends last, or None if all are closed."""
    spans = [span for span in _spans(windows, now, zone) if span[0] <= now < span[1]]
    return max(spans, key=lambda span: span[1], default=None)


def next_opening(windows: tuple[Window, ...], now: datetime, zone: tzinfo) -> datetime | None:
    """Give the next time (UTC, after `now`) at which a window opens; None if there are no windows."""
    return min((start for start, _ in _spans(windows, now, zone) if start > now), default=None)


def _spans(windows: tuple[Window, ...], now: datetime, zone: tzinfo) -> list[tuple[datetime, datetime]]:
    spans: list[tuple[datetime, datetime]] = []
    for window in windows:
        its_zone: tzinfo = UTC if window.clock == "utc" else zone
        today = now.astimezone(its_zone).date()
        hour, minute = (int(part) for part in window.start.split(":"))
        for offset in range(-8, 9):
            day = today + timedelta(days=offset)
            if _WEEKDAYS[day.weekday()] in window.days:
                start = local_to_utc(datetime.combine(day, time(hour, minute)), its_zone)
                spans.append((start, start + timedelta(minutes=window.minutes)))
    return spans
