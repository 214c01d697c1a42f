"""What `pcmapp` knows of this computer while it watches: first all of it, then what changes, as the service tells.

Serves step 9, under `watching`. A service that ends, restarts or has enough watchers ends nothing here: it is asked again, and
meanwhile now and then. No answer is waited for longer than the screen may stand still.
"""

import time
from pathlib import Path

from msgspec.structs import replace

from pcm.model.errors import RequestError, TransferError
from pcm.protocol import local
from pcm.service.local_client import Stream, ask

POLL_S = 2.0  # between two questions when nobody tells
PATIENCE_S = 60.0  # how long a service that has gone is waited for: it may be updating itself
_FIRST_S = 10.0


class Feed:
    """The newest state of everything.

    Attributes:
        items: As the service has told last.
        away: Since when the service does not answer (monotonic seconds); None: it does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: Stream | None = None
        self._polls = False
        self.items = local.Items(())
        self.away: float | None = None

    def begin(self) -> None:
        """Hear all of it once.

        Raises:
            TransferError: `local.unreachable`, `local.impostor`. RequestError: what the service says.
        """
        self._open()
        told = self._read(_FIRST_S)
        if told is None:
            raise TransferError(f"The PCM service at {self._path} does not answer in time.", code="local.unreachable")
        self._take(told)

    def update(self, seconds: float) -> local.Answer | None:
        """What came in this time, already taken over; None if nothing did.

        Raises:
            TransferError: `local.unreachable`: it has been away for `PATIENCE_S`. RequestError: what the service says.
        """
        try:
            if self._stream is None and not self._polls:
                self._open()
            told = self._read(seconds)
        except TransferError as error:
            if error.code != "local.unreachable":
                raise
            self.close()
            self.away = self.away or time.monotonic()
            if time.monotonic() - self.away > PATIENCE_S:
                raise
            time.sleep(min(seconds, 1.0))
            return None
        if told is not None:
            self.away = None
            self._take(told)
        return told

    def close(self) -> None:
        """Hear no more."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self) -> None:
        self._stream = Stream(self._path, local.LocalRequest("watch"))

    def _read(self, seconds: float) -> local.Answer | None:
        if self._polls or self._stream is None:
            time.sleep(min(seconds, POLL_S))
            return ask(self._path, local.LocalRequest("list"))
        try:
            return self._stream.read(seconds)
        except RequestError as error:
            # too many watch already, or the service is older than `watch`: ask now and then
            if error.code not in ("local.busy", "protocol.malformed"):
                raise
            self.close()
            self._polls = True
            return ask(self._path, local.LocalRequest("list"))

    def _take(self, told: local.Answer) -> None:
        if isinstance(told, local.Items):
            self.items = told
        elif isinstance(told, local.Changed):
            known = {item.id: item for item in self.items.items if item.id not in told.gone}
            known.update({item.id: item for item in told.items})
            self.items = local.Items(tuple(known.values()), told.standing)
        elif isinstance(told, local.Progress):
            self.items = replace(self.items, standing=replace(self.items.standing, transfer=told.transfer))
        else:
            raise RequestError("The PCM service answered something else than was asked.", code="protocol.wrong_type")
