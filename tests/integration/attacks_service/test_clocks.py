"""A clock that was in another century for a while must not stop this client for the rest of this one."""

import base64
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from pcm.model.assignment import State as Stage
from pcm.model.errors import TransferError
from pcm.service import worker
from pcm.service.check import Check, Checked
from pcm.service.plan import Action
from pcm.service.planner import plan
from pcm.service.verdicts import back_off
from pcm.transport.failover import try_each
from pcm.transport.health import Health, order, record_failure
from tests.integration.service_shell.static_site import Client, StaticSite, shared_folder
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


class Unset(datetime):
    """A clock that nobody has set since the computer lost its power."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        """A minute after its beginning."""
        return datetime(1970, 1, 1, 0, 1, tzinfo=tz)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with shared_folder() as folder:
        site = StaticSite(folder)
        yield Client(site, tmp_path / "client")


def check_at(client: Client, moment: datetime | None) -> Checked:
    """One check of a computer whose clock says this; None: by its own clock."""
    with worker.equip(client.places, lambda _: None, lambda: False) as equipment:
        clock = worker.utc_now if moment is None else lambda: moment
        return Check(equipment._replace(clock=clock)).perform()


def told(client: Client) -> str:
    """What all its reports say."""
    reports = (client.site.logon_folder / "reports").glob("*.json")
    return "".join(base64.b64decode(json.loads(path.read_bytes())["payload"]).decode() for path in reports)


@pytest.mark.needs("users")
def test_a_clock_that_begins_in_1970_spoils_nothing_for_later(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.site.order(client.client_id, [])
    check_at(client, None)
    with monkeypatch.context() as unset:
        unset.setattr(worker, "datetime", Unset)
        checked = check_at(client, None)
    assert checked.problem is not None
    assert checked.problem.code == "trust.clock"
    assert "trust.clock" in told(client)
    marker = tmp_path / "installed"
    client.site.order(client.client_id, [client.mandatory(client.site.package(marker))])
    assert check_at(client, None).problem is None
    assert marker.read_text() == "installed\n"
    assert "succeeded" in told(client)


@pytest.mark.needs("users")
@pytest.mark.parametrize("wrong", [timedelta(days=-1), timedelta(days=1), timedelta(days=74 * 365)])
def test_after_a_wrong_clock_was_mended_all_goes_on_at_once(client: Client, tmp_path: Path, wrong: timedelta) -> None:
    client.site.order(client.client_id, [])
    check_at(client, None)
    marker = tmp_path / "installed"
    client.site.order(client.client_id, [client.mandatory(client.site.package(marker))])
    spoilt = check_at(client, worker.utc_now() + wrong)
    assert spoilt.next_check_s <= 7 * 86_400
    ran = marker.exists()  # a day ahead may still be within what the signatures allow; then it runs, once
    assert not ran or wrong == timedelta(days=1)
    assert check_at(client, None).problem is None
    assert marker.read_text() == "installed\n"
