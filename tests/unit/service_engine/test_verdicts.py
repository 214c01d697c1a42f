"""What each end of a run means, case by case, and for every exit code there is."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.assignment import can_move
from pcm.model.errors import MachineError, PcmError, RequestError, Retry, StoreError, TransferError, TrustError
from pcm.model.program import ExitClass, ExitCodes
from pcm.protocol.report import RunResult
from pcm.service.records import InstructionRecord
from pcm.service.verdicts import (
    LONGEST_BACK_OFF_S,
    RETRY_RUNS,
    Detected,
    back_off,
    judge_end,
    judge_error,
    judge_health,
    judge_mark,
    judge_restart,
    judge_return,
    judge_unseen,
)
from tests.unit.service_engine.making import NOON, instruction, record

RUNNING = record(state=Stage.RUNNING)


def result(code: int | None = 0, **fields: object) -> RunResult:
    exit_class = ExitCodes().classify(code).value
    values = {"exit_code": code, "exit_class": exit_class, **fields}
    return RunResult(run="ab" * 16, started=NOON, ended=NOON, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "detected", "state", "named"),
    [
        (0, Detected.YES, Stage.SUCCEEDED, ""),
        (0, Detected.NOT_ASKED, Stage.SUCCEEDED, ""),
        (0, Detected.NO, Stage.FAILED, "detection.not_found"),
        (0, Detected.CANNOT_TELL, Stage.UNKNOWN, "detection.failed"),
        (1707, Detected.YES, Stage.SUCCEEDED, ""),
        (1, Detected.YES, Stage.FAILED, "run.exit_code"),
        (None, Detected.YES, Stage.FAILED, "run.signal"),
        (3010, Detected.NO, Stage.RESTART_PENDING, "wait.restart"),
        (1641, Detected.NO, Stage.RESTART_PENDING, "wait.restart"),
        (1618, Detected.NO, Stage.WAITING, "retry.exit_code"),
        (1602, Detected.NO, Stage.CANCELLED, "run.cancelled"),
        (1604, Detected.NO, Stage.FAILED, "run.exit_code"),
    ],
)
def test_q216744_each_class_of_exit_code_has_its_meaning(
    code: int | None, detected: Detected, state: Stage, named: str
) -> None:
    change = judge_end(RUNNING, result(code), detected, 1, "boot")
    assert (change.state, change.code) == (state, named)
    assert change.result == result(code)
    assert (change.restart_boot_id == "boot") is (state is Stage.RESTART_PENDING)


def test_q214448_what_took_too_long_has_failed_whatever_else_is_so() -> None:
    change = judge_end(RUNNING, result(0, timed_out=True, output_tail="Press any key"), Detected.YES, 1, "boot")
    assert (change.state, change.code) == (Stage.FAILED, "run.timed_out")
    assert change.result is not None
    assert change.result.output_tail == "Press any key"


@given(st.none() | st.integers(-(2**31), 2**32 - 1), st.sampled_from(Detected), st.booleans(), st.integers(1, 20))
def test_q190135_unknown_is_never_success_and_every_end_is_a_legal_move(
    code: int | None, detected: Detected, timed_out: bool, runs: int
) -> None:
    change = judge_end(RUNNING, result(code, timed_out=timed_out), detected, runs, "boot")
    assert can_move(Stage.RUNNING, change.state)
    if change.state is Stage.SUCCEEDED:
        assert ExitCodes().classify(code) is ExitClass.SUCCESS
        assert detected in {Detected.YES, Detected.NOT_ASKED}
        assert not timed_out


def test_a_program_that_wants_another_try_gets_it_later_and_not_for_ever() -> None:
    first = judge_end(RUNNING, result(1618), Detected.NO, 1, "boot")
    assert first.attempts == 1
    assert first.not_before is not None
    assert timedelta(seconds=30) < first.not_before - NOON < timedelta(seconds=90)
    last = judge_end(RUNNING, result(1618), Detected.NO, RETRY_RUNS, "boot")
    assert (last.state, last.code) == (Stage.FAILED, "retry.exhausted")


def test_a_cancelled_optional_one_waits_for_another_wish() -> None:
    optional = record(instruction(purpose="optional"), state=Stage.RUNNING)
    change = judge_end(optional, result(1602), Detected.NO, 1, "boot")
    assert (change.state, change.code) == (Stage.WAITING, "run.cancelled")


@pytest.mark.parametrize(
    ("detected", "state"),
    [
        (Detected.YES, Stage.SUCCEEDED),
        (Detected.NO, Stage.FAILED),
        (Detected.NOT_ASKED, Stage.UNKNOWN),
        (Detected.CANNOT_TELL, Stage.UNKNOWN),
    ],
)
def test_q158644_where_nobody_saw_the_end_detection_decides(detected: Detected, state: Stage) -> None:
    change = judge_unseen(result(None), detected, "The service stopped.")
    assert (change.state, change.code) == (state, "run.interrupted")
    assert change.reason.startswith("The service stopped.")


def test_q153227_a_mark_of_this_very_run_makes_a_success_wait_for_the_restart() -> None:
    worked = judge_end(record(), result(0), Detected.YES, 1, "boot")
    marked = judge_mark(worked, "boot")
    assert (marked.state, marked.code, marked.restart_boot_id) == (Stage.RESTART_PENDING, "wait.restart", "boot")
    assert marked.result == worked.result
    assert "needs a restart" in marked.reason


@pytest.mark.parametrize(
    ("detected", "state"),
    [
        (Detected.YES, Stage.SUCCEEDED),
        (Detected.NOT_ASKED, Stage.SUCCEEDED),
        (Detected.NO, Stage.FAILED),
        (Detected.CANNOT_TELL, Stage.UNKNOWN),
    ],
)
def test_a_restart_ends_what_waited_for_it_as_detection_says(detected: Detected, state: Stage) -> None:
    assert judge_restart(detected).state is state


@pytest.mark.parametrize(
    ("error", "state", "again"),
    [
        (TrustError("x", code="trust.content"), Stage.REFUSED, True),
        (TransferError("x", code="transfer.slow"), Stage.WAITING, True),
        (StoreError("x", code="store.disk_full"), Stage.WAITING, True),
        (MachineError("x", code="machine.cannot_start"), Stage.WAITING, True),
        (MachineError("x", code="machine.program_not_found", retry=Retry.NEVER), Stage.FAILED, False),
        (RequestError("x", code="request.parameter"), Stage.FAILED, False),
    ],
)
def test_an_error_before_the_start_waits_refuses_or_fails_by_its_class(
    error: PcmError, state: Stage, again: bool
) -> None:
    change = judge_error(record(attempts=2), error, NOON)
    assert (change.state, change.code, change.reason) == (state, error.code, "x")
    assert (change.not_before is not None, change.attempts) == (again, 3 if again else 0)


@given(st.integers(0, 1000), st.integers(1, 50))
def test_q153576_back_off_grows_has_a_cap_and_is_the_same_for_the_same_attempt(attempts: int, number: int) -> None:
    def wait(of: InstructionRecord) -> datetime:
        return back_off(of, NOON)

    mine = record(instruction(number), attempts=attempts)
    seconds = (wait(mine) - NOON).total_seconds()
    plain = min(60 * 2**attempts, LONGEST_BACK_OFF_S)
    assert 0.75 * plain <= seconds <= 1.25 * plain
    assert wait(mine) == wait(mine)


@pytest.mark.parametrize(("by", "code"), [("stopped", "run.stopped"), ("memory", "run.memory")])
def test_what_was_ended_from_outside_has_failed_whatever_detection_finds(by: str, code: str) -> None:
    for detected in Detected:
        change = judge_end(RUNNING, result(None), detected, 1, "boot", by)
        assert (change.state, change.code) == (Stage.FAILED, code)
        assert change.result is not None


def test_q263700_success_restart_and_cancelled_are_told_apart_by_the_programs_own_list() -> None:
    codes = ExitCodes(success=(0, 3011), restart=(3010, 1604), restarting=(), retry=(75,), cancelled=(1602,))
    meant = {0: "success", 3011: "success", 3010: "restart", 1604: "restart", 75: "retry", 1602: "cancelled"}
    for code in range(4000):
        told = result(code, exit_class=codes.classify(code).value)
        change = judge_end(RUNNING, told, Detected.NOT_ASKED, 1, "boot")
        assert told.exit_class == meant.get(code, "failed")
        # what nobody listed is never success: 1641 and 1707 stand in the defaults only
        assert (change.state is Stage.SUCCEEDED) is (code in {0, 3011})


UNHEALTHY = judge_health(judge_end(RUNNING, result(), Detected.YES, 1, "boot"), "the page says 500", "undo")


def test_what_is_unhealthy_is_at_work_until_it_has_returned() -> None:
    assert (UNHEALTHY.state, UNHEALTHY.code) == (Stage.RUNNING, "health.failed")
    assert "the page says 500" in UNHEALTHY.reason
    without = judge_health(judge_end(RUNNING, result(), Detected.YES, 1, "boot"), "the page says 500", None)
    assert (without.state, without.code) == (Stage.FAILED, "health.failed")


@pytest.mark.parametrize(
    ("code", "detected", "said"),
    [
        (0, Detected.YES, "[rollback.done]"),
        (0, Detected.NOT_ASKED, "[rollback.done]"),
        (3010, Detected.NO, "[rollback.done]"),
        (0, Detected.NO, "[rollback.failed]"),
        (0, Detected.CANNOT_TELL, "[rollback.failed]"),
        (1618, Detected.YES, "[rollback.failed]"),
        (1602, Detected.YES, "[rollback.failed]"),
        (5, Detected.YES, "[rollback.failed]"),
        (None, Detected.YES, "[rollback.failed]"),
    ],
)
def test_a_return_ends_in_failure_and_says_what_is_here(code: int | None, detected: Detected, said: str) -> None:
    unhealthy = record(state=Stage.RUNNING, code=UNHEALTHY.code, reason=UNHEALTHY.reason)
    change = judge_return(unhealthy, "undo", judge_end(unhealthy, result(code), detected, 2, "boot"))
    assert (change.state, change.code) == (Stage.FAILED, "health.failed")
    assert change.reason.startswith(UNHEALTHY.reason)
    assert change.reason.endswith(said)
    assert change.result is not None
    assert change.result.exit_code == code


def test_a_return_nobody_saw_end_is_judged_by_detection() -> None:
    unhealthy = record(state=Stage.RUNNING, code=UNHEALTHY.code, reason=UNHEALTHY.reason)
    for detected, said in ((Detected.YES, "done"), (Detected.NO, "failed"), (Detected.NOT_ASKED, "failed")):
        change = judge_return(unhealthy, "undo", judge_unseen(result(None), detected, "Nobody saw its end."))
        assert change.reason.endswith(f"[rollback.{said}]")


def test_a_return_that_cannot_start_is_tried_again_a_few_times_and_never_refused() -> None:
    unhealthy = record(state=Stage.RUNNING, code=UNHEALTHY.code, reason=UNHEALTHY.reason)
    error = TransferError("No server answers.", code="transfer.unreachable")
    for attempts in range(RETRY_RUNS + 3):
        change = judge_error(replace(unhealthy, attempts=attempts), error, NOON, returning="undo")
        again = attempts + 1 < RETRY_RUNS
        assert change.state is (Stage.RUNNING if again else Stage.FAILED)
        assert change.code == "health.failed"
        assert (change.not_before is not None) is again
    for final in (
        TrustError("Other bytes.", code="trust.content"),
        MachineError("It is not there.", code="machine.program_not_found", retry=Retry.NEVER),
    ):
        change = judge_error(unhealthy, final, NOON, returning="undo")
        assert (change.state, change.reason.endswith("[rollback.failed]")) == (Stage.FAILED, True)
