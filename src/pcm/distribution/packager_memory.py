"""What a packager's machine remembers of a site: verified metadata, version floors, and the releases that it published.

Serves step 2, under `publication`. One folder per site, below the user's state folder. Losing it costs the protection against
a site that goes back in time, never a publication; a damaged file is refused rather than ignored.
"""

import os
import shutil
from pathlib import Path

import msgspec

from pcm.model.errors import StoreError
from pcm.trust.floors import Floors


class _Kept(msgspec.Struct, frozen=True):
    floors: Floors = Floors()
    releases: dict[str, int] = msgspec.field(default_factory=dict)


class PackagerMemory:
    """The memory of one site.

    Args:
        folder: Its folder; made when something is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "memory.json"

    @property
    def metadata(self) -> Path | None:
        """The package repository's metadata as last verified, or None."""
        kept = self.folder / "metadata"
        return kept if kept.is_dir() else None

    @property
    def following(self) -> Path:
        """Where the next verified metadata goes first."""
        self._make()
        following = self.folder / "metadata.next"
        shutil.rmtree(following, ignore_errors=True)
        return following

    def settle(self, following: Path) -> None:
        """Put verified metadata in the place of the last; a crash in between loses a cache only."""
        if not following.is_dir():
            return
        try:
            shutil.rmtree(self.folder / "metadata", ignore_errors=True)
            following.rename(self.folder / "metadata")
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be written: {error.strerror}.") from error

    def floors(self) -> Floors:
        """Version floors of the package repository's roles and teams."""
        return self._read().floors

    def release(self, package: str) -> int:
        """The highest release of a package that this machine published; 0 if none."""
        return self._read().releases.get(package, 0)

    def keep_floors(self, floors: Floors) -> None:
        """Keep raised floors."""
        self._write(msgspec.structs.replace(self._read(), floors=floors))

    def keep_releases(self, releases: dict[str, int]) -> None:
        """Keep releases that were published."""
        kept = self._read()
        self._write(msgspec.structs.replace(kept, releases={**kept.releases, **releases}))

    def pinned_root(self) -> bytes | None:
        """The root that this machine pinned when it first met the site, or None."""
        try:
            return (self.folder / "packages.root.json").read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be read: {error.strerror}.") from error

    def pin_root(self, root: bytes) -> None:
        """Pin a root; from now on only its successors count."""
        self._replace(self.folder / "packages.root.json", root)

    def _read(self) -> _Kept:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return _Kept()
        except OSError as error:
            raise StoreError(f"{self._file} cannot be read: {error.strerror}.") from error
        except msgspec.DecodeError:
            raise StoreError(
                f"{self._file} is damaged. It protects against a site that goes back in time: find out why, then remove it.",
                code="store.damaged",
            ) from None

    def _write(self, kept: _Kept) -> None:
        self._replace(self._file, msgspec.json.encode(kept, order="sorted"))

    def _make(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be made: {error.strerror}.") from error

    def _replace(self, path: Path, data: bytes) -> None:
        self._make()
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise StoreError(f"{path} cannot be written: {error.strerror}.") from error
