"""The same pairs of versions published our way: objects, bundles and patches in a folder, and a client that has the old version.

Published once by the product's own functions and kept in the cache, like what peers need; the client is `bench.bring`.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.bring import read_listing, write_listing
from bench.content_pairs import Pair
from bench.content_peers import Took
from bench.measure import watched
from bench.nginx import Nginx
from pcm.content.bundle_index import Listing, bundle_path
from pcm.content.client_store import ClientStore
from pcm.content.object_store import FolderObjectStore
from pcm.content.objects import object_path, pack
from pcm.content.package_directory import scan
from pcm.distribution.improving import improve

HEAD_BYTES = 400  # of an answer, at most, with nginx


@dataclass(frozen=True)
class Published:
    """A pair on a distribution server's folder. `root`: of that server; `old`, `new`: files with their listings."""

    pair: Pair
    root: Path
    old: Path
    new: Path

    def whole_bytes(self) -> int:
        """All objects of the new version as they lie there: what a client that has nothing fetches at most."""
        files = {file.sha256 for file in read_listing(str(self.new)).files if file.length}
        return sum((self.root / object_path(sha256)).stat().st_size for sha256 in files)


def publish(pair: Pair, cache: Path) -> Published:
    """Pack, bundle and patch, unless the cache has it."""
    root = cache / "served" / pair.name / "ours"
    published = Published(pair, root, root / "old.json", root / "new.json")
    if (root / "ready").exists():
        return published
    root.mkdir(parents=True, exist_ok=True)
    listings = [_publish_one(folder, root, to) for folder, to in ((pair.old, published.old), (pair.new, published.new))]
    improve(root, listings[1], listings[:1], threads=2)
    (root / "ready").touch()
    return published


def _publish_one(folder: Path, root: Path, to: Path) -> Listing:
    store, files = FolderObjectStore(root), scan(folder)
    for file in files:
        if not store.has(file.sha256):
            with (folder / file.path).open("rb") as opened:
                store.put(file.sha256, file.length, pack(opened, file.length))
    digest = hashlib.sha256("".join(f"{file.path} {file.sha256}\n" for file in files).encode()).hexdigest()
    listing = Listing(digest, files)
    write_listing(to, listing)
    return listing


def bundle_bytes(published: Published) -> int:
    """The patches from the old version, index included."""
    old, new = (read_listing(str(each)) for each in (published.old, published.new))
    return (published.root / bundle_path(new.sha256, old.sha256)).stat().st_size


def fill_store(published: Published, folder: Path) -> None:
    """A client's store with the old version in it."""
    store = ClientStore(folder)
    for file in read_listing(str(published.old)).files:
        if not store.has(file.sha256, file.length):
            data = (published.pair.old / file.path).read_bytes()
            store.add(file.sha256, file.length, [data], "bench")


def update(published: Published, folder: Path, server: Nginx, authority: str = "-", *, nothing: bool = False) -> Took:
    """Bring the new version into a store that has the old one (or `nothing`), and see that every file is there.

    Raises:
        RuntimeError: it is not, or a source was complained of.
    """
    url = f"{server.url}/{published.pair.name}/ours"
    old = "-" if nothing else str(published.old)
    argv = [sys.executable, "-P", "-m", "bench.bring", str(published.new), old, str(folder), url, authority]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    server.forget()
    begun = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    with watched(process.pid) as memory:
        said, complained = process.communicate()
    wall = (time.perf_counter() - begun) * 1000
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {complained.decode()[-2000:]}")
    complaints = json.loads(said)["complaints"]
    if complaints:
        raise RuntimeError(str(complaints))
    store = ClientStore(folder)
    for file in read_listing(str(published.new)).files:
        for _ in store.read(file.sha256, file.length):
            pass
    fetched = server.fetched()
    return Took(wall, fetched.bytes, fetched.requests, memory.most_mib)


def updated(published: Published, work: Path, server: Nginx) -> Took:
    """`update` in a store made for it, which is removed."""
    fill_store(published, work)
    try:
        return update(published, work, server)
    finally:
        shutil.rmtree(work)
