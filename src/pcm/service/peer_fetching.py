"""Fetching among peers, where the site's policy wants it: the check's part of step 8 that speaks to other clients.

Between `content.assembly`, whose `Neighbours` a `Share` is, and `pcm.peers`. It orders the server that gives to others
(`peer_orders`), says in a file what this computer is going to fetch, finds the peers, and lets `peers.rounds` decide what comes
from where. Each file counts by its hash alone, wherever it came from. Whatever goes wrong with peers costs time and nothing else.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pcm.content.assembly import missing_files
from pcm.content.client_store import ClientStore
from pcm.model.content_policy import ContentPolicy
from pcm.model.errors import PcmError
from pcm.model.package import PackageFile
from pcm.peers.asking import Asking, Peer
from pcm.peers.rounds import Rounds
from pcm.peers.sharing import Group, make_groups
from pcm.peers.wire import COMING, ID, Wants, encode_wants
from pcm.service.inbox import logon_servers, read_header
from pcm.service.machine.interface import Machine
from pcm.service.peer_finding import Finder
from pcm.service.peer_orders import ORDERS, TOLD, WANTS, Orders, remove_file, write_file
from pcm.service.places import Places
from pcm.service.transfer_start import TransferStart
from pcm.transport.client import TransferClient

if TYPE_CHECKING:
    from pcm.service.check import Equipment

ACCOUNT = "_pcm-peers"  # of the server for peers; a number without a name, unless an administrator makes one
RATE = 60 * 10**6  # bytes a second, for all peers together
LEAST_BYTES = 1024 * 1024  # below this, asking around takes longer than fetching
SETTLE_BYTES, SETTLE_S = 16 * 1024 * 1024, 2.0  # before so much, a moment is left for others to show themselves
TELL_AGAIN_S = 3600.0
BEAT_S = 2.0


class Share:
    """The peers of one fetch, as `content.assembly` asks for them. A context manager.

    Args:
        files: All of the package, in the manifest's order: every client has to cut them into the same groups.

    Attributes:
        count: How many peers are known, for `ways.Link.peers`; 0 also where there is too little to fetch.
    """

    def __init__(
        self, it: "Equipment", store: ClientStore, policy: ContentPolicy, files: Sequence[PackageFile]
    ) -> None:
        self._it, self._store, self._policy, self._files = it, store, policy, files
        self._lacking = sum(file.length for file in missing_files(files, store))
        self._finder: Finder | None = None
        self.count = 0

    def __enter__(self) -> Self:
        if self._policy.peers and self._lacking >= LEAST_BYTES:
            it = self._it
            order_server(it.places, it.machine, self._policy)
            self._finder = make_finder(it, self._policy)
            self.count = len(self._finder())
            if not self.count and self._lacking >= SETTLE_BYTES:
                time.sleep(SETTLE_S)  # of a fleet that begins at once, somebody is the first to ask
                self.count = len(self._finder())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __call__(
        self,
        files: Sequence[PackageFile],
        bring_share: Callable[[Sequence[PackageFile]], None],
        came_from: Callable[[PackageFile, str], None],
    ) -> None:
        """See to it that the store holds as many of these files as peers give, and this computer's own share of them.

        Args:
            bring_share: Brings files from the servers. Raises PcmError.
            came_from: Told of each file that a peer gave, and of that peer.

        Raises:
            StoreError: this disk.
        """
        names = {file.sha256 for file in files}
        groups = [_only(group, names) for group in make_groups(self._files)]
        groups = [group for group in groups if group.files]
        if self._finder is None or not groups:
            return
        total = sum(group.length for group in groups)
        starting = TransferStart(self._it.machine, self._it.configuration)
        client = TransferClient(starting)  # of its own: no proxy, and nothing but peers
        fetching = Fetching(self._it.places, groups)
        try:
            if total >= SETTLE_BYTES:
                time.sleep(SETTLE_S)
            hood = Asking(client, self._store, self._finder, fetching.tell, self._complain, came_from)
            gathered = Rounds(
                fetching.id,
                groups,
                hood,
                fetching.beating(lambda group: bring_share(group.files)),
                now=time.monotonic,
                sleep=time.sleep,
                chance=random.SystemRandom(),
            ).run()
        finally:
            fetching.end()
            client.close()
            starting.discard()
        self._it.say(
            f"Of {total} bytes shared among peers, {gathered.bytes} came from them; of {len(groups)} parts, "
            f"{gathered.own_groups} were this computer's own."
        )

    def _complain(self, peer: Peer, error: PcmError) -> None:
        self._it.say(f"The peer {peer.name} is asked no more: {error.message} [{error.code}]")
        self._it.state.refuse(error.code, self._it.clock(), error.message[:1000], f"peer {peer.name}")


def _only(group: Group, names: set[str]) -> Group:
    return group._replace(files=tuple(file for file in group.files if file.sha256 in names))


class Fetching:
    """What this computer says of its own fetch, in the file that its server for peers reads.

    Args:
        groups: What is missing.
    """

    def __init__(self, places: Places, groups: Sequence[Group]) -> None:
        self.id = os.urandom(ID)
        self._path = os.fspath(places.runtime / WANTS)
        content = encode_wants(self.id, [bytes.fromhex(group.key) for group in groups])
        self._wants = Wants(lambda length, at: content[at : at + length], len(content))
        write_file(self._path, content)
        self._file = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def tell(self, key: str, state: bytes, beat: int) -> None:
        """Change what is said of one group. `beat`: another number whenever it goes on."""
        place = self._wants.place(bytes.fromhex(key))
        if place >= 0:
            os.pwrite(self._file, state + bytes((beat % 256,)), place)

    def beating(self, bring: Callable[[Group], None]) -> Callable[[Group], None]:
        """Have the peers see that this computer is alive while it brings a group; what is too slow ends by itself."""

        def bring_and_beat(group: Group) -> None:
            ended = threading.Event()

            def beat() -> None:
                count = 0
                while not ended.wait(BEAT_S):
                    count += 1
                    self.tell(group.key, COMING, count)

            thread = threading.Thread(target=beat, name="beat", daemon=True)
            thread.start()
            try:
                bring(group)
            finally:
                ended.set()
                thread.join()

        return bring_and_beat

    def end(self) -> None:
        """Nothing is fetched any more."""
        remove_file(self._path)
        os.close(self._file)


def make_finder(it: "Equipment", policy: ContentPolicy) -> Finder:
    """A finder that asks the logon servers in their order."""
    servers = logon_servers(it.state, read_header(it.state), it.configuration)
    names = [choice.server for choice in servers.choices(it.clock(), it.network.chance) if choice.usable]
    return Finder(it.network, names, it.identity.client_id, policy.peer_port)


# ---- the server


def order_server(places: Places, machine: Machine, policy: ContentPolicy) -> None:
    """Have the supervisor run a server for peers, as the policy says. Not being able to is no error."""
    account = machine.transfer_account(ACCOUNT)
    orders = Orders(policy.peer_port, RATE, (account.user_id, account.group_id), os.fspath(places.store))
    try:
        write_file(os.fspath(places.runtime / ORDERS), orders.encode())
    except OSError:
        return
    _tell_supervisor()


def settle_server(it: "Equipment", policy: ContentPolicy | None) -> None:
    """At the end of a check: a server, if there is something to give and the site wants it; else none.

    Once an hour this computer says so to the logon servers again, who forget it when they are restarted.
    """
    path = it.places.runtime / ORDERS
    if policy is None or not policy.peers or not _has_content(it.places.store):
        if remove_file(os.fspath(path)):
            _tell_supervisor()
        return
    try:
        recent = time.time() - path.stat().st_mtime < TELL_AGAIN_S
    except OSError:
        recent = False
    if recent:
        return
    order_server(it.places, it.machine, policy)
    make_finder(it, policy).ask()


def _has_content(store: Path) -> bool:
    try:
        return any(any(folder.iterdir()) for folder in store.iterdir() if len(folder.name) == 2)
    except OSError:
        return False


def _tell_supervisor() -> None:
    from pcm.service.quick_check import speaks_to_supervisor  # noqa: PLC0415 - with the supervisor only

    try:
        if speaks_to_supervisor():
            os.write(1, TOLD)
    except OSError:
        return  # it has stopped
