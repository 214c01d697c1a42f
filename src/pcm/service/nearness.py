"""Which servers are on this computer's own subnet. Serves steps 6 and 8, for `sources`, which puts servers into their order.

Only servers whose address is a number are looked at: names are looked up by the process without rights alone, and what it says
decides nothing here.
"""

import urllib.parse
from collections.abc import Callable, Sequence

from pcm.peers.subnets import Subnet, own_subnets

_BEGINS = frozenset("0123456789[")


def near_servers(servers: Sequence[str], subnets: Callable[[], list[Subnet]] = own_subnets) -> frozenset[str]:
    """Those of the servers that are; none, where there is no choice between servers.

    Args:
        subnets: Looks which subnets this computer is on; may raise OSError.
    """
    if len(servers) < 2:
        return frozenset()
    numbers = {server: number for server in servers if (number := _number(server))}
    if not numbers:
        return frozenset()
    try:
        own = subnets()
    except OSError:
        return frozenset()
    return frozenset(server for server, number in numbers.items() if any(subnet.holds(number) for subnet in own))


def _number(server: str) -> bytes:
    """A server's address, packed; empty if it has a name, or is a folder."""
    if not _BEGINS.intersection(server.partition("//")[2][:1]):
        return b""
    import ipaddress  # noqa: PLC0415 - 3 ms that names do not need

    try:
        return ipaddress.ip_address(urllib.parse.urlsplit(server).hostname or "").packed
    except ValueError:
        return b""
