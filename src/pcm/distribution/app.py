"""The distribution server over HTTP: a folder's immutable files, and nothing else.

Serves steps 6 (package metadata) and 8 (objects): in the site's process under `/distribution`, or by itself. Any static
web server over the same folder does as well; this one sets the right cache headers. GET and HEAD, ranges, entity tags. It
asks nobody who they are, because nothing here is secret and nothing is believed: clients verify.
"""

import contextlib
import errno
import os
import re
import stat
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pcm.distribution.folder import is_published_name

IMMUTABLE = "public, max-age=31536000, immutable"
CHANGING = "no-cache"
_PATHSEND = "http.response.pathsend"
_OPENED = "/proc/self/fd"
_CAN_REOPEN = Path(_OPENED).is_dir()
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_OBJECT = re.compile(r"objects/([0-9a-f]{2})/(\1[0-9a-f]{62})\.zst\Z")
_BUNDLE = re.compile(r"bundles/([0-9a-f]{2})/\1[0-9a-f]{62}/(?:whole|[0-9a-f]{64})\.bundle\Z")


class DistributionApp:
    """An ASGI application over a `DistributionFolder`'s root, to be mounted under any prefix."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        # a server that sends files by itself opens them when it likes; a part must be of the file that the head tells of,
        # while a whole file that another has taken the place of only breaks off, and is asked for again
        itself = _PATHSEND in scope.get("extensions", {}) and b"range" not in dict(scope["headers"])
        if not itself:
            scope = {**scope, "extensions": {}}
        with contextlib.ExitStack() as stack:
            response = self._answer(scope, stack, by_name=itself or not _CAN_REOPEN)
            await response(scope, receive, send)

    def _answer(self, scope: Scope, stack: contextlib.ExitStack, *, by_name: bool) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            return _refusal(405, {"allow": "GET, HEAD"})
        name = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
        found, bundle = _OBJECT.match(name), _BUNDLE.match(name)
        if found is None and bundle is None and not is_published_name(name):
            return _refusal(404)
        path = self._root / name
        try:
            # never waits: of what is no file, nothing is read
            opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            # a server with too many open files has not lost any
            return _refusal(503 if isinstance(error, OSError) and error.errno in _FULL else 404)
        stack.callback(os.close, opened)
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode):
            return _refusal(404)
        # packed again an object is smaller: whoever has read a part of the larger one must not go on in this one
        tag = (
            f"{found[2]}-{status.st_size:x}"
            if found
            else f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
        )
        etag = f'"{tag}"'
        cache = CHANGING if name == "metadata/timestamp.json" else IMMUTABLE
        headers = {"etag": etag, "cache-control": cache}
        if dict(scope["headers"]).get(b"if-none-match", b"").decode("latin-1") == etag:
            return Response(status_code=304, headers=headers)
        media_type = "application/zstd" if found else "application/octet-stream" if bundle else "application/json"
        # the very file that the head tells of, though another takes its name, or it goes, before its bytes are sent
        same = path if by_name else f"{_OPENED}/{opened}"
        return FileResponse(same, headers=headers, media_type=media_type, stat_result=status)


def _refusal(status: int, headers: dict[str, str] | None = None) -> Response:
    # A client asks for the next root until there is none: no cache may remember that for long.
    return PlainTextResponse("", status_code=status, headers={"cache-control": "no-store", **(headers or {})})


def create_app(root: Path, prefix: str = "/distribution") -> Starlette:
    """A distribution server by itself: the folder under `prefix`, and `/healthz`."""
    app: ASGIApp = DistributionApp(root)
    return Starlette(routes=[Route("/healthz", _healthz), Mount(prefix, app=app)])


async def _healthz(_: Request) -> Response:
    return PlainTextResponse("ok")
