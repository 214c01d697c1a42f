"""The little that the resident supervisor asks of the operating system: a lock, a child, the other end of a socket, a clock.

Serves no step by itself; the supervisor sleeps between all of them. The same things stand behind `interface.Machine` for
everybody else; they are here once more because importing that costs 4 MB in a process that stays for ever.
It starts nothing but this service's own programs. Imports only what an interpreter has loaded anyway, and `fcntl`.
"""

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_SO_PEERCRED = 17  # Linux, include/uapi/asm-generic/socket.h
_SOL_SOCKET = 1


class Child:
    """A started program of our own. `descriptor` polls readable when it has ended."""

    def __init__(self, process_id: int) -> None:
        self.process_id = process_id
        self.descriptor = os.pidfd_open(process_id)

    def reap(self) -> int:
        """Its exit code (negative: signal), once `descriptor` polls readable."""
        _, status = os.waitpid(self.process_id, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)

    def signal(self, number: int) -> None:
        """Send a signal; a child that has ended is no error."""
        try:
            os.kill(self.process_id, number)  # not reaped yet, so the number is still its own
        except ProcessLookupError:
            return


def start_own(module: str, arguments: tuple[str, ...], stdin: int, stdout: int) -> Child:
    """Start `module.main()` of this service with another standard input and output, in a session of its own.

    Raises:
        OSError: the system has no room for another process.
    """
    actions: list[tuple[int, int, int]] = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
    process_id = os.posix_spawn(
        sys.executable,
        [sys.executable, *_to_start(module), *arguments],
        _environment(),
        file_actions=actions,
        setsid=True,
    )
    return Child(process_id)


def become_own(module: str, arguments: tuple[str, ...]) -> "NoReturn":
    """Go on as `module.main()` in a fresh interpreter under this same process id, free of whatever was loaded until now.

    Raises:
        OSError: the interpreter cannot be started again.
    """
    # little of the environment: a package that starts the service anew would otherwise leave its run's mark here, and recovery
    # would end this process as a part of that run
    environment = _environment("NOTIFY_SOCKET")
    os.execve(sys.executable, [sys.executable, *_to_start(module), *arguments], environment)  # noqa: S606 - ours, no shell


def _environment(*more: str) -> dict[str, str]:
    kept = {"PATH", "LANG", "TZ", "PCM_FAULT", *more}
    return {name: value for name, value in os.environ.items() if name in kept or name.startswith("COV_CORE")}


def _to_start(module: str) -> tuple[str, ...]:
    """Arguments for the interpreter. What this process trusts as its search path is trusted there, and nothing is searched for.

    -I: nothing of the environment or the current directory decides which code runs; -S: no site packages beyond that path.
    """
    path = "\n".join(entry for entry in sys.path if entry.startswith("/"))
    code = f"import sys; sys.path[:] = sys.argv.pop(1).split(chr(10)); from {module} import main; sys.exit(main())"
    return "-I", "-S", "-c", code, path


def try_lock(path: str) -> int | None:
    """Take the lock at `path` for the life of this process: its descriptor, or None if another process holds it.

    Raises:
        OSError: the file cannot be made.
    """
    import fcntl  # noqa: PLC0415 - once, and 40 kB less for whoever only wants the clock

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.truncate(descriptor, 0)
    os.write(descriptor, b"%d\n" % os.getpid())
    return descriptor


def peer_user(connection: object) -> int:
    """User id of whoever opened the other end of a connected Unix socket, as the kernel recorded it (SO_PEERCRED).

    Raises:
        OSError: the kernel does not say.
    """
    credentials: bytes = connection.getsockopt(_SOL_SOCKET, _SO_PEERCRED, 12)  # type: ignore[attr-defined]
    return int.from_bytes(credentials[4:8], sys.byteorder)


def boot_seconds() -> float:
    """Seconds since boot, suspended time included; wall-clock jumps do not touch it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
