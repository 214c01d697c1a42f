"""Keeping a copy of a distribution server: a folder, a USB stick, a bucket. Only what lacks is copied, and all of it is checked.

Serves step 2 from outside: `pcm distribution mirror SOURCE TARGET`. What belongs to a copy follows from its metadata: timestamp,
snapshot, the teams' lists, their manifests, and the objects and bundles of those. Content is written before what names it, the
timestamp last, so that a copy is right at every moment, whatever interrupts it. Signatures are for clients to check: a copy
cannot make anything true.
"""

import functools
import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

import msgspec

from pcm.content.bundle_index import HEAD_BYTES, MAX_INDEX, bundle_path
from pcm.content.object_store import MOST_SMALL, verified_as_it_passes, verify_small
from pcm.content.objects import largest_packed, object_path
from pcm.distribution.folder import TIMESTAMP, is_published_name
from pcm.distribution.shelf import Shelf, pieces_from
from pcm.model.errors import PcmError, RequestError, TransferError, TrustError
from pcm.protocol.manifest import MAX_BYTES, Manifest, read_manifest

_MOST_METADATA = 64 * 2**20
_MOST_ROOTS = 10_000
_TOGETHER = 16 * 2**20
_TIMES = 3
_BROKEN_OFF = ("transfer.failed", "transfer.truncated")
_OURS = ("objects/", "bundles/", "targets/", "metadata/")

_Brought = TypeVar("_Brought")


class Source(Protocol):
    """Where files come from: a shelf, or a server on the web."""

    @property
    def title(self) -> str:
        """What people call it."""

    def read(self, name: str, most: int) -> bytes | None:
        """A small file, or None."""

    def open(self, name: str) -> BinaryIO:
        """A file's bytes. Raises RequestError `not_found`."""

    def size(self, name: str) -> int | None:
        """A file's length, or None."""


class Mirrored(NamedTuple):
    """What was done; bytes as packed."""

    copied: int
    copied_bytes: int
    kept: int
    removed: int
    packages: int
    timestamp: int


class MirrorProgress(NamedTuple):
    """How far a copy is, in bytes of plain files. `name`: what was just copied."""

    name: str
    bytes_done: int
    bytes_total: int


class _Named(NamedTuple):
    """What belongs to a copy. `small`: files that were read already, in writing order."""

    manifests: dict[str, Manifest]
    bodies: dict[str, bytes]
    metadata: dict[str, bytes]
    timestamp: bytes


def mirror(
    source: Source,
    target: Shelf,
    *,
    packages: Collection[str] = (),
    check: bool = False,
    prune: bool = False,
    on_progress: Callable[[MirrorProgress], None] | None = None,
) -> Mirrored:
    """Bring a copy into step with its source.

    Args:
        packages: Only the content of these; all metadata comes along. Empty: everything.
        check: Also read and hash what the copy has, and bring anew what is damaged.
        prune: Remove what the source no longer names. Nothing is ever removed without it.

    Raises:
        RequestError: `not_found`: no distribution server there, or no such package; `conflict`: the copy is newer.
        TrustError: the source gives other bytes than its own metadata says.
        StoreError, TransferError: either cannot be reached, or the copy cannot be written.
    """
    try:
        named = _read_source(source, packages)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise TrustError(f"The metadata of {source.title} is none.", code="trust.malformed") from error
    before = target.read(TIMESTAMP, _MOST_METADATA)
    if before is not None and _version(before) > _version(named.timestamp):
        raise RequestError(
            f"{target.title} has version {_version(before)} of the repository, and {source.title} only "
            f"{_version(named.timestamp)}: it is older. Copy the other way round?",
            code="conflict",
        )
    work = _Copy(source, target, on_progress)
    work.objects({file.sha256: file.length for each in named.manifests.values() for file in each.files}, check=check)
    work.bundles(_bundle_names(named.manifests))
    for name, body in (*named.bodies.items(), *named.metadata.items(), (TIMESTAMP, named.timestamp)):
        work.small(name, body)
    removed = _prune(target, work.wanted) if prune else 0
    return Mirrored(work.copied, work.copied_bytes, work.kept, removed, len(named.manifests), _version(named.timestamp))


class _Copy:
    """One copying."""

    def __init__(self, source: Source, target: Shelf, on_progress: Callable[[MirrorProgress], None] | None) -> None:
        self._source, self._target, self._on_progress = source, target, on_progress
        self.copied = self.copied_bytes = self.kept = 0
        self.wanted: set[str] = set()
        self._done = self._total = 0

    def objects(self, lengths: dict[str, int], *, check: bool) -> None:
        """Bring objects that lack; small ones together."""
        names = {object_path(sha256): (sha256, length) for sha256, length in lengths.items()}
        self.wanted.update(names)
        there = self._target.sizes(names)
        todo = {
            name: what for name, what in names.items() if name not in there or (check and self._is_bad(name, *what))
        }
        self.kept += len(names) - len(todo)
        self._total = sum(length for _, length in todo.values())
        batch: dict[str, bytes] = {}
        size = 0
        for name, (sha256, length) in todo.items():
            if length > MOST_SMALL:
                self._again(functools.partial(self._large, name, sha256, length))
            else:
                most = largest_packed(length)
                batch[name] = self._again(functools.partial(self._whole, name, most))
                verify_small(sha256, batch[name])
                size += len(batch[name])
                if size >= _TOGETHER or len(batch) >= 2000:
                    self._write_batch(batch)
                    batch, size = {}, 0
            self._done += length
            self._tell(name)
        self._write_batch(batch)
        self.copied += len(todo)

    def bundles(self, names: Iterable[tuple[str, int]]) -> None:
        """Bring bundles that the source has, each with the most bytes that it may have.

        They are checked by whoever unpacks them; here their lengths must agree.
        """
        for name, most in names:
            size = self._source.size(name)
            if size is None:
                continue
            if size > most:
                raise TrustError(f"{self._source.title}: {name} is longer than it can be.", code="trust.endless_data")
            self.wanted.add(name)
            if self._target.size(name) == size:
                self.kept += 1
                continue
            self._again(functools.partial(self._bundle, name, size))
            self.copied += 1
            self._tell(name)

    def small(self, name: str, body: bytes) -> None:
        """Bring a file that was read already, unless it is there."""
        self.wanted.add(name)
        if self._target.read(name, _MOST_METADATA) == body:
            self.kept += 1
            return
        self._target.write(name, (body,))
        self.copied, self.copied_bytes = self.copied + 1, self.copied_bytes + len(body)

    def _write_batch(self, batch: dict[str, bytes]) -> None:
        if batch:
            self._target.write_many(batch)
            self.copied_bytes += sum(map(len, batch.values()))

    def _large(self, name: str, sha256: str, length: int) -> None:
        pieces = pieces_from(self._source.open(name))
        self._target.write(name, self._counted(verified_as_it_passes(pieces, sha256, length)))

    def _whole(self, name: str, most: int) -> bytes:
        return b"".join(self._at_most(name, most))

    def _bundle(self, name: str, size: int) -> None:
        self._target.write(name, self._counted(self._at_most(name, size, least=size)))

    def _again(self, bring: Callable[[], _Brought]) -> _Brought:
        """Bring a file, and once more if it broke off: so does one that its source packs again while it is read."""
        for _ in range(_TIMES - 1):
            before = self.copied_bytes
            try:
                return bring()
            except TransferError as error:
                if error.code not in _BROKEN_OFF:
                    raise
                self.copied_bytes = before
        return bring()

    def _at_most(self, name: str, most: int, least: int = 0) -> Iterable[bytes]:
        came = 0
        for piece in pieces_from(self._source.open(name)):
            came += len(piece)
            if came > most:
                raise TrustError(f"{self._source.title}: {name} is longer than it can be.", code="trust.endless_data")
            yield piece
        if came < least:
            raise TransferError(f"{self._source.title}: {name} ended early.", code="transfer.truncated")

    def _counted(self, pieces: Iterable[bytes]) -> Iterable[bytes]:
        for piece in pieces:
            self.copied_bytes += len(piece)
            yield piece

    def _is_bad(self, name: str, sha256: str, length: int) -> bool:
        try:
            for _ in verified_as_it_passes(pieces_from(self._target.open(name)), sha256, length):
                pass
        except (TrustError, RequestError):
            return True
        return False

    def _tell(self, name: str) -> None:
        if self._on_progress is not None:
            self._on_progress(MirrorProgress(name, self._done, self._total))


def _read_source(source: Source, packages: Collection[str]) -> _Named:
    timestamp = source.read(TIMESTAMP, _MOST_METADATA)
    if timestamp is None:
        raise RequestError(
            f"There is no distribution server at {source.title}: it has no {TIMESTAMP}.", code="not_found"
        )
    metadata: dict[str, bytes] = {}
    for version in range(1, _MOST_ROOTS):
        root = source.read(name := f"metadata/{version}.root.json", _MOST_METADATA)
        if root is None:
            break
        metadata[name] = root
    snapshot_name = f"metadata/{_signed(timestamp)['meta']['snapshot.json']['version']}.snapshot.json"
    snapshot = _require(source, snapshot_name)
    bodies: dict[str, bytes] = {}
    manifests: dict[str, Manifest] = {}
    lists: dict[str, bytes] = {}
    for role, told in sorted(_signed(snapshot)["meta"].items()):
        name = f"metadata/{int(told['version'])}.{role}"
        lists[name] = _require(source, name)
        for path, described in sorted(_signed(lists[name]).get("targets", {}).items()):
            is_package = path.startswith("packages/")
            if is_package and packages and path.split("/")[2] not in packages:
                continue
            sha256 = str(described["hashes"]["sha256"])
            folder, _, last = path.rpartition("/")
            target = f"targets/{folder}/{sha256}.{last}"
            bodies[target] = _require(source, target, sha256)
            if is_package:
                manifests[sha256] = read_manifest(bodies[target])
    absent = set(packages) - {manifest.package for manifest in manifests.values()}
    if absent:
        raise RequestError(f"{source.title} has no package {', '.join(sorted(absent))}.", code="not_found")
    return _Named(manifests, bodies, {**metadata, **lists, snapshot_name: snapshot}, timestamp)


def _require(source: Source, name: str, sha256: str | None = None) -> bytes:
    if not is_published_name(name):  # it becomes a path in the copy
        raise TrustError(f"{source.title} names {name[:200]!r}, which is no name of ours.", code="trust.malformed")
    body = source.read(name, MAX_BYTES)
    if body is None:
        raise RequestError(
            f"{source.title} lacks {name}, which it names itself: it is being changed, or broken.", code="not_found"
        )
    if sha256 is not None and hashlib.sha256(body).hexdigest() != sha256:
        raise TrustError(f"{source.title} gives other bytes for {name} than were signed.", code="trust.content")
    return body


def _signed(body: bytes) -> dict[str, Any]:
    try:
        signed: dict[str, Any] = msgspec.json.decode(body)["signed"]
    except (msgspec.DecodeError, KeyError, TypeError):
        raise TrustError("A metadata file is none.", code="trust.malformed") from None
    return signed


def _version(timestamp: bytes) -> int:
    try:
        return int(_signed(timestamp)["version"])
    except (PcmError, KeyError, TypeError, ValueError):
        return 0


def _bundle_names(manifests: dict[str, Manifest]) -> Iterable[tuple[str, int]]:
    for sha256, manifest in manifests.items():
        most = 2 * sum(file.length for file in manifest.files) + HEAD_BYTES + MAX_INDEX
        yield bundle_path(sha256), most
        for other, older in manifests.items():
            if older.package == manifest.package and older.release < manifest.release:
                yield bundle_path(sha256, other), most


def _prune(target: Shelf, wanted: set[str]) -> int:
    garbage = [each.name for each in target.list("") if each.name.startswith(_OURS) and each.name not in wanted]
    return sum(target.delete(name) for name in garbage)
