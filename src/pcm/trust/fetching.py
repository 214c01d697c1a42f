"""Asking a server for one file of a repository, bounded in bytes and in time.

Serves step 6, under `refresh`, `instructions` and `manifests`; the transport gives the `Fetch`. Everything that comes
through here is unverified. Nothing here opens a connection or a file.
"""

import time
from collections.abc import Callable, Iterable

from pcm.model.errors import TransferError, TrustError
from pcm.trust.codes import refuse

Fetch = Callable[[str, int], Iterable[bytes]]
"""Gives a file in pieces: its name below the server's root, and how many bytes are wanted at most.

Raises TransferError: `transfer.not_found` if the server has no such file. It need not enforce the limit itself; if it does, with
`transfer.too_long`.
"""

NOT_FOUND = "transfer.not_found"
TOO_LONG = "transfer.too_long"
REFRESH_S = 120.0


class Deadline:
    """Until when a whole refresh must be done, however slowly a server drips.

    Args:
        seconds: From now on.
        monotonic: The clock, which tests replace.
    """

    def __init__(self, seconds: float = REFRESH_S, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._end = monotonic() + seconds

    def check(self, name: str) -> None:
        """Raise if the time is over.

        Raises:
            TransferError: `transfer.too_slow`.
        """
        if self._monotonic() > self._end:
            raise TransferError(f"The server is too slow: {name} did not arrive in time.", code="transfer.too_slow")


def read_file(fetch: Fetch, name: str, max_bytes: int, deadline: Deadline) -> bytes:
    """Read one file whole.

    Raises:
        TransferError: what `fetch` raises; `transfer.too_slow`.
        TrustError: `trust.endless_data`: more than `max_bytes` came.
    """
    received = bytearray()
    deadline.check(name)
    try:
        for piece in fetch(name, max_bytes):
            received += piece
            if len(received) > max_bytes:
                raise _endless(name, max_bytes)
            deadline.check(name)
    except TransferError as error:
        if error.code == TOO_LONG:
            raise _endless(name, max_bytes) from error
        raise
    return bytes(received)


def _endless(name: str, max_bytes: int) -> TrustError:
    return refuse("trust.endless_data", f"The server sends more than {max_bytes} bytes for {name}.")
