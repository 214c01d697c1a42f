"""Asking peers over the network, by way of a transfer process of its own. Serves step 8, below `rounds`.

What peers send is parsed where everything is that networks send: in a process without rights. That one speaks to peers only, and
through no proxy. A peer gets no more than an address, a port and hashes; it is asked for files at their signed length, and
what it sends counts by its hash alone.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from pcm.content.client_store import ClientStore
from pcm.model.errors import PcmError, TransferError, TrustError
from pcm.model.package import PackageFile
from pcm.peers.wire import FILES, HAVE, ID, MAX_ASKED, Picture, parse_picture
from pcm.transport.client import Source
from pcm.transport.framing import Request

LOOK_TOTAL_S = 2.0  # for one peer
NEWCOMERS_S = 4.0  # for all those together, in one look, that have not answered yet
MIN_RATE = 64 * 1024  # bytes a second; a peer is on the same wire
BASE_S = 20.0
SILENCES = 2  # in a row, after which a peer is not asked any more


class Peer(NamedTuple):
    """Where a peer's server is. `address`: as text, without brackets."""

    address: str
    port: int

    @property
    def name(self) -> str:
        """For messages, and as its name among others."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Asking:
    """The peers of one fetch; a `rounds.Neighbourhood`.

    Args:
        source: A transfer process that does not use a proxy.
        find: The peers that are known now; asked before each look, and answers quickly.
        tell: See `Neighbourhood.tell`. complain: told of each peer that is dropped. came_from: of each file, and whose it is.
    """

    def __init__(
        self,
        source: Source,
        store: ClientStore,
        find: Callable[[], Iterable[Peer]],
        tell: Callable[[str, bytes, int], None],
        complain: Callable[[Peer, PcmError], None],
        came_from: Callable[[PackageFile, str], None] = lambda _, __: None,
    ) -> None:
        self._source, self._store = source, store
        self._find, self._tell, self._complain, self._came_from = find, tell, complain, came_from
        self._peers: dict[str, Peer] = {}
        self._silent: dict[str, int] = {}
        self._answered: set[str] = set()
        self._dropped: set[str] = set()

    def look(self, keys: Sequence[str]) -> Mapping[str, Picture]:
        """See `Neighbourhood.look`."""
        self._peers = {peer.name: peer for peer in self._find() if peer.name not in self._dropped}
        asked = b"".join(bytes.fromhex(key) for key in keys[:MAX_ASKED])
        pictures: dict[str, Picture] = {}
        until = time.monotonic() + NEWCOMERS_S
        for name in sorted(self._peers, key=lambda each: each not in self._answered):
            late = name not in self._answered and time.monotonic() > until
            if late or self._silent.get(name, 0) >= SILENCES:
                continue
            picture = self._ask(name, asked)
            if picture is not None:
                pictures[name] = picture
        return pictures

    def fetch(self, peer: str, file: PackageFile) -> None:
        """See `Neighbourhood.fetch`."""
        if self._store.has(file.sha256, file.length):
            return
        request = Request(
            f"http://{self._peers[peer].name}{FILES}{file.sha256}",
            max_bytes=file.length,
            total_s=BASE_S + file.length / MIN_RATE,
            min_rate=MIN_RATE,
            answer_s=10.0,
        )
        try:
            with self._source.fetch(request) as response:
                self._store.add(file.sha256, file.length, response.iter_bytes(), f"The peer {peer}")
            self._came_from(file, f"peer {peer}")
        except TransferError as error:
            if error.code == "transfer.too_long":
                raise TrustError(f"The peer {peer}: {error.message}", code="trust.endless_data") from error
            raise

    def drop(self, peer: str, error: PcmError) -> None:
        """See `Neighbourhood.drop`."""
        self._dropped.add(peer)
        self._complain(self._peers[peer], error)

    def tell(self, key: str, state: bytes, beat: int) -> None:
        """See `Neighbourhood.tell`."""
        self._tell(key, state, beat)

    def _ask(self, name: str, asked: bytes) -> Picture | None:
        count = len(asked) // 32
        request = Request(
            f"http://{name}{HAVE}",
            method="POST",
            body=asked,
            max_bytes=ID + 2 * count,
            total_s=LOOK_TOTAL_S,
            answer_s=LOOK_TOTAL_S,
        )
        try:
            with self._source.fetch(request) as response:
                picture = parse_picture(response.read(), count)
        except TransferError as error:
            if error.code != "transfer.server_error":  # that one is only busy
                self._silent[name] = self._silent.get(name, 0) + 1
            return None
        except ValueError:
            self.drop(name, TransferError(f"The peer {name} answers with nonsense.", code="transfer.protocol"))
            return None
        self._silent.pop(name, None)
        self._answered.add(name)
        return picture
