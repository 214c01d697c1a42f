"""Recurrence rules: what they give (held against dateutil, which evaluates them without bounds), and what is refused."""

from datetime import datetime, timedelta
from itertools import islice
from time import process_time
from typing import Any

import pytest
from dateutil.rrule import rrulestr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pcm.model.recurrence import (
    FREQUENCIES,
    MOST_PERIODS,
    Rule,
    following,
    last_time,
    latest,
    parse_rule,
    shortest_distance,
)

START = datetime(2026, 1, 5, 22, 30)  # a Monday
INSTANT = timedelta(microseconds=1)
WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
SOME_DAYS = st.sets(st.sampled_from((1, 2, 13, 15, 28, 29, 30, 31, -1, -2, -30)), min_size=1, max_size=3)


def times(rule: str, start: datetime = START, most: int = 10) -> list[datetime]:
    """The first times of a rule."""
    parsed = parse_rule(rule)
    found: list[datetime] = []
    moment = following(parsed, start, start - INSTANT)
    while moment is not None and len(found) < most:
        found.append(moment)
        moment = following(parsed, start, moment)
    return found


def listed(values: Any) -> str:
    return ",".join(str(value) for value in sorted(values))


@st.composite
def rules(draw: st.DrawFn) -> str:
    """Rules that both sides read the same way.

    dateutil ANDs weekdays with and without an ordinal, where the RFC unites them, and cuts the first week of a rule off at its
    start before BYSETPOS counts; so those two are not drawn. See `test_weekdays_with_and_without_an_ordinal_are_united`.
    """
    frequency = draw(st.sampled_from(FREQUENCIES))
    parts = [f"FREQ={frequency}", f"INTERVAL={draw(st.sampled_from((1, 1, 2, 3, 4, 5, 7, 12)))}"]
    chosen = []
    if frequency != "HOURLY" and draw(st.booleans()):
        chosen.append(f"BYMONTH={listed(draw(st.sets(st.integers(1, 12), min_size=1, max_size=4)))}")
    if frequency not in {"HOURLY", "WEEKLY"} and draw(st.booleans()):
        chosen.append(f"BYMONTHDAY={listed(draw(SOME_DAYS))}")
    if draw(st.booleans()):
        counted = frequency in {"MONTHLY", "YEARLY"} and draw(st.booleans())
        ordinals = ("1", "2", "-1", "5", "+3") if counted else ("",)
        days = draw(st.sets(st.tuples(st.sampled_from(ordinals), st.sampled_from(WEEKDAYS)), min_size=1, max_size=3))
        chosen.append("BYDAY=" + listed("".join(day) for day in days))
    if draw(st.booleans()):
        chosen.append(f"BYHOUR={listed(draw(st.sets(st.integers(0, 23), min_size=1, max_size=3)))}")
    if draw(st.booleans()):
        chosen.append(f"BYMINUTE={listed(draw(st.sets(st.integers(0, 59), min_size=1, max_size=3)))}")
    if chosen and frequency != "WEEKLY" and draw(st.booleans()):
        chosen.append(f"BYSETPOS={listed(draw(st.sets(st.sampled_from((1, 2, 3, -1, -2)), min_size=1, max_size=2)))}")
    end = draw(st.sampled_from(("", "", f"COUNT={draw(st.integers(1, 12))}", "UNTIL=20281231T120000")))
    return ";".join([*parts, *chosen, *([end] if end else []), *draw(st.sampled_from(([], ["WKST=SU"])))])


@settings(max_examples=300, deadline=None)
@given(
    rules(), st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)).map(lambda moment: moment.replace(microsecond=0))
)
def test_a_rule_gives_what_the_rfc_says(rule: str, start: datetime) -> None:
    mine = times(rule, start, 8)
    # where this gives too few, dateutil would look on until the year 9999: asked only if it is near
    assume(len(mine) == 8 or "COUNT" in rule or "UNTIL" in rule)
    if len(mine) < 8 and not mine:
        return
    assert mine == list(islice(rrulestr(rule, dtstart=start), len(mine)))


@given(rules(), st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)), st.integers(0, 3_000_000))
def test_the_last_one_and_the_next_one_lie_on_both_sides_of_any_moment(
    rule: str, start: datetime, minutes: int
) -> None:
    parsed, at = parse_rule(rule), start + timedelta(minutes=minutes)
    before, after = latest(parsed, start, at), following(parsed, start, at)
    assert before is None or start <= before <= at
    assert after is None or after > at
    if before is not None:
        assert following(parsed, start, before - INSTANT) == before
        assert following(parsed, start, before) == after
    if after is not None:
        assert latest(parsed, start, after) == after
        assert latest(parsed, start, after - INSTANT) == before


@pytest.mark.parametrize(
    ("rule", "first"),
    [
        ("FREQ=DAILY", ["05", "06", "07"]),
        ("RRULE:FREQ=WEEKLY;BYDAY=TU,SA", ["06", "10", "13"]),
        ("FREQ=WEEKLY;INTERVAL=2;WKST=SU;BYDAY=SU,MO", ["05", "18", "19"]),
        ("FREQ=MONTHLY;BYDAY=2TU", ["13", "10", "10"]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", ["30", "27", "31"]),
        ("FREQ=MONTHLY;BYMONTHDAY=-1", ["31", "28", "31"]),
        ("FREQ=YEARLY", ["05", "05", "05"]),
        ("FREQ=YEARLY;BYDAY=-1SU", ["27", "26", "31"]),
    ],
)
def test_ordinary_rules_read_as_people_expect(rule: str, first: list[str]) -> None:
    assert [f"{moment:%d}" for moment in times(rule, most=3)] == first
    assert {moment.time() for moment in times(rule, most=3)} == {START.time()}


def test_weekdays_with_and_without_an_ordinal_are_united() -> None:
    """RFC 5545, 3.3.10: a list is the union of what its items give. (dateutil takes only what fits both.)"""
    assert [f"{moment:%d}" for moment in times("FREQ=MONTHLY;BYDAY=1MO,FR", most=5)] == ["05", "09", "16", "23", "30"]


def test_what_the_rule_does_not_say_it_takes_from_its_start_to_the_microsecond() -> None:
    start = START.replace(second=7, microsecond=9)
    assert times("FREQ=HOURLY;INTERVAL=6", start, 2) == [start, start + timedelta(hours=6)]


def test_q153369_q249578_month_twelve_and_year_100_and_beyond_are_ordinary() -> None:
    assert times("FREQ=MONTHLY", datetime(2026, 11, 30, 1), 3) == [
        datetime(2026, 11, 30, 1),
        datetime(2026, 12, 30, 1),
        datetime(2027, 1, 30, 1),
    ]
    assert times("FREQ=YEARLY", datetime(2099, 12, 31, 23), 2) == [
        datetime(2099, 12, 31, 23),
        datetime(2100, 12, 31, 23),
    ]
    assert times("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", datetime(2096, 1, 1), 2) == [
        datetime(2096, 2, 29),
        datetime(2104, 2, 29),
    ]


@pytest.mark.parametrize(
    ("rule", "last"),
    [
        ("FREQ=DAILY;COUNT=3", START + timedelta(days=2)),
        ("FREQ=DAILY;UNTIL=20260107", datetime(2026, 1, 7, 22, 30)),
        ("FREQ=DAILY;UNTIL=20260107T222959", datetime(2026, 1, 6, 22, 30)),
        ("FREQ=DAILY", None),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30;COUNT=2", None),
    ],
)
def test_a_rule_that_ends_has_a_last_time(rule: str, last: datetime | None) -> None:
    assert last_time(parse_rule(rule), START) == last
    if last is not None:
        assert following(parse_rule(rule), START, last) is None
        assert latest(parse_rule(rule), START, datetime(2050, 1, 1)) == last


@pytest.mark.parametrize(
    ("rule", "between"),
    [
        ("FREQ=DAILY", timedelta(days=1)),
        ("FREQ=WEEKLY;BYDAY=FR,SA", timedelta(days=1)),
        ("FREQ=MONTHLY", timedelta(days=28)),
        ("FREQ=DAILY;BYHOUR=8,20;BYMINUTE=0,15", timedelta(minutes=15)),
        ("FREQ=DAILY;COUNT=1", None),
    ],
)
def test_how_close_its_times_follow_each_other(rule: str, between: timedelta | None) -> None:
    assert shortest_distance(parse_rule(rule), START) == between


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("", "no part of a rule"),
        ("every day", "no part of a rule"),
        ("freq=daily", "no part of a rule"),
        ("INTERVAL=2", "FREQ must be one of"),
        ("FREQ=SECONDLY", "HOURLY is the most"),
        ("FREQ=MINUTELY;INTERVAL=60", "HOURLY is the most"),
        ("FREQ=FORTNIGHTLY", "FREQ must be one of"),
        ("FREQ=DAILY;FREQ=DAILY", "twice"),
        ("FREQ=DAILY;BYEASTER=1", "BYEASTER is no part"),
        ("FREQ=DAILY;BYSECOND=0", "times are to the minute"),
        ("FREQ=YEARLY;BYWEEKNO=20", "name month and weekday"),
        ("FREQ=YEARLY;BYYEARDAY=200", "name month and day"),
        ("FREQ=DAILY;INTERVAL=0", "from 1 to 1000"),
        ("FREQ=DAILY;INTERVAL=99999", "from 1 to 1000"),
        ("FREQ=DAILY;COUNT=1001", "from 1 to 1000"),
        ("FREQ=DAILY;COUNT=2;UNTIL=20270101", "cannot both stand"),
        ("FREQ=DAILY;UNTIL=tomorrow", "no part of a rule"),
        ("FREQ=DAILY;UNTIL=20271301", "month must be"),
        ("FREQ=DAILY;UNTIL=2027", "UNTIL takes"),
        ("FREQ=DAILY;BYMONTH=13", "from 1 to 12"),
        ("FREQ=DAILY;BYMONTH=-1", "from 1 to 12"),
        ("FREQ=DAILY;BYHOUR=24", "from 0 to 23"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "from 1 to 31, or negative"),
        ("FREQ=MONTHLY;BYDAY=XX", "MO to SU"),
        ("FREQ=MONTHLY;BYDAY=6MO", "no more than 5"),
        ("FREQ=YEARLY;BYDAY=54MO", "no more than 53"),
        ("FREQ=MONTHLY;BYDAY=0MO", "no more than 5"),
        ("FREQ=WEEKLY;BYDAY=1MO", "only MONTHLY and YEARLY"),
        ("FREQ=WEEKLY;BYMONTHDAY=1", "write FREQ=MONTHLY"),
        ("FREQ=HOURLY;BYMONTH=1", "write FREQ=DAILY"),
        ("FREQ=DAILY;BYSETPOS=1", "there is none"),
        ("FREQ=WEEKLY;WKST=XX", "WKST takes"),
        ("FREQ=HOURLY;BYMINUTE=0,10,20,30,40,50", "too often"),
        ("FREQ=DAILY;BYDAY=" + ",".join(["MO"] * 5) + ";\n", "no part of a rule"),
    ],
)
def test_q191317_what_is_not_understood_is_refused_and_never_overlooked(rule: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_rule(rule)


@settings(max_examples=50)
@given(st.text("FREQ=;BYDAILWKMNTHPOSUCR,-+0123456789", max_size=60))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        assert isinstance(parse_rule(text), Rule)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=DAILY;INTERVAL=7;BYDAY=TU",
        "FREQ=HOURLY;INTERVAL=24;BYHOUR=5",
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=31",
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30;COUNT=1000",
    ],
)
def test_a_rule_that_never_comes_says_so_after_a_bounded_search(rule: str) -> None:
    """What dateutil looks for until the year 9999, for seconds; this is asked at every look of a privileged service."""
    parsed = parse_rule(rule)
    assert following(parsed, START, START) is None
    assert latest(parsed, START, START + timedelta(days=3650)) is None
    assert max(MOST_PERIODS.values()) <= 15_000


def test_times_far_away_are_looked_up_at_once() -> None:
    rule, start = parse_rule("FREQ=HOURLY"), datetime(1971, 1, 1)
    assert latest(rule, start, datetime(8999, 5, 5, 5, 30)) == datetime(8999, 5, 5, 5)
    assert following(rule, start, datetime(9000, 12, 31, 23, 30)) is None


QUARTERS = f"BYHOUR={listed(range(24))};BYMINUTE=0,15,30,45;BYDAY={','.join(WEEKDAYS)}"


@pytest.mark.parametrize(
    "rule",
    [
        f"FREQ=YEARLY;{QUARTERS};BYSETPOS=366;COUNT=1000",
        f"FREQ=YEARLY;{QUARTERS};BYSETPOS=-366",
        f"FREQ=YEARLY;{QUARTERS}",
        f"FREQ=MONTHLY;{QUARTERS}",
        f"FREQ=YEARLY;BYDAY=53MO;BYMONTHDAY={listed(range(1, 30))}",
        "FREQ=YEARLY;BYDAY=53MO;BYMONTHDAY=2",
        "FREQ=MONTHLY;BYDAY=5MO;BYMONTHDAY=1",
    ],
)
def test_no_rule_is_a_bomb(rule: str) -> None:
    """Whoever holds the policy key may order ten thousand such, and each is asked some hundred times at each look (DST)."""
    parsed, moment = parse_rule(rule), START + timedelta(days=400)
    began = process_time()
    for _ in range(5):
        latest(parsed, START, moment)
        following(parsed, START, moment)
        moment += timedelta(minutes=15)
    assert process_time() - began < 3
