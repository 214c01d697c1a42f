"""Step 10, just before a user's program: inside its unit, with that user's rights, take the session's environment along.

Before: systemd has started this as the user (`linux.user_unit`), with the documented variables. After: the program, in this very
process. The user's manager is asked here and not by the service: whatever a hostile user lets it answer, it meets nobody but a
process that has this user's rights already, and passes through no other, not even PID 1 or PAM. Nor can other users read it:
a unit's settings are public, a process's environment is not.

Nothing here goes through a shell or reads a file of the user's. A manager that does not answer costs the program its variables,
and `PATIENCE_S`, but never its start. Imports nothing heavy; what fails ends with 126 or 127, as a shell's does (POSIX 2.8.2).
"""

import os
import re
import signal
import stat
import sys
import time
from pathlib import Path

from pcm.model.errors import MachineError
from pcm.service.machine.linux.bus import MANAGER_PATH, Bus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import NoReturn

PATIENCE_S = 3.0
MOST_VARIABLES = 1000
MOST_BYTES = 256 << 10  # of all variables together; the kernel takes more, and a program must still get its arguments
ON_SCREEN = frozenset({"DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET", "XAUTHORITY"})
NOT_FOUND, NOT_STARTED = 127, 126
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# the first two as for every program (`machine.commands`); the others belong to the manager's own process, not to the session
_NEVER = ("PCM_", "LD_", "LISTEN_", "WATCHDOG_", "SYSTEMD_EXEC_")
_MANAGERS_OWN = frozenset({"INVOCATION_ID", "JOURNAL_STREAM", "MAINPID", "MANAGERPID", "NOTIFY_SOCKET"})


def session_environment(
    here: "Mapping[str, str]",
    session: "Iterable[str]",
    settled: "frozenset[str]",
    *,
    on_screen: bool,
    display: str = "",
) -> dict[str, str]:
    """Put the program's environment together. Pure.

    Args:
        here: What this process has: the documented variables, and what PAM added.
        session: `NAME=value` as the user's manager tells, in its order. Anything may stand there.
        settled: Names whose value in `here` stands, whatever the session says.
        on_screen: The program may show windows, so it learns where; else it does not.
        display: The X display of the session, where the manager was never told.
    """
    found: dict[str, str] = {}
    left = MOST_BYTES
    for entry in session:
        name, equals, value = entry.partition("=")
        left -= len(entry)
        if left < 0 or len(found) >= MOST_VARIABLES:
            break
        if not equals or _NAME.fullmatch(name) is None or "\0" in value:
            continue
        if name in settled or name in _MANAGERS_OWN or name.startswith(_NEVER):
            continue
        found[name] = value
    everything = {**here, **found}
    if on_screen and display and not ON_SCREEN & everything.keys():
        everything["DISPLAY"] = display
    return {name: value for name, value in everything.items() if on_screen or name in settled or name not in ON_SCREEN}


def ask_session(runtime: str) -> list[str]:
    """The environment block of this user's own systemd; nothing if there is none, or if it does not answer in time."""
    if not runtime:
        return []
    place, give_up_s = f"{runtime}/systemd/private", time.monotonic() + PATIENCE_S
    while not _is_socket(place) and time.monotonic() < give_up_s:
        time.sleep(0.05)  # somebody has just logged on, and it still starts
    try:
        bus = Bus(place, PATIENCE_S)
    except MachineError:
        return []
    try:
        told = bus.property(MANAGER_PATH, "Manager", "Environment")
    except MachineError:
        return []
    finally:
        bus.close()
    return [entry for entry in told if isinstance(entry, str)] if isinstance(told, list) else []


def main() -> "NoReturn":
    """Process entry: `SETTLED,NAMES ON_SCREEN DISPLAY PROGRAM [ARGUMENT...]`, written by `linux.user_unit` alone."""
    settled, on_screen, display, *argv = sys.argv[1:]
    here = dict(os.environ)
    runtime = here.get("XDG_RUNTIME_DIR", "")
    environment = session_environment(
        here, ask_session(runtime), frozenset(settled.split(",")), on_screen=on_screen == "1", display=display
    )
    if "DBUS_SESSION_BUS_ADDRESS" not in environment and _is_socket(f"{runtime}/bus"):
        environment["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={runtime}/bus"
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored is inherited
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(argv[0], argv, environment)  # noqa: S606 - no shell
    except OSError as error:
        sys.stderr.write(f"The program {argv[0]} cannot be started: {error.strerror}.\n")
        raise SystemExit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_STARTED) from None


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(Path(path).stat().st_mode)
    except OSError:
        return False
