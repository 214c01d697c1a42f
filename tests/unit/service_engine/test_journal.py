"""The journal and the history of runs, on a real database."""

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.errors import RequestError, StoreError
from pcm.model.instruction import Deferral
from pcm.protocol.manifest import write_manifest
from pcm.protocol.report import RunResult
from pcm.service import ledger
from pcm.service.history import History
from pcm.service.journal import Change, Journal, Verified
from pcm.service.planner import plan
from pcm.service.records import InstalledRelease, LedgerEntry, RunRecord, to_text, to_time
from pcm.service.state import State
from tests.unit.service_engine.making import NOON, instruction, manifest, sha, situation

HOUR = timedelta(hours=1)
RUN = "ab" * 16


def take_in(journal: Journal, *instructions: object, now: object = NOON) -> None:
    journal.take_in([Verified(each) for each in instructions], now)  # type: ignore[arg-type]


def run_of(number: int = 1, attempt: int = 1, run: str = RUN) -> RunRecord:
    order = instruction(number)
    return RunRecord(
        run=run,
        instruction=order.id,
        generation=1,
        attempt=attempt,
        program="install",
        manifest_sha256=order.manifest.sha256,
        argv=("/x/setup", "a b"),
        run_as="system",
        started=NOON,
        reference={"run_id": run},
        boot_id="boot-1",
    )


def result_of(run: RunRecord, **fields: object) -> RunResult:
    values = {"exit_code": 0, "exit_class": "success", **fields}
    return RunResult(run=run.run, started=NOON, ended=NOON + HOUR, **values)  # type: ignore[arg-type]


def entry_of(run: RunRecord, state: str = "succeeded") -> LedgerEntry:
    order = instruction()
    return LedgerEntry(
        run=run.run,
        instruction=run.instruction,
        job=order.job,
        generation=1,
        package=order.package,
        version="1.0",
        release=1,
        program="install",
        argv=run.argv,
        run_as="system",
        manifest_path=order.manifest.path,
        manifest_sha256=run.manifest_sha256,
        started=NOON,
        ended=NOON + HOUR,
        exit_code=0,
        state=state,
    )


def states(journal: Journal) -> list[Stage]:
    return [record.state for record in journal.records()]


# -- taking in --------------------------------------------------------------------------------------------------------


def test_new_instructions_begin_as_offered_and_come_back_as_they_were(journal: Journal) -> None:
    order = instruction(parameters={"A": "1"}, deferral=Deferral(2, 60))
    take_in(journal, order)
    [record] = journal.records()
    assert (record.instruction, record.state, record.first_seen, record.present) == (order, Stage.OFFERED, NOON, True)
    assert journal.record(order.id) == record
    with pytest.raises(RequestError) as caught:
        journal.record("nothing")
    assert caught.value.code == "not_found"


def test_q269768_what_is_absent_from_the_newest_file_is_marked_and_withdrawn_once(journal: Journal) -> None:
    one, two = instruction(1), instruction(2)
    take_in(journal, one, two)
    take_in(journal, two)
    assert [record.present for record in journal.records()] == [False, True]
    for _ in range(2):
        made = plan(journal.records(), situation(one, two), NOON)
        journal.adopt(made, NOON)
    assert states(journal) == [Stage.WITHDRAWN, Stage.OFFERED]
    assert [(outcome.instruction, outcome.state) for _, outcome in journal.unreported()] == [(one.id, Stage.WITHDRAWN)]


def test_other_times_are_followed_without_beginning_anew(journal: Journal) -> None:
    order = instruction()
    take_in(journal, order)
    later = replace(order, mandatory_after=NOON + HOUR, priority=90)
    take_in(journal, later, now=NOON + HOUR)
    [record] = journal.records()
    assert (record.instruction, record.first_seen) == (later, NOON)


def test_another_order_under_the_same_generation_counts_its_brake_anew(journal: Journal) -> None:
    """A stolen policy key must not put another program into the place of one that has waited its time."""
    order = instruction()
    take_in(journal, order)
    other = replace(order, program="uninstall")
    take_in(journal, other, now=NOON + HOUR)
    [record] = journal.records()
    assert (record.instruction, record.first_seen, record.state) == (other, NOON + HOUR, Stage.OFFERED)


def test_q166765_the_same_file_again_never_opens_what_ran(journal: Journal, history: History) -> None:
    order, run = instruction(), run_of()
    take_in(journal, order)
    history.begin_run(run)
    history.end_run(run, Change(state=Stage.SUCCEEDED, result=result_of(run)), entry_of(run), None, NOON)
    take_in(journal, order)
    take_in(journal, replace(order, program="uninstall"))
    [record] = journal.records()
    assert (record.state, record.instruction.program) == (Stage.SUCCEEDED, "install")
    take_in(journal, replace(order, generation=2), now=NOON + HOUR)
    [record] = journal.records()
    assert (record.state, record.generation, record.first_seen) == (Stage.OFFERED, 2, NOON + HOUR)


def test_a_generation_that_goes_back_is_refused(journal: Journal) -> None:
    take_in(journal, instruction(generation=3))
    take_in(journal, instruction(generation=2))
    [record] = journal.records()
    assert (record.generation, record.verdict_code) == (3, "trust.rollback")
    take_in(journal, instruction(generation=3))
    assert journal.records()[0].verdict_code == ""


def test_what_runs_is_not_replaced_under_its_feet(journal: Journal, history: History) -> None:
    take_in(journal, instruction())
    history.begin_run(run_of())
    take_in(journal, instruction(generation=2))
    [record] = journal.records()
    assert (record.state, record.generation) == (Stage.RUNNING, 1)


def test_a_verdict_comes_in_with_its_instruction(journal: Journal) -> None:
    journal.take_in([Verified(instruction(), "trust.platform", "Not for Linux.")], NOON)
    [record] = journal.records()
    assert (record.verdict_code, record.verdict_reason) == ("trust.platform", "Not for Linux.")


def test_q229809_the_first_file_after_a_loss_may_have_run_before_and_later_ones_have_not(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    State.open(folder, NOON).close()
    (folder / "state.db").unlink()
    with State.open(folder, NOON) as state:
        journal = Journal(state)
        take_in(journal, instruction(1))
        take_in(journal, instruction(1), instruction(2))
        assert [record.history_lost for record in journal.records()] == [True, False]


# -- changing ---------------------------------------------------------------------------------------------------------


def test_q152229_an_illegal_move_raises_and_changes_nothing(journal: Journal) -> None:
    order = instruction()
    take_in(journal, order)
    journal.change(order.id, Change(state=Stage.SUCCEEDED), NOON)
    with pytest.raises(RequestError) as caught:
        journal.change(order.id, Change(state=Stage.WAITING), NOON)
    assert caught.value.code == "assignment.illegal_move"
    assert states(journal) == [Stage.SUCCEEDED]


def test_q188042_a_state_is_reported_once_and_passing_ones_not_at_all(journal: Journal) -> None:
    order = instruction()
    take_in(journal, order)
    for stage in (Stage.DOWNLOADING, Stage.WAITING, Stage.WAITING, Stage.RUNNING, Stage.SUCCEEDED):
        journal.change(order.id, Change(state=stage, code=stage.value), NOON)
    assert [outcome.state for _, outcome in journal.unreported()] == [Stage.WAITING, Stage.SUCCEEDED]


def test_reported_outcomes_are_not_reported_again(journal: Journal) -> None:
    order = instruction()
    take_in(journal, order)
    journal.change(order.id, Change(state=Stage.FAILED, code="a", reason="b" * 2000), NOON)
    [(seq, outcome)] = journal.unreported()
    assert (outcome.job, outcome.generation, outcome.code, len(outcome.reason)) == (order.job, 1, "a", 1000)
    journal.mark_reported([seq], 1)
    assert journal.unreported() == []


def test_adopting_the_same_plan_twice_writes_once(journal: Journal) -> None:
    order = instruction(mandatory_after=NOON + HOUR)
    take_in(journal, order)
    assert journal.adopt(plan(journal.records(), situation(order), NOON), NOON) == 1
    assert journal.adopt(plan(journal.records(), situation(order), NOON), NOON) == 0
    assert [(outcome.state, outcome.code) for _, outcome in journal.unreported()] == [(Stage.WAITING, "wait.deadline")]


def test_a_wish_is_recorded_and_only_for_what_can_be_wished(journal: Journal) -> None:
    optional, mandatory = instruction(1, purpose="optional"), instruction(2)
    take_in(journal, optional, mandatory)
    journal.request(optional.id, "ada", NOON)
    record = journal.record(optional.id)
    assert (record.requested_by, record.requested_at) == ("ada", NOON)
    journal.change(optional.id, Change(state=Stage.SUCCEEDED), NOON)
    for name, code in ((optional.id, "not_allowed"), (mandatory.id, "not_allowed"), ("x", "not_found")):
        with pytest.raises(RequestError) as caught:
            journal.request(name, "ada", NOON)
        assert caught.value.code == code


def test_q187287_postponing_is_granted_within_its_budget_and_no_further(journal: Journal) -> None:
    order = instruction(deferral=Deferral(times=2, max_s=7200), mandatory_after=NOON)
    take_in(journal, order)
    assert journal.defer(order.id, NOON + HOUR, NOON, NOON) == NOON + HOUR
    assert journal.defer(order.id, NOON + 9 * HOUR, NOON, NOON) == NOON + 2 * HOUR
    with pytest.raises(RequestError, match="cannot be postponed again"):
        journal.defer(order.id, NOON + HOUR, NOON, NOON)
    assert (journal.record(order.id).deferrals, journal.record(order.id).deferred_until) == (2, NOON + 2 * HOUR)


@pytest.mark.parametrize(
    ("fields", "until"),
    [
        ({"purpose": "optional"}, NOON + HOUR),
        ({"deferral": Deferral(0, 0)}, NOON + HOUR),
        ({"deferral": Deferral(2, 7200)}, NOON - HOUR),
    ],
)
def test_what_cannot_be_postponed_is_not(journal: Journal, fields: dict[str, object], until: object) -> None:
    order = instruction(1, **fields)
    take_in(journal, order)
    with pytest.raises(RequestError) as caught:
        journal.defer(order.id, until, NOON, NOON)  # type: ignore[arg-type]
    assert caught.value.code == "not_allowed"


def test_an_administrator_ends_every_back_off(journal: Journal) -> None:
    order = instruction()
    take_in(journal, order)
    journal.change(order.id, Change(state=Stage.WAITING, not_before=NOON + HOUR, attempts=3), NOON)
    journal.mark_fetched(order.id)
    journal.end_back_off()
    record = journal.record(order.id)
    assert (record.not_before, record.attempts, record.fetched) == (None, 3, True)


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_is_recorded_before_it_starts_and_found_open_until_it_ends(journal: Journal, history: History) -> None:
    order, run = instruction(), run_of()
    take_in(journal, order)
    history.begin_run(run)
    assert (states(journal), history.open_runs()) == ([Stage.RUNNING], [run])
    result = result_of(run)
    history.end_run(run, Change(state=Stage.SUCCEEDED, result=result), entry_of(run), None, NOON + HOUR)
    assert (states(journal), history.open_runs()) == ([Stage.SUCCEEDED], [])
    [kept] = history.runs(order.id, 1)
    assert (kept.result, kept.ended, kept.finished, kept.argv) == (result, NOON + HOUR, True, ("/x/setup", "a b"))


def test_q138241_result_state_outcome_release_and_ledger_are_one_transaction(
    state: State, journal: Journal, history: History
) -> None:
    order, run = instruction(), run_of()
    take_in(journal, order)
    history.begin_run(run)
    release = InstalledRelease(order.package, 1, 1, "1.0", 1, NOON)
    state.rows("CREATE TRIGGER full BEFORE INSERT ON ledger BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StoreError):
        history.end_run(run, Change(state=Stage.SUCCEEDED, result=result_of(run)), entry_of(run), release, NOON)
    assert (states(journal), len(history.open_runs())) == ([Stage.RUNNING], 1)
    assert (journal.unreported(), state.releases()) == ([], {})
    state.rows("DROP TRIGGER full")
    history.end_run(run, Change(state=Stage.SUCCEEDED, result=result_of(run)), entry_of(run), release, NOON)
    [(_, outcome)] = journal.unreported()
    assert outcome.result == result_of(run)
    assert state.releases() == {order.package: release}
    with state.transaction() as connection:
        assert ledger.count(connection) == 1


def test_one_attempt_is_never_recorded_twice(journal: Journal, history: History) -> None:
    take_in(journal, instruction())
    history.begin_run(run_of())
    with pytest.raises((StoreError, RequestError)):
        history.begin_run(run_of(run="cd" * 16))
    assert len(history.open_runs()) == 1


def test_what_succeeded_cannot_begin_again(journal: Journal, history: History) -> None:
    order, run = instruction(), run_of()
    take_in(journal, order)
    history.begin_run(run)
    history.end_run(run, Change(state=Stage.SUCCEEDED, result=result_of(run)), entry_of(run), None, NOON)
    with pytest.raises(RequestError) as caught:
        history.begin_run(run_of(attempt=2, run="cd" * 16))
    assert caught.value.code == "assignment.illegal_move"
    assert history.open_runs() == []


def test_a_run_that_never_started_is_taken_back(journal: Journal, history: History) -> None:
    order, run = instruction(), run_of()
    take_in(journal, order)
    history.begin_run(run)
    history.forget_run(run, Change(state=Stage.WAITING, code="run.not_started"), NOON)
    assert (history.runs(order.id, 1), states(journal)) == ([], [Stage.WAITING])
    history.begin_run(run)


def test_who_cancelled_a_wish_must_wish_again(journal: Journal, history: History) -> None:
    order, run = instruction(purpose="optional"), run_of()
    take_in(journal, order)
    journal.request(order.id, "ada", NOON)
    history.begin_run(run)
    change = Change(state=Stage.WAITING, code="run.cancelled", result=result_of(run))
    history.end_run(run, change, entry_of(run), None, NOON)
    assert journal.record(order.id).requested_at is None


def test_the_newest_release_that_ever_was_here_stays_the_floor(state: State, history: History) -> None:
    newest = InstalledRelease("tool", 9, 4, "9", 9, NOON)
    history.note_release(newest)
    history.note_release(InstalledRelease("tool", 5, 1, "5", 5, NOON + HOUR))
    assert state.releases()["tool"] == InstalledRelease("tool", 9, 4, "5", 5, NOON + HOUR)
    history.note_release(InstalledRelease("tool", 9, 4, "9", None, NOON))
    assert state.releases()["tool"].installed is None


def test_steps_are_kept_in_order_with_their_detail(history: History) -> None:
    for step, phase in (("check", "begin"), ("check", "end"), ("fetch", "begin")):
        history.note_step(RUN, step, phase, NOON, {"n": 1} if phase == "end" else None)
    steps = history.steps(RUN)
    assert [(step.step, step.phase, step.detail) for step in steps] == [
        ("check", "begin", {}),
        ("check", "end", {"n": 1}),
        ("fetch", "begin", {}),
    ]


def test_manifests_come_back_and_unknown_ones_do_not(state: State, history: History) -> None:
    its = manifest(instruction())
    with state.transaction() as connection:
        connection.execute("INSERT INTO manifests VALUES (?, ?)", (sha("m"), write_manifest(its)))
    assert history.manifests([sha("m"), sha("other")]) == {sha("m"): its}


def test_old_records_go_and_what_is_open_or_present_stays(state: State, journal: Journal, history: History) -> None:
    gone, here = instruction(1), instruction(2)
    take_in(journal, gone, here)
    run = run_of(1)
    history.begin_run(run)
    history.note_step(run.run, "run", "begin", NOON)
    history.note_step("ef" * 16, "run", "begin", NOON)
    state.refuse("x", NOON, "")
    journal.change(here.id, Change(state=Stage.FAILED), NOON)
    take_in(journal, here)
    history.prune(NOON + HOUR)
    assert (len(journal.records()), len(history.open_runs()), len(history.steps(run.run))) == (2, 1, 1)
    assert (history.steps("ef" * 16), len(journal.unreported()), len(state.refusals())) == ([], 1, 1)
    history.end_run(run, Change(state=Stage.SUCCEEDED, result=result_of(run)), entry_of(run), None, NOON)
    journal.mark_reported([seq for seq, _ in journal.unreported()], 1)
    state.mark_refusals_reported([1], 1)
    history.prune(NOON + 2 * HOUR)
    assert [record.id for record in journal.records()] == [here.id]
    assert (history.runs(gone.id, 1), history.steps(run.run), state.refusals()) == ([], [], [])
    assert state.rows("SELECT count(*) FROM outcomes") == [(0,)]
    assert state.rows("SELECT count(*) FROM ledger") == [(1,)]


@pytest.mark.parametrize(
    ("column", "value"), [("state", "'nonsense'"), ("body", "x'7b'"), ("first_seen", "'yesterday'")]
)
def test_a_row_that_makes_no_sense_is_damage_not_a_guess(
    state: State, journal: Journal, column: str, value: str
) -> None:
    take_in(journal, instruction())
    state.rows(f"UPDATE instructions SET {column} = {value}")
    with pytest.raises(StoreError) as caught:
        journal.records()
    assert caught.value.code == "store.damaged"


def test_times_are_stored_in_utc_with_their_zone_or_not_at_all() -> None:
    assert to_text(NOON) == "2026-03-04T12:00:00.000000+00:00"
    assert to_time(to_text(NOON)) == NOON
    with pytest.raises(ValueError, match="zone"):
        to_text(NOON.replace(tzinfo=None))


def test_rows_are_values_that_nobody_can_change() -> None:
    with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
        run_of().attempt = 2  # type: ignore[misc]
