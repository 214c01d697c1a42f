"""Step 10 under systemd, for a program that is signed to run as a user: what its unit has beside what every run's has.

Values only, as in `linux.unit`; `linux.systemd` sends them, and `linux.in_session` is what the unit starts first. It stays a
unit of the *system's* manager: a user commands his own manager, which could lie about a run's end; of this one he can end his
own processes and nothing else. It lies in the user's slice, so that his limits count, and passes through PAM as his manager did,
so that his groups and limits are the same. Why so: docs/adr, "A user's program is a unit of the system".
"""

import os
import stat
import sys
from pathlib import Path
from typing import Any

from pcm.service.machine.interface import Account, Launch
from pcm.service.machine.linux.presence import sessions

TASKS_MAX = 4096
"""Processes and threads of one run: enough for any installer, and a bound for a fork bomb. Signed limits go before it."""
_RUNTIME = Path("/run/user")
_PAM_SERVICE = "systemd-user"
_PAM_FOLDERS = (Path("/etc/pam.d"), Path("/usr/lib/pam.d"), Path("/usr/etc/pam.d"))
_START = "import sys; sys.path[:] = sys.argv.pop(1).split(chr(10)); from pcm.service.machine.linux.in_session import main; main()"
_WEAK = frozenset({"LANG"})  # documented, but the user's own wins where the program does not set it


def user_settings(launch: Launch, account: Account) -> list[tuple[str, tuple[str, Any]]]:
    """Settings of a unit that runs as this user; see systemd.exec(5), systemd.resource-control(5).

    No new rights: a program that was signed to run without an administrator's gains none by sudo, pkexec or a file with the
    set-user-id bit, whoever the user is.
    """
    settings: list[tuple[str, tuple[str, Any]]] = [
        ("Type", ("s", "simple")),  # see `SystemdRun.check_started`
        ("User", ("s", account.name or str(account.user_id))),
        ("NoNewPrivileges", ("b", True)),
        ("UMask", ("u", 0o022)),
        # who may show windows needs the display's sockets and whatever else the session keeps in /tmp
        ("PrivateTmp", ("b", not launch.on_screen)),
    ]
    if launch.limits.processes is None:
        settings.append(("TasksMax", ("t", TASKS_MAX)))
    if not account.name:
        settings.append(("Group", ("s", str(account.group_id))))
        return settings
    settings.append(("Slice", ("s", f"user-{account.user_id}.slice")))
    # the service with which the user's own manager was started: it makes no session of its own, so that nobody counts as logged
    # on because a program runs
    if any((folder / _PAM_SERVICE).is_file() for folder in _PAM_FOLDERS):
        settings.append(("PAMName", ("s", _PAM_SERVICE)))
    return settings


def user_environment(account: Account, runtime: Path = _RUNTIME) -> dict[str, str]:
    """What a user's program has beside the documented variables: where his session keeps its sockets, while he is logged on."""
    place = runtime / str(account.user_id)
    try:
        status = place.lstat()
    except OSError:
        return {}
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != account.user_id:
        return {}
    return {"XDG_RUNTIME_DIR": str(place)}


def through_session(launch: Launch, environment: dict[str, str], account: Account) -> tuple[str, ...]:
    """The command that starts the program with the environment of the user's session; the program's own where it cannot.

    Args:
        environment: As `compose_environment` made it, and `user_environment`.
    """
    if "XDG_RUNTIME_DIR" not in environment or not _everybody_reads(
        Path(sys.executable), Path(__file__), Path(os.__file__)
    ):
        return launch.argv
    settled = environment.keys() - (_WEAK - launch.environment.keys())
    paths = "\n".join(entry for entry in sys.path if entry.startswith("/"))
    display = next((each.display for each in sessions() if each.user_id == account.user_id and each.display), "")
    screen = ("1", display) if launch.on_screen else ("0", "")
    return (sys.executable, "-I", "-S", "-c", _START, paths, ",".join(sorted(settled)), *screen, *launch.argv)


def _everybody_reads(*files: Path) -> bool:
    """Tell whether an account without rights can read these: the interpreter and this project may lie in somebody's home."""
    try:
        for file in files:
            if not file.stat().st_mode & stat.S_IROTH:
                return False
            for place in {*file.parents, *file.resolve().parents}:
                if not place.stat().st_mode & stat.S_IXOTH:
                    return False
    except OSError:
        return False
    return True
