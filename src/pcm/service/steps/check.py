"""Before anything is fetched: may it still run, and is it not done already? Checks 10, 11 and 13 of the design, on this client.

Step 8 of 12, the first of the runner's steps; `steps/run` asks `check_still_allowed` once more at the moment of the launch
(KB Q225056, Q255284). It changes nothing.

**What `detect` means.** It describes the end that its own program works towards: an `install` is done when the software is
there, an `uninstall` when it is not (so its packager writes `not:`). A program whose end is reached already does not run. A
program named `repair` (or `repair-...`) is ordered for what is there, so it runs all the same, and its detection is looked at
afterwards only.
"""

from datetime import datetime

from pcm.model.assignment import State as Stage
from pcm.model.errors import MachineError, Retry, TrustError
from pcm.model.program import build_argv
from pcm.service.journal import Change
from pcm.service.machine.interface import SYSTEM, Account
from pcm.service.planner_case import times_of
from pcm.service.records import InstalledRelease
from pcm.service.work import Context, Work


def check(work: Work, context: Context) -> Change | None:
    """Refuse what may not run (any more), and pass over what is done.

    Raises:
        TrustError: `trust.downgrade`, `trust.approval`. RequestError: its parameters do not fit. MachineError: detection
        cannot tell.
    """
    over = check_still_allowed(work, context)
    if over is not None:
        return over
    build_argv(work.program, work.manifest.parameters, work.instruction.parameters)
    check_user(work, context)
    if work.program.detect is None or always_runs(work.instruction.program):
        return None
    done = context.holds(work.program.detect, work.line.run_as)
    work.detail = {"already_done": done}
    if done and work.program.health is not None:
        # what is there but does not work well is not done: else an order after a failed one would count as a success
        done = work.detail["healthy"] = context.holds(work.program.health, work.line.run_as)
    if not done:
        return None
    return Change(
        state=Stage.ALREADY_INSTALLED,
        code="detection.already_done",
        reason="Detection finds its work done; nothing was run.",
    )


def check_still_allowed(work: Work, context: Context) -> Change | None:
    """Expiry, the package's floor and the approvals, by the clock of this moment.

    Raises:
        TrustError: `trust.downgrade`, `trust.approval`.
    """
    now = context.clock()
    if has_expired(work, context, now):
        return Change(state=Stage.EXPIRED, code="expired", reason="It expired before it could start.")
    check_floor(work, context.state.release(work.instruction.package))
    context.agree(work.instruction, work.program, now)
    return None


def check_user(work: Work, context: Context) -> Account | None:
    """The user as whom a program runs that is signed so; None for the system's.

    Raises:
        MachineError: `machine.account`: there is no such account, or it is an administrator's, whatever the plan says.
    """
    if work.program.run_as == SYSTEM:
        return None
    account = context.machine.account(work.line.run_as)
    if account.is_administrator:
        raise MachineError(
            f"{work.program_name} is signed to run as a user, and {work.line.run_as} is an administrator's account.",
            code="machine.account",
            retry=Retry.NEVER,
        )
    return account


def has_expired(work: Work, context: Context, now: datetime) -> bool:
    """Whether the instruction's time is over; of a recurring one, that of its present occurrence."""
    end = times_of(work.instruction, work.record.occurrence, context.zone).expires
    return end is not None and now >= end


def check_floor(work: Work, here: InstalledRelease | None) -> None:
    """Never go back behind what was here, but as far as its signed `min_release`.

    Raises:
        TrustError: `trust.downgrade`.
    """
    offered = work.instruction.release
    if here is not None and offered < here.release and offered < here.min_release:
        raise TrustError(
            f"{here.package} was here in release {here.release}, which lets nothing before {here.min_release} come back; "
            f"this is release {offered}.",
            code="trust.downgrade",
        )


def always_runs(program: str) -> bool:
    """Tell whether a program runs although its detection holds."""
    return program == "repair" or program.startswith("repair-")
