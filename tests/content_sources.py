"""Distribution servers in memory, honest and hostile, and bundles for them: what tests of bringing content ask instead of networks.

`Sources` is a `content.carrying.Carrier` that decodes with the very code that the transfer process decodes with. What a server gives
goes through its `Fault`s first; everything that travels is counted.
"""

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import zstandard

from pcm.content.bundle_index import Head, Listing, Piece, Unit, bundle_path, write_head, write_index
from pcm.content.carrying import Extent
from pcm.content.objects import largest_packed, object_path, pack, unpack
from pcm.content.parts import Part
from pcm.content.unpacking import unpack_index, unpack_unit
from pcm.content.whole_files import storing, write_all
from pcm.model.errors import TransferError
from pcm.model.package import PackageFile

PIECE = 64 * 1024

Fault = Callable[[str, bytes], bytes]
"""Path and the right bytes (empty: there are none) to what the server gives; raises TransferError."""


def honest(_: str, data: bytes) -> bytes:
    if not data:
        raise TransferError("is not there", code="transfer.not_found")
    return data


def down(_path: str, _data: bytes) -> bytes:
    raise TransferError("does not answer", code="transfer.unreachable")


def flipped(path: str, data: bytes) -> bytes:
    """One bit in the middle is another."""
    middle = len(honest(path, data)) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def cut(path: str, data: bytes) -> bytes:
    return honest(path, data)[: len(data) // 2]


def garbage(_: str, data: bytes) -> bytes:
    return b"<html>Please log in</html>" * (1 + len(data) // 20)


class Sources:
    """See the module's docstring. A server is a name with what it holds, and what it does with it.

    Attributes:
        asked: Every question: source and path.
        travelled: Bytes that came from each source.
        on_bytes: Called before each piece is given; may raise.
    """

    def __init__(self, holds: Mapping[str, bytes], **faults: Fault) -> None:
        self.holds = dict(holds)
        self.faults = faults
        self.asked: list[tuple[str, str]] = []
        self.travelled: dict[str, int] = {}
        self.on_bytes: Callable[[str, int], None] = lambda _source, _count: None
        self.breaks_off: dict[str, int] = {}  # after so many bytes of one answer
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return list(self.faults)

    def second(self) -> "Sources":
        return self

    def _give(self, source: str, path: str, start: int, end: int | None) -> Iterator[bytes]:
        with self._lock:
            self.asked.append((source, path))
        data = self.faults[source](path, self.holds.get(path, b""))[start:end]
        most = self.breaks_off.get(source)
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            if most is not None and at + len(piece) > most:
                raise TransferError("broke off", code="transfer.truncated")
            self.on_bytes(source, len(piece))
            with self._lock:
                self.travelled[source] = self.travelled.get(source, 0) + len(piece)
            yield piece

    def fetch_range(
        self, source: str, path: str, part: Part, end: int, on_progress: Callable[[], None] = lambda: None
    ) -> None:
        for piece in self._give(source, path, part.end, end):
            with storing(part.path):
                write_all(part.descriptor, piece)
            on_progress()

    def fetch_object(self, source: str, file: PackageFile, part: Part | None) -> Iterator[bytes]:
        def packed() -> Iterator[bytes]:
            start = 0 if part is None else part.end
            if part is not None and start:
                yield os.pread(part.descriptor, start, 0)
            for piece in self._give(source, object_path(file.sha256), start, largest_packed(file.length) + 1):
                if part is not None:
                    with storing(part.path):
                        write_all(part.descriptor, piece)
                yield piece

        yield from unpack(packed(), file.length)

    def unpack(self, kind: str, packed: Extent, bases: Sequence[Extent], plain_length: int) -> Iterator[bytes]:
        data = os.pread(packed.descriptor, packed.length, packed.offset)
        if kind == "index":
            plain = unpack_index(data, Head(packed.length, plain_length))
        else:
            base = b"".join(os.pread(each.descriptor, each.length, each.offset) for each in bases)
            plain = unpack_unit(kind, data, base, plain_length)
        for at in range(0, len(plain), PIECE):
            yield plain[at : at + PIECE]


def package_file(path: str, content: bytes) -> PackageFile:
    return PackageFile(path, len(content), hashlib.sha256(content).hexdigest())


def listing_of(contents: Mapping[str, bytes], name: str) -> Listing:
    """A version with these files; its manifest is as good as any."""
    files = tuple(package_file(path, content) for path, content in contents.items())
    return Listing(hashlib.sha256(name.encode() + msgspec.json.encode(files)).hexdigest(), files)


def objects_of(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a server holds of these files: path to bytes."""
    return {
        object_path(package_file(path, content).sha256): b"".join(pack(io.BytesIO(content), len(content)))
        for path, content in contents.items()
        if content
    }


def bundle_of(
    new: Listing,
    contents: Mapping[str, bytes],
    old: Listing | None = None,
    old_contents: Mapping[str, bytes] | None = None,
    *,
    segment: int = 1 << 20,
    together: int = 3,
) -> dict[str, bytes]:
    """A bundle: patches against the old file of the same path, longer files in segments, others a few at a time.

    Returns:
        Path and bytes, as a server holds it; nothing if there is nothing to bring.
    """
    held = {file.sha256 for file in old.files} if old else set()
    olds = {file.path: number for number, file in enumerate(old.files)} if old else {}
    units: list[tuple[Unit, bytes]] = []
    group: list[int] = []
    seen: set[str] = set()

    def add(targets: tuple[Piece, ...], bases: tuple[Piece, ...]) -> None:
        plain = b"".join(contents[new.files[each.file].path][each.offset :][: each.length] for each in targets)
        base = (
            b"".join((old_contents or {})[old.files[each.file].path][each.offset :][: each.length] for each in bases)
            if old
            else b""
        )
        packed = _zstd(plain, base)
        whole = len(zstandard.compress(plain, 3))
        units.append((Unit("zstd", 0, len(packed), whole, bases, targets), packed))

    def flush() -> None:
        if group:
            add(tuple(Piece(number, 0, new.files[number].length) for number in group), ())
            group.clear()

    for number, file in enumerate(new.files):
        if not file.length or file.sha256 in held or file.sha256 in seen:
            continue
        seen.add(file.sha256)
        base = olds.get(file.path)
        if file.length <= segment and base is None:
            group.append(number)
            if len(group) == together:
                flush()
            continue
        for start in range(0, file.length, segment):
            bases: tuple[Piece, ...] = ()
            if base is not None and old is not None and start < old.files[base].length:
                bases = (Piece(base, start, min(segment, old.files[base].length - start)),)
            add((Piece(number, start, min(segment, file.length - start)),), bases)
    flush()
    if not units:
        return {}
    index = write_index(new, old, [unit for unit, _ in _placed(units, 0)])
    packed = zstandard.compress(index, 3)
    head = write_head(len(packed), len(index)) + packed
    return {bundle_path(new.sha256, old.sha256 if old else ""): head + b"".join(data for _, data in units)}


def _placed(units: Sequence[tuple[Unit, bytes]], offset: int) -> Iterator[tuple[Unit, bytes]]:
    for unit, data in units:
        yield unit._replace(offset=offset), data
        offset += len(data)


def _zstd(plain: bytes, base: bytes) -> bytes:
    if not base:
        return zstandard.ZstdCompressor(level=3, write_content_size=True).compress(plain)
    prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(level=3, dict_data=prefix, write_content_size=True, write_dict_id=False).compress(
        plain
    )
