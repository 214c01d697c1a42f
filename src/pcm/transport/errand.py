"""What a glance is sent out with, as it travels between the service and the process without rights that does it.

Serves step 6: `service.quick_check` writes errands, `glance` reads them; `parse_said` is the way back. Both sides import this
module, and neither believes the other. Apart from `glance`, because that loads TLS. It does no input or output.
"""

import os

MAX_ERRAND = 24 * 1024
MAX_SAID = 4096
PARKED = b"parked\n"  # said together with the connection


class Errand:
    """One glance: where to, what to trust, what to say.

    Attributes:
        tls: Whether to speak TLS.
        host: Name or address, ASCII, an IPv6 address without brackets.
        ca_file: PEM file of authorities; empty: those of the system.
        question: A whole GET request with If-None-Match, signed; empty: none.
        parking: A whole GET request for the waiting place, signed; empty: none. It goes first.
    """

    def __init__(self, tls: bool, host: str, port: int, ca_file: str, question: bytes, parking: bytes) -> None:
        self.tls = tls
        self.host = host
        self.port = port
        self.ca_file = ca_file
        self.question = question
        self.parking = parking

    def encode(self) -> bytes:
        """As the process reads it from its standard input."""
        name, trusted = self.host.encode("ascii"), os.fsencode(self.ca_file)
        lengths = (len(name), len(trusted), len(self.question), len(self.parking))
        head = b"errand %d %d %d %d %d %d\n" % (self.tls, self.port, *lengths)
        return head + name + trusted + self.question + self.parking


def parse_errand(data: bytes) -> Errand:
    """Read what `Errand.encode` wrote.

    Raises:
        ValueError: it is something else.
    """
    head, _, rest = data.partition(b"\n")
    words = head.split(b" ")
    if len(data) > MAX_ERRAND or len(words) != 7 or words[0] != b"errand" or not all(map(is_number, words[1:])):
        raise ValueError("no errand")
    tls, port, *lengths = map(int, words[1:])
    parts = []
    for length in lengths:
        parts.append(rest[:length])
        rest = rest[length:]
    if rest or [len(part) for part in parts] != lengths or tls > 1 or not 0 < port < 65536:
        raise ValueError("no errand")
    name, trusted, question, parking = parts
    if not name or not (question or parking) or not name.isascii() or b"\0" in name + trusted:
        raise ValueError("no errand")
    return Errand(bool(tls), name.decode(), port, os.fsdecode(trusted), question, parking)


def is_number(word: bytes) -> bool:
    """Whether this is a number that nobody need fear."""
    return word.isdigit() and len(word) < 9


def parse_said(said: bytes) -> tuple[int, int, bool]:
    """Read what a glance said until its end.

    Returns:
        The status (304: not changed; 0: it brought none), for how many seconds clients may wait there, and whether it left a
        connection.
    """
    line, _, rest = said.partition(b"\n")
    words = line.split(b" ")
    if len(words) != 3 or words[0] != b"status" or not all(map(is_number, words[1:])):
        return 0, 0, False
    return int(words[1]), int(words[2]), rest == PARKED
