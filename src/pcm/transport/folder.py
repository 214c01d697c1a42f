"""Fetching from a directory: a mounted share, a USB stick, a cache. A static folder is a server too.

Serves steps 6 and 8, inside the transfer process, beside `web`, with the same answers: 200, 206, 304, 403, 404. Only
regular files are opened, never a link at the end of the path, a device or a FIFO; nothing is ever written.
"""

import errno
import os
import stat
import urllib.parse
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pcm.transport.answers import Head
from pcm.transport.framing import Request, transfer_error
from pcm.transport.pace import Pace
from pcm.transport.ranges import range_field


class FolderAnswer:
    """A file, or the lack of one; an `Answer`.

    Args:
        status: As HTTP would say it.
        file: Open descriptor, owned from now on; None if there is no body.
        length: Bytes of body.
        pace: Keeps the body to the request's rate.
    """

    def __init__(
        self,
        status: int,
        file: int | None = None,
        length: int = 0,
        headers: Mapping[str, str] = MappingProxyType({}),
        pace: Pace | None = None,
    ) -> None:
        self._file = file
        self._left = length
        self._pace = pace
        self.head = Head(status, headers)

    def read_into(self, buffer: memoryview) -> int:
        """See `ranges.Answer.read_into`."""
        if self._file is None or self._left == 0:
            return 0
        most = min(len(buffer), self._left)
        if self._pace is not None:
            most = self._pace.hold(most)
        try:
            count = os.readv(self._file, [buffer[:most]])
        except OSError as error:
            raise transfer_error(
                "transfer.truncated", f"The file cannot be read to its end: {error.strerror}."
            ) from error
        if not count:
            raise transfer_error("transfer.truncated", "The file became shorter while it was read.")
        if self._pace is not None:
            self._pace.spend(count)
        self._left -= count
        return count

    def close(self) -> None:
        """See `ranges.Answer.close`."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def open_file(request: Request, pace: Pace | None = None) -> FolderAnswer:
    """Answer a GET or HEAD of a `file:///` URL.

    The entity tag changes whenever the file is replaced (inode), rewritten (time) or resized.

    Raises:
        TransferError: `transfer.protocol`, `transfer.too_long`, `transfer.unreachable`.
    """
    path = file_path(request.url)
    if request.method not in ("GET", "HEAD"):
        raise transfer_error("transfer.protocol", f"Nothing can be sent to a folder ({path}).")
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to must not wait.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return FolderAnswer(404)
    except PermissionError:
        return FolderAnswer(403)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise transfer_error("transfer.protocol", f"{path} is a link, which is not followed.") from error
        raise transfer_error("transfer.unreachable", f"{path} cannot be opened: {error.strerror}.") from error
    try:
        return _answer(request, path, file, pace)
    except BaseException:
        os.close(file)
        raise


def _answer(request: Request, path: str, file: int, pace: Pace | None) -> FolderAnswer:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise transfer_error("transfer.protocol", f"{path} is not a regular file.")
    etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
    asked = {name.lower(): value for name, value in request.headers.items()}
    if asked.get("if-none-match") == etag:
        os.close(file)
        return FolderAnswer(304, headers={"content-length": "0", "etag": etag})
    cut = cut_of(request, status.st_size, etag)
    if cut is None:
        os.close(file)
        return FolderAnswer(416, headers={"content-range": f"bytes */{status.st_size}"})
    if request.method == "HEAD":
        os.close(file)
        return FolderAnswer(200, headers=cut.headers)
    if cut.too_long_for(request):
        raise transfer_error(
            "transfer.too_long", f"{path} has {cut.length} bytes; at most {request.max_bytes} are accepted."
        )
    os.lseek(file, cut.first, os.SEEK_SET)
    return FolderAnswer(cut.status, file, cut.length, cut.headers, pace)


class Cut(NamedTuple):
    """What a file gives for a request: status, first byte, bytes, those that need not travel, and the fields of the head."""

    status: int
    first: int
    length: int
    have: int
    headers: dict[str, str]

    def too_long_for(self, request: Request) -> bool:
        """Whether it is more than the request takes; of a whole file instead of a range only the range is read."""
        of_whole = self.status == 200 and bool(request.offset or request.length)
        return self.have + self.length > request.max_bytes and not of_whole


def cut_of(request: Request, size: int, etag: str) -> Cut | None:
    """What a server that knows ranges answers for a file of `size` bytes; None: nothing of it (416)."""
    tags = [value for name, value in request.headers.items() if name.lower() == "if-range"]
    whole = range_field(request) is None or (bool(tags) and tags[0] != etag)
    if whole:
        return Cut(200, 0, size, 0, {"content-length": str(size), "etag": etag})
    first = request.offset + request.have
    if first >= size:
        return None
    length = min(size - first, request.length - request.have) if request.length else size - first
    told = {"content-length": str(length), "etag": etag, "content-range": f"bytes {first}-{first + length - 1}/{size}"}
    return Cut(206, first, length, request.have, told)


def file_path(url: str) -> str:
    """The absolute path in a `file:///` URL.

    Raises:
        TransferError: `transfer.protocol`: a host, a relative path, `..`, or a NUL.
    """
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.unquote(parts.path, errors="surrogateescape")
    if parts.netloc or not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise transfer_error("transfer.protocol", f"{url} is not the URL of a local file.")
    return path
