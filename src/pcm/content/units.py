"""Undoing units of bundles: packed bytes in a part, old files in the store, to new files in the store.

Serves step 8, under `assembly`. The unpacking itself happens where nobody has rights (`Carrier.unpack`); here pieces are put in
their places, and each file counts only after its own SHA-256. A file of several units lies beside its place until all have come.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from pcm.content.bundle_index import BundleIndex, Piece, Unit
from pcm.content.carrying import Carrier, Extent
from pcm.content.client_store import ClientStore, Incoming
from pcm.content.parts import Parts
from pcm.model.errors import TrustError
from pcm.model.package import PackageFile


class Undoing:
    """The units of one bundle, one after the other. A context manager: what is not whole at its end is given up.

    Args:
        path: Of the bundle, below a distribution server.
        new, old: The files of both manifests.
    """

    def __init__(
        self,
        path: str,
        index: BundleIndex,
        new: Sequence[PackageFile],
        old: Sequence[PackageFile],
        store: ClientStore,
        parts: Parts,
    ) -> None:
        self._path, self._index, self._new, self._old = path, index, new, old
        self._store, self._parts = store, parts
        self._open: dict[int, Incoming] = {}

    def undo(self, number: int, carrier: Carrier, wanted: frozenset[str] | set[str], origin: str) -> list[PackageFile]:
        """Undo one unit whose bytes are here.

        Args:
            wanted: Contents that are missing; others are passed over.
            origin: Who gave the bytes, for messages.

        Returns:
            The files that are whole now.

        Raises:
            TrustError: `trust.content`, `trust.endless_data`: it does not give what the manifest names.
            TransferError: nothing can be unpacked now. StoreError: this disk; `store.damaged`: an old file is not what it was.
        """
        unit = self._index.units[number]
        part = self._parts.holding(self._path, unit.offset, unit.offset + unit.packed)
        if part is None:
            raise TrustError(f"{origin}: a bundle ends before its units do.", code="trust.content")
        with part, self._bases(unit.bases) as bases:
            packed = Extent(part.descriptor, unit.offset - part.start, unit.packed)
            plain = b"".join(carrier.unpack(unit.kind, packed, bases, unit.plain))
        if len(plain) != unit.plain:
            raise TrustError(
                f"{origin}: a unit of a bundle has another length than its index says.", code="trust.content"
            )
        return list(self._keep(unit, memoryview(plain), wanted, origin))

    def _keep(
        self, unit: Unit, plain: memoryview, wanted: frozenset[str] | set[str], origin: str
    ) -> Iterator[PackageFile]:
        at = 0
        for piece in unit.targets:
            file, data = self._new[piece.file], plain[at : at + piece.length]
            at += piece.length
            if file.sha256 not in wanted or self._store.has(file.sha256, file.length):
                continue
            if piece.length == file.length:
                self._store.add(file.sha256, file.length, (bytes(data),), origin)
                yield file
                continue
            incoming = self._open.get(piece.file)
            if incoming is None:
                incoming = self._open[piece.file] = self._store.begin(file.sha256, file.length)
            incoming.write(piece.offset, data)
            if incoming.is_whole:
                del self._open[piece.file]
                incoming.finish(origin)
                yield file

    @contextlib.contextmanager
    def _bases(self, pieces: Sequence[Piece]) -> Iterator[list[Extent]]:
        """The old bytes, each file opened once."""
        opened: dict[int, int] = {}
        try:
            for piece in pieces:
                if piece.file not in opened:
                    file = self._old[piece.file]
                    opened[piece.file] = self._store.open(file.sha256, file.length)
            yield [Extent(opened[piece.file], piece.offset, piece.length) for piece in pieces]
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    def damaged_bases(self, number: int) -> bool:
        """Whether an old file under a unit that went wrong is not what its name says; then nobody else is to blame."""
        files = {self._old[piece.file].sha256: self._old[piece.file] for piece in self._index.units[number].bases}
        intact = [self._store.is_intact(file.sha256, file.length) for file in files.values()]  # each is looked at
        return not all(intact)

    def begin_again(self) -> None:
        """Give up what is not whole."""
        for incoming in self._open.values():
            incoming.close()
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.begin_again()
