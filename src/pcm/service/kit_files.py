"""What an administrator gives on the command line to enrol: the site's kit, and the one-time token.

Serves `main` (`enroll`, `install`), before step 6. Bounded reads; every mistake becomes a message that names the file.
"""

import sys
from pathlib import Path

from pcm.model.errors import RequestError
from pcm.service.enrolment import Kit, read_kit

_MAX_KIT = 256 * 2**10
_MAX_TOKEN = 200


def read_kit_file(path: Path) -> Kit:
    """The kit in a file.

    Raises:
        RequestError: `not_found`, `request.file`, or `protocol.*` and `request.*` if it is none.
    """
    try:
        return read_kit(_read(path, _MAX_KIT, "enrolment kit"))
    except RequestError as error:
        if not error.code.startswith("protocol."):
            raise
        raise RequestError(f"{path} is no enrolment kit: {error.message}", code=error.code) from None


def read_token(token: str | None, file: Path | None) -> str | None:
    """The token that was typed, that is in a file, or (`-`) that comes on standard input; None if none was given.

    Raises:
        RequestError: `not_found`, `request.file`.
    """
    if file is not None:
        return _read(file, _MAX_TOKEN + 2, "token").decode("ascii", "replace").strip()
    if token == "-":  # noqa: S105 - it means: from standard input
        return sys.stdin.readline(_MAX_TOKEN + 2).strip()
    return None if token is None else token.strip()


def _read(path: Path, most: int, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise RequestError(f"There is no {what} at {path}.", code="not_found") from None
    except OSError as error:
        raise RequestError(f"The {what} at {path} cannot be read: {error.strerror}.", code="request.file") from None
    if len(data) > most:
        raise RequestError(f"{path} is too long to be an {what}: more than {most} bytes.", code="protocol.too_long")
    return data
