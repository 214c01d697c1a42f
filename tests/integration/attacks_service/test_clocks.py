"""A clock that was in another century for a while must not stop this client for the rest of this one."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from pcm.model.assignment import State as Stage
from pcm.model.errors import TransferError
from pcm.service.plan import Action
from pcm.service.planner import plan
from pcm.service.verdicts import back_off
from pcm.transport.failover import try_each
from pcm.transport.health import Health, order, record_failure
from tests.unit.service_engine.making import instruction, record, situation

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
WRONG = [timedelta(days=1), timedelta(days=74 * 365)]
URL = "https://logon.example"


@pytest.mark.parametrize("ahead", WRONG)
def test_a_server_that_refused_a_request_of_the_year_2100_is_asked_again_now(ahead: timedelta) -> None:
    chance = random.Random(1)
    health: dict[str, Health] = {}

    def refuse(_server: str) -> None:
        raise TransferError("The signature was made in the future.", code="transfer.refused")

    with pytest.raises(TransferError):
        try_each(order([URL], [URL], health, NOW + ahead, chance), refuse, health, NOW + ahead, chance)
    assert health[URL].refused
    assert not order([URL], [URL], health, NOW + ahead, chance)[0].usable
    assert order([URL], [URL], health, NOW, chance)[0].usable


def test_a_refusal_by_a_right_clock_still_rests_its_hours() -> None:
    for seed in range(50):
        health = {URL: record_failure(Health(), "transfer.refused", NOW, random.Random(seed))}
        assert not order([URL], [URL], health, NOW, random.Random(seed))[0].usable


@pytest.mark.parametrize("ahead", WRONG)
def test_a_pause_that_a_wrong_clock_wrote_is_none(ahead: timedelta) -> None:
    wanted = instruction()
    tried = record(wanted, state=Stage.WAITING, code="run.retry", attempts=20)
    late = record(wanted, state=Stage.WAITING, attempts=20, not_before=back_off(tried, NOW + ahead))
    [line] = plan([late], situation(wanted), NOW).lines
    assert line.action is Action.RUN, line.reason


def test_the_longest_pause_of_a_right_clock_is_kept() -> None:
    wanted = instruction()
    for attempts in range(40):
        tried = record(wanted, state=Stage.WAITING, attempts=attempts)
        waits = record(wanted, state=Stage.WAITING, attempts=attempts, not_before=back_off(tried, NOW))
        [line] = plan([waits], situation(wanted), NOW).lines
        assert line.action is not Action.RUN
