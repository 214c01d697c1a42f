"""When things may run: maintenance windows, recurring orders, and times that mean UTC or the client's local time.

Serves steps 3 (`site.jobs`), 5 and 7 (`service.planner`). Pure: the time is always an argument, always aware. Local times in a
DST gap move forward by the gap; times in a fold mean the first of the two (KB Q169474, Q186132; RFC 5545, section 3.3.5).

A rule's times are readings of a clock. Where a zone is meant, they become UTC one by one, so that a rule for 22:00 means 22:00
in summer and in winter. An occurrence is named by its reading, written as if it were UTC: a computer that changes its zone
does not meet the same one twice.
"""

from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Annotated, Literal

import msgspec

from pcm.model.recurrence import Rule, following, latest, parse_rule

Clock = Literal["utc", "client"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)"
_FIRST_YEAR, _LAST_YEAR = 1971, 9000  # far from where `datetime` ends, so that no order can make a calculation overflow


_FIRST_DAY = datetime(2001, 1, 1)  # noqa: DTZ001 - a Monday, the first of a month and of a year: what window rules count from
_SLACK = timedelta(hours=25)  # so far apart can two readings of one moment be, where a zone changes its rules


class Window(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A span in which mandatory work may run: from `start` for `minutes`, by UTC or the client's clock.

    Either each week on `days`, or on the days of `rule`, an RFC 5545 RRULE counted from Monday, 2001-01-01.
    """

    days: Annotated[tuple[Weekday, ...], msgspec.Meta(max_length=7)] = ()
    start: Annotated[str, msgspec.Meta(pattern=_TIME)]
    minutes: Annotated[int, msgspec.Meta(ge=1, le=7 * 24 * 60)]
    clock: Clock = "client"
    rule: Annotated[str, msgspec.Meta(max_length=400)] | None = None

    def __post_init__(self) -> None:
        if (self.rule is None) == (not self.days):
            raise ValueError("a window needs either days or a rule")
        if self.rule is not None:
            check_rule(self.rule, self.clock, "rule")
            if parse_rule(self.rule).most is not None:
                raise ValueError("rule: a window has no first day to count from; write UNTIL instead of COUNT")


def check_rule(text: str, clock: Clock, name: str) -> Rule:
    """Read a rule from elsewhere.

    Raises:
        ValueError: naming the field, and what is wrong.
    """
    try:
        rule = parse_rule(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if (
        clock == "client"
        and rule.until is not None
        and text.rstrip().partition("UNTIL=")[2].partition(";")[0].endswith("Z")
    ):
        raise ValueError(f"{name}: UNTIL is read by the client's clock here; write it without Z")
    return rule


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


def resolve(moment: datetime, clock: Clock, zone: tzinfo) -> datetime:
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
    spans = [span for window in windows for span in _spans(window, now, zone) if span[0] <= now < span[1]]
    return max(spans, key=lambda span: span[1], default=None)


def next_opening(windows: tuple[Window, ...], now: datetime, zone: tzinfo) -> datetime | None:
    """Give the next time (UTC, after `now`) at which a window opens; None if none ever does (any more)."""
    return min((start for window in windows for start, _ in _spans(window, now, zone) if start > now), default=None)


def _spans(window: Window, now: datetime, zone: tzinfo) -> list[tuple[datetime, datetime]]:
    """The spans around `now`: at least the last that has begun, and the next."""
    its_zone: tzinfo = UTC if window.clock == "utc" else zone
    hour, minute = (int(part) for part in window.start.split(":"))
    readings: list[datetime | None]
    if window.rule is None:
        today = now.astimezone(its_zone).date()
        days = [today + timedelta(days=offset) for offset in range(-8, 9)]
        readings = [
            datetime.combine(day, time(hour, minute)) for day in days if _WEEKDAYS[day.weekday()] in window.days
        ]
    else:
        rule, first = parse_rule(window.rule), _FIRST_DAY.replace(hour=hour, minute=minute)
        readings = [_last_reading(rule, first, now, its_zone), _next_reading(rule, first, now, its_zone)]
    starts = [local_to_utc(reading, its_zone) for reading in readings if reading is not None]
    return [(start, start + timedelta(minutes=window.minutes)) for start in starts]


def occurrence_at(rule: str, first: datetime, clock: Clock, zone: tzinfo, now: datetime) -> datetime | None:
    """The latest occurrence of a recurring order that has come; None: none has. Those before it are missed for good.

    Args:
        rule: RRULE, checked.
        first: `offer_after` of the order, which the rule counts from.
        clock: Whose readings both are.
        zone: The client's.
        now: Aware.

    Returns:
        Its name: the reading, written as UTC. `occurrence_time` tells when it was.
    """
    found = _last_reading(parse_rule(rule), reading_of(first, clock), now, _zone_of(clock, zone))
    return None if found is None else found.replace(tzinfo=UTC)


def next_occurrence(
    rule: str, first: datetime, clock: Clock, zone: tzinfo, now: datetime, known: datetime | None = None
) -> datetime | None:
    """The next occurrence that is still to come, and later than the one `known` already; None: never again. Named likewise."""
    its_zone = _zone_of(clock, zone)
    parsed, start = parse_rule(rule), reading_of(first, clock)
    found = _next_reading(parsed, start, now, its_zone)
    if found is not None and known is not None and found <= known.replace(tzinfo=None):
        found = following(parsed, start, known.replace(tzinfo=None))
    return None if found is None else found.replace(tzinfo=UTC)


def occurrence_time(occurrence: datetime, clock: Clock, zone: tzinfo) -> datetime:
    """UTC of an occurrence by its name."""
    return resolve(occurrence, clock, zone)


def reading_of(moment: datetime, clock: Clock) -> datetime:
    """What the clock that is meant shows, naive."""
    return (moment if clock == "client" else moment.astimezone(UTC)).replace(tzinfo=None)


def _zone_of(clock: Clock, zone: tzinfo) -> tzinfo:
    return UTC if clock == "utc" else zone


def _last_reading(rule: Rule, first: datetime, now: datetime, zone: tzinfo) -> datetime | None:
    """The last reading of a rule that has come. After clocks went back, a reading may be greater than the present one."""
    here = now.astimezone(zone).replace(tzinfo=None)
    found = latest(rule, first, here if zone is UTC else here + _SLACK)
    while found is not None and local_to_utc(found, zone) > now:
        found = latest(rule, first, found - datetime.resolution)
    return found


def _next_reading(rule: Rule, first: datetime, now: datetime, zone: tzinfo) -> datetime | None:
    here = now.astimezone(zone).replace(tzinfo=None)
    found = following(rule, first, here if zone is UTC else here - _SLACK)
    while found is not None and local_to_utc(found, zone) <= now:
        found = following(rule, first, found)
    return found
