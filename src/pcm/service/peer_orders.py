"""What a check leaves in the runtime folder for the server for peers: whether there is to be one, and what is being fetched.

Serves step 8, between `peer_fetching`, which writes, and `peer_keeper`, which reads. Two small files in memory that only
administrators can write: a line of orders, and the hashes that are wanted (`peers.wire.Wants`). Imports nothing but `os`.
"""

import os

ORDERS, WANTS = "peers", "peers.wanted"
TOLD = b"peers\n"  # said to the supervisor by a check under way: the orders have changed
_MAX_BYTES = 1024
_FORMAT = "pcm-peers 1"


class Orders:
    """Serve peers.

    Attributes:
        port: TCP port. rate: bytes a second for all of them together.
        account: User and group of the server.
        store: Folder of the content store, absolute.
    """

    def __init__(self, port: int, rate: int, account: tuple[int, int], store: str) -> None:
        self.port = port
        self.rate = rate
        self.account = account
        self.store = store

    def encode(self) -> bytes:
        """As a file."""
        return os.fsencode(f"{_FORMAT}\t{self.port}\t{self.rate}\t{self.account[0]}\t{self.account[1]}\t{self.store}\n")

    def same(self, other: "Orders | None") -> bool:
        """Whether these are the same orders."""
        return other is not None and self.encode() == other.encode()


def read_orders(path: str) -> Orders | None:
    """The orders there are; None if there are none, or none that can be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        words = os.fsdecode(os.read(descriptor, _MAX_BYTES)).removesuffix("\n").split("\t")
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if len(words) != 6 or words[0] != _FORMAT or not all(word.isdigit() for word in words[1:5]):
        return None
    port, rate, user, group = map(int, words[1:5])
    if not 0 < port < 65536 or not words[5].startswith("/"):
        return None
    return Orders(port, rate, (user, group), words[5])


def write_file(path: str, content: bytes) -> None:
    """Replace a small file of the runtime folder, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    fresh = f"{path}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
    os.rename(fresh, path)  # noqa: PTH104 - pathlib costs a megabyte


def remove_file(path: str) -> bool:
    """Remove a file; False if there was none."""
    try:
        os.unlink(path)  # noqa: PTH108
    except OSError:
        return False
    return True
