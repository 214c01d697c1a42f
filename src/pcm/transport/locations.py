"""Where servers are: addresses as administrators write them, and safe joining of paths below them.

Serves steps 2, 5, 6, 8 and 12: configuration and instructions name logon and distribution servers by these. Pure: it looks
nothing up and opens nothing. An address is `https://host[:port][/prefix]`, `http://...`, `smb://server[:port]/share[/folder]`,
`file:///directory`, or a plain absolute directory; the layout below it is the same for all.
"""

import posixpath
import re
import urllib.parse
from typing import NamedTuple

from pcm.model.errors import RequestError

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]+\])\Z")
_SCHEMES = {"http": "80", "https": "443", "smb": "445", "file": ""}
_PART = re.compile(r"[^\x00-\x1f\x7f]{1,4096}\Z")


class Location(NamedTuple):
    """A server's address.

    Attributes:
        url: Normal form, quoted, without a slash at the end; `file:///...` for directories.
        kind: 'http', 'https', 'smb' or 'directory'.
    """

    url: str
    kind: str

    def join(self, path: str) -> str:
        """The URL of `path` below this location.

        Args:
            path: Relative, parts separated by `/`, not quoted.

        Raises:
            RequestError: `request.location`: an absolute path, an empty part, `.` or `..`, or control characters.
        """
        parts = path.split("/")
        if not all(part not in (".", "..") and _PART.match(part) for part in parts):
            raise RequestError(f"{path!r} is not a path below the server {self.url}.", code="request.location")
        return "/".join((self.url.rstrip("/"), *(urllib.parse.quote(part, errors="surrogateescape") for part in parts)))

    @property
    def directory(self) -> str | None:
        """The absolute directory, for kind 'directory'; else None."""
        if self.kind != "directory":
            return None
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path, errors="surrogateescape")


def parse_location(text: str) -> Location:
    """Read an address.

    Raises:
        RequestError: `request.location`: says what is wrong and what an address looks like.
    """
    if text.startswith("/"):
        return _directory(text, text)
    try:
        parts = urllib.parse.urlsplit(text) if text.isascii() and text.isprintable() and " " not in text else None
    except ValueError:  # a bracket that closes nothing
        parts = None
    if parts is None or parts.scheme not in _SCHEMES:
        if text.startswith("\\\\"):
            raise _wrong(text, f"a share is written smb:{text.replace(chr(92), '/')}")
        raise _wrong(text, "it does not begin with https://, http://, smb://, file:/// or /")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise _wrong(text, "it has a query or a fragment")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise _wrong(text, "a directory is written file:///directory, with three slashes")
        return _directory(text, urllib.parse.unquote(parts.path, errors="surrogateescape"))
    return _web(text, parts)


def _directory(text: str, path: str) -> Location:
    if "\0" in path or ".." in path.split("/"):
        raise _wrong(text, "the directory must be absolute and without '..'")
    normal = "/" + posixpath.normpath(path).lstrip("/")
    return Location("file://" + urllib.parse.quote(normal, errors="surrogateescape"), "directory")


def _web(text: str, parts: urllib.parse.SplitResult) -> Location:
    host, _, port = parts.netloc.rpartition(":") if re.search(r":\d*\Z", parts.netloc) else (parts.netloc, "", "")
    if "@" in parts.netloc:
        own = "their account's own file" if parts.scheme == "smb" else "their key"
        raise _wrong(text, f"names and passwords do not belong into an address; clients prove who they are by {own}")
    if not _HOST.match(host):
        raise _wrong(text, "its host name is missing or malformed")
    if ":" in parts.netloc.removeprefix(host) and not (port.isdigit() and 0 < int(port) < 65536):
        raise _wrong(text, "its port is not a number from 1 to 65535")
    if (
        any(part in (".", "..") for part in parts.path.split("/"))
        or "//" in parts.path
        or re.search(r"%(?![0-9A-Fa-f]{2})|\\", parts.path)
    ):
        raise _wrong(text, "its path has '.', '..', an empty part, or a malformed %")
    if parts.scheme == "smb" and not parts.path.strip("/"):
        raise _wrong(text, "it names no share: smb://server/share/folder")
    default = _SCHEMES[parts.scheme]
    authority = host.lower() if port in ("", default) else f"{host.lower()}:{int(port)}"
    return Location(f"{parts.scheme}://{authority}{parts.path.rstrip('/')}", parts.scheme)


def _wrong(text: str, why: str) -> RequestError:
    return RequestError(
        f"{text[:200]!r} is not the address of a server: {why}. Write https://host/prefix or file:///directory.",
        code="request.location",
    )
