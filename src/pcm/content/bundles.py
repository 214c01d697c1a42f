"""The bundles that may help with one fetch: finding them, their indexes, and who has given what of them.

Serves step 8, under `assembly`. A bundle that is not there is no fault; one that is not what it must be is dropped, its giver
named, and the next source asked. Nobody's index is acted on before it was held against the manifests of both versions.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from pcm.content.bundle_index import (
    HEAD_BYTES,
    HEAD_GUESS,
    SMALL_FILE,
    BundleIndex,
    Listing,
    bundle_path,
    read_head,
    read_index,
)
from pcm.content.carrying import Carrier, Complaint, Extent
from pcm.content.client_store import ClientStore
from pcm.content.offers import Bundle, uncovered
from pcm.content.parts import Part, Parts
from pcm.content.units import Undoing
from pcm.model.errors import TransferError, TrustError
from pcm.model.package import PackageFile

MOST_OLD = 3  # versions whose bundle is looked for
MOST_ASKED = 2  # sources that are asked for a bundle that may not be there
MOST_TRIES = 8  # of everything that goes wrong with one bundle
FEW_SMALL = 3  # small files for which no bundle of small files is looked for
_INDEX_SHARE = 8  # an index may have one part in so many of the bytes of what is missing


class Version(NamedTuple):
    """An older version whose files the store may hold. `name`: as people call it."""

    listing: Listing
    name: str


class KnownBundle:
    """A bundle whose index is here.

    Attributes:
        sources: Who may be asked for its bytes, in order.
        given: Who gave any of those that are here; None among them: nobody remembers.
    """

    def __init__(
        self,
        path: str,
        old: Version | None,
        index: BundleIndex,
        sources: list[str],
        given: set[str | None],
        undoing: Undoing,
    ) -> None:
        self.path, self.index, self.sources, self.given, self.undoing = path, index, sources, given, undoing
        self.name = old.name if old else ""
        self.way = "patch" if old else "small"
        self.old: Sequence[PackageFile] = old.listing.files if old else ()
        self.tries = 0

    def offered(self, new: Listing, store: ClientStore, parts: Parts) -> Bundle:
        """As `ways` looks at it, at this moment."""
        bases = {piece.file for unit in self.index.units for piece in unit.bases}
        held = frozenset(number for number in bases if store.has(self.old[number].sha256, self.old[number].length))
        return Bundle(self.path, self.name, self.index.units, new.files, held, parts.stretches(self.path))

    def began_badly(self, source: str | None) -> bool:
        """Take note that something went wrong with it; False when it has had enough tries, or nobody is left to ask."""
        self.tries += 1
        if source in self.sources:
            self.sources.remove(source)
        return bool(self.sources) and self.tries < MOST_TRIES


class Finding:
    """Looks for the bundles of one fetch.

    Args:
        sources: In order.
        complain: Told of each source that gave what it should not.
        moved: Told of bytes that came: way, source, how many.
    """

    def __init__(
        self,
        new: Listing,
        store: ClientStore,
        parts: Parts,
        carrier: Carrier,
        sources: Sequence[str],
        complain: Callable[[Complaint], None],
        moved: Callable[[str, str, int], None],
    ) -> None:
        self._new, self._store, self._parts, self._carrier, self._sources = new, store, parts, carrier, sources
        self._complain, self._moved = complain, moved

    def find(self, missing: Sequence[PackageFile], olds: Iterable[Version]) -> Iterator[KnownBundle]:
        """The bundles that are worth having: patches from what is held, newest first, then that of small files.

        Stops asking as soon as everything is covered.
        """
        found: list[Bundle] = []
        left = list(missing)
        for old in list(olds)[:MOST_OLD]:
            if not left:
                return
            known = self._open(old, missing)
            if known is not None:
                found.append(known.offered(self._new, self._store, self._parts))
                left = uncovered(missing, found)
                yield known
        if sum(file.length <= SMALL_FILE for file in left) > FEW_SMALL:
            known = self._open(None, missing)
            if known is not None:
                yield known

    def _open(self, old: Version | None, missing: Sequence[PackageFile]) -> KnownBundle | None:
        path = bundle_path(self._new.sha256, old.listing.sha256 if old else "")
        before = self._parts.stretches(path)
        most = sum(file.length for file in missing) // _INDEX_SHARE + HEAD_GUESS
        sources = list(self._sources)
        for source in self._sources[:MOST_ASKED]:
            try:
                index = self._read(path, source, old, most)
            except (TransferError, TrustError) as error:
                if error.code != "transfer.not_found":
                    self._complain(Complaint(source, path, error.code, error.message))
                sources.remove(source)
                if isinstance(error, TrustError):
                    self._parts.drop(path)
                    before = ()
                continue
            if index is None:
                return None
            undoing = Undoing(path, index, self._new.files, old.listing.files if old else (), self._store, self._parts)
            # whoever was asked last and did not have it may have it by now; for its bytes everybody counts who did not lie
            given: set[str | None] = {None} if before else {source}
            return KnownBundle(path, old, index, sources, given, undoing)
        return None

    def _read(self, path: str, source: str, old: Version | None, most: int) -> BundleIndex | None:
        """The index; None if it is too large for what it could save."""
        with self._parts.open(path) as part:
            if part.end < HEAD_BYTES:
                self._fetch(source, path, part, HEAD_GUESS, old)
            head = read_head(os.pread(part.descriptor, HEAD_BYTES, 0))
            if head.packed > most:
                return None
            if part.end < head.end:
                self._fetch(source, path, part, head.end, old)
            if part.end < head.end:
                raise TrustError(f"{source}: a bundle ends within its index.", code="trust.content")
            packed = Extent(part.descriptor, HEAD_BYTES, head.packed)
            plain = b"".join(self._carrier.unpack("index", packed, (), head.plain))
        return read_index(plain, head, self._new, old.listing if old else None)

    def _fetch(self, source: str, path: str, part: Part, end: int, old: Version | None) -> None:
        before = part.end
        try:
            self._carrier.fetch_range(source, path, part, end)
        finally:
            self._moved("patch" if old else "small", source, part.end - before)
