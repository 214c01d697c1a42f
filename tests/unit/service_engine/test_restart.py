"""The restart of a computer from the first wish to its end, on a real database: what is recorded, shown, and said by people."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pcm.model.errors import RequestError, StoreError
from pcm.model.instruction import Deferral, Notify
from pcm.model.schedule import Window
from pcm.service import pausing, restart
from pcm.service.restart_record import is_going_down, read_open, seconds_down, settle
from pcm.service.restart_rules import MOST_TRIES, PATIENCE, PAUSES
from pcm.service.restart_start import LOOK_AGAIN, why_barred
from pcm.service.state import State
from tests.unit.service_engine.making import NOON, instruction
from tests.unit.service_engine.restarting import Restarting

HOUR = timedelta(hours=1)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Restarting]:
    with State.open(tmp_path / "var", NOON) as opened:
        yield Restarting(opened)


def order(number: int = 1, policy: str = "ask", **fields: Any) -> Any:
    return instruction(number, restart_policy=policy, **fields)


def choose_now(client: Restarting, by: str, *, administrator: bool = False) -> restart.Pending:
    return restart.ask_now(client.state, by, client.computer.sessions(), client.now, administrator=administrator)


def put_off(client: Restarting, by: str, hours: float) -> Any:
    until = client.now + timedelta(hours=hours)
    return restart.postpone(client.state, until, by, client.computer.sessions(), client.now)


def refusal_of(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(RequestError) as caught:
        call(*arguments, **named)
    return caught.value.code


def test_q164329_one_restart_serves_all_and_is_verified_by_boot_id(client: Restarting) -> None:
    client.ask_for_restart(order(1))
    client.ask_for_restart(order(2, "force"))
    client.check()
    assert len(client.computer.asked) == 1
    assert client.check() is None
    assert client.states() == ["succeeded", "succeeded"]
    assert client.outcomes() == ["restarted"]
    for _ in range(3):
        client.pass_time(days=1)
        assert client.check() is None
    assert len(client.computer.asked) == 1


def test_q153227_a_request_belongs_to_one_boot_and_is_used_once(client: Restarting) -> None:
    """Somebody else restarted the computer before the service did: what asked for it is satisfied, and asks for nothing more."""
    client.computer.people = {"alice": False}
    client.ask_for_restart(order())
    client.check()
    assert restart.current(client.state) is not None
    client.computer.boot += 1
    client.computer.people = {}
    client.check()
    assert (client.computer.asked, client.outcomes(), client.states()) == ([], ["restarted"], ["succeeded"])
    assert restart.current(client.state) is None


def test_a_request_that_nobody_has_any_more_is_put_away(client: Restarting) -> None:
    client.computer.people = {"alice": False}
    client.ask_for_restart(order())
    client.check()
    with client.state.transaction() as connection:
        connection.execute("DELETE FROM instructions")
    assert settle(client.state, "boot-1", client.now) == "not_needed"
    assert settle(client.state, "boot-1", client.now) == ""


def test_never_is_shown_and_left_to_people(client: Restarting) -> None:
    client.ask_for_restart(order(policy="never"))
    assert client.check() == client.now + LOOK_AGAIN
    pending = restart.current(client.state)
    assert pending is not None
    assert (pending.packages, pending.policy, pending.due) == (("pkg1 1.0",), "never", None)
    assert "leaves it to the people" in pending.reason
    client.computer.people = {"alice": False}
    assert refusal_of(choose_now, client, "alice") == "not_allowed"
    assert refusal_of(put_off, client, "alice", 1) == "not_allowed"
    choose_now(client, "root", administrator=True)
    client.pass_time(minutes=1)  # alice is told
    client.check()
    client.check()
    assert len(client.computer.asked) == 1


def test_whoever_is_logged_on_chooses_when(client: Restarting) -> None:
    client.computer.people = {"alice": False}
    client.ask_for_restart(order())
    client.check()
    [shown] = client.computer.shown
    assert "pkg1 1.0 needs a restart" in shown
    client.pass_time(days=3)
    client.check()
    assert (client.computer.asked, len(client.computer.shown)) == ([], 1)
    assert choose_now(client, "alice").requested_by == "alice"
    client.check()
    assert client.computer.asked == [client.now]


def test_no_name_of_a_user_is_told_again_and_again_and_so_holds_a_forced_restart_up(client: Restarting) -> None:
    client.computer.people = {"EXAMPLE\\john doe": False}
    client.ask_for_restart(order(policy="force"))
    for _ in range(10):
        client.check()
        client.pass_time(minutes=1)
    assert (len(client.computer.shown), len(client.computer.asked)) == (1, 1)


def test_it_comes_once_nobody_is_logged_on(client: Restarting) -> None:
    client.computer.people = {"alice": False}
    client.ask_for_restart(order())
    assert client.check() == client.now + LOOK_AGAIN
    client.computer.people = {}
    client.check()
    assert len(client.computer.asked) == 1


def test_who_may_choose_now(client: Restarting) -> None:
    assert refusal_of(choose_now, client, "alice") == "not_found"
    client.computer.people = {"alice": False, "far": True}
    client.ask_for_restart(order())
    client.check()
    assert refusal_of(choose_now, client, "mallory") == "not_allowed"
    assert refusal_of(choose_now, client, "far") == "not_allowed"
    assert refusal_of(choose_now, client, "alice") == "not_allowed", "over the head of somebody who was asked as well"
    client.computer.people = {"alice": False}
    assert choose_now(client, "alice").due == client.now
    assert choose_now(client, "alice").requested_by == "alice"


def test_an_administrator_may_over_others_heads_and_they_have_a_minute(client: Restarting) -> None:
    client.computer.people = {"alice": False}
    client.ask_for_restart(order())
    client.check()
    assert choose_now(client, "root", administrator=True).due == client.now + timedelta(minutes=1)
    client.check()
    assert client.computer.asked == []
    client.pass_time(minutes=1)
    client.check()
    assert len(client.computer.asked) == 1


def test_a_forced_one_may_come_sooner_but_not_before_what_others_were_told(client: Restarting) -> None:
    client.computer.people = {"alice": False, "bob": False}
    client.ask_for_restart(order(policy="force", notify=Notify(countdown_s=600)))
    client.check()
    assert choose_now(client, "alice").due == client.now + timedelta(minutes=1)


def test_q187287_postponing_has_a_budget_of_times_and_of_time(client: Restarting) -> None:
    client.computer.people = {"alice": True}
    client.ask_for_restart(order(policy="force", deferral=Deferral(times=2, max_s=7200)))
    client.check()
    first = restart.current(client.state)
    assert first is not None
    assert (first.due, first.deferrals_left, first.latest) == (NOON + timedelta(minutes=1), 2, NOON + 2 * HOUR)
    assert refusal_of(put_off, client, "mallory", 1) == "not_allowed"
    assert refusal_of(put_off, client, "alice", -1) == "not_allowed"
    assert put_off(client, "alice", 1) == NOON + HOUR
    client.pass_time(minutes=59)
    client.check()
    assert client.computer.asked == []
    assert put_off(client, "alice", 12) == NOON + 2 * HOUR
    assert refusal_of(put_off, client, "alice", 0.1) == "not_allowed"
    assert refusal_of(put_off, client, "root", 0.1) == "not_allowed", "the budget is the site's"
    client.pass_time(minutes=61)
    client.check()
    assert client.computer.asked == [], "told once more, and given a minute"
    assert len(client.computer.shown) == 2
    client.pass_time(minutes=1)
    client.check()
    assert client.computer.asked == [NOON + 2 * HOUR + timedelta(minutes=1)]


def test_postponing_takes_back_what_somebody_else_chose(client: Restarting) -> None:
    client.computer.people = {"alice": False, "bob": False}
    client.ask_for_restart(order(policy="force", deferral=Deferral(times=1, max_s=7200)))
    client.check()
    choose_now(client, "alice")
    put_off(client, "bob", 1)
    client.pass_time(minutes=30)
    client.check()
    assert client.computer.asked == []


def test_without_a_budget_there_is_nothing_to_postpone(client: Restarting) -> None:
    client.computer.people = {"alice": False}
    client.ask_for_restart(order(policy="force"))
    client.check()
    assert refusal_of(put_off, client, "alice", 1) == "not_allowed"


def test_q171070_a_computer_that_does_not_obey_is_asked_three_times_and_the_site_is_told_once(
    client: Restarting,
) -> None:
    client.computer.obeys = False
    client.ask_for_restart(order())
    for _ in range(200):
        client.check()
        client.pass_time(minutes=5)
    asked = client.computer.asked
    assert len(asked) == MOST_TRIES
    pauses = [later - sooner for sooner, later in pairwise(asked)]
    assert all(waited >= PATIENCE + pause for waited, pause in zip(pauses, PAUSES, strict=True))
    assert client.outcomes() == ["not_happened"] * 3
    [refusal] = client.state.refusals()
    assert (refusal.code, refusal.count) == ("restart.failed", 1)
    assert "3 times" in refusal.reason
    pending = restart.current(client.state)
    assert pending is not None
    assert "by hand" in pending.reason
    assert client.states() == ["restart_pending"]


def test_after_giving_up_a_person_or_another_program_may_try_again(client: Restarting) -> None:
    client.computer.obeys = False
    client.ask_for_restart(order())
    for _ in range(100):
        client.check()
        client.pass_time(minutes=5)
    choose_now(client, "root", administrator=True)
    client.check()
    assert len(client.computer.asked) == MOST_TRIES + 1
    client.pass_time(minutes=11)
    client.ask_for_restart(order(2))
    client.computer.obeys = True
    client.check()
    client.check()
    assert len(client.computer.asked) == MOST_TRIES + 2
    assert client.states() == ["succeeded", "succeeded"]


def test_q164329_a_restart_whose_agreement_is_lost_is_on_its_way_and_counts_once_it_came(client: Restarting) -> None:
    client.computer.silent = True
    client.ask_for_restart(order())
    client.check()
    row = read_open(client.state)
    assert row is not None
    assert is_going_down(row, client.now), "nothing new begins"
    client.check()
    assert (client.outcomes(), client.states(), len(client.computer.asked)) == (["restarted"], ["succeeded"], 1)


def test_a_restart_whose_agreement_is_lost_and_that_does_not_come_is_asked_for_again(client: Restarting) -> None:
    client.computer.silent, client.computer.obeys = True, False
    client.ask_for_restart(order())
    client.check()
    client.pass_time(minutes=9)
    client.check()
    assert (client.outcomes(), len(client.computer.asked)) == ([], 1)
    for _ in range(200):
        client.check()
        client.pass_time(minutes=5)
    assert (client.outcomes(), len(client.computer.asked)) == (["not_happened"] * MOST_TRIES, MOST_TRIES)


def test_a_computer_that_cannot_restart_at_all_is_named_to_the_site(client: Restarting) -> None:
    client.computer.broken = True
    client.ask_for_restart(order())
    for _ in range(50):
        client.check()
        client.pass_time(minutes=5)
    assert len(client.computer.heeded) == MOST_TRIES
    [refusal] = client.state.refusals()
    assert (refusal.code, "It cannot restart." in refusal.reason) == ("restart.failed", True)


def test_whoever_holds_the_computer_up_is_waited_for_and_named(client: Restarting) -> None:
    client.computer.blocked = "A backup"
    client.ask_for_restart(order())
    for _ in range(60):
        client.check()
        client.pass_time(minutes=1)
    assert (client.computer.asked, set(client.computer.heeded)) == ([], {True})
    pending = restart.current(client.state)
    assert pending is not None
    assert "A backup holds it up." in pending.reason
    assert (pending.begun, client.outcomes()) == (None, [])
    client.computer.blocked = ""
    client.check()
    assert len(client.computer.asked) == 1


def test_force_does_not_wait_for_ever_for_who_holds_it_up(client: Restarting) -> None:
    client.computer.blocked = "A backup"
    client.ask_for_restart(order(policy="force"))
    for _ in range(15):
        client.check()
        client.pass_time(minutes=1)
    assert client.computer.asked == [NOON + PATIENCE]
    assert client.computer.heeded == [True] * 10 + [False]


def test_nothing_restarts_while_a_run_is_open(client: Restarting) -> None:
    client.ask_for_restart(order())
    with client.state.transaction() as connection:
        connection.execute(
            "INSERT INTO runs (run, instruction, generation, attempt, program, manifest_sha256, argv, run_as, started, reference,"
            " boot_id) VALUES ('x', 'x', 1, 1, 'x', 'x', '[]', 'system', ?, '{}', 'boot-1')",
            (NOON.isoformat(),),
        )
    client.check()
    assert client.computer.asked == []
    pending = restart.current(client.state)
    assert pending is not None
    assert "is done" in pending.reason


def test_an_administrators_pause_holds_it(client: Restarting) -> None:
    pausing.pause(client.state, "root", None, client.now)
    client.ask_for_restart(order(policy="force"))
    client.check()
    assert client.computer.asked == []
    pausing.resume(client.state)
    client.check()
    assert len(client.computer.asked) == 1


def test_a_closed_window_keeps_it_away_until_it_opens(client: Restarting) -> None:
    client.windows = (Window(days=("wed",), start="22:00", minutes=60, clock="utc"),)
    client.ask_for_restart(order())
    client.check()
    client.pass_time(hours=9, minutes=59)
    client.check()
    assert client.computer.asked == []
    client.pass_time(minutes=1)
    client.check()
    assert len(client.computer.asked) == 1


def test_while_the_computer_goes_down_nothing_is_chosen_any_more(client: Restarting) -> None:
    client.computer.obeys = False
    client.ask_for_restart(order())
    client.check()
    assert refusal_of(choose_now, client, "root", administrator=True) == "not_allowed"
    assert refusal_of(put_off, client, "root", 1) == "not_allowed"
    assert seconds_down(client.state, client.now) == PATIENCE.total_seconds() + 1
    assert seconds_down(client.state, client.now + PATIENCE) is None
    assert seconds_down(client.state, client.now - HOUR) is None, "a clock that was set back holds nothing up"


def test_nothing_is_written_while_nothing_changes(client: Restarting) -> None:
    client.computer.people = {"alice": False}
    client.ask_for_restart(order(policy="force"))
    client.check()
    before = client.state.rows("PRAGMA data_version"), client.state.rows("SELECT total_changes()")
    client.check()
    assert (client.state.rows("PRAGMA data_version"), client.state.rows("SELECT total_changes()")) == before


def test_a_damaged_row_is_damage(client: Restarting) -> None:
    client.computer.people = {"alice": False}
    client.ask_for_restart(order())
    client.check()
    with client.state.transaction() as connection:
        connection.execute("UPDATE restarts SET policy = 'perhaps'")
    with pytest.raises(StoreError) as caught:
        read_open(client.state)
    assert caught.value.code == "store.damaged"


def test_a_trial_leaves_the_computer_alone(tmp_path: Path) -> None:
    assert why_barred(None) == ""
    assert "--home" in why_barred(tmp_path)
    (tmp_path / "may-restart").touch()
    assert why_barred(tmp_path) == ""
