"""Bringing a package's content on a client: which servers, which versions to start from, within which limits.

Step 8 of 12, check 12: between `steps/fetch`, which says for what, and `content.assembly`, which brings it. What a source did
wrong is recorded, and reported to the site; how content came is remembered for `pcmsvc why`.
"""

from datetime import datetime
from typing import TYPE_CHECKING

from pcm.content.assembly import Brought, Wanted, bring, missing_files
from pcm.content.bundle_index import Listing
from pcm.content.bundles import Version
from pcm.content.carrying import Complaint
from pcm.content.client_store import ClientStore
from pcm.content.ways import Choice, Link
from pcm.content.whole_files import sweep
from pcm.model.content_policy import ContentPolicy
from pcm.service.catalogue import Catalogue
from pcm.service.content_carrier import ContentCarrier
from pcm.service.content_limits import Limits
from pcm.service.content_records import make_record, note_brought, note_held, read_held, read_policy
from pcm.service.history import History
from pcm.service.share_client import ShareClient
from pcm.service.sources import Servers
from pcm.service.state import State
from pcm.service.tables import count
from pcm.service.transfer_progress import TransferProgress
from pcm.service.transfer_start import TransferStart, transfer_settings
from pcm.service.work import Needed
from pcm.transport.client import TransferClient
from pcm.transport.health import Health

if TYPE_CHECKING:
    from pcm.service.check import Equipment

UNPACK_RATE = "content.unpack_rate"  # in `meta`: plain bytes a second that patches were undone with
_TOLD_BYTES = 1024 * 1024  # plain, from which on a rate says something


class ContentBringing:
    """Brings content for one check.

    Args:
        catalogue: Knows the distribution servers.
    """

    def __init__(self, it: "Equipment", catalogue: Catalogue) -> None:
        self._it = it
        self._catalogue = catalogue

    def __call__(self, needed: Needed) -> None:
        """See to it that the store holds every file of a package.

        Raises:
            StoreError: no room, or this disk. TrustError: what came is not what was signed. TransferError: no server gives a
                file, or (`wait.metered`) none may be asked now.
        """
        it, files = self._it, needed.manifest.files
        store = ClientStore(it.places.store)
        if not missing_files(files, store):
            note_held(it.state, needed.manifest.package, needed.manifest_sha256)
            return
        sweep(store.root)  # what an earlier check left half written when it was killed
        policy = read_policy(it.state)
        servers = self._catalogue.servers()
        names = [choice.server for choice in servers.choices(it.clock(), it.network.chance) if choice.usable]
        limits = Limits(policy, lambda: it.clock().astimezone(), it.machine.metered)
        rate = limits.rate()
        progress = TransferProgress(it.places.runtime, files)
        background = needed.early and policy.background
        wanted = Wanted(
            files,
            Listing(needed.manifest_sha256, files),
            held_versions(it.state, needed.manifest.package, needed.manifest_sha256),
            needed.staging_bytes,
        )
        try:
            with ContentCarrier(it.network.client, self._open_second, limits, background=background) as carrier:
                brought = self._bring(wanted, store, names, carrier, self._link(servers, names, rate), policy, progress)
                note_unpacking(it.state, carrier.unpacked)
        finally:
            progress.end()
        self._remember(needed, brought, servers, it.clock(), limited=bool(rate))

    def _bring(
        self,
        wanted: Wanted,
        store: ClientStore,
        names: list[str],
        carrier: ContentCarrier,
        link: Link,
        policy: ContentPolicy,
        progress: TransferProgress,
    ) -> Brought:
        if not policy.peers:
            return bring(
                wanted,
                store,
                names,
                carrier,
                link,
                on_progress=progress,
                on_choice=self._tell_choice,
                on_complaint=self._refuse,
            )
        from pcm.service.peer_fetching import Share  # noqa: PLC0415 - where the site wants it

        with Share(self._it, store, policy, wanted.files) as share:
            return bring(
                wanted,
                store,
                names,
                carrier,
                link._replace(peers=share.count),
                on_progress=progress,
                on_choice=self._tell_choice,
                on_complaint=self._refuse,
                neighbours=share,
            )

    def _link(self, servers: Servers, names: list[str], limit: int) -> Link:
        """What is known of the way to the first server."""
        known = servers.health.get(names[0], Health()) if names else Health()
        link = Link()
        rate = min((each for each in (known.rate or 0.0, float(limit)) if each), default=0.0)
        unpack_rate = read_unpack_rate(self._it.state)
        return link._replace(
            rate=rate,
            latency_s=min(max(known.latency_s or link.latency_s, 0.0002), 2.0),
            unpack_rate=unpack_rate or link.unpack_rate,
        )

    def _tell_choice(self, choice: Choice) -> None:
        for each in choice.reasons:
            self._it.say(
                f"content: {count(each.files, 'file')} by {each.way}, {count(each.bytes, 'byte')} instead of {each.instead}: "
                f"{each.text}."
            )

    def _refuse(self, complaint: Complaint) -> None:
        self._it.state.refuse(complaint.code, self._it.clock(), complaint.message[:1000], complaint.source)

    def _remember(self, needed: Needed, brought: Brought, servers: Servers, now: datetime, *, limited: bool) -> None:
        it = self._it
        record = make_record(needed.manifest_sha256, now, brought)
        note_brought(it.state, record)
        note_held(it.state, needed.manifest.package, needed.manifest_sha256)
        servers.note_transfers(brought, now, it.network.chance, limited=limited)
        it.say(f"{count(brought.files, 'file')} brought, {count(brought.bytes, 'byte')}; {record.travelled} travelled.")

    def _open_second(self) -> TransferClient:
        it = self._it
        return ShareClient(
            TransferStart(it.machine, it.configuration), transfer_settings(it.configuration), it.places, it.clock
        )


def held_versions(state: State, package: str, but: str) -> list[Version]:
    """Older versions of a package whose files the store may hold, newest first."""
    wanted = [each for each in read_held(state).get(package, ()) if each != but]
    manifests = History(state).manifests(wanted)
    return [
        Version(Listing(each, manifests[each].files), manifests[each].version) for each in wanted if each in manifests
    ]


def read_unpack_rate(state: State) -> float:
    """Plain bytes a second that patches were undone with here; 0: never measured."""
    text = state.meta(UNPACK_RATE)
    return float(text) if text.isdigit() else 0.0


def note_unpacking(state: State, unpacked: list[float]) -> None:
    """Learn how quick this computer is."""
    plain, seconds = unpacked
    if plain < _TOLD_BYTES or seconds <= 0:
        return
    before = read_unpack_rate(state)
    rate = plain / seconds
    state.set_meta(UNPACK_RATE, str(int(rate if not before else 0.7 * before + 0.3 * rate)), durable=False)
