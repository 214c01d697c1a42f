"""The content policy: which rate holds at which reading of the clock, on which network."""

from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.content_policy import ContentPolicy, RateHours, next_change, rate_at

MONDAY = datetime(2026, 1, 5, 12, 0)
OFFICE = RateHours(days=("mon", "tue", "wed", "thu", "fri"), start="08:00", end="18:00", rate=100_000)
NIGHT = RateHours(start="22:00", end="06:00", rate=0)
BOTH = ContentPolicy(rate=500_000, hours=(OFFICE, NIGHT))

_minutes = st.integers(0, 24 * 60 - 1).map(lambda each: f"{each // 60:02}:{each % 60:02}")
_hours = st.builds(
    RateHours,
    days=st.lists(st.sampled_from(["mon", "tue", "sat", "sun"]), unique=True, max_size=4).map(tuple),
    start=_minutes,
    end=_minutes,
    rate=st.integers(0, 1 << 30),
)
policies = st.builds(
    ContentPolicy,
    rate=st.integers(0, 1 << 30),
    hours=st.lists(_hours, max_size=5).map(tuple),
    metered=st.sampled_from(["as_usual", "limit", "wait"]),
    metered_rate=st.integers(0, 1 << 30),
)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1))


@pytest.mark.parametrize(
    ("hour", "day", "rate"),
    [
        (8, 0, 100_000),
        (17, 4, 100_000),
        (18, 0, 500_000),
        (12, 5, 500_000),  # Saturday
        (22, 0, 0),
        (23, 6, 0),
        (5, 0, 0),
        (6, 0, 500_000),
    ],
)
def test_hours_decide_by_the_clients_clock(hour: int, day: int, rate: int) -> None:
    assert rate_at(BOTH, MONDAY.replace(hour=hour) + timedelta(days=day), metered=False) == rate


def test_hours_over_midnight_belong_to_the_day_on_which_they_begin() -> None:
    friday = ContentPolicy(rate=7, hours=(RateHours(days=("fri",), start="22:00", end="06:00", rate=9),))
    assert rate_at(friday, MONDAY.replace(day=9, hour=23), metered=False) == 9
    assert rate_at(friday, MONDAY.replace(day=10, hour=5), metered=False) == 9
    assert rate_at(friday, MONDAY.replace(day=10, hour=23), metered=False) == 7
    assert rate_at(friday, MONDAY.replace(day=9, hour=5), metered=False) == 7


def test_a_span_to_the_end_of_the_day_is_written_24_00() -> None:
    evening = ContentPolicy(hours=(RateHours(start="18:00", end="24:00", rate=5),))
    assert rate_at(evening, MONDAY.replace(hour=23, minute=59), metered=False) == 5
    assert rate_at(evening, MONDAY.replace(hour=0), metered=False) == 0
    assert next_change(evening, MONDAY.replace(hour=20)) == MONDAY.replace(hour=0) + timedelta(days=1)


@pytest.mark.parametrize(
    ("policy", "rate"),
    [
        (ContentPolicy(), 128 * 1024),
        (ContentPolicy(rate=1000), 1000),
        (ContentPolicy(rate=1000, metered_rate=10), 10),
        (ContentPolicy(rate=1000, metered_rate=0), 1000),
        (ContentPolicy(rate=1000, metered="as_usual"), 1000),
        (ContentPolicy(rate=1000, metered="wait"), None),
    ],
)
def test_a_network_paid_by_volume_is_spared(policy: ContentPolicy, rate: int | None) -> None:
    assert rate_at(policy, MONDAY, metered=True) == rate
    assert rate_at(policy, MONDAY, metered=False) == policy.rate


@given(policies, moments)
def test_a_metered_network_never_gives_more(policy: ContentPolicy, moment: datetime) -> None:
    usual, metered = rate_at(policy, moment, metered=False), rate_at(policy, moment, metered=True)
    assert usual is not None
    if metered is not None and usual:
        assert 0 < metered <= usual


@given(policies, moments, st.booleans())
def test_nothing_changes_before_the_next_change(policy: ContentPolicy, moment: datetime, metered: bool) -> None:
    until = next_change(policy, moment)
    end = moment + timedelta(days=1) if until is None else until
    assert end > moment
    for part in range(20):
        between = moment + (end - moment) * part / 20
        assert rate_at(policy, between, metered) == rate_at(policy, moment, metered)


@given(policies)
def test_it_survives_being_written(policy: ContentPolicy) -> None:
    assert msgspec.json.decode(msgspec.json.encode(policy), type=ContentPolicy) == policy


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"rate":-1}',
        b'{"hours":[{"start":"25:00","end":"06:00","rate":1}]}',
        b'{"hours":[{"start":"24:00","end":"06:00","rate":1}]}',
        b'{"hours":[{"start":"20:00","end":"06:00","rate":1,"days":["monday"]}]}',
        b'{"metered":"never"}',
        b'{"peer_port":0}',
    ],
)
def test_what_makes_no_sense_is_refused(wrong: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(wrong, type=ContentPolicy)


def test_the_defaults_take_no_room_in_an_instruction_file() -> None:
    assert msgspec.json.encode(ContentPolicy()) == b"{}"
