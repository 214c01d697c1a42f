"""One process serves a site's folder: a lock on it, kept as long as that process lives.

Serves `pcm site serve`, before the database is opened: two processes would both compile, renew and count for one site,
and only one of them would know of the other's requests. The kernel frees the lock when its holder ends, however it ends.
"""

import fcntl
import os
from pathlib import Path

from pcm.content.whole_files import storing
from pcm.model.errors import StoreError

FILE = "serve.lock"


class FolderLock:
    """Held from construction until `release`.

    Raises:
        StoreError: `store.in_use`: another process serves this folder; `store.not_writable`.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FILE
        with storing(folder):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise StoreError(
                f"The site in {folder} is being served already{f', by process {holder}' if holder.isdecimal() else ''}. "
                "Stop that one first.",
                code="store.in_use",
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give it back."""
        os.close(self._file)
