"""Jobs: contradictions are refused when the job is made."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pcm.model.errors import RequestError
from pcm.model.instruction import Deferral, Notify
from pcm.model.job import JobOrder, check_order, job_id, last_expiry
from pcm.model.names import check_name

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAILY: dict[str, Any] = {"recurrence": "FREQ=DAILY", "offer_after": NOW}


def order(**changes: Any) -> JobOrder:
    return JobOrder(package="tree", group="all", **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"purpose": "optional", "mandatory_after": NOW}, "no deadline"),
        ({"allowed_users": ("ann",)}, "runs unasked"),
        ({"purpose": "optional", "deferral": Deferral(times=1, max_s=60)}, "nothing to defer"),
        ({"mandatory_after": NOW - HOUR}, "before the offer"),
        ({"offer_after": NOW + 2 * HOUR, "expires_after": NOW + HOUR}, "before it is offered"),
        ({"offer_after": NOW - 2 * HOUR, "expires_after": NOW - HOUR}, "already expired"),
        ({"mandatory_after": NOW + 2 * HOUR, "expires_after": NOW + HOUR}, "before its deadline"),
        (
            {"expires_after": NOW + HOUR, "deferral": Deferral(times=1, max_s=7200)},
            "past the time when the job expires",
        ),
        ({"deferral": Deferral(times=1)}, "for how long"),
        ({"offer_after": datetime(2026, 11, 22)}, "no time zone"),
        ({"notify": Notify(show=False, countdown_s=60)}, "only delays"),
        ({"purpose": "optional", "notify": Notify(countdown_s=60)}, "no countdown"),
        ({"restart_policy": "force", "notify": Notify(show=False)}, "always told"),
        ({"purpose": "optional", "recurrence": "FREQ=DAILY"}, "does not recur"),
        ({"recurrence": "FREQ=DAILY"}, "say when that is"),
        ({"recurrence": "FREQ=DAILY;UNTIL=20261101", "offer_after": NOW - 99 * 24 * HOUR}, "gives no time after"),
        ({"recurrence": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "offer_after": NOW}, "gives no time after"),
        ({**DAILY, "expires_after": NOW + 25 * HOUR}, "recurs after 1 day, but each time expires .* 25 hours"),
        ({**DAILY, "mandatory_after": NOW + 36 * HOUR}, "becomes mandatory .* 36 hours"),
        ({**DAILY, "deferral": Deferral(times=1, max_s=25 * 3600)}, "may be deferred .* 25 hours"),
        (
            {"recurrence": "FREQ=YEARLY;INTERVAL=3", "offer_after": NOW, "mandatory_after": NOW + 400 * 24 * HOUR},
            "more than a year",
        ),
    ],
)
def test_q174933_a_contradiction_is_refused_with_both_settings(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why) as caught:
        check_order(order(**changes), NOW)
    assert caught.value.code == "job.contradiction"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"purpose": "optional", "allowed_users": ("ann",)},
        {"purpose": "optional", "restart_policy": "force", "deferral": Deferral(times=3, max_s=3600)},
        {"restart_policy": "never"},
        {"mandatory_after": NOW + HOUR, "expires_after": NOW + 9 * HOUR, "deferral": Deferral(times=3, max_s=3600)},
        {"offer_after": NOW - HOUR},
        {"notify": Notify(countdown_s=600), "busy_policy": "ignore", "blocking_policy": "close"},
        {"restart_policy": "never", "notify": Notify(show=False)},
        {"restart_policy": "force"},
        {**DAILY, "mandatory_after": NOW + 8 * HOUR, "expires_after": NOW + 24 * HOUR},
        {"recurrence": "FREQ=WEEKLY;COUNT=4", "offer_after": NOW - 8 * 24 * HOUR, "expires_after": NOW - 7 * 24 * HOUR},
    ],
)
def test_an_order_without_contradiction_passes(changes: dict[str, Any]) -> None:
    assert check_order(order(**changes), NOW) == order(**changes)


@pytest.mark.parametrize(
    "rule", ["FREQ=SECONDLY", "FREQ=MINUTELY;INTERVAL=90", "every day", "FREQ=DAILY;UNTIL=20991231T000000Z"]
)
def test_a_rule_that_cannot_be_read_is_refused_with_its_reason(rule: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_order(order(**{**DAILY, "recurrence": rule, "clock": "client"}), NOW)
    assert caught.value.code == "job.recurrence"


def test_a_recurring_order_expires_with_its_last_time() -> None:
    twice = order(recurrence="FREQ=WEEKLY;COUNT=2", offer_after=NOW, expires_after=NOW + HOUR)
    assert last_expiry(twice) == NOW + 7 * 24 * HOUR + HOUR
    assert last_expiry(order(recurrence="FREQ=WEEKLY", offer_after=NOW, expires_after=NOW + HOUR)) is None
    assert last_expiry(order(recurrence="FREQ=WEEKLY;COUNT=2", offer_after=NOW)) is None


def test_job_ids_are_names() -> None:
    ids = {job_id(number * 1_125_899_906) for number in range(1000)}
    assert len(ids) == 1000
    for job in ids:
        check_name("job", job)
