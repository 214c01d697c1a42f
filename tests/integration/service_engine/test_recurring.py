"""Recurring and superseded orders through the real runner: each time runs once, and what took another's place keeps it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.facts import Facts
from pcm.model.instruction import Instruction, Notify
from pcm.model.program import Program
from pcm.service.outlook import Outlook
from pcm.service.plan import Presence, Situation
from pcm.service.records import InstructionRecord
from pcm.service.runner import drain
from pcm.service.work import Needed
from tests.integration.service_engine.trivial import CLIENT, Client

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """Its program has no detection, so only the journal knows what ran."""
    home = tmp_path / "home"
    made = Client(home, {"install": Program(argv=("setup", str(home)), timeout_s=20)})
    yield made
    made.close()


def only(client: Client) -> InstructionRecord:
    [record] = client.context.journal.records()
    return record


def daily(client: Client, **fields: Any) -> tuple[Instruction, datetime]:
    """An order that recurs since an hour ago, and when that was."""
    first = client.now().replace(microsecond=0) - HOUR
    return client.instruction(recurrence="FREQ=DAILY", offer_after=first, **fields), first


def test_q141192_it_runs_once_each_time_it_comes_and_each_result_names_its_time(client: Client) -> None:
    order, first = daily(client)
    for day in range(3):
        client.shift = day * DAY
        for _ in range(2):
            client.check(order)
        assert client.counted() == day + 1
    said = [(outcome.state, outcome.occurrence) for _, outcome in client.context.journal.unreported()]
    assert said == [(Stage.SUCCEEDED, first + day * DAY) for day in range(3)]
    runs = client.context.history.runs(order.id, 1)
    assert [(run.attempt, run.occurrence) for run in runs] == [(day + 1, first + day * DAY) for day in range(3)]


def test_what_was_missed_is_made_up_for_once(client: Client) -> None:
    order, first = daily(client)
    client.check(order)
    client.shift = 9 * DAY
    client.check(order)
    client.check(order)
    assert (client.counted(), only(client).occurrence) == (2, first + 9 * DAY)


def test_q255284_a_time_that_expires_while_its_files_come_does_not_run_and_the_next_one_does(client: Client) -> None:
    order, _ = daily(client, expires_after=client.now() + 2 * HOUR)
    bring = client.bring

    def late(needed: Needed) -> None:
        client.shift += 4 * HOUR
        bring(needed)

    object.__setattr__(client.context, "bring", late)
    client.check(order)
    assert (only(client).state, client.counted()) == (Stage.EXPIRED, 0)
    client.shift = DAY
    client.check(order)
    assert (only(client).state, client.counted()) == (Stage.SUCCEEDED, 1)


def test_a_failure_ends_one_time_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    client = Client(home, {"install": Program(argv=("setup", str(home), "7"), timeout_s=20)})
    order, _ = daily(client)
    for day in range(2):
        client.shift = day * DAY
        client.check(order)
        client.check(order)
        assert (only(client).state, client.counted()) == (Stage.FAILED, day + 1)
    client.close()


def test_q187287_a_countdown_that_was_announced_ends_in_a_start_whatever_happens_meanwhile(client: Client) -> None:
    order = client.instruction(notify=Notify(countdown_s=600), mandatory_after=client.now())

    def look(_: object) -> Situation:
        return replace(client.situation(), presence=Presence(("ada",), "ada"))

    client.take_in(order)
    drain(client.context, look)
    record = only(client)
    assert (record.state, record.code, client.counted()) == (Stage.ASKED, "wait.countdown", 0)
    client.shift = timedelta(seconds=300)
    drain(client.context, look)
    assert only(client).announced_at == record.announced_at
    client.shift = timedelta(seconds=601)
    drain(client.context, look)
    assert (only(client).state, client.counted()) == (Stage.SUCCEEDED, 1)


def test_what_took_the_place_keeps_it_after_the_site_names_it_no_longer(client: Client) -> None:
    """The site names what is undone only: without a memory of the newer release, the older order would bring it back."""
    client.manifest = replace(client.manifest, release=2)
    newer, older = client.instruction(1, release=2), client.instruction(2, priority=90)
    client.check(newer, older)
    states = {record.instruction.release: (record.state, record.code) for record in client.context.journal.records()}
    assert states[1] == (Stage.NOT_APPLICABLE, "superseded")
    assert states[2][0] is Stage.SUCCEEDED
    client.take_in(older)
    outlook = Outlook(client.state, client.machine, CLIENT, Facts(host_name="host", platform="linux-x86_64"))
    line = outlook.plan(client.now()).line(older.id)
    assert line is not None
    assert (line.code, client.counted()) == ("superseded", 1)
