"""A distribution server as a folder: objects, manifests and package metadata, published in an order that never lies.

Step 2 of 12 (and 5, when the site's policy changes): `site.packages` or `pcm` hands over signed files, clients read them
in steps 6 and 8 through `app` or any other server over this folder. Objects come first, then manifests, then metadata,
timestamp.json last: no reader sees a name without what it names (KB Q235837, Q140928). It signs and verifies nothing.
"""

import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from pcm.content.object_store import FolderObjectStore
from pcm.content.whole_files import write_whole
from pcm.model.errors import RequestError
from pcm.model.package import PackageFile
from pcm.protocol.manifest import Manifest, read_manifest

TIMESTAMP = "metadata/timestamp.json"
_NAME = re.compile(
    r"metadata/(?:timestamp|[1-9][0-9]{0,15}\.[a-z0-9][a-z0-9._-]{0,63})\.json\Z"
    r"|targets/(?:[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}/){1,8}[0-9a-f]{64}\.[a-z]{1,20}\.json\Z"
)
_MANIFEST = re.compile(r"targets/packages/.*\.manifest\.json\Z")


class Garbage(NamedTuple):
    """What a clean-up removed, and what it kept; bytes as packed."""

    removed: int
    removed_bytes: int
    kept: int
    kept_bytes: int


class DistributionFolder:
    """A distribution server's root folder.

    Args:
        root: Made when first written to.

    Attributes:
        objects: Its object store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = FolderObjectStore(root)

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Write signed files in the right order, whatever order they are given in.

        Args:
            files: Names below the root (`targets/...`, `metadata/...`) to contents, as `trust.package_repository` makes them.

        Raises:
            RequestError: `request.distribution_name`; `conflict`: a manifest names objects that are not here, or a name that
                may never change would change. Nothing was written then.
            StoreError: `store.disk_full`, `store.not_writable`; the old timestamp still stands, so readers see the old state.
        """
        for name, content in files.items():
            self._check(name, content)
        for name in sorted(files, key=publishing_order):
            write_whole(self.root / name, files[name])

    def read(self, name: str) -> bytes | None:
        """A published file, or None.

        Raises:
            RequestError: `request.distribution_name`.
        """
        _check_name(name)
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def missing_objects(self, manifest: Manifest) -> list[PackageFile]:
        """Files of a manifest whose objects are not here, each content once.

        Those that are become young: they are about to be named.
        """
        wanted = {file.sha256: file for file in manifest.files}
        return [file for sha256, file in sorted(wanted.items()) if not self.objects.touch(sha256)]

    def referenced(self) -> dict[str, int]:
        """Name and plain length of every object that a manifest in this folder names."""
        lengths: dict[str, int] = {}
        for path in self.root.glob("targets/packages/*/*/*/*.manifest.json"):
            lengths.update((file.sha256, file.length) for file in read_manifest(path.read_bytes()).files)
        return lengths

    def collect(self, wanted: Collection[str], *, grace_s: float = 86_400, now: float | None = None) -> Garbage:
        """Remove objects that nothing names (KB Q153637).

        Args:
            wanted: Names of objects to keep: `referenced()` and those of publications under way.
            grace_s: Younger objects stay: their manifest may be about to come.
            now: Unix seconds.
        """
        oldest = (time.time() if now is None else now) - grace_s
        removed = removed_bytes = kept = kept_bytes = 0
        for stored in list(self.objects.list()):
            young = self.objects.stored_at(stored.sha256) > oldest
            if stored.sha256 in wanted or young or not self.objects.delete(stored.sha256):
                kept, kept_bytes = kept + 1, kept_bytes + stored.packed
            else:
                removed, removed_bytes = removed + 1, removed_bytes + stored.packed
        return Garbage(removed, removed_bytes, kept, kept_bytes)

    def _check(self, name: str, content: bytes) -> None:
        _check_name(name)
        if name != TIMESTAMP:
            standing = self.read(name)
            if standing is not None and standing != content:
                raise RequestError(
                    f"{name} stands in {self.root} with other contents, and what is published never changes. "
                    "Publish a new version.",
                    code="conflict",
                )
        if _MANIFEST.match(name):
            missing = self.missing_objects(read_manifest(content))
            if missing:
                raise RequestError(
                    f"{name} names {len(missing)} files that are not in {self.root} yet, {missing[0].path} for one. "
                    "Upload them first.",
                    code="conflict",
                )


def is_published_name(name: str) -> bool:
    """Whether a manifest or metadata file may have this name below a distribution server."""
    return bool(_NAME.match(name)) and ".." not in name


def _check_name(name: str) -> None:
    if not is_published_name(name):
        raise RequestError(f"{name[:200]!r} is no name on a distribution server.", code="request.distribution_name")


def publishing_order(name: str) -> tuple[int, str]:
    """A key to sort names by: targets, then metadata from the leaves up (teams, top-level targets, root, snapshot, timestamp)."""
    if name.startswith("targets/"):
        return 0, name
    if name == TIMESTAMP:
        return 3, name
    return (2 if name.endswith(".snapshot.json") else 1), name
