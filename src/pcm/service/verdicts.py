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
from pcm.service.content_limits import METERED
from pcm.service.journal import Change
from pcm.service.records import InstructionRecord

RETRY_RUNS = 8
"""A program that says 'try again later' is run this often in one generation, then it has failed."""
FIRST_BACK_OFF_S = 60
LONGEST_BACK_OFF_S = 6 * 3600
REFUSED_BACK_OFF_S = 15 * 60
METERED_PAUSE_S = 15 * 60
UNHEALTHY = "health.failed"
"""Code of an instruction whose program worked, but not well. While its state is 'running', the return is still to come."""
CLOSING = "blocking.close"
"""Code of an instruction that waits for a moment, until what is in its way has ended or is ended."""
_ENDED_BY = {
    "stopped": "Somebody on this computer had the system stop it before its end.",
    "memory": "There was not enough memory for it, or no more than its limit; all its processes were ended.",
}


class Detected(Enum):
    """What detection says after a run."""

    YES = "yes"
    NO = "no"
    NOT_ASKED = "not_asked"  # the program has none
    CANNOT_TELL = "cannot_tell"


def judge_end(
    record: InstructionRecord, result: RunResult, detected: Detected, runs: int, boot_id: str, ended_by: str = ""
) -> Change:
    """Say what becomes of an instruction whose run ended.

    Args:
        record: As it stands now.
        result: Of the run; `ended` is the time from which a back-off counts.
        runs: How many runs this generation has had, this one included; only of one that asks to be tried again.
        boot_id: Of the boot in which the run ended.
        ended_by: As `Ended.ended_by`.
    """
    exit_class = ExitClass(result.exit_class)
    if result.timed_out:
        return _failed("run.timed_out", "It took longer than its time limit; all its processes were ended.", result)
    if ended_by:
        return _failed(f"run.{ended_by}", _ENDED_BY[ended_by], result)
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


def judge_for_user(judged: Change) -> Change:
    """What the end of a run as a user means. His wish restarts nobody's computer: he can have it end with any code."""
    if judged.state is not Stage.RESTART_PENDING:
        return judged
    code = "?" if judged.result is None else judged.result.exit_code
    text = f"It asked for a restart (exit code {code}), for which no computer is restarted: it runs as a user."
    return Change(state=Stage.SUCCEEDED, code="run.restart_for_user", reason=text, result=judged.result)


def judge_health(judged: Change, complaint: str, rollback_to: str | None) -> Change:
    """Say what becomes of an instruction whose program has worked, and whose health check did not hold.

    Args:
        judged: The success that it would have been.
        complaint: What the health check found, in words.
        rollback_to: The signed program that returns to the last good version; then the instruction is at work until that ends.
    """
    text = f"{judged.reason} But its health check did not hold: {complaint}."
    if rollback_to is None:
        return Change(state=Stage.FAILED, code=UNHEALTHY, reason=text, result=judged.result)
    return Change(state=Stage.RUNNING, code=UNHEALTHY, reason=text, result=judged.result)


def judge_return(record: InstructionRecord, program: str, judged: Change) -> Change:
    """Say what becomes of an instruction whose program was unhealthy, now that the program that returns has ended.

    Args:
        record: Its reason tells what was unhealthy.
        program: The one that returns.
        judged: What would have become of that one, had it been ordered by itself.
    """
    if has_worked(judged):
        text = f"{record.reason} Returned to what was good before by '{program}': {judged.reason} [rollback.done]"
    else:
        text = f"{record.reason} The return by '{program}' failed: {judged.reason} [rollback.failed]"
    return Change(state=Stage.FAILED, code=UNHEALTHY, reason=text, result=judged.result)


def has_worked(judged: Change) -> bool:
    """Whether a program's work is done, a restart aside."""
    return judged.state in {Stage.SUCCEEDED, Stage.RESTART_PENDING}


def judge_mark(change: Change, boot_id: str) -> Change:
    """Say what a success means where the job forces restarts, and the system marked that it needs one while the program ran."""
    return Change(
        state=Stage.RESTART_PENDING,
        code="wait.restart",
        reason=f"{change.reason} The system says since then that it needs a restart; it is looked at again after that.",
        restart_boot_id=boot_id,
        result=change.result,
    )


def judge_restart(detected: Detected) -> Change:
    """Say what becomes of an instruction that waited for a restart, now that the computer has restarted."""
    if detected is Detected.NO:
        text = "The computer has restarted, but detection does not find the program's work done."
        return Change(state=Stage.FAILED, code="detection.not_found", reason=text)
    if detected is Detected.CANNOT_TELL:
        text = "The computer has restarted; whether the program's work is done cannot be told."
        return Change(state=Stage.UNKNOWN, code="detection.failed", reason=text)
    return Change(state=Stage.SUCCEEDED, code="restarted", reason="It is done; the computer has restarted since.")


def judge_error(record: InstructionRecord, error: PcmError, now: datetime, *, returning: str = "") -> Change:
    """Say what becomes of an instruction that could not be started: its program has not run.

    Trust errors refuse it; what time or another server may mend waits with a growing back-off; the rest has failed. A refusal
    is looked at again, later: the same checks in full, so that mending a server needs no new order.

    Args:
        returning: Name of the program that returns to the last good version, if it is that one that could not be started.
    """
    if returning:
        return _judge_return_error(record, returning, error, now)
    if error.code == METERED:  # another network may be there at any time, and waiting for it is no failure
        return Change(
            state=Stage.WAITING,
            code=error.code,
            reason=error.message,
            not_before=now + timedelta(seconds=METERED_PAUSE_S),
            attempts=record.attempts,
        )
    if isinstance(error, TrustError):
        wait = back_off(record, now, first_s=REFUSED_BACK_OFF_S)
        return _again(record, Stage.REFUSED, error, wait)
    if isinstance(error, TransferError) or error.retry is not Retry.NEVER:
        return _again(record, Stage.WAITING, error, back_off(record, now))
    return Change(state=Stage.FAILED, code=error.code, reason=error.message)


def _judge_return_error(record: InstructionRecord, program: str, error: PcmError, now: datetime) -> Change:
    """Say what becomes of a return that could not be started: what time may mend is tried again, a few times."""
    if error.retry is Retry.NEVER or isinstance(error, TrustError) or record.attempts + 1 >= RETRY_RUNS:
        text = f"{record.reason} The return by '{program}' could not be started: {error.message} [rollback.failed]"
        return Change(state=Stage.FAILED, code=UNHEALTHY, reason=text)
    return Change(
        state=Stage.RUNNING,
        code=UNHEALTHY,
        reason=record.reason,
        not_before=back_off(record, now),
        attempts=record.attempts + 1,
    )


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
