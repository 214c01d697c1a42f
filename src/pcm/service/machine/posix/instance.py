"""One service at a time on a computer. Serves check 1 of design/trust.md, before the state database is opened.

A lock of the kernel's (flock), not a file that means something by being there: it ends with its holder, however that dies.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from pcm.model.errors import MachineError


class FileLock:
    """An `InstanceLock` over a file, which then holds its holder's process id."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> Self:
        """Lock `path`, making it if need be.

        Raises:
            MachineError: `machine.already_running`; `machine.rights` if it is somebody else's; `machine.lock` if the file cannot
                be opened.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except PermissionError:
            raise MachineError(
                f"Only administrators can do the work of the service here; use sudo ({path} is not yours).",
                code="machine.rights",
            ) from None
        except OSError as error:
            raise MachineError(f"The lock {path} cannot be opened: {error.strerror}.", code="machine.lock") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise MachineError(
                f"Another PCM service (process {holder}) holds {path}; only one may run on a computer.",
                code="machine.already_running",
            ) from None
        with contextlib.suppress(OSError):  # the number is for people; a full disk does not unlock anything
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let another instance start; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
