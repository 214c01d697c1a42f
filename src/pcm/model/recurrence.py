"""Recurrence rules: an RFC 5545 RRULE as a value, and the wall-clock times that it gives. Pure and bounded; no time zones.

Serves step 3 (`model.job`, `site.configuration`: a rule is checked when it is written), step 5 (compiled) and step 7
(`model.schedule`, which adds clocks and zones). Times are naive: readings of whatever clock the caller means. The rules are asked
at every look of a privileged service, so each question looks at so many periods and no more, whatever the rule says; that is
why no library evaluates them (docs/adr). What is left out of the RFC is refused by name, never overlooked (KB Q154931).
"""

import calendar
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, overload

FREQUENCIES = ("HOURLY", "DAILY", "WEEKLY", "MONTHLY", "YEARLY")
MOST_PERIODS = {"HOURLY": 3000, "DAILY": 15_000, "WEEKLY": 3000, "MONTHLY": 3000, "YEARLY": 400}
"""So far apart, in periods of their rule, two times of it may lie; and one question looks no further.

After 400 years every calendar repeats itself, so a YEARLY rule that gave no time until then gives none.
"""
MOST_COUNT = 1000
MOST_PER_DAY = 96
MOST_PER_HOUR = 4
_WEEKDAYS = {name: number for number, name in enumerate(("MO", "TU", "WE", "TH", "FR", "SA", "SU"))}
_PART = re.compile(r"([A-Z]+)=([0-9A-Z+,:-]+)")
_WEEKDAY = re.compile(r"([+-]?[0-9]{1,2})?(MO|TU|WE|TH|FR|SA|SU)")
_UNTIL = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})(?:T([0-9]{2})([0-9]{2})([0-9]{2})Z?)?")
_LAST_YEAR = 9000
_LEFT_OUT = {
    "BYSECOND": "times are to the minute",
    "BYYEARDAY": "name month and day",
    "BYWEEKNO": "name month and weekday",
}


class Rule(NamedTuple):
    """A rule, read. Weekdays count from Monday, 0; each with its ordinal within month or year, 0: all of them.

    `most`: how many times it has in all; None: it does not say. `until`: the last time that may be one, by the rule's own clock.
    """

    frequency: str
    interval: int = 1
    most: int | None = None
    until: datetime | None = None
    months: tuple[int, ...] = ()
    month_days: tuple[int, ...] = ()
    weekdays: tuple[tuple[int, int], ...] = ()
    hours: tuple[int, ...] = ()
    minutes: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    week_start: int = 0


@lru_cache(maxsize=256)
def parse_rule(text: str) -> Rule:
    """Read a rule such as `FREQ=MONTHLY;BYDAY=2TU` (RFC 5545, section 3.3.10).

    Raises:
        ValueError: what is wrong with it, and which part says so.
    """
    parts = _parts(text)
    frequency = parts.get("FREQ", "")
    if frequency in {"SECONDLY", "MINUTELY"}:
        raise ValueError(f"FREQ={frequency} is too often; HOURLY is the most")
    if frequency not in FREQUENCIES:
        raise ValueError(f"FREQ must be one of {', '.join(FREQUENCIES)}")
    for name, instead in _LEFT_OUT.items():
        if name in parts:
            raise ValueError(f"{name} is not understood; {instead}")
    rule = Rule(
        frequency,
        _number(parts, "INTERVAL", 1, 1000) or 1,
        _number(parts, "COUNT", 1, MOST_COUNT),
        _until(parts["UNTIL"]) if "UNTIL" in parts else None,
        _numbers(parts, "BYMONTH", 1, 12),
        _numbers(parts, "BYMONTHDAY", 1, 31, negative=True),
        _weekdays(parts["BYDAY"], parts) if "BYDAY" in parts else (),
        _numbers(parts, "BYHOUR", 0, 23),
        _numbers(parts, "BYMINUTE", 0, 59),
        _numbers(parts, "BYSETPOS", 1, 366, negative=True),
        _WEEKDAYS.get(parts.get("WKST", "MO"), -1),
    )
    _check(rule, parts)
    return rule


def latest(rule: Rule, start: datetime, at: datetime) -> datetime | None:
    """The last time of a rule that is not after `at`; None: none has come, or none within what is looked at.

    Args:
        start: Naive; the rule begins here (DTSTART), and takes from here what it does not say itself.
        at: Naive.
    """
    if at < start:
        return None
    if rule.most is not None:
        return max((each for each in _counted(rule, start) if each <= at), default=None)
    number = min(_number_of(rule, start, at), _last_number(rule, start))
    at = at if rule.until is None else min(at, rule.until)
    for each in range(number, max(number - MOST_PERIODS[rule.frequency], -1), -1):
        period = _period(rule, start, each)
        place = bisect_right(period, at)
        if place:
            return period[place - 1] if period[place - 1] >= start else None
    return None


def following(rule: Rule, start: datetime, at: datetime) -> datetime | None:
    """The first time of a rule after `at`; None: there is none any more, or none within what is looked at. See `latest`."""
    if rule.most is not None:
        return min((each for each in _counted(rule, start) if each > at), default=None)
    first = max(_number_of(rule, start, at), 0) if at >= start else 0
    at = max(at, start - datetime.resolution)
    for number in range(first, min(first + MOST_PERIODS[rule.frequency], _last_number(rule, start) + 1)):
        period = _period(rule, start, number)
        place = bisect_right(period, at)
        if place < len(period):
            return period[place] if rule.until is None or period[place] <= rule.until else None
    return None


def last_time(rule: Rule, start: datetime) -> datetime | None:
    """The last time that a rule ever gives; None: it does not end, or gives none."""
    if rule.most is not None:
        return max(_counted(rule, start), default=None)
    return None if rule.until is None else latest(rule, start, rule.until)


def shortest_distance(rule: Rule, start: datetime) -> timedelta | None:
    """How close the first times of a rule follow each other; None: it has fewer than two."""
    times: list[datetime] = []
    moment = following(rule, start, start - timedelta(microseconds=1))
    while moment is not None and len(times) < 2 * MOST_PER_DAY:
        times.append(moment)
        moment = following(rule, start, moment)
    return min((later - one for one, later in pairwise(times)), default=None)


# -- reading ----------------------------------------------------------------------------------------------------------


def _parts(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for piece in text.removeprefix("RRULE:").split(";"):
        match = _PART.fullmatch(piece)
        if match is None:
            raise ValueError(f"{piece[:40]!r} is no part of a rule; write NAME=VALUE, such as FREQ=WEEKLY;BYDAY=SA")
        name, value = match.groups()
        if name in parts:
            raise ValueError(f"{name} stands there twice")
        parts[name] = value
    known = {
        "FREQ",
        "INTERVAL",
        "COUNT",
        "UNTIL",
        "BYMONTH",
        "BYMONTHDAY",
        "BYDAY",
        "BYHOUR",
        "BYMINUTE",
        "BYSETPOS",
        "WKST",
    }
    for name in parts:
        if name not in known and name not in _LEFT_OUT:
            raise ValueError(f"{name[:40]} is no part of a rule")
    return parts


def _number(parts: dict[str, str], name: str, least: int, most: int) -> int | None:
    text = parts.get(name)
    if text is None:
        return None
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ValueError(f"{name} must be a number from {least} to {most}")
    return int(text)


def _numbers(parts: dict[str, str], name: str, least: int, most: int, *, negative: bool = False) -> tuple[int, ...]:
    if name not in parts:
        return ()
    found: set[int] = set()
    for piece in parts[name].split(","):
        bare = piece[1:] if piece[:1] in ("+", "-") and negative else piece
        if not bare.isdecimal() or not least <= int(bare) <= most:
            raise ValueError(f"{name} takes numbers from {least} to {most}{', or negative ones' if negative else ''}")
        found.add(int(piece))
    return tuple(sorted(found))


def _weekdays(text: str, parts: dict[str, str]) -> tuple[tuple[int, int], ...]:
    found: set[tuple[int, int]] = set()
    for piece in text.split(","):
        match = _WEEKDAY.fullmatch(piece)
        if match is None:
            raise ValueError(f"BYDAY takes MO to SU, not {piece[:10]!r}")
        ordinal = int(match.group(1) or 0)
        most = 53 if parts["FREQ"] == "YEARLY" and "BYMONTH" not in parts else 5
        if match.group(1) is not None and not 1 <= abs(ordinal) <= most:
            raise ValueError(f"BYDAY={piece}: there are no more than {most} of a weekday")
        if ordinal and parts["FREQ"] not in {"MONTHLY", "YEARLY"}:
            raise ValueError(f"BYDAY={piece} counts weekdays, which only MONTHLY and YEARLY rules can")
        found.add((ordinal, _WEEKDAYS[match.group(2)]))
    return tuple(sorted(found))


def _until(text: str) -> datetime:
    match = _UNTIL.fullmatch(text)
    if match is None:
        raise ValueError("UNTIL takes a time such as 20271231T220000, or a day such as 20271231")
    year, month, day = (int(piece) for piece in match.groups()[:3])
    hour, minute, second = (23, 59, 59) if match.group(4) is None else (int(piece) for piece in match.groups()[3:])
    return datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - naive on purpose, see the module


def _check(rule: Rule, parts: dict[str, str]) -> None:
    if rule.week_start < 0:
        raise ValueError("WKST takes MO to SU")
    if rule.most is not None and rule.until is not None:
        raise ValueError("COUNT and UNTIL cannot both stand in a rule")
    if rule.positions and not any(name in parts for name in ("BYMONTH", "BYMONTHDAY", "BYDAY", "BYHOUR", "BYMINUTE")):
        raise ValueError("BYSETPOS chooses among what BYDAY or another part gives; there is none")
    if rule.frequency == "WEEKLY" and rule.month_days:
        raise ValueError("BYMONTHDAY cannot stand in a WEEKLY rule; write FREQ=MONTHLY")
    if rule.frequency == "HOURLY" and (rule.months or rule.month_days):
        raise ValueError("BYMONTH and BYMONTHDAY cannot stand in an HOURLY rule; write FREQ=DAILY with BYHOUR")
    if len(rule.minutes) > MOST_PER_HOUR or max(len(rule.hours), 1) * max(len(rule.minutes), 1) > MOST_PER_DAY:
        raise ValueError(f"it is too often; {MOST_PER_HOUR} times an hour is the most")


# -- the times of one period ------------------------------------------------------------------------------------------


def _number_of(rule: Rule, start: datetime, at: datetime) -> int:
    """The period that `at` lies in or behind, counted from that of `start` in steps of the interval."""
    if rule.frequency == "YEARLY":
        passed = at.year - start.year
    elif rule.frequency == "MONTHLY":
        passed = 12 * (at.year - start.year) + at.month - start.month
    elif rule.frequency == "WEEKLY":
        passed = (at.date() - _week(rule, start)).days // 7
    elif rule.frequency == "DAILY":
        passed = (at.date() - start.date()).days
    else:
        passed = (_hour(at) - _hour(start)) // timedelta(hours=1)
    return passed // rule.interval


def _last_number(rule: Rule, start: datetime) -> int:
    end = datetime(_LAST_YEAR, 12, 31)  # noqa: DTZ001 - naive on purpose, see the module
    return _number_of(rule, start, end if rule.until is None else min(end, rule.until))


def _week(rule: Rule, start: datetime) -> date:
    return start.date() - timedelta(days=(start.weekday() - rule.week_start) % 7)


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


class _Period(Sequence[datetime]):
    """The times of one period, in order; each is only made when it is asked for, for there may be 35,000 in a year.

    Args:
        days, clocks: Each day has a time at each hour and minute.
        positions: Those that a rule chooses (BYSETPOS); none: all.
        start: Whose seconds every time has.
    """

    def __init__(
        self, days: list[date], clocks: list[tuple[int, int]], positions: tuple[int, ...], start: datetime
    ) -> None:
        self._days, self._clocks, self._start = days, clocks, start
        count = len(days) * len(clocks)
        chosen = {each - 1 if each > 0 else count + each for each in positions}
        inside = sorted(each for each in chosen if 0 <= each < count)
        self._places: Sequence[int] = inside if positions else range(count)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> datetime: ...

    @overload
    def __getitem__(self, place: slice) -> list[datetime]: ...

    def __getitem__(self, place: int | slice) -> datetime | list[datetime]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        day, clock = divmod(self._places[place], len(self._clocks))
        return datetime.combine(
            self._days[day], time(*self._clocks[clock], self._start.second, self._start.microsecond)
        )


def _period(rule: Rule, start: datetime, number: int) -> _Period:
    """The times of one period; also those before the start and after the rule's end."""
    step = number * rule.interval
    if rule.frequency == "HOURLY":
        hour = _hour(start) + timedelta(hours=step)
        fits = (not rule.hours or hour.hour in rule.hours) and _fits_weekday(rule, hour.date())
        clocks = [(hour.hour, minute) for minute in rule.minutes or (start.minute,)]
        days = [hour.date()] if fits else []
    else:
        clocks = [(hour, minute) for hour in rule.hours or (start.hour,) for minute in rule.minutes or (start.minute,)]
        days = list(_days(rule, start, step))
    return _Period(days, clocks, rule.positions, start)


def _days(rule: Rule, start: datetime, step: int) -> Iterator[date]:
    if rule.frequency == "DAILY":
        day = start.date() + timedelta(days=step)
        if (not rule.months or day.month in rule.months) and _fits_month_day(rule, day) and _fits_weekday(rule, day):
            yield day
    elif rule.frequency == "WEEKLY":
        wanted = {weekday for _, weekday in rule.weekdays} or {start.weekday()}
        first = _week(rule, start) + timedelta(days=7 * step)
        for day in (first + timedelta(days=each) for each in range(7)):
            if day.weekday() in wanted and (not rule.months or day.month in rule.months):
                yield day
    else:
        month = start.month - 1 + step if rule.frequency == "MONTHLY" else 12 * step
        year = start.year + month // 12
        if rule.frequency == "MONTHLY":
            months = [month % 12 + 1]
        elif rule.months or rule.month_days or rule.weekdays:
            months = list(rule.months or range(1, 13))
        else:
            months = [start.month]
        for each in months:
            if not rule.months or each in rule.months:
                yield from _days_of_month(rule, start, year, each)


def _days_of_month(rule: Rule, start: datetime, year: int, month: int) -> Iterator[date]:
    weekday, last = calendar.monthrange(year, month)
    default = () if rule.weekdays else (start.day,)
    numbers = {each if each > 0 else last + 1 + each for each in rule.month_days or default} or range(1, last + 1)
    wanted, ordinals = {each for _, each in rule.weekdays}, any(each for each, _ in rule.weekdays)
    for number in sorted(numbers):
        if not 0 < number <= last or (wanted and (weekday + number - 1) % 7 not in wanted):
            continue
        day = date(year, month, number)
        if not ordinals or _fits_weekday(rule, day):
            yield day


def _fits_month_day(rule: Rule, day: date) -> bool:
    if not rule.month_days:
        return True
    return day.day in rule.month_days or day.day - calendar.monthrange(day.year, day.month)[1] - 1 in rule.month_days


def _fits_weekday(rule: Rule, day: date) -> bool:
    """Ordinals count within the month, but within the year for a YEARLY rule that names no months."""
    if not rule.weekdays:
        return True
    weekday = day.weekday()
    if rule.frequency == "YEARLY" and not rule.months:
        place = day.toordinal() - date(day.year, 1, 1).toordinal() + 1
        last = 366 if calendar.isleap(day.year) else 365
    else:
        place, last = day.day, calendar.monthrange(day.year, day.month)[1]
    return any(
        wanted == weekday and ordinal in (0, (place - 1) // 7 + 1, -((last - place) // 7 + 1))
        for ordinal, wanted in rule.weekdays
    )


@lru_cache(maxsize=64)
def _counted(rule: Rule, start: datetime) -> tuple[datetime, ...]:
    """All times of a rule that counts them."""
    found: list[datetime] = []
    most = rule.most or 0
    last = _last_number(rule, start)
    number = empty = 0
    while len(found) < most and number <= last and empty < MOST_PERIODS[rule.frequency]:
        period = _period(rule, start, number)
        first = bisect_left(period, start)
        found += period[first : first + most]
        empty = 0 if first < len(period) else empty + 1
        number += 1
    return tuple(found[:most])
