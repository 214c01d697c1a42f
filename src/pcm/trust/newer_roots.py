"""Asking other servers whether there is a newer root than the one in use: no single server can then hold one back.

Serves step 6, after a refresh from one logon server and before the next one. Whoever has stolen a policy key and one logon server
can have that server hide the root that takes the key away; a client that asked nobody else would believe it as long as its lease
goes on. Here roots are only walked and kept: a root that a threshold of the last one's keepers has signed counts, whoever shows
it, and tuf finds it among those that it has seen before. The next refresh then demands files that fit it, of every server.
"""

from pathlib import Path

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root

from pcm.model.errors import PcmError
from pcm.trust import cache, roots
from pcm.trust.codes import refuse
from pcm.trust.fetching import NOT_FOUND, Deadline, Fetch, read_file
from pcm.trust.refresh import Repository

MOST = 16  # roots that are walked at a time; the rest at the next time
ASK_S = 20.0


def keep_newer(repository: Repository, current: Path, fetch: Fetch, deadline: Deadline | None = None) -> int:
    """Look for roots after the one in use, and keep those that hold where the next refresh finds them.

    Args:
        repository: Which one.
        current: Its metadata folder in use. Only roots are added to it.
        fetch: Asks one server, another than the one that was refreshed from.
        deadline: For all of it.

    Returns:
        How many were found.

    Raises:
        TrustError: `trust.rogue_root`: the server shows a root that does not hold. It changes nothing.
        TransferError: the server does not answer. StoreError: this disk.
    """
    deadline = deadline or Deadline(ASK_S)
    newest = _newest(current)
    for found in range(MOST):
        version = newest.version + 1
        try:
            name = repository.place(f"{version}.root.json")
            data = read_file(fetch, name, repository.limits.root, deadline)
        except PcmError as error:
            if error.code == NOT_FOUND:
                return found
            raise
        newest = _verified(repository, data, newest)
        cache.keep(current / cache.HISTORY, f"{version}.root.json", data)
    return MOST


def _newest(current: Path) -> Root:
    """The root in use, or the newest kept after it."""
    newest = _read((current / "root.json").read_bytes())
    while (path := current / cache.HISTORY / f"{newest.version + 1}.root.json").is_file():
        newest = _read(path.read_bytes())
    return newest


def _read(data: bytes) -> Root:
    return Metadata[Root].from_bytes(data).signed


def _verified(repository: Repository, data: bytes, before: Root) -> Root:
    """The next root, signed by a threshold of the one before and of its own (TUF specification 1.0.31, 5.3.4 and 5.3.5)."""
    try:
        document = Metadata[Root].from_bytes(data)
        before.verify_delegate(Root.type, document.signed_bytes, document.signatures)
        document.signed.verify_delegate(Root.type, document.signed_bytes, document.signatures)
    except (exceptions.RepositoryError, ValueError, AttributeError) as error:  # the last: it is another role's
        raise refuse("trust.rogue_root", f"{repository.title}: root {before.version + 1}: {error}") from error
    root: object = document.signed
    if not isinstance(root, Root) or root.version != before.version + 1:
        raise refuse("trust.rogue_root", f"{repository.title}: this is not root {before.version + 1}.")
    if roots.mark_of(root) != roots.mark(repository.kind, repository.site):
        raise refuse("trust.rogue_root", f"{repository.title}: this root belongs to another repository.")
    return root
