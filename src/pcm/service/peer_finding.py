"""Finding peers: the logon servers know which clients are in the same subnet and serve content.

Serves step 8, for `peer_fetching`. Asking says at the same time where this computer serves. What a server answers is believed
nothing: only addresses of this computer's own subnets are asked, none of its own, and only at the port that the site's signed
policy names; so no server can send a client anywhere else.
"""

import ipaddress
import time
from collections.abc import Callable, Iterable, Sequence

from pcm.model.errors import RequestError, TransferError
from pcm.peers.asking import Peer
from pcm.peers.subnets import Subnet, own_subnets
from pcm.protocol.peers import MAX_BYTES, MOST_ADDRESSES, MOST_PEERS, read_peers
from pcm.service.sources import Network
from pcm.transport.framing import Request
from pcm.transport.locations import parse_location

FIRST_PAUSES_S = (2.0, 3.0, 5.0)  # a fleet that begins at once finds itself soon
PAUSE_S = 15.0
MOST_SERVERS = 4
_TOTAL_S = 10.0


class Finder:
    """Asks the logon servers again and again, not too often.

    Args:
        servers: Logon servers in order; those that are folders or shares know of no peers.
        client_id: This client's.
        port: Where this computer and its peers serve.
        subnets: Looks which subnets this computer is on; may raise OSError.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        network: Network,
        servers: Sequence[str],
        client_id: str,
        port: int,
        subnets: Callable[[], list[Subnet]] = own_subnets,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._network = network
        self._servers = [server for server in servers if server.startswith("http")][:MOST_SERVERS]
        self._client_id, self._port = client_id, port
        self._subnets, self._now = subnets, now
        self._due = now()
        self._pauses = list(FIRST_PAUSES_S)
        self._found: dict[str, Peer] = {}

    def __call__(self) -> list[Peer]:
        """The peers that are known now; those that were told once stay."""
        if self._now() >= self._due:
            self._found |= {peer.name: peer for peer in self.ask()}
            self._found = dict(list(self._found.items())[-MOST_PEERS:])
            self._due = self._now() + (self._pauses.pop(0) if self._pauses else PAUSE_S)
        return list(self._found.values())

    def ask(self) -> list[Peer]:
        """Say where this computer serves, and take in what the servers tell of others. One that does not answer is no matter."""
        try:
            subnets = self._subnets()
        except OSError:
            return []
        near = [subnet for subnet in subnets if subnet.prefix < len(subnet.address) * 8][:MOST_ADDRESSES]
        if not near:
            return []
        own = ",".join(f"{ipaddress.ip_address(each.address)}-{each.prefix}" for each in near)
        found: list[Peer] = []
        for server in self._servers:
            url = f"{parse_location(server).join(f'clients/{self._client_id}/peers')}?port={self._port}&at={own}"
            try:
                with self._network.send(Request(url, max_bytes=MAX_BYTES, total_s=_TOTAL_S)) as answer:
                    told = read_peers(answer.read()).peers if answer.status == 200 else ()
            except (TransferError, RequestError):
                continue
            found += choose(((each.address, each.port) for each in told), near, self._port)
        return found


def choose(told: Iterable[tuple[str, int]], near: Sequence[Subnet], port: int) -> list[Peer]:
    """Those of the addresses told that are in these subnets, at this port, and not this computer's own."""
    own = {subnet.address for subnet in near}
    chosen = []
    for text, its_port in told:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        packed = address.packed
        if its_port == port and packed not in own and any(subnet.holds(packed) for subnet in near):
            chosen.append(Peer(str(address), port))
    return chosen
