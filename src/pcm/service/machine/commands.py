"""Step 10: which file a command names, and the whole environment it sees. Rules, with no effect on anything.

Before: `service.runner` has built the argument list from the signed program. After: `Processes.start` launches it. Nothing here
goes through a shell, reads this process's own environment, or depends on the current directory.

The look-up rule (KB Q160566, Q193224, Q168341, Q195937, Q152423, Q140920), for the first argument:

    1. an absolute path is that file;
    2. a relative path that exists in the package directory is that file;
    3. a bare name (no '/') is searched in SEARCH_PATH, and nowhere else;
    4. anything else is an error that says where was looked.

The environment (KB Q125934) is built from empty: `PATH HOME USER LOGNAME SHELL LANG TMPDIR`, `PCM_RUN_ID` and the other
`PCM_` variables of the run, then what the signed program adds. A program may not set the names above (but LANG), nor anything
that starts with `PCM_` or `LD_`: the first would make the documented environment untrue, the last would load code from outside
the verified package directory into every process of the tree (KB Q138245). A program that needs either sets it in a script.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from pcm.model.errors import MachineError, Retry
from pcm.service.machine.interface import Account, Launch

SEARCH_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
RUN_ID_VARIABLE = "PCM_RUN_ID"
_OWN_NAMES = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR"})
_OWN_PREFIXES = ("PCM_", "LD_")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RUN_ID = re.compile(r"[0-9a-f]{8,64}")


def resolve_program(argv0: str, package_directory: Path, search_path: tuple[str, ...] = SEARCH_PATH) -> Path:
    """Find the file that a command's first argument names, by the rule above.

    Returns:
        An absolute path of an executable regular file.

    Raises:
        MachineError: `machine.program_not_found` or `machine.not_executable`, naming every place that was looked at.
    """
    if not argv0 or "\0" in argv0:
        raise _not_found(f"The command's first argument {argv0!r} names no program.")
    if argv0.startswith("/"):
        return _executable(Path(argv0))
    parts = argv0.split("/")
    if any(part in {"", ".."} for part in parts):
        raise _not_found(f"The program {argv0!r} would lie outside the package directory; name it by its path inside.")
    inside = package_directory.joinpath(*(part for part in parts if part != "."))
    if os.path.lexists(inside):
        return _executable(inside)
    if len(parts) > 1:
        raise _not_found(f"The package directory {package_directory} has no file {argv0!r}.")
    for folder in search_path:
        candidate = Path(folder, argv0)
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise _not_found(
        f"The program {argv0!r} is neither in the package directory {package_directory} nor in {':'.join(search_path)}."
    )


def _executable(path: Path) -> Path:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _not_found(f"There is no program {path}: {error.strerror}.") from None
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK):
        raise MachineError(
            f"{path} is not an executable file; mark it executable in the package, or name its interpreter first.",
            code="machine.not_executable",
            retry=Retry.NEVER,
        )
    return path


def _not_found(message: str) -> MachineError:
    return MachineError(message, code="machine.program_not_found", retry=Retry.NEVER)


def check_environment(environment: Mapping[str, str]) -> None:
    """Check the variables that a signed program adds.

    Raises:
        MachineError: `machine.environment`, naming the variable and the rule it breaks.
    """
    for name, value in environment.items():
        reason = None
        if _VARIABLE.fullmatch(name) is None:
            reason = "is no variable name"
        elif name in _OWN_NAMES or name.startswith(_OWN_PREFIXES):
            reason = "is set by the service alone"
        elif any(character < " " and character not in "\t\n" for character in value):
            reason = "has a control character in its value"
        if reason is not None:
            raise MachineError(
                f"The program's environment variable {name[:100]!r} {reason}.",
                code="machine.environment",
                retry=Retry.NEVER,
            )


def compose_environment(launch: Launch, account: Account, temporary: str) -> dict[str, str]:
    """Build the complete environment of a run from empty.

    Args:
        temporary: the run's private folder for temporary files.

    Raises:
        MachineError: `machine.environment`, see `check_environment`; also for a context name without `PCM_`.
    """
    check_environment(launch.environment)
    stray = next((name for name in launch.context if not name.startswith("PCM_") or name == RUN_ID_VARIABLE), None)
    if stray is not None:
        raise MachineError(f"The run's context variable {stray!r} is not one of PCM_.", code="machine.environment")
    return {
        "PATH": ":".join(SEARCH_PATH),
        "HOME": account.home,
        "USER": account.name or str(account.user_id),
        "LOGNAME": account.name or str(account.user_id),
        "SHELL": account.shell,
        "LANG": "C.UTF-8",
        "TMPDIR": temporary,
        **launch.environment,
        **launch.context,
        RUN_ID_VARIABLE: launch.run_id,
    }


def is_startable(path: Path) -> bool:
    """Tell whether the kernel would start this file: an executable binary, or a script whose interpreter is there (execve(2))."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError:
        return False
    if not os.access(path, os.X_OK):
        return False
    if not head.startswith(b"#!"):
        return head.startswith(b"\x7fELF")
    words = head[2:].split(b"\n", maxsplit=1)[0].split()
    return bool(words) and os.access(words[0], os.X_OK)


def check_launch(launch: Launch) -> None:
    """Check what every back end takes for granted.

    Raises:
        MachineError: `machine.launch`, naming the field. `machine.environment`, see above.
    """
    problem = None
    if _RUN_ID.fullmatch(launch.run_id) is None:
        problem = "its run id is not 8 to 64 hex digits"
    elif not launch.argv or not launch.argv[0].startswith("/"):
        problem = "its program is not named by an absolute path"
    elif any("\0" in argument for argument in launch.argv):
        problem = "an argument has a NUL character"
    elif not launch.working_directory.is_absolute() or not launch.output_path.is_absolute():
        problem = "a folder is not named by an absolute path"
    elif launch.timeout_s <= 0 or launch.grace_s < 0 or launch.output_limit_bytes < 0:
        problem = "a limit is negative, or no time at all is allowed"
    if problem is not None:
        raise MachineError(
            f"Run {launch.run_id[:64]!r} cannot be started: {problem}.", code="machine.launch", retry=Retry.NEVER
        )
    check_environment(launch.environment)


def check_working_directory(path: Path) -> None:
    """Check that the program can start where it shall (KB Q138245).

    Raises:
        MachineError: `machine.working_directory`.
    """
    if not path.is_dir():
        raise MachineError(
            f"The working directory {path} does not exist; a program's working directory must be there before it starts.",
            code="machine.working_directory",
            retry=Retry.NEVER,
        )
