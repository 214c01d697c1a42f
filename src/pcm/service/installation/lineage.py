"""Whether a kit with another root is of the very site that this computer belongs to, after a ceremony, or of another one.

Serves no step; comes before `install` changes anything. A root follows another if the keepers of that one have signed it (TUF
specification 1.0.31, 5.3.4). Nothing that is found here is trusted because of it: the client goes on from the root that it has
pinned, and `trust` walks from there. It only tells an administrator's newer kit from a kit of somebody else.
"""

from collections.abc import Iterator
from pathlib import Path

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root

from pcm.protocol.enrolment import ClientConfiguration
from pcm.service.places import Places
from pcm.trust import cache, roots

_MOST = 512 * 1024


def is_of_same_keepers(places: Places, present: ClientConfiguration, offered: ClientConfiguration) -> bool:
    """Whether both roots of a kit are those that this client knows, or follow them, or went before them."""
    return all(
        _is_related(list(_known(places, repository, pinned)), other)
        for repository, pinned, other in (
            (roots.INSTRUCTIONS, present.instructions_root, offered.instructions_root),
            (roots.PACKAGES, present.packages_root, offered.packages_root),
        )
    )


def _known(places: Places, repository: str, pinned: str) -> Iterator[bytes]:
    """The pinned root, and every one that this client has verified since."""
    yield pinned.encode()
    for folder in places.metadata.glob(f"{repository}-*"):
        for path in (folder / "root.json", *(folder / cache.HISTORY).glob("*.root.json")):
            if path.is_file() and path.stat().st_size <= _MOST:
                yield _read(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _is_related(known: list[bytes], offered: str) -> bool:
    if offered.encode() in known:
        return True
    try:
        other = Metadata[Root].from_bytes(offered.encode())
        roots_here = sorted(
            (Metadata[Root].from_bytes(each) for each in known if each), key=lambda each: each.signed.version
        )
    except (exceptions.RepositoryError, ValueError, AttributeError):
        return False
    oldest, newest = roots_here[0], roots_here[-1]
    if other.signed.version > newest.signed.version:
        return _signed_by(newest, other) and _signed_by(other, other)
    return other.signed.version < oldest.signed.version and _signed_by(other, oldest)


def _signed_by(keepers: Metadata[Root], document: Metadata[Root]) -> bool:
    """Whether a threshold of one root's keepers has signed another, and both say that they are the same repository's."""
    try:
        keepers.signed.verify_delegate(Root.type, document.signed_bytes, document.signatures)
    except (exceptions.RepositoryError, ValueError, AttributeError):
        return False
    return roots.mark_of(keepers.signed) == roots.mark_of(document.signed)
