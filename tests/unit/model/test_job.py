"""Jobs: contradictions are refused when the job is made."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pcm.model.errors import RequestError
from pcm.model.instruction import Deferral
from pcm.model.job import JobOrder, check_order, job_id
from pcm.model.names import check_name

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


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
        {"mandatory_after": NOW + HOUR, "expires_after": NOW + 9 * HOUR, "deferral": Deferral(times=3, max_s=3600)},
        {"offer_after": NOW - HOUR},
    ],
)
def test_an_order_without_contradiction_passes(changes: dict[str, Any]) -> None:
    assert check_order(order(**changes), NOW) == order(**changes)


def test_job_ids_are_names() -> None:
    ids = {job_id(number * 1_125_899_906) for number in range(1000)}
    assert len(ids) == 1000
    for job in ids:
        check_name("job", job)
