"""The arithmetic of a ledger's hash chain, the same on the client that writes it and at the site that holds its head.

Serves steps 11 and 12: `service.ledger` seals each entry with it, `service.outbox` reports what was added, and the site
(`site.client_ledgers`) follows the chain from the head that it knows. An entry enters the chain by the hash of its bytes, so that
the chain can be followed by whoever has those hashes and not the entries. No I/O.

The hash of entry n is SHA-256 over `pcm-ledger`, NUL, n (decimal), NUL, the hash of entry n-1 (64 hex digits; none for the
first), NUL, SHA-256 of the entry's bytes (64 hex digits).
"""

import hashlib
from collections.abc import Sequence


def link(body: bytes) -> str:
    """By what an entry enters the chain: SHA-256 of its bytes, 64 hex digits."""
    return hashlib.sha256(body).hexdigest()


def seal(number: int, previous: str | None, entry_sha256: str) -> str:
    """The hash of one entry, 64 hex digits.

    Args:
        number: Its place, counted from 1.
        previous: The hash of the entry before; None for the first.
        entry_sha256: As `link` gives it.
    """
    text = b"pcm-ledger\0%d\0%b\0%b" % (number, (previous or "").encode(), entry_sha256.encode())
    return hashlib.sha256(text).hexdigest()


def follow(total: int, head: str | None, links: Sequence[str]) -> str | None:
    """The head of a chain of `total` entries that ends in `head`, after the entries of these links were added."""
    for number, each in enumerate(links, start=total + 1):
        head = seal(number, head, each)
    return head
