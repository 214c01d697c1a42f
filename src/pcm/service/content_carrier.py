"""Carrying content: ranges of bundles, objects and units, by way of transfer processes, within the site's limits.

Serves step 8, between `content.assembly`, which says what it wants, and `transport.client`, which brings it. Sets the limits
that follow from a file's signed length and from the content policy; where another rate holds in the middle of something, it goes
on at that rate. Verifies nothing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from pcm.content.carrying import Extent
from pcm.content.objects import largest_packed, object_path
from pcm.content.parts import Part
from pcm.model.errors import PcmError, TransferError, TrustError
from pcm.model.package import PackageFile
from pcm.service.content_limits import Limits
from pcm.transport.client import TransferClient
from pcm.transport.framing import Request
from pcm.transport.locations import parse_location
from pcm.transport.source import Extent as Stretch

MIN_RATE = 2 * 1024  # bytes a second, below which another server is tried
BASE_S = 60.0
# The server had it and gave it, but it cannot be what the packager signed: that is no fault of the line
_NOT_WHAT_WAS_SIGNED = {"transfer.too_long": "trust.endless_data", "transfer.damaged": "trust.content"}


class ContentCarrier:
    """A `content.carrying.Carrier`. A context manager: its second transfer process, if it has one, ends with it.

    Args:
        open_second: Makes the client of another transfer process.
        background: Everything else on this computer goes first.

    Attributes:
        share: By how many a limit is shared.
        unpacked: Plain bytes of units that were undone, and the seconds that took.
    """

    def __init__(
        self,
        client: TransferClient,
        open_second: Callable[[], TransferClient],
        limits: Limits,
        *,
        background: bool = False,
    ) -> None:
        self._client, self._open_second, self._limits, self._background = client, open_second, limits, background
        self._second: ContentCarrier | None = None
        self.share = 1
        self.unpacked: list[float] = [0.0, 0.0]

    def second(self) -> "ContentCarrier":
        """See `Carrier.second`. A limit is shared by both."""
        if self._second is None:
            self._second = ContentCarrier(
                self._open_second(), self._open_second, self._limits, background=self._background
            )
            self._second.unpacked = self.unpacked
            self.share = self._second.share = 2
        return self._second

    def fetch_range(
        self, source: str, path: str, part: Part, end: int, on_progress: Callable[[], None] = lambda: None
    ) -> None:
        """See `Carrier.fetch_range`."""
        length = end - part.start
        while part.end < end:
            rate = self._limits.rate()
            request = self._request(source, path, length, rate)._replace(offset=part.start, length=length)

            def look(_: int, rate: int = rate) -> None:
                on_progress()
                self._hold(rate)

            try:
                self._client.fetch_into(request, part.descriptor, look)
            except _AnotherRateError:
                continue
            except TransferError as error:
                raise _judged(source, error) from error
            return

    def fetch_object(self, source: str, file: PackageFile, part: Part | None) -> Iterator[bytes]:
        """See `Carrier.fetch_object`."""
        path, packed = object_path(file.sha256), largest_packed(file.length)
        given = 0
        while True:
            rate, passed = self._limits.rate(), 0
            request = self._request(source, path, packed, rate)._replace(
                decode="zstd", max_decoded_bytes=file.length, part=None if part is None else part.descriptor
            )
            try:
                with self._client.fetch(request) as response:
                    for data in response.iter_bytes():
                        # what was given before another rate held comes out of the part once more
                        new = data[max(0, given - passed) :]
                        passed += len(data)
                        if new:
                            given += len(new)
                            yield new
                        if part is not None:
                            self._hold(rate)
            except _AnotherRateError:
                continue
            except TransferError as error:
                raise _judged(source, error) from error
            return

    def unpack(self, kind: str, packed: Extent, bases: Sequence[Extent], plain_length: int) -> Iterator[bytes]:
        """See `Carrier.unpack`."""
        began = time.monotonic()
        try:
            yield from self._client.unpack(kind, Stretch(*packed), (Stretch(*each) for each in bases), plain_length)
        except TransferError as error:
            raise _judged("A bundle", error) from error
        except PcmError as error:
            raise TrustError(f"A unit of a bundle cannot be unpacked: {error.message}", code="trust.content") from error
        if kind != "index":
            self.unpacked[0] += plain_length
            self.unpacked[1] += time.monotonic() - began

    def _request(self, source: str, path: str, most: int, rate: int) -> Request:
        slowest = min(MIN_RATE, self._shared(rate) // 4) if rate else MIN_RATE
        return Request(
            parse_location(source).join(path),
            max_bytes=most,
            total_s=BASE_S + most / max(slowest, 1),
            min_rate=slowest,
            max_rate=self._shared(rate),
            background=self._background,
        )

    def _shared(self, rate: int) -> int:
        return max(1, rate // self.share) if rate else 0

    def _hold(self, rate: int) -> None:
        """Check that a rate still holds."""
        if self._limits.rate() != rate:
            raise _AnotherRateError

    def close(self) -> None:
        """End its transfer process."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._second is not None:
            self._second.close()


def _judged(source: str, error: TransferError) -> PcmError:
    if error.code in _NOT_WHAT_WAS_SIGNED:
        return TrustError(f"{source}: {error.message}", code=_NOT_WHAT_WAS_SIGNED[error.code])
    return error


class _AnotherRateError(Exception):
    """The policy says something else now than when this began."""
