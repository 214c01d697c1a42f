"""What peers say to each other, and a peer's server to the service that opens files for it. Serves step 8.

Beside it: `server` (unprivileged) and `service.peer_keeper` (privileged) on one computer, `asking` on another. Everything has a
fixed form and a largest size; names are SHA-256 as 32 bytes or 64 hex digits, and nothing else names anything. Pure, and light:
the resident service loads it.

    GET  /pcm/1/files/<sha256>     200, 206 with the bytes; 404: not here; 503: not yet, or too much asked at once
    POST /pcm/1/have               n times 32 bytes; answered with the 16 bytes of `Picture.fetch`, and n times 2 bytes

Between server and service, each message one packet: `look` and hashes, answered as `have` is; `open` and one hash, answered with
2 bytes and, if it is there, a descriptor.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FILES, HAVE = "/pcm/1/files/", "/pcm/1/have"
LOOK, OPEN = b"look", b"open"
NAME = 32  # bytes of a hash
ID = 16
NOBODY = bytes(ID)
MAX_ASKED = 2048  # hashes in one question to a peer
MAX_LOOK = 256  # in one to the service
ABSENT, HERE, WANTED, COMING = b"n", b"y", b"w", b"f"
"""Of a hash: nothing; its bytes are in the store; this computer is going to fetch it; a server is sending it now."""
STATES = ABSENT + HERE + WANTED + COMING

WANTS_MAGIC = b"PCMWANT1"
_RECORD = NAME + 2


class Picture:
    """What one computer says of some hashes.

    Attributes:
        fetch: Random, another for each fetch; `NOBODY`: it fetches nothing.
        states: A state (one of `STATES`) for each hash asked for, and a number (0 to 255) that changes while it goes on.
    """

    __slots__ = ("fetch", "states")

    def __init__(self, fetch: bytes, states: "tuple[tuple[bytes, int], ...]") -> None:
        self.fetch = fetch
        self.states = states

    def encode(self) -> bytes:
        """As it travels."""
        return self.fetch + b"".join(state + bytes((beat,)) for state, beat in self.states)


def parse_picture(data: bytes, count: int) -> Picture:
    """Read what `Picture.encode` wrote about `count` hashes.

    Raises:
        ValueError: it is something else.
    """
    if len(data) != ID + 2 * count:
        raise ValueError("a picture of another length")
    pairs = tuple((data[at : at + 1], data[at + 1]) for at in range(ID, len(data), 2))
    if any(state not in STATES for state, _ in pairs):
        raise ValueError("an unknown state")
    return Picture(data[:ID], pairs)


def names_in(data: bytes, most: int) -> list[bytes] | None:
    """The hashes that a question names, or None if it is none."""
    if not data or len(data) % NAME or len(data) > most * NAME:
        return None
    return [data[at : at + NAME] for at in range(0, len(data), NAME)]


def encode_wants(fetch: bytes, names: "Sequence[bytes]") -> bytes:
    """The file in which a check says what it is going to fetch: sorted, so that a hash is found by halving."""
    return WANTS_MAGIC + fetch + b"".join(name + WANTED + b"\0" for name in sorted(names))


class Wants:
    """That file, read in place.

    Args:
        read: `read(length, offset)` of the open file.
        size: Its length in bytes.
    """

    def __init__(self, read: "object", size: int) -> None:
        self._read = read
        head = self._at(0, len(WANTS_MAGIC) + ID)
        whole = head[:8] == WANTS_MAGIC and len(head) == len(WANTS_MAGIC) + ID
        self.fetch = head[8:] if whole else NOBODY
        self._count = (size - len(head)) // _RECORD if whole else 0

    def find(self, name: bytes) -> "tuple[bytes, int]":
        """State and beat of a hash; `ABSENT` if it is not wanted."""
        place = self.place(name)
        if place < 0:
            return ABSENT, 0
        told = self._at(place, 2)
        return (told[:1], told[1]) if len(told) == 2 and told[:1] in (WANTED, COMING) else (ABSENT, 0)

    def place(self, name: bytes) -> int:
        """Where the two bytes about a hash stand, or -1."""
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            found = self._at(self._start(middle), NAME)
            if found == name:
                return self._start(middle) + NAME
            if found < name:
                low = middle + 1
            else:
                high = middle
        return -1

    def _start(self, index: int) -> int:
        return len(WANTS_MAGIC) + ID + index * _RECORD

    def _at(self, offset: int, length: int) -> bytes:
        return self._read(length, offset)  # type: ignore[no-any-return,operator]
