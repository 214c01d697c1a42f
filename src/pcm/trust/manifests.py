"""Manifests by hash: from the local folder if it still has them unharmed, else from a distribution server.

Serves step 6, between check 8 and the cross-check. Every byte that leaves here has the length and hash that was asked
for; nothing is parsed. The folder is shared by all refreshes, because a hash never means anything else.
"""

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pcm.model.errors import StoreError
from pcm.trust.codes import refuse
from pcm.trust.fetching import Deadline, Fetch, read_file


@dataclass(frozen=True)
class Published:
    """What packagers signed about one manifest: its length in bytes and all its hashes (algorithm → hex)."""

    path: str
    length: int
    hashes: Mapping[str, str]


class Manifests:
    """The manifests in one folder, completed from one server.

    Args:
        folder: Made when needed.
        fetch: Asks a distribution server; names are below its root.
        deadline: For all of them together.
    """

    def __init__(self, folder: Path, fetch: Fetch, deadline: Deadline | None = None) -> None:
        self._folder = folder
        self._fetch = fetch
        self._deadline = deadline or Deadline()

    def read(self, path: str, length: int, sha256: str) -> bytes:
        """Bytes of one manifest.

        Args:
            path: Its target path.
            length: In bytes, as both repositories say.
            sha256: Hex, as both repositories say.

        Raises:
            TrustError: `trust.mix_and_match`, `trust.endless_data`.
            TransferError: it did not arrive.
            StoreError: it cannot be kept.
        """
        data = _read(f"{self._folder}/{sha256}.json", length)
        if data is not None and _fits(data, length, sha256):
            return data
        folder, _, name = path.rpartition("/")
        data = read_file(self._fetch, f"targets/{folder}/{sha256}.{name}", length, self._deadline)
        if not _fits(data, length, sha256):
            raise refuse("trust.mix_and_match", f"The server's {path} is not the manifest that was signed.")
        self._keep(self._folder / f"{sha256}.json", data)
        return data

    def forget_others(self, wanted: Collection[str]) -> None:
        """Remove manifests whose SHA-256 is not among `wanted`."""
        for path in self._folder.glob("*"):
            if path.stem not in wanted:
                path.unlink(missing_ok=True)

    def _keep(self, path: Path, data: bytes) -> None:
        fresh = path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_bytes(data)
            os.replace(fresh, path)  # noqa: PTH105 (one name for one act)
        except OSError as error:
            raise StoreError(f"The manifest {path} cannot be kept: {error.strerror}.") from error


def _read(path: str, length: int) -> bytes | None:
    # by descriptor: of a thousand small files, objects for paths and buffers would cost more than the files
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, length) if os.fstat(descriptor).st_size == length else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _fits(data: bytes, length: int, sha256: str) -> bool:
    return len(data) == length and hashlib.sha256(data).hexdigest() == sha256
