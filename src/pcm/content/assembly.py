"""Bringing all files of a package into the client's store, by whichever way is soonest, from whoever gives the right bytes.

Step 8 of 12: called by `service.content_bring` with the files of a verified manifest, before `steps/stage`. First the indexes of
bundles that may help, then what `ways` chooses: stretches of bundles, undone as they come; whole objects; what computers of this
subnet give. Nothing that comes is believed: each file counts only after its own hash. Whatever fails costs another try, by
another way or from another source, a bounded number of times, and names who gave it. What is there already never travels again
(Q140051), nor does what had come of a bundle or an object when something, or somebody, ended the last attempt. It knows nothing
of networks.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from pcm.content.bundle_index import Listing, bundle_path
from pcm.content.bundles import Finding, KnownBundle, Version
from pcm.content.carrying import Carrier, Complaint, FetchProgress, Traffic
from pcm.content.client_store import ClientStore
from pcm.content.object_bringing import ObjectBringing
from pcm.content.objects import object_path
from pcm.content.parts import Parts
from pcm.content.settling import Settling
from pcm.content.stretches import Stretches, UnusableError
from pcm.content.tally import Tally
from pcm.content.ways import Choice, Link, choose, is_little
from pcm.model.errors import PcmError, StoreError, TransferError, TrustError
from pcm.model.package import PackageFile

RESERVE_BYTES = 64 * 1024 * 1024  # left on the disk for the system and the service's own records
BESIDE_BYTES = 1024 * 1024  # of a bundle, from which on it is undone by another process while it comes

Neighbours = Callable[
    [Sequence[PackageFile], Callable[[Sequence[PackageFile]], None], Callable[[PackageFile, str], None]], None
]
"""See to it that the store holds as many of these files as computers of this subnet give: with a way to bring this computer's own
share from the servers, and one to say that a file came from a peer."""


class Wanted(NamedTuple):
    """What a fetch is for.

    Attributes:
        files: All that the store shall hold.
        new: The version they are of; None: only whole objects are asked for.
        olds: Versions of the same package that the store may hold, newest first.
        staging_bytes: What staging and the program itself need besides, on the same disk.
    """

    files: Sequence[PackageFile]
    new: Listing | None = None
    olds: Sequence[Version] = ()
    staging_bytes: int = 0


class Brought(NamedTuple):
    """What a fetch did: new files and bytes (plain), what went wrong on the way, how they came, and what was chosen at first."""

    files: int
    bytes: int
    complaints: tuple[Complaint, ...]
    traffic: tuple[Traffic, ...] = ()
    choice: Choice | None = None
    seconds: float = 0.0


def missing_files(files: Iterable[PackageFile], store: ClientStore) -> list[PackageFile]:
    """Those whose bytes are not in the store, each content once, largest last."""
    absent = {file.sha256: file for file in files if not store.has(file.sha256, file.length)}
    return sorted(absent.values(), key=lambda file: (file.length, file.sha256))


def check_space(missing: Sequence[PackageFile], store: ClientStore, staging_bytes: int, parts_bytes: int = 0) -> None:
    """Say before the first byte travels whether there is room (KB Q137610, Q191297).

    Args:
        staging_bytes: What staging and the program itself need besides, on the same disk.
        parts_bytes: Packed bytes that have to lie there until they are undone, beyond those that do already.

    Raises:
        StoreError: `store.disk_full`, naming place, need and lack.
    """
    plain = sum(file.length for file in missing)
    needed = plain + staging_bytes + parts_bytes + RESERVE_BYTES
    free = store.free_bytes()
    if free < needed:
        raise StoreError(
            f"{needed} bytes are needed on the disk of {store.root} and {free} are free: free another {needed - free}. "
            f"({plain} for {len(missing)} missing files, {parts_bytes} for them as they come, {staging_bytes} for the package "
            f"directory and its program, {RESERVE_BYTES} for the system.)",
            code="store.disk_full",
        )


def make_room(missing: Sequence[PackageFile], store: ClientStore, staging_bytes: int) -> None:
    """Check that there is room; what earlier attempts have left of other things gives way first. Raises as `check_space`."""
    try:
        check_space(missing, store, staging_bytes)
    except StoreError:
        if not Parts(store.root).sweep(0).removed:
            raise
        check_space(missing, store, staging_bytes)


def bring(
    wanted: Wanted,
    store: ClientStore,
    sources: Sequence[str],
    carrier: Carrier,
    link: Link = Link(),  # noqa: B008 - immutable
    *,
    on_progress: Callable[[FetchProgress], None] | None = None,
    on_choice: Callable[[Choice], None] = lambda _: None,
    on_complaint: Callable[[Complaint], None] = lambda _: None,
    neighbours: Neighbours | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Brought:
    """See to it that the store holds all of `wanted.files`.

    Args:
        sources: Servers in the order in which to ask them (`transport.health.order`). One that fails moves to the end.
        link: To the first of them.
        on_progress: Called a few times a second, by whichever thread, and at the end.
        on_choice: Told which ways were chosen.
        on_complaint: Told at the end of each source that did not give what it should, whatever that end is.
        neighbours: Asked first for what is to come from this subnet (`link.peers`).
        clock: Monotonic seconds.

    Returns:
        What came, and each failure that another source made good.

    Raises:
        StoreError: `store.disk_full` (before anything travels, or if the disk fills up meanwhile), `store.not_writable`.
        TrustError: `trust.content` or `trust.endless_data`: no source gives a file, and at least one gave wrong bytes.
        TransferError: no source gives a file; what came until then is kept.
    """
    missing = missing_files(wanted.files, store)
    if not missing:
        return Brought(0, 0, ())
    make_room(missing, store, wanted.staging_bytes)
    work = _Assembly(wanted, missing, store, sources, carrier, link, Tally(missing, on_progress, clock))
    try:
        return work.run(on_choice, neighbours)
    finally:
        for complaint in work.complaints:
            on_complaint(complaint)


class _Assembly:
    """One fetch."""

    def __init__(
        self,
        wanted: Wanted,
        missing: Sequence[PackageFile],
        store: ClientStore,
        sources: Sequence[str],
        carrier: Carrier,
        link: Link,
        tally: Tally,
    ) -> None:
        self._wanted, self._missing, self._store, self._link = wanted, missing, store, link
        self._carrier, self._tally = carrier, tally
        self._parts = Parts(store.root)
        self._settling = Settling(store, self._parts, tally)
        self.complaints: list[Complaint] = []
        self._sources = list(sources)
        keep = RESERVE_BYTES + wanted.staging_bytes + tally.bytes_total
        self._objects = ObjectBringing(
            store, self._parts, self._sources, carrier, tally, self._settling, self.complaints.append, keep
        )
        self._stretches = Stretches(self._parts, carrier, tally, self.complaints.append)
        self._bundles: list[KnownBundle] = []

    def run(self, on_choice: Callable[[Choice], None], neighbours: Neighbours | None) -> Brought:
        for file in self._missing:
            if file.length == 0:
                self._store.add(file.sha256, 0, (), "Nothing")  # the hash of nothing needs no server
                self._tally.file_done(file, "have", "")
        first: Choice | None = None
        try:
            self._find_bundles()
            while missing := missing_files(self._missing, self._store):
                choice = self._choose(missing)
                if first is None:
                    first = choice
                    on_choice(choice)
                if not self._run_bundles(choice):
                    continue  # something went wrong: one source or bundle fewer, and another choice
                if choice.peer:
                    self._link = self._link._replace(peers=0)  # what does not come from there comes from the servers
                    if neighbours is not None:
                        self._tally.works("peer", "")
                        neighbours(choice.peer, self._bring_share, self._came_from)
                    continue
                self._objects.bring(choice.whole)
            self._settling.finish(self._paths())
        finally:
            for bundle in self._bundles:
                bundle.undoing.begin_again()
        self._tally.tell()
        return Brought(
            len(self._missing),
            self._tally.bytes_total,
            tuple(self.complaints),
            self._tally.traffic(),
            first,
            self._tally.seconds,
        )

    def _paths(self) -> Iterator[str]:
        """Of everything that may have left a part."""
        new = self._wanted.new
        if new is not None:
            yield from (
                bundle_path(new.sha256, old) for old in ("", *(each.listing.sha256 for each in self._wanted.olds))
            )
        yield from {object_path(file.sha256) for file in self._wanted.files}

    def _bring_share(self, files: Sequence[PackageFile]) -> None:
        self._objects.bring(missing_files(files, self._store))

    def _came_from(self, file: PackageFile, peer: str) -> None:
        self._tally.moved("peer", peer, file.length)
        self._tally.file_done(file, "peer", peer)

    def _find_bundles(self) -> None:
        """Get the indexes of what may be better than whole objects."""
        new, missing = self._wanted.new, [file for file in self._missing if file.length]
        if new is None or not missing or is_little(missing):
            return
        finding = Finding(
            new, self._store, self._parts, self._carrier, self._sources, self.complaints.append, self._tally.moved
        )
        self._bundles = list(finding.find(missing, self._wanted.olds))

    def _choose(self, missing: Sequence[PackageFile]) -> Choice:
        new = self._wanted.new
        offered = [] if new is None else [each.offered(new, self._store, self._parts) for each in self._bundles]
        choice = choose(missing, offered, self._link)
        packed = sum(each.end - each.start for each in choice.ranges)
        try:
            check_space(missing, self._store, self._wanted.staging_bytes, packed)
        except StoreError:
            check_space(missing, self._store, self._wanted.staging_bytes)
            choice = choose(missing, (), self._link)  # there is room for the files alone
        self._tally.expect(choice.bytes)
        return choice

    # ---- stretches of bundles

    def _run_bundles(self, choice: Choice) -> bool:
        """Fetch and undo; False if something went wrong, and what is known of bundles is different now."""
        if not choice.ranges and not choice.ready:
            return True
        beside = sum(each.end - each.start for each in choice.ranges) >= BESIDE_BYTES
        undoer = self._carrier.second() if beside else self._carrier
        wanted = {sha256 for sha256, way in choice.ways.items() if way in ("patch", "small")}
        bundles = list(self._bundles)
        arrivals = self._stretches.arrive_beside(choice, bundles) if beside else self._stretches.arrive(choice, bundles)
        try:
            for number, unit in arrivals:
                if not self._undo(bundles[number], unit, undoer, wanted):
                    return False
        except UnusableError as error:
            self._give_up(error.bundle)
            return False
        finally:
            arrivals.close()
        return True

    def _undo(self, bundle: KnownBundle, unit: int, carrier: Carrier, wanted: set[str]) -> bool:
        origin = " or ".join(sorted(each for each in bundle.given if each)) or "an earlier attempt"
        try:
            done = bundle.undoing.undo(unit, carrier, wanted, origin)
        except TransferError:  # nothing can be unpacked now; nobody's fault
            self._give_up(bundle)
            return False
        except (TrustError, StoreError) as error:
            if isinstance(error, StoreError) and error.code != "store.damaged":
                raise
            if not bundle.undoing.damaged_bases(unit):
                self._blame(bundle, error)
            bundle.undoing.begin_again()
            return False
        for file in done:
            self._tally.file_done(file, bundle.way, origin)
            self._settling.added(file)
        return True

    def _blame(self, bundle: KnownBundle, error: PcmError) -> None:
        """Bytes of a bundle are wrong. If one source gave all of them, it is that one's doing."""
        self._parts.drop(bundle.path)
        givers, bundle.given = bundle.given, set()
        source = next(iter(givers)) if len(givers) == 1 else None
        if source is not None:
            self.complaints.append(Complaint(source, bundle.path, error.code, error.message))
        if not bundle.began_badly(source):
            self._give_up(bundle)

    def _give_up(self, bundle: KnownBundle) -> None:
        if bundle in self._bundles:
            self._bundles.remove(bundle)
        bundle.undoing.begin_again()
