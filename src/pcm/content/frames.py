"""One zstd frame of a unit, undone within bounds.

Serves step 8, inside the transfer process: `unpacking` and `bsdiff_streams` call it. What a frame says of itself is held against
the length that is expected before a byte is set aside for it.
"""

from pcm.content.bundle_index import MAX_PLAIN
from pcm.content.objects import FRAME_HEADER, ZSTD_MAGIC
from pcm.model.errors import TrustError

_SPARE_WINDOW = 1024  # a frame of fewer bytes than this may name the smallest window there is


def undo_zstd(packed: bytes, base: bytes, plain_length: int) -> bytes:
    """What one zstd frame unpacks to, with `base` as raw prefix.

    At once, not as a stream: zstd then writes into the result itself and needs no window beside it.

    Raises:
        TrustError: as `unpack_unit`.
    """
    import zstandard  # noqa: PLC0415 - polls do without

    check_frame(packed, plain_length)
    prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if len(base) else None
    unpacker = zstandard.ZstdDecompressor(dict_data=prefix, max_window_size=MAX_PLAIN)
    try:
        return unpacker.decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise wrong(f"its frame is damaged: {error}") from error


def check_frame(packed: bytes, plain_length: int) -> None:
    """Check what a frame says of itself before anything is set aside for it.

    Raises:
        TrustError: `trust.content`: not one zstd frame of that length; `trust.endless_data`: a longer one.
    """
    import zstandard  # noqa: PLC0415 - polls do without

    try:
        told = zstandard.get_frame_parameters(packed[:FRAME_HEADER])
    except zstandard.ZstdError as error:
        raise wrong("it is not a zstd frame") from error
    if not packed.startswith(ZSTD_MAGIC) or told.dict_id:
        raise wrong("it is not a zstd frame of this kind")
    if told.content_size != plain_length:
        code = "trust.endless_data" if plain_length < told.content_size < (1 << 64) - 2 else "trust.content"
        raise TrustError(f"A unit's frame is not one of {plain_length} bytes.", code=code)
    if told.window_size > max(plain_length, _SPARE_WINDOW):
        raise wrong("its frame wants more memory than it has bytes")


def wrong(why: str) -> TrustError:
    """The error for a unit that cannot be undone."""
    return TrustError(f"A unit of a bundle cannot be unpacked: {why}.", code="trust.content")
