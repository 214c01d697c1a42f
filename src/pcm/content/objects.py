"""Objects: the form in which a package's files lie on distribution servers.

Serves steps 2 (packing) and 8 (naming what to fetch). A file is one object: its bytes in one zstd frame, named by the SHA-256
of its *plain* bytes, so that any dumb server can hold it, equal files are one object, and whoever unpacks it can check it
without trusting anybody. Streams only: no file is ever whole in memory. Opens no network connection.
"""

import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from pcm.content.hashing import Digest
from pcm.model.errors import StoreError, TrustError

LEVEL = 3  # at once when publishing; level 19 takes its place in the background later
PIECE = 128 * 1024
MAX_WINDOW = 16 * 1024 * 1024  # bytes; what a client accepts (transport.decoding)
FRAME_HEADER = 18  # bytes at most, RFC 8878, section 3.1.1.1
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # a skippable frame has another
_UNTOLD = ((1 << 64) - 1, (1 << 64) - 2)  # ZSTD_CONTENTSIZE_UNKNOWN, _ERROR
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def object_path(sha256: str) -> str:
    """Where the object lies below a distribution server: `objects/ab/abcd...zst`."""
    return f"objects/{sha256[:2]}/{sha256}.zst"


def is_object_name(sha256: str) -> bool:
    """Whether this is 64 lower-case hex digits."""
    return bool(_SHA256.match(sha256))


def largest_packed(length: int) -> int:
    """The most bytes that a file of `length` bytes can have as an object (zstd's own bound, and room for headers)."""
    return length + (length >> 7) + 1024


def pack(file: BinaryIO, length: int, level: int = LEVEL, *, threads: int = 0, piece: int = PIECE) -> Iterator[bytes]:
    """Compress a file into an object: one frame, with the length in its header.

    Args:
        file: Read from where it stands to its end.
        length: Exactly how many bytes that are.
        threads: That compress beside this one; 0: none. The bytes are the same for any number but 0.
        piece: How much is read, and given, at a time.

    Raises:
        StoreError: `store.file_changed`: the file has another length.
    """
    import zstandard  # noqa: PLC0415 - most checks pack and unpack nothing

    compressor = zstandard.ZstdCompressor(level=level, write_content_size=True, threads=threads)
    packer = compressor.chunker(size=length, chunk_size=piece)
    came = 0
    try:
        while data := file.read(piece):
            came += len(data)
            yield from packer.compress(data)
        yield from packer.finish()  # type: ignore[no-untyped-call] # missing in its stub
    except zstandard.ZstdError as error:
        raise StoreError(
            f"A file was to have {length} bytes and has {came} now: it changed while it was read.",
            code="store.file_changed",
        ) from error


def check_frame(start: bytes, length: int) -> None:
    """Check what an object says of itself, as clients do before they unpack it (`transport.decoding`).

    Args:
        start: Its first `FRAME_HEADER` bytes, or all that there are.
        length: Of the file.

    Raises:
        TrustError: `trust.content`, `trust.endless_data`.
    """
    import zstandard  # noqa: PLC0415 - most checks pack and unpack nothing

    try:
        parameters = zstandard.get_frame_parameters(start)
    except zstandard.ZstdError as error:
        raise TrustError("An object is not one zstd frame.", code="trust.content") from error
    told = parameters.content_size
    if not start.startswith(ZSTD_MAGIC) or parameters.window_size > MAX_WINDOW or told not in (length, *_UNTOLD):
        code = "trust.endless_data" if length < told < _UNTOLD[1] else "trust.content"
        raise TrustError(f"An object's frame is not that of a file of {length} bytes.", code=code)


def unpack(packed: Iterable[bytes], most: int, *, piece: int = PIECE) -> Iterator[bytes]:
    """Decompress an object in bounded pieces, whatever it claims.

    Args:
        packed: The object's bytes.
        most: Largest plain length in bytes.
        piece: The most bytes that are given at a time.

    Raises:
        TrustError: `trust.content` (not one zstd frame, too large a window), `trust.endless_data` (longer than `most`).
    """
    import zstandard  # noqa: PLC0415 - most checks pack and unpack nothing

    source = _Pulled(packed)
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    came = 0
    try:
        reader = unpacker.stream_reader(source, read_size=piece)  # type: ignore[arg-type] # only `read` is used
        while data := reader.read(piece):
            came += len(data)
            if came > most:
                raise TrustError(f"An object unpacks to more than {most} bytes.", code="trust.endless_data")
            yield data
    except zstandard.ZstdError as error:
        raise TrustError(f"An object is not one zstd frame: {error}.", code="trust.content") from error
    if source.read():
        raise TrustError("Something follows an object's frame.", code="trust.content")


def pieces_of(file: BinaryIO) -> Iterator[bytes]:
    """An open file's bytes from where it stands, in pieces of 128 KiB."""
    while data := file.read(PIECE):
        yield data


class _Pulled:
    """A `read` over an iterable, as zstandard wants it."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, most: int = -1) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        if most < 0:
            most = len(self._rest)
        data, self._rest = self._rest[:most], self._rest[most:]
        return data


def verified(pieces: Iterable[bytes], sha256: str, length: int, origin: str) -> Iterator[bytes]:
    """Pass bytes on while counting and hashing them; the last piece is passed before the verdict, so wait for the end.

    Args:
        origin: Where the bytes come from, for the message.

    Raises:
        TrustError: `trust.endless_data`: longer than signed; `trust.content`: shorter, or other bytes.
    """
    digest, came = Digest(length), 0
    try:
        for piece in pieces:
            came += len(piece)
            if came > length:
                raise TrustError(
                    f"{origin} gives more than the {length} bytes of file {sha256}.", code="trust.endless_data"
                )
            digest.update(piece)
            yield piece
        if came != length or digest.hexdigest() != sha256:
            raise TrustError(f"{origin} gives other bytes than those of file {sha256}.", code="trust.content")
    finally:
        digest.close()
