"""Leases: a logon server's own word, signed with its lease key, that a client's targets are the newest it has.

Serves steps 5 and 6: the site publishes instructions together with their lease, and `app` asks before it serves a timestamp. A
lease is signed anew when it has used up a quarter of its time, or when others have written newer targets; otherwise it stays as
it is, so that an idle poll is answered 'not changed'. The lease key says nothing about what a client should do; that is for the
policy key, which no logon server holds.
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from securesystemslib.signer import Signer

from pcm.logon.folder import LogonFolder
from pcm.trust.floors import AHEAD_MS
from pcm.trust.instruction_repository import LEASE_DAYS, SignedInstructions, next_version, sign_lease

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

    Attributes:
        on_publish: Called with a client's id whenever it has newer instructions, in the thread that published them.
    """

    def __init__(
        self, folder: LogonFolder, signer: Signer, clock_ms: Callable[[], int], days: float = LEASE_DAYS
    ) -> None:
        self._folder = folder
        self._signer = signer
        self._clock_ms = clock_ms
        self._days = days
        self.on_publish: Callable[[str], None] = lambda _: None
        self._current: OrderedDict[str, _Current] = OrderedDict()
        # the site publishes while polls are answered: of two leases, the one with the greater version must be written last
        self._signing = threading.Lock()

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
        with self._signing:
            return self._look(client_id)

    def publish(self, instructions: SignedInstructions) -> None:
        """Write a client's new instruction file and the lease on it.

        Cheaper than to leave the lease to the next poll: nothing has to be looked for and read back.

        Raises:
            StoreError: the files cannot be written.
            MachineError: `machine.signer`.
        """
        with self._signing:
            self._folder.write(instructions.files())
            standing = self._timestamp(instructions.client_id)
            version = self._version_after(None if standing is None else standing[0])
            self._sign(instructions.client_id, instructions.targets, instructions.version, version)
        self.on_publish(instructions.client_id)

    def _version_after(self, standing: int | None) -> int:
        now = self._clock_ms()
        if standing is not None and standing > now + AHEAD_MS:
            standing = None  # no client takes such a version; whatever wrote it must not decide the next one
        return next_version(now, standing)

    def _sign(self, client_id: str, targets: bytes, targets_version: int, version: int) -> None:
        lease = sign_lease(targets, self._signer, version, targets_version=targets_version, expires_days=self._days)
        self._folder.write(lease.files(client_id))

    def _look(self, client_id: str) -> str | None:
        remembered = self._current
        newest = self._folder.newest_targets(client_id)
        if newest is None:
            return None
        targets_version, targets, settled = newest
        renew_after = int(self._days * _DAY_MS / 4)
        standing = self._standing(client_id)
        if standing is not None and standing[1] == targets_version and self._is_fresh(standing[0], renew_after):
            version = standing[0]
        else:
            version = self._version_after(None if standing is None else standing[0])
            self._sign(client_id, targets, targets_version, version)
        etag = f'"{version:x}"'
        changed = (self._folder.root / "clients" / client_id).stat().st_mtime_ns
        if settled and time.time_ns() - changed > _TICK_NS:  # a file that is still written changes the folder no more
            remembered[client_id] = _Current(changed, version + renew_after, etag)
            remembered.move_to_end(client_id)
        if len(remembered) > _REMEMBERED:
            remembered.popitem(last=False)
        return etag

    def _is_fresh(self, version: int, renew_after_ms: int) -> bool:
        now = self._clock_ms()
        return version <= now + AHEAD_MS and now < version + renew_after_ms

    def _standing(self, client_id: str) -> tuple[int, int] | None:
        """Versions of the lease on disk and of the targets that it names (0: damaged, or not ours); None if there is none."""
        found = self._timestamp(client_id)
        if found is None:
            return None
        version, keyid = found
        if keyid != self._signer.public_key.keyid:
            return version, 0
        snapshot = self._folder.read(f"clients/{client_id}/{version}.snapshot.json")
        try:
            return version, int(json.loads(snapshot or b"")["signed"]["meta"]["targets.json"]["version"])
        except (ValueError, KeyError, TypeError):
            return version, 0

    def _timestamp(self, client_id: str) -> tuple[int, str] | None:
        """Version of the timestamp on disk and the id of the key that signed it; None if it is absent or damaged."""
        timestamp = self._folder.read(f"clients/{client_id}/timestamp.json")
        try:
            document = json.loads(timestamp or b"")
            return int(document["signed"]["version"]), str(document["signatures"][0]["keyid"])
        except (ValueError, KeyError, IndexError, TypeError):
            return None
