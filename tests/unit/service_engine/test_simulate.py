"""What would start when: the plan followed in thought, within bounds."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pcm.model.assignment import State as Stage
from pcm.model.errors import RequestError
from pcm.model.instruction import Deferral, Instruction, Notify
from pcm.model.package import PackageReference
from pcm.model.program import Program
from pcm.model.schedule import Window
from pcm.service.plan import Presence
from pcm.service.simulate import foresee, read_time
from tests.unit.service_engine.making import NOON, instruction, manifest, record, situation

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BERLIN = ZoneInfo("Europe/Berlin")


def starts(*orders: Instruction, at: datetime = NOON, most: int = 5, **around: Any) -> list[tuple[int, timedelta]]:
    """Number and time of each start, counted from noon."""
    found = foresee([record(each) for each in orders], situation(*orders, **around), at, most)
    return [(int(each.id[1:11]), each.at - NOON) for each in found]


def test_what_is_due_starts_now_and_the_rest_at_its_deadline() -> None:
    later, never = instruction(2, mandatory_after=NOON + 3 * HOUR), instruction(3, purpose="optional")
    assert starts(instruction(1), later, never) == [(1, timedelta()), (2, 3 * HOUR)]


def test_a_recurring_order_starts_again_and_again_as_often_as_is_asked_for() -> None:
    daily = instruction(recurrence="FREQ=DAILY", offer_after=NOON - 9 * DAY, mandatory_after=NOON - 9 * DAY + HOUR)
    assert starts(daily, at=NOON + 2 * HOUR, most=3) == [(1, 2 * HOUR), (1, DAY + HOUR), (1, 2 * DAY + HOUR)]
    names = [each.occurrence for each in foresee([record(daily)], situation(daily), NOON + 2 * HOUR, 2)]
    assert names == [NOON, NOON + DAY]


def test_windows_dependencies_and_countdowns_count() -> None:
    first = instruction(1, notify=Notify(countdown_s=1800))
    behind = instruction(2, after=(first.job,), window_policy="ignore")
    tonight = Window(days=("wed",), start="22:00", minutes=60, clock="utc")
    ada = Presence(("ada",), "ada", busy=("call",))
    # announced half an hour before the window opens, so that it starts then
    assert starts(first, behind, windows=(tonight,), presence=ada) == [(1, 10 * HOUR), (2, 10 * HOUR)]


def test_what_is_installed_in_thought_opens_what_requires_it_and_programs_take_their_time() -> None:
    base, needs = instruction(1), instruction(2)
    slow = Program(argv=("./setup",), estimated_s=600)
    pairs = [
        (base, manifest(base, {"install": slow})),
        (needs, manifest(needs, {"install": slow}, requires=(PackageReference("pkg1"),))),
    ]
    found = foresee([record(needs), record(base)], situation(*pairs), NOON, 5)
    assert [(each.package, each.at) for each in found] == [("pkg1", NOON), ("pkg2", NOON + timedelta(minutes=10))]


def test_a_program_for_each_user_starts_for_each_who_is_logged_on() -> None:
    order = instruction(1)
    program = Program(argv=("./setup",), run_as="each_user")
    around = situation((order, manifest(order, {"install": program})), presence=Presence(("ada", "bob"), "bob"))
    assert [each.run_as for each in foresee([record(order)], around, NOON, 9)] == ["bob", "ada"]


def test_nobody_who_is_busy_and_nothing_in_the_way_is_foreseen() -> None:
    order = instruction(mandatory_after=NOON, deferral=Deferral(1, 7200))
    around: dict[str, Any] = {
        "presence": Presence(("ada",), "ada", busy=("call",)),
        "blocking": {order.id: ("soffice",)},
    }
    assert starts(order, **around) == [(1, timedelta())]


def test_it_looks_no_further_than_makes_sense() -> None:
    far = instruction(1, mandatory_after=NOON + 500 * DAY)
    assert starts(far) == []
    hourly = instruction(2, recurrence="FREQ=HOURLY", offer_after=NOON, mandatory_after=NOON)
    assert 100 < len(starts(hourly, most=10_000)) <= 500


def test_nothing_is_changed_by_looking() -> None:
    known = record(instruction(), state=Stage.WAITING)
    around = situation(known.instruction)
    assert foresee([known], around, NOON, 3) == foresee([known], around, NOON, 3)
    assert known.state is Stage.WAITING


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("+2h", NOON + 2 * HOUR),
        ("+1d12h", NOON + 1.5 * DAY),
        ("2026-07-01T22:00Z", datetime(2026, 7, 1, 22, tzinfo=UTC)),
        ("2026-07-01T22:00", datetime(2026, 7, 1, 20, tzinfo=UTC)),
        ("2026-03-29T02:30", datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
    ],
)
def test_times_are_read_by_this_computers_clock_unless_they_say_otherwise(text: str, meant: datetime) -> None:
    assert read_time(text, NOON, BERLIN) == meant


@pytest.mark.parametrize("text", ["", "tomorrow", "+", "+soon", "22:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is no time") as caught:
        read_time(text, NOON, UTC)
    assert caught.value.code == "usage"
