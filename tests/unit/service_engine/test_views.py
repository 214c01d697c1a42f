"""What people are shown, made from the plan that decides: countdowns, what was put off, what is at work, the whole computer."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pcm.content.carrying import FetchProgress
from pcm.model.instruction import Deferral, Instruction, Notify
from pcm.model.program import Program
from pcm.protocol import local
from pcm.protocol.manifest import write_manifest
from pcm.service import inbox, ledger_check, pausing, views
from pcm.service.asking import Asker
from pcm.service.history import History
from pcm.service.journal import Journal, Verified
from pcm.service.machine.here import this_machine
from pcm.service.outlook import Outlook
from pcm.service.places import Places, find_places
from pcm.service.records import RunRecord, to_text
from pcm.service.state import State
from pcm.service.transfer_progress import TransferProgress
from tests.unit.service_engine.making import CLIENT, NOON, instruction, manifest, situation

ANNA = Asker(1000, "anna")
HOUR = timedelta(hours=1)
SLOW = Program(argv=("./setup",), estimated_s=90)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return find_places(tmp_path / "home")


@pytest.fixture
def state(places: Places) -> Iterator[State]:
    places.runtime.mkdir(parents=True)
    with State.open(places.state, NOON) as opened:
        opened.set_meta(inbox.VALID_UNTIL, to_text(NOON + 24 * HOUR))
        yield opened


def taken_in(state: State, *orders: Instruction) -> None:
    Journal(state).take_in([Verified(each) for each in orders], NOON)
    with state.transaction() as connection:
        for order in orders:
            body = write_manifest(manifest(order, {"install": SLOW}))
            connection.execute("INSERT OR REPLACE INTO manifests VALUES (?, ?)", (order.manifest.sha256, body))


def shown(state: State, places: Places) -> local.Items:
    outlook = Outlook(state, this_machine(), CLIENT, situation().facts)
    return views.list_items(state, outlook, ANNA, places, NOON)


def only(state: State, places: Places) -> local.Item:
    [item] = shown(state, places).items
    return item


def test_q187287_a_countdown_is_shown_from_its_beginning_to_its_end(state: State, places: Places) -> None:
    order = instruction(notify=Notify(countdown_s=600), deferral=Deferral(2, 7200))
    taken_in(state, order)
    told = NOON - timedelta(minutes=4)
    with state.transaction() as connection:
        connection.execute("UPDATE instructions SET announced_at = ?", (to_text(told),))
    item = only(state, places)
    assert (item.state, item.announced, item.not_before) == ("asked", told, told + timedelta(minutes=10))
    assert item.can_defer


def test_what_was_put_off_before_its_time_says_until_when(state: State, places: Places) -> None:
    order = instruction(mandatory_after=NOON + HOUR, deferral=Deferral(1, 7200))
    taken_in(state, order)
    assert (only(state, places).code, only(state, places).not_before) == ("wait.deadline", NOON + HOUR)
    Journal(state).defer(order.id, NOON + 2 * HOUR, NOON + HOUR, NOON)
    item = only(state, places)
    assert (item.state, item.code, item.not_before) == ("deferred", "wait.deferred", NOON + 2 * HOUR)
    assert not item.can_defer


def run_of(order: Instruction) -> RunRecord:
    values: dict[str, Any] = {"argv": ("/x/setup",), "run_as": "system", "reference": {}, "boot_id": "b"}
    return RunRecord(
        run="ab" * 16, instruction=order.id, generation=1, attempt=1, program="install", started=NOON,
        manifest_sha256=order.manifest.sha256, **values,
    )  # fmt: skip


def test_what_runs_shows_since_when_in_which_step_and_how_long_it_takes(state: State, places: Places) -> None:
    order = instruction()
    taken_in(state, order)
    History(state).note_step("ab" * 16, "run", "begin", NOON)  # with the next transaction: that a run begins
    History(state).begin_run(run_of(order))
    item = only(state, places)
    assert (item.state, item.started, item.step, item.estimated_s) == ("running", NOON, "run", 90)
    assert (item.can_run, item.can_defer, item.can_cancel) == (False, False, False)


def test_content_on_its_way_is_shown_with_what_it_is_for(state: State, places: Places) -> None:
    order = instruction(mandatory_after=NOON + HOUR)
    taken_in(state, order)
    assert shown(state, places).standing.transfer is None
    TransferProgress(places.runtime, manifest(order).files)(FetchProgress(0, 1, 1, 4, 2.0, 1.5))
    assert shown(state, places).standing.transfer == local.Transfer(order.id, 1, 4, 2.0, 1.5)
    other = Asker(1001, "ben")
    hidden = instruction(mandatory_after=NOON + HOUR, allowed_users=("anna",))
    Journal(state).take_in([Verified(hidden)], NOON)
    outlook = Outlook(state, this_machine(), CLIENT, situation().facts)
    assert views.list_items(state, outlook, other, places, NOON) == local.Items(())


def test_a_pause_stands_above_everything_and_its_reason_at_each(state: State, places: Places) -> None:
    taken_in(state, instruction())
    pausing.pause(state, "root", NOON + HOUR, NOON)
    told = shown(state, places)
    assert told.standing.pause == local.Pause(NOON, "root", NOON + HOUR)
    assert (told.standing.hold_code, told.items[0].code, told.items[0].not_before) == (
        "wait.paused",
        "wait.paused",
        NOON + HOUR,
    )


def test_a_broken_ledger_is_told_with_what_is_broken(state: State, places: Places) -> None:
    assert (views.show_ledger(state).breaks, views.show_ledger(state).broken_at) == ((), None)
    with state.transaction() as connection:
        connection.execute("INSERT INTO ledger VALUES (2, NULL, CAST('{}' AS BLOB), 'x')")
        connection.execute("DELETE FROM ledger WHERE seq = 1")
    told = ledger_check.verify(state)
    assert [each.code for each in told] == ["ledger.changed"]
