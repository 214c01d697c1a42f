"""What the journal keeps of announcements, of each time of a recurring order, and of each user's part, on a real database."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.instruction import Deferral, Instruction, Notify
from pcm.protocol.report import RunResult
from pcm.service.history import History
from pcm.service.journal import Change, Journal
from pcm.service.plan import Action, Line, Presence, Situation
from pcm.service.planner import plan
from pcm.service.records import RunRecord
from pcm.service.state import State
from tests.unit.service_engine.making import NOON, instruction, situation
from tests.unit.service_engine.test_journal import HOUR, entry_of, run_of, take_in

RESULT = RunResult(run="0" * 32, started=NOON, ended=NOON + HOUR, exit_code=0, exit_class="success")


def adopt(journal: Journal, around: Situation, now: datetime) -> Line:
    """One look: plan and adopt; the only line."""
    made = plan(journal.records(), around, now)
    journal.adopt(made, now)
    [line] = made.lines
    return line


def test_a_countdown_is_kept_from_its_first_announcement_and_survives_a_restart_of_the_service(tmp_path: Path) -> None:
    order = instruction(mandatory_after=NOON, notify=Notify(countdown_s=600))
    around = situation(order, presence=Presence(("ada",), "ada"))
    with State.open(tmp_path / "var", NOON) as state:
        take_in(Journal(state), order)
        adopt(Journal(state), around, NOON)
    with State.open(tmp_path / "var", NOON) as state:
        journal = Journal(state)
        line = adopt(journal, around, NOON + timedelta(minutes=4))
        assert (line.code, line.until) == ("wait.countdown", NOON + timedelta(minutes=10))
        record = journal.record(order.id)
        assert (record.state, record.announced_at) == (Stage.ASKED, NOON)
        assert plan([record], around, NOON + timedelta(minutes=10)).due()
        assert [outcome.code for _, outcome in journal.unreported()] == ["wait.countdown"]  # told once (KB Q188042)


def test_putting_it_off_in_its_countdown_announces_it_anew_later(journal: Journal) -> None:
    order = instruction(mandatory_after=NOON, notify=Notify(countdown_s=600), deferral=Deferral(1, 7200))
    around = situation(order, presence=Presence(("ada",), "ada"))
    take_in(journal, order)
    adopt(journal, around, NOON)
    journal.defer(order.id, NOON + HOUR, NOON, NOON + timedelta(minutes=5))
    assert journal.record(order.id).announced_at is None
    assert adopt(journal, around, NOON + timedelta(minutes=11)).code == "wait.deferred"
    line = adopt(journal, around, NOON + HOUR)
    assert (line.code, line.until) == ("wait.countdown", NOON + HOUR + timedelta(minutes=10))


def recurring() -> Instruction:
    return instruction(recurrence="FREQ=DAILY", offer_after=NOON, mandatory_after=NOON, deferral=Deferral(1, 3600))


def finish(
    history: History, order: Instruction, change: Change, now: datetime, attempt: int, **fields: Any
) -> RunRecord:
    """One run from its beginning to its end, of the occurrence that the journal has."""
    occurrence = history.journal.record(order.id).occurrence
    run = replace(run_of(attempt=attempt, run=f"{attempt:032x}"), started=now, occurrence=occurrence, **fields)
    history.begin_run(run)
    history.end_run(run, change, entry_of(run), None, now, for_user=run.run_as != "system")
    return run


def test_q141192_each_occurrence_begins_anew_and_its_outcomes_name_it(journal: Journal, history: History) -> None:
    order = recurring()
    around = situation(order)
    take_in(journal, order)
    for day in range(3):
        now = NOON + timedelta(days=day, hours=1)
        line = adopt(journal, around, now)
        assert line.action is Action.RUN
        assert journal.record(order.id).occurrence == NOON + timedelta(days=day)
        finish(history, order, Change(state=Stage.SUCCEEDED, result=RESULT), now, day + 1)
        assert adopt(journal, around, now).action is Action.DONE
    assert [run.attempt for run in history.runs(order.id, 1)] == [1, 2, 3]
    said = [(outcome.state, outcome.occurrence) for _, outcome in journal.unreported()]
    assert said == [(Stage.SUCCEEDED, NOON + timedelta(days=day)) for day in range(3)]


def test_tries_count_within_one_occurrence_and_for_one_user(journal: Journal, history: History) -> None:
    order = recurring()
    take_in(journal, order)
    adopt(journal, situation(order), NOON)
    again = Change(state=Stage.WAITING, code="retry.exit_code", attempts=1)
    assert history.tries(finish(history, order, again, NOON, 1)) == 1
    assert history.tries(finish(history, order, again, NOON, 2)) == 2
    adopt(journal, situation(order), NOON + timedelta(days=1))
    record = journal.record(order.id)
    assert (record.attempts, record.occurrence) == (0, NOON + timedelta(days=1))
    assert history.tries(finish(history, order, again, NOON, 3)) == 1


def test_a_wish_and_a_postponement_end_with_their_occurrence(journal: Journal) -> None:
    order = recurring()
    take_in(journal, order)
    adopt(journal, situation(order), NOON)
    journal.defer(order.id, NOON + HOUR / 2, NOON, NOON)
    adopt(journal, situation(order), NOON + timedelta(days=1))
    record = journal.record(order.id)
    assert (record.deferrals, record.deferred_until) == (0, None)


def test_q172872_one_users_part_is_settled_with_the_run_and_the_order_waits_for_the_others(
    journal: Journal, history: History
) -> None:
    order = instruction()
    take_in(journal, order)
    change = Change(state=Stage.SUCCEEDED, reason="It ended with exit code 0.", result=RESULT)
    finish(history, order, change, NOON, 1, run_as="ada")
    busy = Change(state=Stage.WAITING, code="retry.exit_code", not_before=NOON + HOUR, attempts=1, result=RESULT)
    finish(history, order, busy, NOON + HOUR / 2, 2, run_as="bob")
    record = journal.record(order.id)
    assert (record.state, record.code, record.not_before, record.attempts) == (
        Stage.WAITING,
        "wait.next_logon",
        None,
        0,
    )
    ada, bob = journal.user_runs()[order.id]
    assert (ada.user, ada.state, ada.settled) == ("ada", Stage.SUCCEEDED, True)
    assert (bob.user, bob.settled, bob.not_before, bob.attempts) == ("bob", False, NOON + HOUR, 1)
    told = [outcome for _, outcome in journal.unreported()]
    assert [(each.state, each.result is not None) for each in told] == [(Stage.WAITING, True)] * 2
    assert told[0].reason == "For ada: succeeded. It ended with exit code 0."


def test_users_begin_anew_with_another_generation_and_another_occurrence(journal: Journal, history: History) -> None:
    order = recurring()
    take_in(journal, order)
    adopt(journal, situation(order), NOON)
    finish(history, order, Change(state=Stage.SUCCEEDED), NOON, 1, run_as="ada")
    assert [each.user for each in journal.user_runs()[order.id]] == ["ada"]
    adopt(journal, situation(order), NOON + timedelta(days=1))
    assert journal.user_runs() == {}
    ends = [outcome for _, outcome in journal.unreported() if outcome.state is Stage.SUCCEEDED]
    assert [(each.occurrence, each.reason) for each in ends] == [(NOON, "Its time is over: done for ada.")]
    adopt(journal, situation(order), NOON + timedelta(days=1))
    assert len([outcome for _, outcome in journal.unreported() if outcome.state is Stage.SUCCEEDED]) == 1  # told once
    finish(history, order, Change(state=Stage.SUCCEEDED), NOON, 2, run_as="ada")
    take_in(journal, replace(order, generation=2))
    assert journal.user_runs() == {}


def test_one_users_wish_is_fulfilled_and_anothers_stays(journal: Journal, history: History) -> None:
    order = instruction(purpose="optional")
    take_in(journal, order)
    journal.request(order.id, "bob", NOON)
    finish(history, order, Change(state=Stage.SUCCEEDED), NOON, 1, run_as="ada")
    assert journal.record(order.id).requested_by == "bob"
    finish(history, order, Change(state=Stage.SUCCEEDED), NOON, 2, run_as="bob")
    assert journal.record(order.id).requested_by is None


def test_how_long_programs_took_is_known_by_what_is_signed(journal: Journal, history: History) -> None:
    order = instruction()
    take_in(journal, order)
    run = run_of()
    history.begin_run(run)
    history.end_run(run, Change(state=Stage.SUCCEEDED), entry_of(run), None, NOON + timedelta(seconds=90.2))
    assert history.durations() == {(order.manifest.sha256, "install"): 91}


def test_what_took_a_place_is_remembered_as_long_as_what_it_superseded_is_ordered(
    journal: Journal, history: History
) -> None:
    older, newer = instruction(1, package="tool", release=1), instruction(2, package="tool", release=2)
    take_in(journal, older, newer)
    adopt_all(journal, situation(older, newer))
    finish(history, newer, Change(state=Stage.SUCCEEDED), NOON, 1, instruction=newer.id)
    take_in(journal, older)
    later = NOON + timedelta(days=200)
    history.prune(later)
    assert {record.id for record in journal.records()} == {older.id, newer.id}
    take_in(journal)
    history.prune(later)
    assert newer.id not in {record.id for record in journal.records()}


def adopt_all(journal: Journal, around: Situation) -> None:
    journal.adopt(plan(journal.records(), around, NOON), NOON)
