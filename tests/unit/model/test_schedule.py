"""Windows and clocks: UTC, local time, gaps and folds."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from pcm.model.schedule import Window, local_to_utc, next_opening, open_span, resolve

BERLIN = ZoneInfo("Europe/Berlin")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_q169474_a_utc_time_is_the_same_everywhere() -> None:
    moment = datetime.fromisoformat("2026-07-01T12:00:00+02:00")
    assert resolve(moment, "utc", BERLIN) == utc("2026-07-01T10:00:00")
    assert resolve(moment, "utc", ZoneInfo("Asia/Tokyo")) == utc("2026-07-01T10:00:00")


def test_q186132_client_time_means_the_clock_on_the_wall() -> None:
    moment = datetime.fromisoformat("2026-07-01T12:00:00+00:00")
    assert resolve(moment, "client", BERLIN) == utc("2026-07-01T10:00:00")
    assert resolve(moment, "client", ZoneInfo("Asia/Tokyo")) == utc("2026-07-01T03:00:00")


def test_q189305_a_time_in_the_spring_gap_moves_forward_by_the_gap() -> None:
    # Berlin, 29 March 2026: 02:00 → 03:00; half past two does not exist and becomes half past three
    assert local_to_utc(datetime(2026, 3, 29, 2, 30), BERLIN) == utc("2026-03-29T01:30:00")
    assert local_to_utc(datetime(2026, 3, 29, 2, 30), BERLIN).astimezone(BERLIN).hour == 3


def test_a_time_in_the_autumn_fold_is_the_first_of_the_two() -> None:
    assert local_to_utc(datetime(2026, 10, 25, 2, 30), BERLIN) == utc("2026-10-25T00:30:00")


def test_a_window_is_open_inside_its_span_only() -> None:
    window = Window(days=("sun",), start="22:00", minutes=240)  # runs into Monday
    assert open_span((window,), utc("2026-11-22T20:59:59"), BERLIN) is None
    assert open_span((window,), utc("2026-11-22T21:00:00"), BERLIN) == (
        utc("2026-11-22T21:00:00"),
        utc("2026-11-23T01:00:00"),
    )
    assert open_span((window,), utc("2026-11-23T00:59:59"), BERLIN) is not None
    assert open_span((window,), utc("2026-11-23T01:00:00"), BERLIN) is None
    assert next_opening((window,), utc("2026-11-23T01:00:00"), BERLIN) == utc("2026-11-29T21:00:00")


def test_without_windows_nothing_opens() -> None:
    assert open_span((), utc("2026-01-01T00:00:00"), BERLIN) is None
    assert next_opening((), utc("2026-01-01T00:00:00"), BERLIN) is None


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2040, 1, 1)),
    st.lists(st.sampled_from(DAYS), min_size=1, max_size=7, unique=True),
    st.integers(0, 23),
    st.integers(1, 7 * 1440),
    st.sampled_from(["utc", "client"]),
)
def test_q151648_a_span_holds_its_moment_and_has_its_length_in_any_year(
    moment: datetime, days: list[str], hour: int, minutes: int, clock: str
) -> None:
    now = moment.replace(tzinfo=UTC)
    window = Window(days=tuple(days), start=f"{hour:02}:30", minutes=minutes, clock=clock)  # type: ignore[arg-type]
    span = open_span((window,), now, BERLIN)
    if span is not None:
        assert span[0] <= now < span[1]
        assert span[1] - span[0] == timedelta(minutes=minutes)
    opening = next_opening((window,), now, BERLIN)
    assert opening is not None
    assert now < opening <= now + timedelta(days=9)
