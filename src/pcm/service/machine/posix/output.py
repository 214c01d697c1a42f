"""Step 10: a program's output, kept in a bounded file however much it writes and whoever dies.

stdout and stderr share one named pipe in the run's own folder. The program holds it open for reading too, so that it never gets
SIGPIPE when the worker dies: it waits, at the latest when the pipe is full, until the next worker drains it. A plain file
could not be bounded, an unnamed pipe would break an installer in the middle.

`output` keeps the first `limit` bytes; if there were more, a line says how many are missing and the last TAIL_BYTES follow. A
full disk stops the storing, never the program.
"""

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import Self

from pcm.model.errors import MachineError
from pcm.service.machine.durable import storing_error, write_all
from pcm.service.machine.interface import TAIL_BYTES

_CHUNK_BYTES = 1 << 16
_PIPE_BYTES = 1 << 20
_DRAIN_BYTES = 4 << 20  # at a time, so that a flood cannot keep the caller from looking at its clock
# more than any pipe holds; a user may have handed the pipe of a program that has ended to a process that never stops writing
_LAST_DRAINS = 16
_LOST = b"[... the output was lost: its folder was removed while the program ran ...]\n"


class ProgramOutput:
    """The reading side of one run's output; `program_end` is what the program gets as stdout and stderr."""

    def __init__(self, path: Path, limit_bytes: int, file: int, reader: int, program_end: int, stored: int) -> None:
        self._path = path
        self._limit = limit_bytes
        self._file = file
        self._storing = True
        self._stored = stored
        self._tail = b""
        self.total_bytes = stored
        self.reader = reader
        self.program_end = program_end

    @classmethod
    def create(cls, path: Path, limit_bytes: int) -> Self:
        """Make the run's folder if it is missing (0700), its output file and its pipe; both must be new.

        Raises:
            MachineError: `machine.run_folder`: the run was started before, or the folder is not ours alone.
            StoreError: `store.full`.
        """
        descriptors: list[int] = []
        try:
            folder, pipe = path.parent, _pipe_of(path)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            _check_own(folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptors.append(os.open(path, flags, 0o600))
            os.mkfifo(pipe, 0o600)
            descriptors.append(_open_reader(pipe))
            # reading and writing: see the module's docstring
            descriptors.append(os.open(pipe, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
        except FileExistsError:
            _close(descriptors)
            raise MachineError(
                f"{path} is there already: this run was started before.", code="machine.run_folder"
            ) from None
        except OSError as error:
            _close(descriptors)
            raise storing_error(error, path) from error
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(descriptors[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return cls(path, limit_bytes, descriptors[0], descriptors[1], descriptors[2], 0)

    @classmethod
    def reopen(cls, path: Path, limit_bytes: int) -> Self:
        """Go on with a run that another worker began; what that one had stored stays.

        Raises:
            MachineError: `machine.run_folder`: nothing to go on with.
        """
        descriptors: list[int] = []
        try:
            descriptors.append(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
            stored = os.lseek(descriptors[0], 0, os.SEEK_END)
            descriptors.append(_open_reader(_pipe_of(path)))
            again = cls(path, limit_bytes, descriptors[0], descriptors[1], -1, stored)
            again._tail = os.pread(descriptors[0], TAIL_BYTES, max(0, stored - TAIL_BYTES))
        except OSError as error:
            _close(descriptors)
            raise MachineError(f"{path} cannot be continued: {error.strerror}.", code="machine.run_folder") from error
        return again

    @classmethod
    def go_on(cls, path: Path, limit_bytes: int) -> Self:
        """Go on with a run; with a new file where an installer has removed the run's folder, for the run itself still lives.

        Raises:
            MachineError: `machine.run_folder`. StoreError: `store.full`.
        """
        try:
            return cls.reopen(path, limit_bytes)
        except MachineError:
            path.unlink(missing_ok=True)
            remove_pipe(path)
            anew = cls.create(path, limit_bytes)
            anew.close_program_end()
            anew.note(_LOST)
            return anew

    def close_program_end(self) -> None:
        """The program has its own copy now."""
        if self.program_end >= 0:
            os.close(self.program_end)
            self.program_end = -1

    def give_to(self, user_id: int) -> None:
        """Let a user's program open its output anew (`>/dev/stderr`): only who owns the pipe may. Its folder stays closed."""
        os.fchown(self.program_end, user_id, -1)

    def drain(self) -> bool:
        """Take in what has been written, up to a few megabytes; never blocks. True if there may be more."""
        taken = 0
        while taken < _DRAIN_BYTES:
            try:
                chunk = os.read(self.reader, _CHUNK_BYTES)
            except BlockingIOError:
                return False
            taken += len(chunk)
            self._take(chunk)
        return True

    def note(self, line: bytes) -> None:
        """Put a line of our own among what the program writes."""
        self._take(line)

    def finish(self) -> bytes:
        """Take in the rest, complete and close the file; returns the tail. Call once the tree is gone."""
        for _ in range(_LAST_DRAINS):
            if not self.drain():
                break
        if self.total_bytes > self._stored:
            missing = self.total_bytes - self._stored - len(self._tail)
            self._store(f"\n[... {max(0, missing)} bytes of output were not kept ...]\n".encode() + self._tail)
        self.close()
        return self._tail

    def close(self) -> None:
        """Let go of everything; files stay."""
        _close([each for each in (self._file, self.reader, self.program_end) if each >= 0])
        self._file = self.reader = self.program_end = -1

    def _take(self, chunk: bytes) -> None:
        room = max(0, self._limit - self._stored)
        if room and self._storing:
            kept = chunk[:room]
            self._store(kept)
            self._stored += len(kept)
        self.total_bytes += len(chunk)
        self._tail = chunk[-TAIL_BYTES:] if len(chunk) >= TAIL_BYTES else (self._tail + chunk)[-TAIL_BYTES:]

    def _store(self, content: bytes) -> None:
        try:
            write_all(self._file, content)
        except OSError:
            self._storing = False  # the disk is full: the tail in memory still reaches the report


def open_pipe_name(path: Path) -> int:
    """Open the run's pipe only to tell which file it is (O_PATH); raises OSError if it is not there."""
    return os.open(_pipe_of(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)


def has_pipe(path: Path) -> bool:
    """Tell whether the run has not been forgotten yet."""
    return os.path.lexists(_pipe_of(path))


def remove_pipe(path: Path) -> None:
    """Take the pipe's name away; it only serves recovery. The output itself stays."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_pipe_of(path))  # noqa: PTH108 - at each run


def _pipe_of(path: Path) -> str:
    return f"{path}.pipe"


def _open_reader(pipe: str) -> int:
    # for writing too: a pipe that others closed would otherwise report its end for ever, and wake the waiting for nothing
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(reader).st_mode):
        os.close(reader)
        raise MachineError(f"{pipe} is not a pipe.", code="machine.run_folder")
    return reader


def _check_own(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise MachineError(f"The run folder {folder} is not a folder of this service alone.", code="machine.run_folder")


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
