"""What a logon server tells a client of its peers: addresses and ports, and nothing else of other clients.

Serves step 8: the answer to `GET clients/<id>/peers?port=<port>&at=<address>-<prefix>[,...]`, signed by that client.
`logon.peers` writes it, `service.peer_finding` reads it and believes it nothing: it asks nobody outside its own subnets.
"""

from typing import Annotated

import msgspec

from pcm.model.errors import RequestError

MOST_PEERS = 64
MOST_ADDRESSES = 8  # of its own that a client names
MAX_BYTES = 16 * 1024


class PeerAddress(msgspec.Struct, frozen=True):
    """Where a peer serves files by hash."""

    address: Annotated[str, msgspec.Meta(min_length=2, max_length=45)]
    port: Annotated[int, msgspec.Meta(ge=1024, le=65_535)]


class PeersAnswer(msgspec.Struct, frozen=True):
    """At most 64 of them, in no order."""

    peers: Annotated[tuple[PeerAddress, ...], msgspec.Meta(max_length=MOST_PEERS)] = ()


def read_peers(data: bytes) -> PeersAnswer:
    """Parse the answer.

    Raises:
        RequestError: `protocol.malformed`.
    """
    if len(data) > MAX_BYTES:
        raise RequestError("The list of peers is too long.", code="protocol.malformed")
    try:
        return msgspec.json.decode(data, type=PeersAnswer)
    except msgspec.DecodeError as error:
        raise RequestError(f"The list of peers cannot be read: {error}", code="protocol.malformed") from error
