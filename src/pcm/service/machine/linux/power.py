"""Restarting the computer, and what asks for it. Serves the last part of step 11: `service.restart_start` decides when.

Through systemd-logind, as everybody who restarts a desktop or a server does: programs that asked for a moment (`delay`) get it,
everybody's terminal shows why. Where logind does not answer, systemd itself takes the same way down. Who holds a `block` lock on
shutting down is named. Source: org.freedesktop.login1(5), systemd-logind(8), file /run/reboot-required of Debian's policy.
It never decides, and never pulls the plug: every unit is stopped in order.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pcm.model.errors import MachineError, Retry
from pcm.service.machine.linux.bus import Bus, BusError

SYSTEM_BUS = "/run/dbus/system_bus_socket"
MARKERS = (Path("/run/reboot-required"), Path("/var/run/reboot-required"))
_SYSTEMD_STATE = Path("/run/systemd/system")
_LOGIND, _LOGIND_PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
_ROOT_HEEDS_INHIBITORS = 1  # SD_LOGIND_ROOT_CHECK_INHIBITORS
_BLOCKED = ("AccessDenied", "BlockedByInhibitorLock")
_UNDER_WAY = ("OperationInProgress", "ShuttingDown")
_NO_ANSWER = ("NoReply", "Disconnected", "Timeout", "TimedOut")


def restart(reason: str, *, ignore_inhibitors: bool) -> None:
    """Ask this computer to restart; returns once it has agreed to.

    Args:
        reason: Shown on every terminal.
        ignore_inhibitors: Do not heed `block` locks on shutting down.

    Raises:
        MachineError: `machine.restart_inhibited`, naming who holds it up; `machine.cannot_restart`: nobody here can;
            `machine.restart_unanswered`: it was asked, and whether it restarts will show.
    """
    if os.geteuid() != 0 or not _SYSTEMD_STATE.is_dir():
        raise MachineError(
            "This service cannot restart this computer, because systemd does not run it; restart it by hand.",
            code="machine.cannot_restart",
            retry=Retry.NEVER,
        )
    try:
        bus = Bus(SYSTEM_BUS)
    except MachineError:
        _restart_without_logind()
        return
    try:
        bus.ask("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        _restart_by_logind(bus, reason, ignore_inhibitors=ignore_inhibitors)
    finally:
        bus.close()


def was_marked(since: datetime) -> bool:
    """Whether the distribution's own marker for 'restart needed' was written since then; an older one says nothing."""
    for path in MARKERS:
        try:
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except OSError:
            continue
        if since <= written <= datetime.now(UTC):  # one from the future was written before the clock was set
            return True
    return False


def _restart_by_logind(bus: Bus, reason: str, *, ignore_inhibitors: bool) -> None:
    try:
        holders = [] if ignore_inhibitors else _holders(_call(bus, "ListInhibitors")[0])
        if holders:
            raise _inhibited(holders)
        _call(bus, "SetWallMessage", "sb", reason, True)
        flags = 0 if ignore_inhibitors else _ROOT_HEEDS_INHIBITORS
        _demand(lambda: _call(bus, "RebootWithFlags", "t", flags))
    except BusError as error:
        if error.name.endswith(_BLOCKED):
            raise _inhibited(["somebody"]) from error  # who came between the look and the call
        if not error.name.endswith(("ServiceUnknown", "NameHasNoOwner", "UnknownMethod", "Spawn.ChildExited")):
            raise MachineError(f"This computer cannot be restarted: {error}", code="machine.cannot_restart") from error
        _restart_without_logind()


def _restart_without_logind() -> None:
    bus = Bus()
    try:
        _demand(lambda: bus.call("StartUnit", "ss", "reboot.target", "replace-irreversibly"))
    except BusError as error:
        raise MachineError(f"This computer cannot be restarted: {error}", code="machine.cannot_restart") from error
    finally:
        bus.close()


def _demand(restart: Callable[[], object]) -> None:
    """Ask for the restart itself. No answer is no refusal: the way down ends whoever would bring it, and may be faster.

    Raises:
        MachineError: `machine.restart_unanswered`. BusError: it was refused.
    """
    try:
        restart()
    except MachineError as error:
        if isinstance(error, BusError) and not error.name.endswith((*_UNDER_WAY, *_NO_ANSWER)):
            raise
        text = f"This computer was asked to restart and gave no answer ({error.message.rstrip('.')}); whether it does will show."
        raise MachineError(text, code="machine.restart_unanswered") from error


def _call(bus: Bus, member: str, *typed: Any) -> tuple[Any, ...]:
    return bus.ask(_LOGIND, _LOGIND_PATH, f"{_LOGIND}.Manager", member, *typed)


def _holders(inhibitors: list[tuple[str, str, str, str, int, int]]) -> list[str]:
    return [
        f"{who} ({why})"
        for what, who, why, mode, _user, _process in inhibitors
        if mode == "block" and "shutdown" in what.split(":")
    ]


def _inhibited(holders: list[str]) -> MachineError:
    text = f"This computer is kept from restarting by {' and '.join(holders)}; it is tried again."
    return MachineError(text, code="machine.restart_inhibited")
