"""Undoing one unit of a bundle: what came, and what the old version has, to plain bytes.

Serves step 8, inside the transfer process and nowhere else that has rights: this is where bytes of strangers meet a
decompressor. Everything is bounded before it is begun: never more than the bytes that the index, held against a signed manifest,
asks for; memory for twice the base, for what came and what comes out. The bytes that come out are still nobody's word: the caller
hashes them.

    raw     the bytes themselves
    zstd    one frame of exactly that length, with the joined bases as raw prefix
    bsdiff  three streams (see `bsdiff_streams`): which bytes of the base to take, what to add to them, what stands between
"""

from pcm.content.bundle_index import MAX_BASE, MAX_PLAIN, Head, largest_unit
from pcm.content.frames import undo_zstd, wrong


def unpack_index(packed: bytes, head: Head) -> bytes:
    """The index of a bundle, unpacked.

    Args:
        packed: The `head.packed` bytes after the head.

    Raises:
        TrustError: `trust.content`, `trust.endless_data`.
    """
    return unpack_unit("zstd", packed, b"", head.plain)


def unpack_unit(kind: str, packed: bytes, base: bytes, plain_length: int) -> bytes:
    """The targets of a unit, joined: exactly `plain_length` bytes.

    Args:
        kind: `raw`, `zstd` or `bsdiff`.
        packed: The unit's bytes in the bundle.
        base: Its bases, joined. Any buffer will do; zstd copies it.
        plain_length: Of the targets, in bytes, as the index says.

    Raises:
        TrustError: `trust.content`: it is not what it must be; `trust.endless_data`: it would be more than `plain_length` bytes.
    """
    if not 0 < plain_length <= MAX_PLAIN or len(base) > MAX_BASE or len(packed) > largest_unit(plain_length):
        raise wrong("it is too large, or empty")
    if kind == "raw" and not base:
        plain = packed
    elif kind == "zstd":
        plain = undo_zstd(packed, base, plain_length)
    elif kind == "bsdiff":
        from pcm.content.bsdiff_streams import undo  # noqa: PLC0415 - many bundles have none

        plain = undo(packed, base, plain_length)
    else:
        raise wrong("its kind is none, or has no base")
    if len(plain) != plain_length:
        raise wrong(f"it unpacks to {len(plain)} bytes instead of {plain_length}")
    return plain
