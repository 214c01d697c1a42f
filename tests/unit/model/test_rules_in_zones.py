"""Windows by rule and occurrences of recurring orders: on clocks that jump forward, go back, and travel."""

from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm.model.schedule import (
    Clock,
    Window,
    next_occurrence,
    next_opening,
    occurrence_at,
    occurrence_time,
    open_span,
)

BERLIN, LORD_HOWE, APIA, NEW_YORK = (
    ZoneInfo(name) for name in ("Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "America/New_York")
)
ZONES: list[tzinfo] = [UTC, BERLIN, LORD_HOWE, NEW_YORK]
PATCHES = "FREQ=MONTHLY;BYDAY=2TU"
DAILY_RULES = (
    "FREQ=DAILY",
    "FREQ=WEEKLY;BYDAY=MO,SU",
    "FREQ=MONTHLY;BYDAY=-1SU",
    "FREQ=DAILY;BYHOUR=1,2,3;BYMINUTE=0,30",
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_window_by_rule_is_open_on_the_days_of_its_rule_only() -> None:
    window = Window(rule=PATCHES, start="22:00", minutes=240)
    opens = utc("2026-11-10T21:00:00")  # the second Tuesday, 22:00 in Berlin
    for inside in (opens, opens + timedelta(minutes=239)):
        assert open_span((window,), inside, BERLIN) == (opens, opens + timedelta(minutes=240))
    assert open_span((window,), opens - timedelta(seconds=1), BERLIN) is None
    assert open_span((window,), opens + timedelta(minutes=240), BERLIN) is None
    assert next_opening((window,), opens, BERLIN) == utc("2026-12-08T21:00:00")


def test_q186132_a_rule_means_the_same_hour_on_the_wall_in_summer_and_winter() -> None:
    window = Window(rule="FREQ=DAILY", start="22:00", minutes=60)
    assert next_opening((window,), utc("2026-10-24T12:00:00"), BERLIN) == utc("2026-10-24T20:00:00")
    assert next_opening((window,), utc("2026-10-25T12:00:00"), BERLIN) == utc("2026-10-25T21:00:00")
    by_utc = msgspec.structs.replace(window, clock="utc")
    assert next_opening((by_utc,), utc("2026-10-25T12:00:00"), BERLIN) == utc("2026-10-25T22:00:00")


def test_q189305_a_window_in_the_gap_opens_after_it_and_one_in_the_fold_once() -> None:
    window = Window(rule="FREQ=DAILY", start="02:30", minutes=30)
    gap = utc("2026-03-29T01:30:00")  # there is no 02:30 in Berlin: 03:30
    assert open_span((window,), gap, BERLIN) == (gap, gap + timedelta(minutes=30))
    first, second = utc("2026-10-25T00:30:00"), utc("2026-10-25T01:30:00")  # 02:30 twice
    assert open_span((window,), first, BERLIN) is not None
    assert open_span((window,), second, BERLIN) is None
    assert next_opening((window,), first, BERLIN) == utc("2026-10-26T01:30:00")


@pytest.mark.parametrize("weekly", [("sat", "sun"), ("wed",), ("mon", "tue", "fri")])
@given(now=st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)), minutes=st.integers(1, 3000))
@settings(max_examples=60)
def test_days_and_the_rule_that_says_the_same_are_the_same_window(
    weekly: tuple[str, ...], now: datetime, minutes: int
) -> None:
    moment = now.replace(tzinfo=UTC)
    rule = "FREQ=WEEKLY;BYDAY=" + ",".join(day[:2].upper() for day in weekly)
    by_days = Window(days=weekly, start="01:30", minutes=minutes)  # type: ignore[arg-type]
    by_rule = Window(rule=rule, start="01:30", minutes=minutes)
    assert open_span((by_days,), moment, BERLIN) == open_span((by_rule,), moment, BERLIN)
    assert next_opening((by_days,), moment, BERLIN) == next_opening((by_rule,), moment, BERLIN)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "either days or a rule"),
        ({"days": ("mon",), "rule": "FREQ=DAILY"}, "either days or a rule"),
        ({"rule": "FREQ=MINUTELY"}, "rule: FREQ=MINUTELY is too often"),
        ({"rule": "FREQ=DAILY;COUNT=3"}, "write UNTIL instead of COUNT"),
        ({"rule": "FREQ=DAILY;UNTIL=20270101T000000Z"}, "write it without Z"),
    ],
)
def test_q191317_a_window_that_cannot_mean_anything_is_refused(fields: dict[str, object], why: str) -> None:
    written = msgspec.json.encode({"start": "02:00", "minutes": 60, **fields})
    with pytest.raises(msgspec.ValidationError, match=why):
        msgspec.json.decode(written, type=Window)


def test_a_window_whose_rule_has_ended_never_opens_again() -> None:
    window = Window(rule="FREQ=DAILY;UNTIL=20260110", start="02:00", minutes=60, clock="utc")
    assert next_opening((window,), utc("2026-01-10T01:00:00"), UTC) == utc("2026-01-10T02:00:00")
    assert next_opening((window,), utc("2026-01-10T02:00:00"), UTC) is None


# -- occurrences ------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(
    st.sampled_from(DAILY_RULES),
    st.sampled_from(("utc", "client")),
    st.sampled_from(ZONES),
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 6, 1)),
    st.integers(0, 2 * 366 * 24 * 60),
)
def test_the_occurrence_that_has_come_has_come_and_the_next_has_not(
    rule: str, clock: Clock, zone: tzinfo, first: datetime, minutes: int
) -> None:
    order = first.replace(tzinfo=UTC)
    now = order + timedelta(minutes=minutes)
    come = occurrence_at(rule, order, clock, zone, now)
    following = next_occurrence(rule, order, clock, zone, now, come)
    assert come is None or occurrence_time(come, clock, zone) <= now
    assert following is not None
    assert occurrence_time(following, clock, zone) > now or (come is not None and following > come)
    assert come is None or following > come


@given(
    st.sampled_from(DAILY_RULES),
    st.sampled_from(ZONES),
    st.datetimes(datetime(2026, 3, 27), datetime(2026, 4, 7)),
    st.lists(st.integers(1, 300), min_size=2, max_size=30),
)
def test_occurrences_never_go_back_as_time_goes_on(rule: str, zone: tzinfo, first: datetime, steps: list[int]) -> None:
    """Days on which these zones change their clocks."""
    order = datetime(2026, 2, 1, 2, 30, tzinfo=UTC)
    now, known = first.replace(tzinfo=UTC), None
    for step in steps:
        come = occurrence_at(rule, order, "client", zone, now)
        assert come is not None
        assert known is None or come >= known
        known, now = come, now + timedelta(minutes=step)


def test_an_occurrence_in_the_gap_comes_after_it_and_one_in_the_fold_only_once() -> None:
    order = utc("2026-03-01T02:30:00")
    gap = occurrence_at("FREQ=DAILY", order, "client", BERLIN, utc("2026-03-29T01:29:59"))
    assert gap == utc("2026-03-28T02:30:00")
    assert occurrence_at("FREQ=DAILY", order, "client", BERLIN, utc("2026-03-29T01:30:00")) == utc(
        "2026-03-29T02:30:00"
    )
    for moment in (
        "2026-10-25T00:30:00",
        "2026-10-25T01:00:00",
        "2026-10-25T01:30:00",
    ):  # 02:30, 02:00 again, 02:30 again
        assert occurrence_at("FREQ=DAILY", order, "client", BERLIN, utc(moment)) == utc("2026-10-25T02:30:00")


def test_a_day_that_a_place_left_out_has_no_occurrence_of_its_own() -> None:
    """Apia had no 30 December 2011: what was meant for it comes on the 31st, together with that day's."""
    order = datetime(2011, 12, 1, 9, tzinfo=UTC)
    named = {
        occurrence_at("FREQ=DAILY", order, "client", APIA, utc("2011-12-29T18:00:00") + timedelta(hours=hours))
        for hours in range(48)
    }
    assert {each.date() for each in named if each is not None} <= {date(2011, 12, day) for day in (28, 29, 30, 31)}
    assert utc("2011-12-31T09:00:00") in named


def test_a_computer_that_travels_does_not_meet_the_same_occurrence_twice() -> None:
    order, now = utc("2026-11-01T09:00:00"), utc("2026-11-10T12:00:00")
    in_berlin = occurrence_at("FREQ=DAILY", order, "client", BERLIN, now)  # 13:00 there
    in_new_york = occurrence_at("FREQ=DAILY", order, "client", NEW_YORK, now)  # 07:00 there: still yesterday's
    assert in_berlin == utc("2026-11-10T09:00:00")
    assert in_new_york == utc("2026-11-09T09:00:00")
    assert occurrence_at("FREQ=DAILY", order, "client", NEW_YORK, now + timedelta(hours=2)) == in_berlin


def test_after_a_clock_that_went_back_the_next_one_is_later_than_the_one_known() -> None:
    order, known = utc("2026-11-01T09:00:00"), utc("2026-11-10T09:00:00")
    now = utc("2026-11-05T12:00:00")
    assert next_occurrence("FREQ=DAILY", order, "utc", UTC, now, known) == utc("2026-11-11T09:00:00")
    assert next_occurrence("FREQ=DAILY", order, "utc", UTC, now) == utc("2026-11-06T09:00:00")
    assert next_occurrence("FREQ=DAILY;COUNT=2", order, "utc", UTC, now) is None
