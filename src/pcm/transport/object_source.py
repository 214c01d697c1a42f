"""Fetching objects from distribution servers, unpacked on the unprivileged side.

Step 8 of 12: joins `content.assembly`, which wants plain bytes, with a `client.Source`, which fetches URLs. Sets the limits that
follow from a file's signed length, so that no server can send more or hold the client up for ever. Verifies nothing itself:
`content` counts and hashes.
"""

from collections.abc import Callable, Iterator

from pcm.content.objects import largest_packed, object_path
from pcm.model.errors import TransferError, TrustError
from pcm.model.package import PackageFile
from pcm.transport.framing import Request
from pcm.transport.locations import parse_location
from pcm.transport.source import Source

MIN_RATE = 2 * 1024  # bytes a second, below which another server is tried
BASE_S = 60.0
# The server had the object and gave it, but it cannot be the file that the packager signed: that is no fault of the line.
_NOT_WHAT_WAS_SIGNED = {"transfer.too_long": "trust.endless_data", "transfer.damaged": "trust.content"}


def object_fetch(source: Source, *, min_rate: int = MIN_RATE) -> Callable[[str, PackageFile], Iterator[bytes]]:
    """Make the `fetch` that `content.assembly.bring` asks for; its source names are addresses of distribution servers."""

    def fetch(server: str, file: PackageFile) -> Iterator[bytes]:
        request = object_request(server, file, min_rate)
        try:
            with source.fetch(request) as response:
                yield from response.iter_bytes()
        except TransferError as error:
            if error.code in _NOT_WHAT_WAS_SIGNED:
                raise TrustError(f"{server}: {error.message}", code=_NOT_WHAT_WAS_SIGNED[error.code]) from error
            raise

    return fetch


def object_request(server: str, file: PackageFile, min_rate: int = MIN_RATE) -> Request:
    """The request for one file's object.

    Args:
        server: Address of a distribution server.
        min_rate: Bytes a second; the time limit follows from it and from the length.
    """
    packed = largest_packed(file.length)
    return Request(
        parse_location(server).join(object_path(file.sha256)),
        max_bytes=packed,
        total_s=BASE_S + packed / max(min_rate, 1),
        min_rate=min_rate,
        decode="zstd",
        max_decoded_bytes=file.length,
    )
