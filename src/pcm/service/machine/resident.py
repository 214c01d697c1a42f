"""The little that the resident supervisor asks of the operating system: a lock, a child, the other end of a socket, a clock.

Serves no step by itself; the supervisor sleeps between all of them. The same things stand behind `interface.Machine` for
everybody else; they are here once more because importing that costs 4 MB in a process that stays for ever.
It starts nothing but this service's own programs. Imports only what an interpreter has loaded anyway, and `fcntl`.
"""

import os
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_SO_PEERCRED = 17  # Linux, include/uapi/asm-generic/socket.h
_SOL_SOCKET = 1
_SCM_RIGHTS = 1
SIGHUP, SIGINT, SIGTERM = 1, 2, 15
LIMITS = (1 << 30, 256, 64, 0)  # `interface.Limits`: memory, files, processes, bytes of a file; a test compares them


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
        [sys.executable, *start_arguments(module), *arguments],
        _environment(),
        file_actions=actions,
        setsid=True,
    )
    return Child(process_id)


def start_confined(module: str, account: tuple[int, int], stdin: int, stdout: int) -> Child:
    """Start `module.main()` of this service under an account without rights, as `linux.spawning` does, with less loaded.

    Args:
        account: User and group.
        stdin, stdout: What it gets of this process's descriptors, beside standard error.

    Raises:
        OSError: the system has no room for another process.
    """
    numbers = (*account, *LIMITS, os.getpid())
    # an administrator's terminal is not shown to an account without rights
    complaints = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC) if os.isatty(2) else 2
    try:
        process_id = os.posix_spawn(
            sys.executable,
            [
                sys.executable,
                *start_arguments("pcm.service.machine.linux.confined"),
                module,
                "main",
                *map(str, numbers),
            ],
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, stdout, 1),
                (os.POSIX_SPAWN_DUP2, complaints, 2),
            ],
            setsid=True,
        )
    finally:
        if complaints != 2:
            os.close(complaints)
    return Child(process_id)


def become_own(module: str, arguments: tuple[str, ...]) -> "NoReturn":
    """Go on as `module.main()` in a fresh interpreter under this same process id, free of whatever was loaded until now.

    Raises:
        OSError: the interpreter cannot be started again.
    """
    # little of the environment: a package that starts the service anew would otherwise leave its run's mark here, and recovery
    # would end this process as a part of that run
    environment = _environment("NOTIFY_SOCKET")
    os.execve(sys.executable, [sys.executable, *start_arguments(module), *arguments], environment)  # noqa: S606 - ours, no shell


def _environment(*more: str) -> dict[str, str]:
    kept = {"PATH", "LANG", "TZ", "PCM_FAULT", *more}
    return {name: value for name, value in os.environ.items() if name in kept or name.startswith("COV_CORE")}


def start_arguments(module: str) -> tuple[str, ...]:
    """Arguments for the interpreter. What this process trusts as its search path is trusted there, and nothing is searched for.

    -I: nothing of the environment or the current directory decides which code runs; -S: no site packages beyond that path. It
    leaves without taking the interpreter apart object by object, which is a tenth of a short life: what must be kept is committed
    and closed when `main` returns.
    """
    path = "\n".join(entry for entry in sys.path if entry.startswith("/"))
    code = (
        f"import os, sys; sys.path[:] = sys.argv.pop(1).split(chr(10)); from {module} import main; code = main(); "
        "[each.flush() for each in (sys.stdout, sys.stderr) if each]; os._exit(code)"
    )
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


def hear_signals(numbers: tuple[int, ...]) -> int:
    """Have these signals tell their numbers, one byte each, on the descriptor that is returned; they do nothing else."""
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415 - `signal` makes enumerations: a megabyte for ever

    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    for number in numbers:
        _signal.signal(number, lambda *_: None)
    _signal.set_wakeup_fd(writing)
    return reading


def descriptors_in(ancillary: "list[tuple[int, int, bytes]]") -> list[int]:
    """The descriptors that came with a message over a Unix socket (SCM_RIGHTS)."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
            found += [int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, len(data) - 3, 4)]
    return found


def is_tcp(descriptor: int) -> bool:
    """Whether a descriptor that somebody handed over is a TCP connection, which can be waited for and closed without harm.

    It is made so: closing it never lingers.
    """
    import _socket  # noqa: PLC0415 - loaded already where this is asked

    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        sock = _socket.socket(fileno=os.dup(descriptor))
        try:
            if sock.family not in (_socket.AF_INET, _socket.AF_INET6) or sock.proto != _socket.IPPROTO_TCP:
                return False
            sock.setsockopt(_SOL_SOCKET, _socket.SO_LINGER, bytes(8))
            sock.getpeername()
        finally:
            sock.close()
    except OSError:
        return False
    return True


def local_address(descriptor: int) -> bytes:
    """The address of this computer that a TCP connection stands on, as the kernel keeps it; empty if it cannot be told."""
    import _socket  # noqa: PLC0415 - loaded already where this is asked

    try:
        sock = _socket.socket(fileno=os.dup(descriptor))
        try:
            return _socket.inet_pton(sock.family, sock.getsockname()[0].partition("%")[0])
        finally:
            sock.close()
    except OSError:
        return b""


class Clock:
    """The clocks of this computer."""

    def boot(self) -> float:
        """Seconds since boot, suspended time included; wall-clock jumps do not touch it."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def steady(self) -> float:
        """Seconds since boot that this computer was awake."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)

    def wall(self) -> float:
        """Unix seconds, as this computer's clock is set."""
        return time.time()


def accept(listener: object) -> "tuple[int, object]":
    """The next connection on a listening socket: its descriptor, and the other end's address.

    Raises:
        OSError: there is none, or no descriptor is free for it.
    """
    return listener._accept()  # type: ignore[attr-defined,no-any-return]  # noqa: SLF001 - what `socket.accept` is made of
