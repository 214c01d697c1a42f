"""Leases: a logon server's own word, signed with its lease key, that a client's targets are the newest it has.

Serves steps 5 and 6: `app` asks before it serves a timestamp. A lease is signed when the targets are new or when it has used up a
quarter of its time, and otherwise stays as it is, so that an idle poll is answered 'not changed'. The lease key says nothing
about what a client should do; that is for the policy key, which no logon server holds.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from securesystemslib.signer import Signer

from pcm.logon.folder import LogonFolder
from pcm.trust.floors import AHEAD_MS
from pcm.trust.instruction_repository import LEASE_DAYS, next_version, sign_lease

_REMEMBERED = 50_000  # clients; the others cost two more file reads a poll
_DAY_MS = 86_400_000
_TICK_NS = (
    50_000_000  # two changes within one tick of the file system's clock look like one, so the first is not relied on
)


class _Current(NamedTuple):
    folder_changed: int  # mtime_ns of the client's folder when this was true
    renew_ms: int
    etag: str


class Leases:
    """Keeps the leases of one logon server fresh.

    Args:
        folder: Where targets come in and leases are written.
        signer: This logon server's lease key.
        clock_ms: Unix milliseconds.
        days: How long a lease holds.
    """

    def __init__(
        self, folder: LogonFolder, signer: Signer, clock_ms: Callable[[], int], days: float = LEASE_DAYS
    ) -> None:
        self._folder = folder
        self._signer = signer
        self._clock_ms = clock_ms
        self._days = days
        self._current: OrderedDict[str, _Current] = OrderedDict()

    def change_key(self, signer: Signer) -> None:
        """From now on, sign with this key: leases of the one before are signed anew when they are next asked for."""
        self._signer = signer
        self._current = OrderedDict()  # a new one: what another thread is about to note of the old key is lost with it

    def ensure(self, client_id: str) -> str | None:
        """See to it that the client's timestamp.json stands and is fresh.

        Returns:
            Its entity tag (with quotation marks), or None if there are no instructions for this client.

        Raises:
            StoreError: the lease cannot be written.
            MachineError: `machine.signer`.
        """
        try:
            changed = (self._folder.root / "clients" / client_id).stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None
        known = self._current.get(client_id)
        if known is not None and known.folder_changed == changed and self._clock_ms() < known.renew_ms:
            return known.etag
        return self._look(client_id)

    def _look(self, client_id: str) -> str | None:
        remembered = self._current
        newest = self._folder.newest_targets(client_id)
        if newest is None:
            return None
        targets_version, targets = newest
        renew_after = int(self._days * _DAY_MS / 4)
        now = self._clock_ms()
        standing = self._standing(client_id)
        if standing is not None and standing[0] > now + AHEAD_MS:
            standing = None  # no client takes such a version; whatever wrote it must not decide the next one
        if standing is not None and standing[1] == targets_version and now < standing[0] + renew_after:
            version = standing[0]
        else:
            version = next_version(now, None if standing is None else standing[0])
            lease = sign_lease(targets, self._signer, version, targets_version=targets_version, expires_days=self._days)
            self._folder.write(lease.files(client_id))
        etag = f'"{version:x}"'
        changed = (self._folder.root / "clients" / client_id).stat().st_mtime_ns
        if time.time_ns() - changed > _TICK_NS:
            remembered[client_id] = _Current(changed, version + renew_after, etag)
            remembered.move_to_end(client_id)
        if len(remembered) > _REMEMBERED:
            remembered.popitem(last=False)
        return etag

    def _standing(self, client_id: str) -> tuple[int, int] | None:
        """Versions of the lease on disk and of the targets that it names; None if it is absent, damaged, or another server's."""
        timestamp = self._folder.read(f"clients/{client_id}/timestamp.json")
        if timestamp is None:
            return None
        try:
            document = json.loads(timestamp)
            version = int(document["signed"]["version"])
            if document["signatures"][0]["keyid"] != self._signer.public_key.keyid:
                return version, 0
            snapshot = self._folder.read(f"clients/{client_id}/{version}.snapshot.json")
            named = json.loads(snapshot or b"")["signed"]["meta"]["targets.json"]["version"]
            return version, int(named)
        except (ValueError, KeyError, IndexError, TypeError):
            return None
