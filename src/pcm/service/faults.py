"""Points at which a test may kill the service, to show that nothing is lost and nothing runs twice.

Serves steps 6–12 and recovery. Service code calls `reach` after each journalled step and around each commit that matters; that
does nothing, unless a test started this process with `--home DIR` (never the installed service) and `PCM_FAULT` names the point.
Then the process kills itself as `kill -9` would. It never changes what the code does in any other way.
"""

import os
import signal
from collections.abc import Mapping

from pcm.model.errors import RequestError

VARIABLE = "PCM_FAULT"
_STEPS = (
    "check",
    "fetch",
    "stage",
    "consent",
    "close_blocking",
    "run",
    "detect",
    "health",
    "rollback",
    "cleanup",
)
_OF_RETURN = ("fetch", "stage", "run", "detect", "cleanup")
POINTS: tuple[str, ...] = (
    "instructions.verified",  # a copy of the metadata lies ready, nothing points to it yet
    "instructions.committed",  # floors, serial and pointer moved; the old copy is still there
    "packages.verified",
    "packages.committed",
    "plan.adopted",
    "close_blocking.asked",  # what is in the way was told to end, and is waited for
    *(f"{step}.{phase}" for step in _STEPS for phase in ("begin", "end")),
    "run.before_started",  # everything is ready, nothing is recorded
    "run.started",  # recorded, not launched
    "run.launched",  # the program works
    "run.ended",  # its tree is gone, its result is in memory
    "result.before_commit",
    "result.committed",
    # the same of the program that returns to the last good version
    *(f"return.{step}.{phase}" for step in _OF_RETURN for phase in ("begin", "end")),
    "return.run.before_started",
    "return.run.started",
    "return.run.launched",
    "return.run.ended",
    "return.result.before_commit",
    "return.result.committed",
    "report.written",  # signed and stored, not sent
    "report.taken",  # the site has it, this client does not know yet
    "report.acknowledged",
    "recovery.found",  # an open run was found, nothing is done about it yet
    "recovery.ended",  # its end is known, not recorded
    "recovery.committed",
    "recovery.restarted",  # a restart was noticed and recorded
    "recovery.returns",  # a return to the last good version is still to come, and begins
    "restart.kept",  # what is decided about a restart is recorded, nobody was told yet
    "restart.recorded",  # the restart is recorded, the computer was not asked
    "restart.asked",  # the computer goes down
    "restart.settled",  # what came of it is recorded
)
"""Every point there is; the kill test goes through all of them."""

_armed = ""


def arm(environment: Mapping[str, str], *, home_given: bool) -> None:
    """Choose the point at which this process will die, if the environment names one and this is a test's own service.

    Raises:
        RequestError: `request.fault`: there is no such point, so the test would wait for nothing.
    """
    global _armed  # noqa: PLW0603 - one process, one fault, set once at its start
    name = environment.get(VARIABLE, "") if home_given else ""
    if name and name not in POINTS:
        raise RequestError(f"{VARIABLE} names {name[:60]!r}, which is no fault point.", code="request.fault")
    _armed = name


def reach(name: str) -> None:
    """Pass a point; die there if a test asked for it."""
    if _armed and name == _armed:
        os.kill(os.getpid(), signal.SIGKILL)
