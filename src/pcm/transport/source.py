"""What whoever brings content asks of the network side: to fetch, to fetch into a part file, to unpack.

Serves steps 6 and 8: `content` and `service` speak to these interfaces; `client.TransferClient` is the one implementation, over
a process or a thread. A part file is what has come of something larger: the service's own, appended to as bytes arrive, and what
the next attempt goes on from, at whichever source. Nothing that comes back is verified here.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from pcm.transport.framing import Request
    from pcm.transport.response import Response


class Extent(NamedTuple):
    """A stretch of an open file: a descriptor of this process, the first byte, how many."""

    descriptor: int
    offset: int
    length: int


class Fetched(NamedTuple):
    """What a fetch into a part file did.

    Attributes:
        status: 206: the part was gone on with (or a range was asked for); 200: it was begun anew; 304.
        etag: The server's mark for these very bytes, for `If-Range` when the same server is asked again.
        came: Bytes that travelled this time.
        total: Length of the whole file at the server, as it says; None if it does not.
    """

    status: int
    etag: str | None
    came: int
    total: int | None


class Source(Protocol):
    """Whatever answers requests."""

    def fetch(self, request: "Request") -> "Response":
        """See `client.TransferClient.fetch`."""


class ContentSource(Source, Protocol):
    """Whatever brings and unpacks content."""

    def fetch_into(self, request: "Request", part: int, on_progress: Callable[[int], None] | None = None) -> Fetched:
        """Fetch what `request` asks for into a part file, going on where the part ends.

        The part's byte 0 is the server's byte `request.offset`. Without an error the part holds all that was asked for: to
        `request.length` bytes, or to the file's end.

        Args:
            request: Without `decode`; `max_bytes` bounds the part, not only what comes now. Its `If-Range` header, if any, is
                sent only when there is something to go on from.
            part: Descriptor, readable and writable, of a regular file of the caller's own.
            on_progress: Told how many bytes the part has, a few times a second and at the end.

        Raises:
            TransferError: as `client.TransferClient.fetch`; what came until then is in the part.
            StoreError: `store.disk_full`, `store.not_writable`.
        """

    def unpack(self, kind: str, packed: Extent, bases: Iterable[Extent], plain_length: int) -> Iterator[bytes]:
        """Decode on the unprivileged side; the plain bytes come in pieces of at most 1 MiB, exactly `plain_length` in all.

        Args:
            kind: 'zstd', 'bsdiff', 'raw' (one unit of a bundle), 'object' (one zstd frame of any size), 'index'.
            packed: What to decode.
            bases: The old bytes, joined in this order. A descriptor is used only until the next one is asked for.

        Raises:
            TransferError: `transfer.damaged`, `transfer.too_long`: these are not packed bytes of that kind and length; or the
                transfer process cannot be used.
        """
