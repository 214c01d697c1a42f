"""The distribution servers that the site writes: each a shelf of files, one of them the site's own home for content.

Serves step 2: `authority` opens them, `delivery` brings content from home to all others. Home is what the site serves itself; if
it serves nothing, the first folder that it writes; if there are buckets only, a folder that nobody is told about.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pcm.distribution.bucket import BucketKey, BucketShelf
from pcm.distribution.shelf import FolderShelf, Shelf
from pcm.model.errors import RequestError
from pcm.site.configuration import Bucket, Server

OWN = "distribution"


@dataclass
class DistributionServer:
    """One distribution server. `turn`: held by whoever writes to it or removes from it; `wake`: there is something to bring."""

    name: str
    location: str
    own: bool
    home: bool
    shelf: Shelf
    turn: threading.Lock = field(default_factory=threading.Lock)
    wake: threading.Event = field(default_factory=threading.Event)


def open_servers(site: Path, listed: Sequence[Server]) -> tuple[Path, tuple[DistributionServer, ...]]:
    """The home folder, and the servers in their order.

    Raises:
        RequestError: `request.configuration`: a bucket's key file.
        MachineError: `machine.missing_library`.
    """
    home = next((server for server in listed if server.own), None)
    home = home or next((server for server in listed if server.folder is not None), None)
    opened = tuple(
        DistributionServer(server.name, server.location, server.own, server is home, _shelf(site, server))
        for server in listed
    )
    return (site / OWN if home is None else folder_of(site, home)), opened


def folder_of(site: Path, server: Server) -> Path:
    """Where a server's files lie on this machine: its folder, or the site's own."""
    return site / OWN if server.folder is None else site / server.folder


def _shelf(site: Path, server: Server) -> Shelf:
    if server.bucket is None:
        return FolderShelf(folder_of(site, server), mounted=server.mounted)
    bucket = server.bucket
    return BucketShelf(
        bucket.name, bucket.prefix, endpoint=bucket.endpoint, region=bucket.region, key=_read_key(site, bucket)
    )


def _read_key(site: Path, bucket: Bucket) -> BucketKey | None:
    if bucket.credentials is None:
        return None
    path = site / bucket.credentials
    try:
        lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"bucket.credentials: {path} cannot be read: {error}.", code="request.configuration"
        ) from None
    if len(lines) != 2:
        raise RequestError(
            f"bucket.credentials: {path} has to have two lines: the key's id and its secret.",
            code="request.configuration",
        )
    return BucketKey(lines[0], lines[1])
