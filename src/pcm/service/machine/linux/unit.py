"""Step 10 under systemd: what a run's transient unit is called and how it is set up. Values only; `linux.systemd` sends them."""

import os
from typing import Any

from pcm.service.machine.interface import Account, Launch, TreeLimits
from pcm.service.machine.linux.user_unit import through_session, user_environment, user_settings

# a safety net for when no worker lives; a living one is a moment earlier
_NET_S = 2.0
# systemd.exec(5), "Environment Variables in Spawned Processes": taken out unless the documented environment sets them
_SYSTEMDS_OWN = frozenset(
    {
        "CACHE_DIRECTORY",
        "COLORTERM",
        "CONFIGURATION_DIRECTORY",
        "CREDENTIALS_DIRECTORY",
        "EXIT_CODE",
        "EXIT_STATUS",
        "FDSTORE",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "LANG",
        "LANGUAGE",
        "LC_ALL",
        "LC_CTYPE",
        "LC_MESSAGES",
        "LC_NUMERIC",
        "LC_TIME",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "LOGS_DIRECTORY",
        "MAINPID",
        "MANAGERPID",
        "MEMORY_PRESSURE_WATCH",
        "MEMORY_PRESSURE_WRITE",
        "NOTIFY_SOCKET",
        "NO_COLOR",
        "PIDFILE",
        "REMOTE_ADDR",
        "REMOTE_PORT",
        "RUNTIME_DIRECTORY",
        "SERVICE_RESULT",
        "STATE_DIRECTORY",
        "SYSTEMD_EXEC_PID",
        "SYSTEMD_LOG_LEVEL",
        "TERM",
        "TRIGGER_PATH",
        "TRIGGER_UNIT",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "XDG_RUNTIME_DIR",
        "XDG_SESSION_ID",
        "container",
        "container_uuid",
    }
)


def unit_settings(
    launch: Launch, account: Account, environment: dict[str, str], inherited: list[str]
) -> list[tuple[str, tuple[str, Any]]]:
    """Return the unit's settings, see systemd.service(5), systemd.exec(5), systemd.kill(5)."""
    command = launch.argv
    if account.user_id != os.geteuid():
        environment = environment | user_environment(account)
        command = through_session(launch, environment, account)
    # taken out last of all, even from what we set: never a name of ours
    unset = sorted(({entry.split("=", 1)[0] for entry in inherited} | set(_SYSTEMDS_OWN)) - environment.keys())
    settings: list[tuple[str, tuple[str, Any]]] = [
        ("Description", ("s", f"Package Command Manager, run {launch.run_id}")),
        ("Type", ("s", "exec")),
        ("ExitType", ("s", "cgroup")),
        ("RemainAfterExit", ("b", True)),
        # however the program ends, the unit stays 'exited' and not 'failed': then systemd also keeps the output pipe open, with
        # what no worker has read yet. 200 to 243 are systemd's own way to say that it could not even start the program
        ("SuccessExitStatus", ("(aiai)", ([*range(200), *range(244, 256)], list(range(1, 32))))),
        ("KillMode", ("s", "control-group")),
        ("RuntimeMaxUSec", ("t", int((launch.timeout_s + _NET_S) * 1e6))),
        ("TimeoutStopUSec", ("t", int(max(launch.grace_s, 0.001) * 1e6))),
        ("PrivateTmp", ("b", True)),
        ("UMask", ("u", 0o077)),
        ("IgnoreSIGPIPE", ("b", False)),
        ("WorkingDirectory", ("s", str(launch.working_directory))),
        ("Environment", ("as", [f"{name}={value}" for name, value in environment.items()])),
        ("UnsetEnvironment", ("as", unset)),
        ("StandardInput", ("s", "null")),
        ("StandardOutputFileDescriptor", ("h", 0)),
        ("StandardErrorFileDescriptor", ("h", 0)),
        ("ExecStart", ("a(sasb)", [(command[0], [_literal(argument) for argument in command], False)])),
    ]
    settings += _limits(launch.limits)
    if account.user_id != os.geteuid():
        settings += user_settings(launch, account)  # what is named twice counts as named last
    return settings


def _limits(limits: TreeLimits) -> list[tuple[str, tuple[str, Any]]]:
    """Say what the control group may use, see systemd.resource-control(5)."""
    settings: list[tuple[str, tuple[str, Any]]] = []
    if limits.memory_bytes is not None:
        # swapped memory counts too; and the whole tree ends at once, for the rest of an installer would only do damage
        settings += [
            ("MemoryMax", ("t", limits.memory_bytes)),
            ("MemorySwapMax", ("t", 0)),
            ("OOMPolicy", ("s", "kill")),
        ]
    if limits.cpu_percent is not None:
        settings.append(("CPUQuotaPerSecUSec", ("t", limits.cpu_percent * 10_000)))
    if limits.processes is not None:
        settings.append(("TasksMax", ("t", limits.processes)))
    return settings


def controllers_of(limits: TreeLimits) -> set[str]:
    """Name the kernel's controllers without which these limits would be words only."""
    needed = {"memory": limits.memory_bytes, "cpu": limits.cpu_percent, "pids": limits.processes}
    return {name for name, limit in needed.items() if limit is not None}


def _literal(argument: str) -> str:
    """Write an argument so that systemd puts no variable into it (systemd.service(5), "Command Lines").

    Not by ExecStartEx's `no-env-expand`: version 252 writes that down in a form that it cannot read again, and takes the unit for
    broken as soon as an installer lets systemd reload its units.
    """
    return argument.replace("$", "$$")


def unit_name(run_id: str) -> str:
    """Name the unit of a run."""
    return f"pcm-run-{run_id}.service"


def object_path(unit: str) -> str:
    """Return where a unit is on the bus: everything but ASCII letters and digits as `_` and two hex digits."""
    escaped = "".join(each if each.isascii() and each.isalnum() else f"_{ord(each):02x}" for each in unit)
    return f"/org/freedesktop/systemd1/unit/{escaped}"
