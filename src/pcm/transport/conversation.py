"""One transfer process's side of the talk, as the privileged side hears it: lines and frames read within limits.

Serves steps 6, 8 and 12, between `client` and a `Channel`. What the process says counts only in the form and the size that was
agreed on; everything else ends the conversation, and with it the process. It copies what it reads into memory of its own before
anybody looks at it, so that what was checked is what is used.
"""

import time

from pcm.model.errors import TransferError
from pcm.transport.answers import FOR_PART, MAX_ANSWER_LINE, MAX_FRAME, parse_hello
from pcm.transport.channel import Channel
from pcm.transport.framing import Settings, encode_settings, transfer_error

_BUFFER = MAX_FRAME + 64 * 1024


class Conversation:
    """A channel with what was read ahead from it.

    Attributes:
        usable: False: the process broke a rule or is gone; another one has to be started.
        busy: Whether an answer is under way.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.usable = True
        self.busy = False
        self.protections: tuple[str, ...] = ()
        self._view = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0

    def begin(self, settings: Settings, deadline: float) -> None:
        """Exchange the first lines.

        Raises:
            TransferError: it does not introduce itself in time.
        """
        try:
            self.channel.write(encode_settings(settings), deadline - time.monotonic())
            self.protections = parse_hello(self.read_line(deadline))
        except BaseException:
            self.abandon()
            raise

    def read_exactly(self, count: int, deadline: float) -> bytes:
        """So many bytes, at most `MAX_FRAME`.

        Raises:
            TransferError: `transfer.timeout`, `transfer.protocol`.
        """
        while self._end - self._start < count:
            self._fill(deadline)
        data = bytes(self._view[self._start : self._start + count])
        self._start += count
        return data

    def read_frame(self, deadline: float) -> tuple[bytes, bool]:
        """One frame, and whether it is for the part; empty after the last one.

        Raises:
            TransferError: as `read_exactly`.
        """
        head = int.from_bytes(self.read_exactly(4, deadline), "big")
        length = head & ~FOR_PART
        if length > MAX_FRAME or head == FOR_PART:
            raise transfer_error(
                "transfer.protocol", "The transfer process sent too large a frame, or an empty one for a part."
            )
        return (self.read_exactly(length, deadline) if length else b""), head != length

    def read_line(self, deadline: float) -> bytes:
        """One line, its end included.

        Raises:
            TransferError: as `read_exactly`.
        """
        while True:
            ahead = bytes(self._view[self._start : min(self._end, self._start + MAX_ANSWER_LINE)])
            if (end := ahead.find(b"\n")) >= 0:
                self._start += end + 1
                return ahead[: end + 1]
            if len(ahead) >= MAX_ANSWER_LINE:
                raise transfer_error("transfer.protocol", "The transfer process sent too long a line.")
            self._fill(deadline)

    def _fill(self, deadline: float) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end > len(self._view) // 2:
            left = bytes(self._view[self._start : self._end])
            self._view[: len(left)] = left
            self._start, self._end = 0, len(left)
        count = self.channel.read_into(self._view[self._end :], deadline - time.monotonic())
        if not count:
            raise transfer_error("transfer.protocol", "The transfer process ended in the middle of an answer.")
        self._end += count

    def settle(self, error: TransferError | None = None) -> None:
        """An answer is complete. After `transfer.protocol`, which may be the process's own fault, it is not asked again."""
        self.busy = False
        if error is not None and error.code == "transfer.protocol":
            self.abandon()

    def abandon(self) -> None:
        """Use it no more."""
        if self.usable:
            self.usable = False
            self.channel.close()
