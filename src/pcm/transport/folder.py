"""Fetching from a directory: a mounted share, a USB stick, a cache. A static folder is a server too.

Serves steps 6 and 8, inside the transfer process, beside `web`, with the same answers: 200, 206, 304, 403, 404. Only
regular files are opened, never a link at the end of the path, a device or a FIFO; nothing is ever written.
"""

import errno
import os
import stat
import urllib.parse

from pcm.transport.framing import Head, Request, transfer_error


class FolderAnswer:
    """A file, or the lack of one; an `Answer`.

    Args:
        status: As HTTP would say it.
        file: Open descriptor, owned from now on; None if there is no body.
        length: Bytes of body.
    """

    def __init__(self, status: int, file: int | None = None, length: int = 0, etag: str = "") -> None:
        self._file = file
        self._left = length
        headers = {"content-length": str(length), "etag": etag} if etag else {}
        self.head = Head(status, headers)

    def read(self, most: int) -> bytes:
        """See `web.Answer.read`."""
        if self._file is None or self._left == 0:
            return b""
        try:
            data = os.read(self._file, min(most, self._left))
        except OSError as error:
            raise transfer_error(
                "transfer.truncated", f"The file cannot be read to its end: {error.strerror}."
            ) from error
        if not data:
            raise transfer_error("transfer.truncated", "The file became shorter while it was read.")
        self._left -= len(data)
        return data

    def close(self) -> None:
        """See `web.Answer.close`."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def open_file(request: Request) -> FolderAnswer:
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
        return _answer(request, path, file)
    except BaseException:
        os.close(file)
        raise


def _answer(request: Request, path: str, file: int) -> FolderAnswer:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise transfer_error("transfer.protocol", f"{path} is not a regular file.")
    etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
    asked = {name.lower(): value for name, value in request.headers.items()}
    if asked.get("if-none-match") == etag:
        os.close(file)
        return FolderAnswer(304, etag=etag)
    length = status.st_size - request.offset
    if length < 0:
        os.close(file)
        return FolderAnswer(416)
    if request.method == "HEAD":
        os.close(file)
        return FolderAnswer(200, length=length, etag=etag)
    if length > request.max_bytes:
        raise transfer_error(
            "transfer.too_long", f"{path} has {length} bytes; at most {request.max_bytes} are accepted."
        )
    if request.offset:
        os.lseek(file, request.offset, os.SEEK_SET)
    return FolderAnswer(206 if request.offset else 200, file, length, etag)


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
