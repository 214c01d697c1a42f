"""Which clients are in one subnet and offer to be asked for content: kept in memory, told to each other.

Serves step 8 of clients; beside `app`, which knows who asks and from where. A client says at which of its addresses it would
serve; it is believed as far as its neighbours are concerned: only clients that say they are in the same subnet, and that come
from the same place of the world, learn its address and port, and nothing else of it. What it says ends after a day without a
poll. Nothing is written anywhere: after a restart the clients say it again.
"""

import ipaddress
import random
import re
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from pcm.model.errors import RequestError
from pcm.protocol.peers import MOST_ADDRESSES, MOST_PEERS, PeerAddress, PeersAnswer

KEPT_S = 86_400.0
MOST_CLIENTS = 200_000
_QUERY = re.compile(rb"port=([1-9][0-9]{3,4})&at=([0-9a-f.:,-]{1,500})\Z")
_LEAST_PREFIX = {4: 8, 6: 32}
_VICINITY = {4: 24, 6: 48}  # of the addresses that clients of one place come from

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Place = tuple[Network, Network | None]


class _Entry(NamedTuple):
    places: dict[Place, PeerAddress]
    source: str
    seen: float


class PeerBook:
    """Clients that serve peers, by subnet.

    Args:
        chance: Shuffles, and chooses where there are too many.
    """

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.SystemRandom()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # longest unheard of first
        self._places: dict[Place, dict[str, PeerAddress]] = {}

    def note_poll(self, client_id: str, source: str, now: float) -> None:
        """A client has shown itself. From another place than before, what it said of its addresses holds no more."""
        entry = self._entries.get(client_id)
        if entry is None:
            return
        if entry.source != source:
            self._remove(client_id)
            return
        self._entries[client_id] = entry._replace(seen=now)
        self._entries.move_to_end(client_id)

    def ask(self, client_id: str, source: str, query: bytes, now: float) -> bytes:
        """Note where a client serves, and tell it its peers: the JSON of a `PeersAnswer`.

        Args:
            source: The address that the request came from.
            query: `port=8441&at=10.0.0.5-24,fd00::5-64`; what cannot be is left out.

        Raises:
            RequestError: `request.peers`: it is something else.
        """
        self._expire(now)
        places = read_places(query, source)
        self._remove(client_id)
        found: dict[str, PeerAddress] = {}
        for others in [self._places[place] for place in places if place in self._places]:
            # a few of them first: a whole site may be one subnet, and all of it may ask at once
            for other in self._chance.sample(list(others), min(len(others), MOST_PEERS)):
                found[others[other].address] = others[other]
        self._entries[client_id] = _Entry(places, source, now)
        for place, peer in places.items():
            self._places.setdefault(place, {})[client_id] = peer
        chosen = self._chance.sample(sorted(found), min(len(found), MOST_PEERS))
        return msgspec.json.encode(PeersAnswer(tuple(found[address] for address in chosen)))

    def __len__(self) -> int:
        return len(self._entries)

    def _expire(self, now: float) -> None:
        while self._entries:
            oldest = next(iter(self._entries))
            if self._entries[oldest].seen > now - KEPT_S and len(self._entries) < MOST_CLIENTS:
                return
            self._remove(oldest)

    def _remove(self, client_id: str) -> None:
        entry = self._entries.pop(client_id, None)
        for place in entry.places if entry else ():
            others = self._places[place]
            del others[client_id]
            if not others:
                del self._places[place]


def read_places(query: bytes, source: str) -> dict[Place, PeerAddress]:
    """The subnets that a client says it is in, each with its address there.

    An address of the public network counts only if the request came from it: a client cannot send others to a stranger.

    Raises:
        RequestError: `request.peers`.
    """
    found = _QUERY.match(query)
    port = int(found[1]) if found else 0
    if found is None or not 1024 <= port <= 65_535:
        raise RequestError("Say where you serve: ?port=8441&at=10.0.0.5-24", code="request.peers")
    came_from = _address(source)
    places: dict[Place, PeerAddress] = {}
    for text in found[2].decode().split(",")[:MOST_ADDRESSES]:
        written, _, prefix = text.partition("-")
        address = _address(written)
        if address is None or not prefix.isdigit() or len(prefix) > 3:
            continue
        if not _LEAST_PREFIX[address.version] <= int(prefix) <= address.max_prefixlen or _reaches_nobody(address):
            continue
        if not address.is_private and address != came_from:
            continue
        network = ipaddress.ip_network((address, int(prefix)), strict=False)
        places[network, _vicinity(came_from, network)] = PeerAddress(str(address), port)
    return places


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _reaches_nobody(address: Address) -> bool:
    return address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified


def _vicinity(came_from: Address | None, network: Network) -> Network | None:
    """Where in the world: None for whoever comes straight from that subnet, else about where its router is."""
    if came_from is None or came_from in network:
        return None
    return ipaddress.ip_network((came_from, _VICINITY[came_from.version]), strict=False)
