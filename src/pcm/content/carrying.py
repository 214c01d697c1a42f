"""What bringing content asks of the network side, and what it tells while it works. Types only.

Serves step 8, between `assembly`, which knows no networks, and whoever carries bytes for it (`service.content_carrier` on a
client). Sources are names. What a carrier brings is believed in nothing; what it cannot bring is a TransferError, and what
cannot be what was asked for a TrustError.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from pcm.content.parts import Part
from pcm.model.package import PackageFile


class Extent(NamedTuple):
    """A stretch of an open file: descriptor, first byte, how many bytes."""

    descriptor: int
    offset: int
    length: int


class Carrier(Protocol):
    """A way to servers, and to what unpacks."""

    def fetch_range(
        self, source: str, path: str, part: Part, end: int, on_progress: Callable[[], None] = lambda: None
    ) -> None:
        """Append bytes of a source's file to a part until it reaches `end`, or the file's own end.

        Args:
            path: Below the distribution server.
            on_progress: Called while they come; may raise to stop it.

        Raises:
            TransferError: what came until then is in the part.
        """

    def fetch_object(self, source: str, file: PackageFile, part: Part | None) -> Iterator[bytes]:
        """The plain bytes of a file, from its object.

        Args:
            part: Gets the packed bytes; what it has already is unpacked first, and does not travel.

        Raises:
            TransferError: what came until then is in the part. TrustError: what came is no object of that file.
        """

    def unpack(self, kind: str, packed: Extent, bases: Sequence[Extent], plain_length: int) -> Iterator[bytes]:
        """Undo one unit, or an index (kind `index`).

        Raises:
            TrustError: it is not what it must be. TransferError: nothing can be unpacked here now.
        """

    def second(self) -> "Carrier":
        """Another one, to work beside this one."""


class FetchProgress(NamedTuple):
    """How far a fetch is.

    Attributes:
        files_done: Files that are here now.
        files_total: That were missing.
        bytes_done: Plain bytes of files, as they will be.
        bytes_total: Of all that were missing.
        rate: Bytes a second that travel now.
        left_s: Seconds that what is left takes at that rate; None: nothing is known yet.
        travelled: Bytes that came over the network.
        to_travel: That will have in the end, as far as is known; 0: not known.
        way: `patch`, `small`, `whole`, `peer`; empty: indexes.
        source: Who gives them.
    """

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    rate: float
    left_s: float | None
    travelled: int = 0
    to_travel: int = 0
    way: str = ""
    source: str = ""


class Complaint(NamedTuple):
    """One source that did not give what it should. `about`: the SHA-256 of a file, or the path of a bundle."""

    source: str
    about: str
    code: str
    message: str


class Traffic(NamedTuple):
    """What came by one way from one source: files, their plain bytes, and bytes that travelled."""

    way: str
    source: str
    files: int
    plain: int
    bytes: int
