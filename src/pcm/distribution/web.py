"""A distribution server's files over http(s), for reading: where `mirror` copies from when it cannot reach the folder itself.

Serves step 2, beside `shelf` and `bucket`. Sizes are asked for one by one, redirects are not followed, answers are bounded.
"""

import io
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, cast

from pcm.distribution.shelf import PIECE
from pcm.model.errors import RequestError, Retry, TransferError

_CONNECT_S, _READ_S = 10.0, 60.0


class WebSource:
    """A distribution server at a URL.

    Args:
        url: `https://files.example.org/pcm`.
        ca_file: Authority to trust, instead of the system's.

    Raises:
        RequestError: `request.url`.
    """

    def __init__(self, url: str, *, ca_file: str | None = None) -> None:
        import httpx  # noqa: PLC0415 - only where a mirror reads from the web

        if not url.startswith(("http://", "https://")):
            raise RequestError(f"{url[:200]!r} is no http(s) address.", code="request.url")
        self.title = url.rstrip("/")
        timeout = httpx.Timeout(_READ_S, connect=_CONNECT_S)
        self._errors = httpx.TransportError
        self._client = httpx.Client(timeout=timeout, verify=ca_file or True)

    def read(self, name: str, most: int) -> bytes | None:
        """A small file, or None. Raises TransferError."""
        try:
            with self.open(name) as file:
                data = file.read(most + 1)
        except RequestError:
            return None
        if len(data) > most:
            raise TransferError(f"{self.title}/{name} is longer than {most} bytes.", code="transfer.too_long")
        return data

    def open(self, name: str) -> BinaryIO:
        """A file's bytes. Raises RequestError `not_found`, TransferError."""
        answer = self._send("GET", name)
        raw = cast("io.RawIOBase", _Answer(answer, self._errors, f"{self.title}/{name}"))
        return cast("BinaryIO", io.BufferedReader(raw, PIECE))

    def size(self, name: str) -> int | None:
        """A file's length, or None."""
        try:
            answer = self._send("HEAD", name)
        except RequestError:
            return None
        answer.close()
        told = answer.headers.get("content-length", "")
        return int(told) if told.isdecimal() else None

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Lengths of those of the files that are there."""
        return {name: size for name in names if (size := self.size(name)) is not None}

    def _send(self, method: str, name: str) -> Any:
        url = f"{self.title}/{name}"
        try:
            answer = self._client.send(
                self._client.build_request(method, url, headers={"accept-encoding": "identity"}), stream=True
            )
        except self._errors as error:
            raise TransferError(
                f"{url} cannot be reached: {error}.", code="transfer.unreachable", retry=Retry.LATER
            ) from error
        if answer.status_code in (404, 403, 410):
            answer.close()
            raise RequestError(f"There is no {url}.", code="not_found")
        if answer.status_code != 200:
            answer.close()
            raise TransferError(f"{url} answered {answer.status_code}.", code="transfer.refused")
        return answer


class _Answer(io.RawIOBase):
    """An answer's body as a file."""

    def __init__(self, answer: Any, errors: Any, url: str) -> None:
        super().__init__()
        self._answer, self._errors, self._url = answer, errors, url
        self._pieces: Iterator[bytes] = answer.iter_bytes(PIECE)
        self._rest = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        while not self._rest:
            try:
                piece = next(self._pieces, None)
            except self._errors as error:
                raise TransferError(f"{self._url} broke off: {error}.", code="transfer.failed") from error
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def close(self) -> None:
        """End the request."""
        self._answer.close()
        super().close()
