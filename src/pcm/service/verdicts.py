"""What the end of a run, or an error before it, means for its instruction. Pure: facts in, a change of state out.

Serves step 11, between `service.steps.detect`, which gathered the facts, and the one transaction that stores them; recovery asks
the same questions about runs whose end nobody saw. Unknown is never success (KB Q190135). It never looks at the computer.
"""

import hashlib
from datetime import datetime, timedelta
from enum import Enum

from pcm.model.assignment import State as Stage
from pcm.model.errors import PcmError, Retry, TransferError, TrustError
from pcm.model.program import ExitClass
from pcm.protocol.report import RunResult
from pcm.service.journal import Change
from pcm.service.records import InstructionRecord

RETRY_RUNS = 8
"""A program that says 'try again later' is run this often in one generation, then it has failed."""
FIRST_BACK_OFF_S = 60
LONGEST_BACK_OFF_S = 6 * 3600
REFUSED_BACK_OFF_S = 15 * 60


class Detected(Enum):
    """What detection says after a run."""

    YES = "yes"
    NO = "no"
    NOT_ASKED = "not_asked"  # the program has none
    CANNOT_TELL = "cannot_tell"


def judge_end(record: InstructionRecord, result: RunResult, detected: Detected, runs: int, boot_id: str) -> Change:
    """Say what becomes of an instruction whose run ended.

    Args:
        record: As it stands now.
        result: Of the run; `ended` is the time from which a back-off counts.
        runs: How many runs this generation has had, this one included.
        boot_id: Of the boot in which the run ended.
    """
    exit_class = ExitClass(result.exit_class)
    if result.timed_out:
        return _failed("run.timed_out", "It took longer than its time limit; all its processes were ended.", result)
    if exit_class is ExitClass.SUCCESS:
        return _judge_success(result, detected)
    if exit_class in {ExitClass.RESTART, ExitClass.RESTARTING}:
        return Change(
            state=Stage.RESTART_PENDING,
            code="wait.restart",
            reason=f"It asked for a restart (exit code {result.exit_code}); it is looked at again after that.",
            restart_boot_id=boot_id,
            result=result,
        )
    if exit_class is ExitClass.RETRY:
        return _judge_retry(record, result, runs)
    if exit_class is ExitClass.CANCELLED:
        # an optional one may be asked for again; a mandatory one is the administrator's to order again
        optional = record.instruction.purpose == "optional"
        text = f"It was cancelled (exit code {result.exit_code})."
        state = Stage.WAITING if optional else Stage.CANCELLED
        return Change(state=state, code="run.cancelled", reason=text, result=result)
    if result.exit_code is None:
        return _failed("run.signal", "A signal ended it.", result)
    return _failed("run.exit_code", f"It ended with exit code {result.exit_code}.", result)


def judge_unseen(result: RunResult, detected: Detected, why: str) -> Change:
    """Say what becomes of a run whose end nobody saw: detection decides, and it is never run again by itself.

    Source: KB Q158644, Q164887, Q175652.
    """
    if detected is Detected.YES:
        text = f"{why} Detection finds its work done."
        return Change(state=Stage.SUCCEEDED, code="run.interrupted", reason=text, result=result)
    if detected is Detected.NO:
        return _failed("run.interrupted", f"{why} Detection does not find its work done.", result)
    text = f"{why} Whether its work is done cannot be told. Order it anew to run it again."
    return Change(state=Stage.UNKNOWN, code="run.interrupted", reason=text, result=result)


def judge_restart(detected: Detected) -> Change:
    """Say what becomes of an instruction that waited for a restart, now that the computer has restarted."""
    if detected is Detected.NO:
        text = "The computer has restarted, but detection does not find the program's work done."
        return Change(state=Stage.FAILED, code="detection.not_found", reason=text)
    if detected is Detected.CANNOT_TELL:
        text = "The computer has restarted; whether the program's work is done cannot be told."
        return Change(state=Stage.UNKNOWN, code="detection.failed", reason=text)
    return Change(state=Stage.SUCCEEDED, code="restarted", reason="It is done; the computer has restarted since.")


def judge_error(record: InstructionRecord, error: PcmError, now: datetime) -> Change:
    """Say what becomes of an instruction that could not be started: its program has not run.

    Trust errors refuse it; what time or another server may mend waits with a growing back-off; the rest has failed. A refusal
    is looked at again, later: the same checks in full, so that mending a server needs no new order.
    """
    if isinstance(error, TrustError):
        wait = back_off(record, now, first_s=REFUSED_BACK_OFF_S)
        return _again(record, Stage.REFUSED, error, wait)
    if isinstance(error, TransferError) or error.retry is not Retry.NEVER:
        return _again(record, Stage.WAITING, error, back_off(record, now))
    return Change(state=Stage.FAILED, code=error.code, reason=error.message)


def back_off(record: InstructionRecord, now: datetime, *, first_s: int = FIRST_BACK_OFF_S) -> datetime:
    """When to try again: doubling from `first_s` up to six hours, spread by a quarter, the same for the same attempt."""
    seconds = min(first_s * 2 ** min(record.attempts, 20), LONGEST_BACK_OFF_S)
    digest = hashlib.sha256(f"{record.id}\0{record.generation}\0{record.attempts}".encode()).digest()
    return now + timedelta(seconds=seconds * (0.75 + int.from_bytes(digest[:2], "big") / 2**17))


def _judge_success(result: RunResult, detected: Detected) -> Change:
    if detected is Detected.NO:
        text = f"It ended with exit code {result.exit_code}, but detection does not find its work done."
        return _failed("detection.not_found", text, result)
    if detected is Detected.CANNOT_TELL:
        text = f"It ended with exit code {result.exit_code}, but whether its work is done cannot be told."
        return Change(state=Stage.UNKNOWN, code="detection.failed", reason=text, result=result)
    found = " and its work was found done" if detected is Detected.YES else ""
    return Change(state=Stage.SUCCEEDED, reason=f"It ended with exit code {result.exit_code}{found}.", result=result)


def _judge_retry(record: InstructionRecord, result: RunResult, runs: int) -> Change:
    if runs >= RETRY_RUNS:
        text = (
            f"It asked to be tried again later (exit code {result.exit_code}), {runs} times; it is not tried any more."
        )
        return _failed("retry.exhausted", text, result)
    until = back_off(record, result.ended)
    return Change(
        state=Stage.WAITING,
        code="retry.exit_code",
        reason=f"It asked to be tried again later (exit code {result.exit_code}, run {runs} of {RETRY_RUNS}).",
        not_before=until,
        attempts=record.attempts + 1,
        result=result,
    )


def _failed(code: str, reason: str, result: RunResult) -> Change:
    return Change(state=Stage.FAILED, code=code, reason=reason, result=result)


def _again(record: InstructionRecord, state: Stage, error: PcmError, until: datetime) -> Change:
    attempts = record.attempts + 1
    return Change(state=state, code=error.code, reason=error.message, not_before=until, attempts=attempts)
