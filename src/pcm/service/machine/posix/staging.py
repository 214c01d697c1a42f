"""Step 8: the package directory, assembled file by file in a place that only administrators can write to.

Before: `content` holds every file under its hash. After: `steps/run` starts a program in it; `verify` is called right before, so
that the file that was hashed is the file that runs. No archive is unpacked; nothing is linked to the store: a hard link would
share its inode with the object, and a program that rewrites its own file would poison every later run.

A staging directory does not outlive a boot (it is verified before use, and made anew if that fails), so files are not synced one
by one.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from pcm.model.errors import MachineError, PcmError, Retry, TrustError
from pcm.model.paths import check_relative_path
from pcm.service.machine.durable import storing_error, write_all
from pcm.service.machine.package_directory import StagedFile
from pcm.service.machine.posix.beneath import Opener, best_opener, open_folder, open_regular, single_name, split_path
from pcm.service.machine.posix.protected import ProtectedFolder
from pcm.service.machine.posix.removal import empty_tree, remove_tree
from pcm.service.machine.posix.spare import is_like_new, is_small, take_folder

CHUNK_BYTES = 1 << 20


class StagingDirectory:
    """One run's package directory, held open from creation to the end of the run.

    Args:
        path: where it is, for the program's working directory and for `resolve_program`.
        descriptor: of that very folder; every file is reached through it.
        reader: number of the one other user who may read and run, never write, what is staged (for programs that run as a user).
    """

    def __init__(self, path: Path, descriptor: int, *, reader: int | None = None, opener: Opener | None = None) -> None:
        self.path = path
        self._folder = descriptor
        self._reader = reader
        self._opener = opener or best_opener()
        self._made: set[tuple[str, ...]] = set()

    @classmethod
    def create(
        cls,
        root: Path | ProtectedFolder,
        run_id: str,
        *,
        reader: int | None = None,
        opener: Opener | None = None,
        instead: str = "",
    ) -> Self:
        """Make an empty one below `root`, every ancestor of which is checked.

        Args:
            instead: run whose emptied directory may become this one's (`empty_staging`), if it is as good as new.

        Raises:
            MachineError: `machine.unprotected`; `machine.noexec` if nothing may be run from that file system;
                `machine.staging_exists` if the run already has one (`remove_staging` first); `machine.no_access_lists`.
            StoreError: `store.full`.
        """
        name = single_name(run_id)
        with _held(root) as held:
            return cls._make(held, name, reader, opener, instead)

    @classmethod
    def _make(cls, held: ProtectedFolder, name: str, reader: int | None, opener: Opener | None, instead: str) -> Self:
        parent, path = held.descriptor(), held.path / name
        try:
            if os.fstatvfs(parent).f_flag & os.ST_NOEXEC:
                raise MachineError(
                    f"{held.path} is mounted 'noexec': no program can be started from it. Mount it without, or move the state "
                    "folder.",
                    code="machine.noexec",
                )
            descriptor = take_folder(parent, instead, name) if instead and reader is None else -1
            if descriptor >= 0:
                return cls(path, descriptor, opener=opener)
            os.mkdir(name, 0o700, dir_fd=parent)
            descriptor = open_folder(parent, (name,), opener)
        except FileExistsError:
            raise MachineError(f"{path} is already there.", code="machine.staging_exists") from None
        except OSError as error:
            raise storing_error(error, path) from error
        made = cls(path, descriptor, reader=reader, opener=opener)
        try:
            made._own(descriptor, 0o700)
        except BaseException:
            made.close()
            raise
        return made

    def add(self, file: StagedFile, chunks: Iterable[bytes]) -> None:
        """Write a new file from bytes, hashing on the way; nothing stays if they are not the promised ones.

        Raises:
            RequestError: `request.path`.
            TrustError: `trust.wrong_content`, other bytes; `trust.endless_data`, more bytes than promised.
            MachineError: `machine.staging_exists`, the name is taken (a link, a FIFO, anything).
            StoreError: `store.full`.
        """
        descriptor, folder, name = self._create(file)
        try:
            try:
                digest, length = hashlib.sha256(), 0
                for chunk in chunks:
                    length += len(chunk)
                    _check_not_longer(file, length)
                    digest.update(chunk)
                    write_all(descriptor, chunk)
                _check_content(file, length, digest.hexdigest())
                self._own(descriptor, 0o700 if file.executable else 0o600)
            finally:
                os.close(descriptor)
        except (PcmError, OSError) as error:
            os.unlink(name, dir_fd=folder)
            if isinstance(error, OSError):
                raise storing_error(error, self.path / file.path) from error
            raise
        finally:
            os.close(folder)

    def verify(self, files: Sequence[StagedFile]) -> None:
        """Check, through the held descriptor, that exactly these files are here, with these bytes and no other names.

        Call right before the program starts. What is checked per file: reached without links, regular, only name, owner,
        nobody else may write, executable bit, length, hash.

        Raises:
            TrustError: `trust.staging_changed`, naming the first difference.
        """
        expected = {split_path(file.path): file for file in files}
        present = set(self._walk())
        stray = next(iter(sorted(present - expected.keys())), None)
        if stray is not None:
            raise self._changed("/".join(stray), "is not part of the package")
        for parts, file in expected.items():
            try:
                descriptor = open_regular(self._folder, parts, self._opener)
            except OSError as error:
                raise self._changed(file.path, f"cannot be opened: {error.strerror}") from None
            try:
                self._verify_open(file, descriptor)
            finally:
                os.close(descriptor)

    def holds_little(self) -> bool:
        """See `PackageDirectory.holds_little`."""
        return is_small(os.fstat(self._folder))

    def close(self) -> None:
        """Let go of the folder; it stays."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _create(self, file: StagedFile) -> tuple[int, int, str]:
        check_relative_path(file.path)
        parts = split_path(file.path)
        try:
            self._make_folders(parts[:-1])
            folder = open_folder(self._folder, parts[:-1], self._opener)
        except OSError as error:
            raise self._refused(error, file) from error
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            return os.open(parts[-1], flags, 0o600, dir_fd=folder), folder, parts[-1]
        except OSError as error:
            os.close(folder)
            raise self._refused(error, file) from error

    def _refused(self, error: OSError, file: StagedFile) -> PcmError:
        if error.errno in {errno.EEXIST, errno.ENOTDIR, errno.ELOOP}:
            return MachineError(f"{self.path / file.path}: something is in the way.", code="machine.staging_exists")
        return storing_error(error, self.path / file.path)

    def _make_folders(self, parts: tuple[str, ...]) -> None:
        for depth in range(1, len(parts) + 1):
            made = parts[:depth]
            if made in self._made:
                continue
            parent = open_folder(self._folder, made[:-1], self._opener)
            try:
                os.mkdir(made[-1], 0o700, dir_fd=parent)
                child = open_folder(parent, made[-1:], self._opener)
                try:
                    self._own(child, 0o700)
                finally:
                    os.close(child)
            finally:
                os.close(parent)
            self._made.add(made)

    def _own(self, descriptor: int, mode: int) -> None:
        os.fchmod(descriptor, mode)
        if self._reader is not None:
            from pcm.service.machine.linux.access_list import let_read  # noqa: PLC0415 - few programs run as a user

            let_read(descriptor, mode >> 6, self._reader)

    def _walk(self) -> Iterator[tuple[str, ...]]:
        waiting: list[tuple[str, ...]] = [()]
        while waiting:
            at = waiting.pop()
            try:
                folder = open_folder(self._folder, at, self._opener)
            except OSError as error:
                raise self._changed("/".join(at), f"cannot be opened: {error.strerror}") from None
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append((*at, entry.name))
                        else:
                            yield (*at, entry.name)
            finally:
                os.close(folder)

    def _verify_open(self, file: StagedFile, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if status.st_nlink != 1:
            raise self._changed(file.path, "has a second name")
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise self._changed(file.path, "belongs to, or can be changed by, somebody else")
        if bool(status.st_mode & stat.S_IXUSR) != file.executable:
            raise self._changed(file.path, "has another executable bit")
        digest, length = hashlib.sha256(), 0
        for chunk in _read(descriptor):
            digest.update(chunk)
            length += len(chunk)
            if length > file.length:
                break
        if length != file.length or digest.hexdigest() != file.sha256:
            raise self._changed(file.path, "has other bytes than the signed ones")

    def _changed(self, path: str, how: str) -> TrustError:
        return TrustError(f"The staged file {self.path / path} {how}; nothing was run.", code="trust.staging_changed")


def remove_staging(root: Path | ProtectedFolder, run_id: str) -> None:
    """Remove a run's staging directory, if there is one; see `posix.removal` for the traps it avoids.

    Raises:
        MachineError: `machine.unprotected`, `machine.remove`, `machine.mounted`.
    """
    name = single_name(run_id)
    with _held(root) as held:
        remove_tree(held.descriptor(), name)


def empty_staging(root: Path | ProtectedFolder, run_id: str) -> bool:
    """Remove all that is in a run's staging directory. True: what is left of it can become another run's; False: it is gone.

    Raises:
        MachineError: as `remove_staging`.
    """
    name = single_name(run_id)
    with _held(root) as held:
        parent = held.descriptor()
        empty_tree(parent, name)
        with contextlib.suppress(FileNotFoundError):
            if is_like_new(os.lstat(name, dir_fd=parent)):
                return True
        remove_tree(parent, name)
    return False


def _held(root: Path | ProtectedFolder) -> AbstractContextManager[ProtectedFolder]:
    """A folder to work in: one that somebody else holds stays open."""
    if isinstance(root, ProtectedFolder):
        return contextlib.nullcontext(root)
    return contextlib.closing(ProtectedFolder(root))


def _check_not_longer(file: StagedFile, length: int) -> None:
    if length > file.length:
        raise TrustError(
            f"{file.path} is longer than the {file.length} bytes that were signed.", code="trust.endless_data"
        )


def _check_content(file: StagedFile, length: int, sha256: str) -> None:
    if length != file.length or sha256 != file.sha256:
        raise TrustError(
            f"{file.path} has {length} bytes with hash {sha256[:12]}…, not the signed {file.length} with {file.sha256[:12]}….",
            code="trust.wrong_content",
            retry=Retry.ELSEWHERE,
        )


def _read(descriptor: int) -> Iterator[bytes]:
    while chunk := os.read(descriptor, CHUNK_BYTES):
        yield chunk
