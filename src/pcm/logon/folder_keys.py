"""Clients' public keys for a logon server that has no database: a file beside each client's instructions.

Serves step 6: the site writes `clients/<id>/client.pub` (`LogonFolder.write_key`), `app` asks here. Taking the file away takes
the client's right to read, at once.
"""

from collections import OrderedDict

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from pcm.logon.app import read_public_key
from pcm.logon.folder import LogonFolder
from pcm.model.errors import RequestError
from pcm.trust.envelopes import client_id_of

_REMEMBERED = 20_000


class FolderKeys:
    """`key_of` for `LogonApp`, from a `LogonFolder`. Remembers parsed keys as long as their files stand unchanged."""

    def __init__(self, folder: LogonFolder) -> None:
        self._folder = folder
        self._known: OrderedDict[str, tuple[tuple[int, int], EllipticCurvePublicKey]] = OrderedDict()

    def __call__(self, client_id: str) -> EllipticCurvePublicKey | None:
        """The client's key; None if there is no file, or one that is not this client's key."""
        try:
            path = self._folder.key_path(client_id)
            status = path.stat()
            stamp = (status.st_ino, status.st_mtime_ns)
            known = self._known.get(client_id)
            if known is not None and known[0] == stamp:
                return known[1]
            key = read_public_key(path.read_bytes()[:4096])
        except (RequestError, OSError):
            return None
        if client_id_of(key) != client_id:
            return None
        self._known[client_id] = (stamp, key)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return key
