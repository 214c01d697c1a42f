"""Writing files that are there whole or not at all, in folders that other programs read meanwhile.

Serves steps 2, 5 and 8: distribution and logon folders and both stores write through it. A reader never sees half a file
(KB Q140928): bytes go to a temporary name beside the final one, are synced, and take the name in one rename.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType

from pcm.model.errors import StoreError

TEMPORARY_PREFIX = ".incoming-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_rename_at: Callable[..., int] | None = None


def write_whole(path: Path | str, content: bytes | Iterable[bytes], *, mode: int = 0o644, durable: bool = True) -> None:
    """Write a file and give it its name when it is complete, replacing one of that name.

    Args:
        content: All bytes, or pieces; an error while they are made leaves no trace.
        durable: Sync file and folder, so that it survives a power cut; else only other programs see it whole.

    Raises:
        StoreError: `store.disk_full`, `store.not_writable`.
    """
    final = os.fspath(
        path
    )  # texts: a site writes four files for each client, and path objects would be half of what that costs
    temporary = os.path.join(os.path.dirname(final), f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}")  # noqa: PTH118, PTH120
    with storing(final):
        descriptor = _create(temporary, 0o600)
    try:
        _fill(descriptor, final, content, mode, durable=durable)
        with storing(final):
            if durable or not _swap(temporary, final):
                os.rename(temporary, final)  # noqa: PTH104
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    if durable:
        with storing(final):
            sync_folder(Path(final).parent)


def write_unnamed(path: Path | str, content: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write a file that no other file names yet, in place: nobody can know to read it, and that spares the rename.

    For names that say what is inside (a hash, a version). What an interrupted writer left under the name is half a file, and
    what stands there whole may be named and read by now: either is replaced as `write_whole` does it.

    Raises:
        StoreError: `store.disk_full`, `store.not_writable`; nothing is left under the name then.
    """
    final = os.fspath(path)
    try:
        with storing(final):
            descriptor = _create(final, mode)
    except StoreError as error:
        if not isinstance(error.__cause__, FileExistsError):
            raise
        write_whole(final, content, mode=mode, durable=durable)
        return
    try:
        _fill(descriptor, final, content, mode, durable=durable)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(final)  # noqa: PTH108
        raise
    if durable:
        with storing(final):
            sync_folder(Path(final).parent)


def write_together(root: Path, files: Mapping[Path, bytes], *, mode: int = 0o644) -> None:
    """Write many small files below a folder: all have reached the disk before any gets its name, and the names before it returns.

    Raises:
        StoreError: `store.disk_full`, `store.not_writable`; whatever has its name by then is whole.
    """
    if not files:
        return
    drafts: dict[str, str] = {}
    try:
        for final, content in files.items():
            draft = os.path.join(os.fspath(final.parent), f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}")  # noqa: PTH118
            with storing(final):
                descriptor = _create(draft, 0o600)
            drafts[draft] = os.fspath(final)
            _fill(descriptor, os.fspath(final), content, mode, durable=False)
        sync_file_system(root)
        for draft, final_name in drafts.items():
            with storing(final_name):
                os.rename(draft, final_name)  # noqa: PTH104
        sync_file_system(root)
    except BaseException:
        for draft in drafts:
            with contextlib.suppress(OSError):
                os.unlink(draft)  # noqa: PTH108
        raise


def sync_file_system(folder: Path) -> None:
    """Write out everything that the file system of a folder still holds in memory (syncfs(2); elsewhere all file systems)."""
    with storing(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            import ctypes  # noqa: PLC0415 - see `_swap`

            call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
            if call is None:
                os.sync()
            elif call(descriptor) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)


def _swap(temporary: str, final: str) -> bool:
    """Let two names change places in one step and remove the old file; False if that cannot be done here.

    ext4 writes a file out when it takes another's name by rename, so that a power cut leaves no empty file: half of what it
    costs a site to publish, and wasted on what is made again after a power cut. A swap is as atomic and spares it.
    """
    global _rename_at  # noqa: PLW0603 - looked up once
    try:
        if _rename_at is None:
            import ctypes  # noqa: PLC0415 - a client that replaces nothing does without

            _rename_at = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # this system has no such call
        return False
    names = (_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(final), _RENAME_EXCHANGE)
    if _rename_at(*names) != 0:
        return False  # there is no such file yet, or this file system cannot
    try:
        os.unlink(temporary)  # noqa: PTH108
    except IsADirectoryError:
        _rename_at(*names)  # a folder stood there, and a rename will say so
        return False
    return True


def _create(path: str, mode: int) -> int:
    """Create a new file for writing, and its folder if need be."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, mode)


def _fill(descriptor: int, path: str, content: bytes | Iterable[bytes], mode: int, *, durable: bool) -> None:
    """Write everything into a new file, and close it whatever happens."""
    try:
        for piece in () if isinstance(content, bytes) else content:
            with storing(path):  # only the writing: whoever makes the pieces has errors of their own
                write_all(descriptor, piece)
        with storing(path):
            if isinstance(content, bytes):
                write_all(descriptor, content)
            os.fchmod(descriptor, mode)
            if durable:
                os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte to an open file."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> int:
    """Remove what interrupted writers left in a folder and the folders directly below it; returns how many files."""
    removed = 0
    for pattern in (f"{TEMPORARY_PREFIX}*", f"*/{TEMPORARY_PREFIX}*"):
        for left in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                left.unlink()
                removed += 1
    return removed


class storing:  # noqa: N801 - reads as a verb, `with storing(path)`; a class, because a generator costs as much as a small write
    """Map what the file system refuses to a StoreError that names the place."""

    def __init__(self, path: Path | str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, OSError):
            return
        path = self._path
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(f"There is no room left for {path}. Free some space.", code="store.disk_full") from error
        raise StoreError(f"{path} cannot be written: {error.strerror}.", code="store.not_writable") from error
