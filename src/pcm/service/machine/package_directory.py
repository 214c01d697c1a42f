"""A package directory as the steps of a run see it: what goes in, what is checked, whatever the operating system.

Serves step 8 (`stage`) and the moment before step 10. `interface.Machine.stage` makes one; `posix.staging` is one.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol


class StagedFile(Protocol):
    """A file as the signed manifest describes it (`pcm.model.package.PackageFile` is one)."""

    @property
    def path(self) -> str:
        """Relative, '/' between names."""

    @property
    def length(self) -> int:
        """Bytes."""

    @property
    def sha256(self) -> str:
        """Lower-case hex."""

    @property
    def executable(self) -> bool:
        """Whether it may be run."""


class PackageDirectory(Protocol):
    """One run's package, file by file, where only administrators can write. Made by `Machine.stage`."""

    @property
    def path(self) -> Path:
        """Where programs find it."""

    def add(self, file: StagedFile, chunks: Iterable[bytes]) -> None:
        """Write a new file from bytes, hashing on the way; nothing stays if they are not the promised ones.

        Raises:
            TrustError: `trust.wrong_content`, `trust.endless_data`. RequestError: `request.path`.
            MachineError: `machine.staging_exists`. StoreError: `store.full`.
        """

    def verify(self, files: Sequence[StagedFile]) -> None:
        """Check that exactly these files are here, unchanged and in nobody else's reach; called right before the program starts.

        Raises:
            TrustError: `trust.staging_changed`, naming the first difference.
        """

    def holds_little(self) -> bool:
        """Tell whether there is so little in it that removing it takes no longer than a moment."""

    def close(self) -> None:
        """Let go of it; it stays."""
