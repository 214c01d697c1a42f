"""Starting children of our own: the worker of a check, the answer to a local connection, the unprivileged network side.

Serves the supervisor (resident) and step 6 (`transfer`). Starts this very Python on a function of this very project, with an
environment from empty and no descriptor but the named ones. Never starts anything that came from outside; `linux.tree` does.

A child with an account is confined by `linux.confined` before its function is called. Rights are given up inside the child, not
by the exec: the interpreter and this project may lie where the unprivileged account cannot read.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

from pcm.model.errors import MachineError
from pcm.service.machine.commands import SEARCH_PATH
from pcm.service.machine.interface import OwnProgram
from pcm.service.machine.linux.children import FAMILY, drop_own, note_own

# the first argument carries this process's own search path: what is trusted here is trusted there, and nothing else
_START = "import sys; sys.path[:] = sys.argv.pop(1).split(chr(10)); from pcm.service.machine.linux.confined import main; main()"


class SpawnedChild:
    """An `OwnChild`: owns the process, a descriptor of it, and its pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._descriptor = os.pidfd_open(process.pid)
        self._stdin = process.stdin.fileno() if process.stdin else -1
        self._stdout = process.stdout.fileno() if process.stdout else -1

    @property
    def process_id(self) -> int:
        """Its number; valid until `wait` has returned."""
        return self._process.pid

    @property
    def descriptor(self) -> int:
        """Polls readable when the child has ended."""
        return self._descriptor

    @property
    def stdin(self) -> int:
        """Writing end of its standard input, or -1."""
        return self._stdin

    @property
    def stdout(self) -> int:
        """Reading end of its standard output, or -1."""
        return self._stdout

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Return the exit code (negative: signal), or None if it still runs after `timeout_s`."""
        if self._process.returncode is None:
            # poll, not Popen.wait(timeout): that one asks again and again, and costs milliseconds
            poller = select.poll()
            poller.register(self._descriptor, select.POLLIN)
            if not poller.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))):
                return None
            with FAMILY:
                self._process.wait()
                drop_own(self._process.pid)
        return self._process.returncode

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def close(self) -> None:
        """Kill it if it still runs, reap it, and close every descriptor."""
        if self._descriptor < 0:
            return
        if self.wait(0) is None:
            self.kill()
            self.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was still buffered for a child that is gone
                    stream.close()
        os.close(self._descriptor)
        self._descriptor = self._stdin = self._stdout = -1


def spawn(program: OwnProgram) -> SpawnedChild:
    """Start a function of our own in a child; see `Machine.spawn`.

    Its standard error is ours: what goes wrong there belongs into the service's own log. Not where that is a terminal and the
    child has an account without rights: it could read what the administrator types there, the next password too.
    """
    account = program.account
    arguments = [
        "\n".join(entry for entry in sys.path if entry.startswith("/")),
        program.module,
        program.function,
        str(account.user_id) if account else "-",
        str(account.group_id) if account else "-",
        *(str(getattr(program.limits, name)) for name in ("memory_bytes", "open_files", "processes", "file_bytes")),
        str(os.getpid()),
        *program.arguments,
    ]
    pipe = subprocess.PIPE if program.pipes else subprocess.DEVNULL
    complaints = subprocess.DEVNULL if account is not None and os.isatty(2) else None
    with FAMILY:
        process = _starting(
            lambda: subprocess.Popen(
                # -I: nothing of the environment or the current directory decides which code runs as administrator;
                # -S: no search for site packages, which are in the path already
                [sys.executable, "-I", "-S", "-c", _START, *arguments],
                stdin=pipe,
                stdout=pipe,
                stderr=complaints,
                env={"PATH": ":".join(SEARCH_PATH), "LANG": "C.UTF-8", **program.environment},
                cwd="/",
                close_fds=True,
                pass_fds=program.kept_descriptors,
                start_new_session=True,
                umask=0o077,
                bufsize=0,
            )
        )
        note_own(process.pid)
    return SpawnedChild(process)


def _starting(popen: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    try:
        return popen()
    except OSError as error:
        raise MachineError(
            f"A child process of the service cannot be started: {error.strerror}.", code="machine.cannot_start"
        ) from error
