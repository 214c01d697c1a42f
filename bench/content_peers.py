"""Other ways to bring a new version to who has the old one: zsync, casync, a patch by zstd, the whole stream by curl.

Each works on one tar of the same files that we publish, made ready once (it is kept in the cache) and served by the same nginx
as ours. `METHODS` are what a client runs; its bytes and requests are those that nginx logs.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.content_pairs import Pair, archive
from bench.measure import succeed, watched
from bench.nginx import Nginx

LEVEL = "-19"
CASYNC_CHUNKS = "65536:262144:1048576"  # least, average and largest, in bytes


@dataclass(frozen=True)
class Ready:
    """One pair, ready for peers.

    `old`: the tar that a client has. `served`: the folder that nginx shows. `path`: of it, below nginx's root.
    """

    pair: Pair
    old: Path
    new: Path
    served: Path

    @property
    def full(self) -> Path:
        """The whole new version as one compressed stream, which `never more than the whole` is measured against."""
        return self.served / "new.tar.zst"


@dataclass(frozen=True)
class Took:
    """What one client's update took; `memory_mib`: the most that all of its processes held at one moment."""

    wall_ms: float
    bytes: int
    requests: int
    memory_mib: float


def prepare(pair: Pair, cache: Path) -> Ready:
    """Make tars, streams, indexes and patches of a pair, unless the cache has them."""
    served = cache / "served" / pair.name
    ready = Ready(pair, cache / f"{pair.name}.old.tar", served / "new.tar", served)
    if (served / "ready").exists():
        return ready
    shutil.rmtree(served, ignore_errors=True)
    served.mkdir(parents=True)
    archive(pair.old, ready.old)
    archive(pair.new, ready.new)
    nice = ["nice", "-n", "5"]
    succeed([*nice, "zstd", "-q", LEVEL, "--long=27", "-T2", str(ready.new), "-o", str(ready.full)])
    patch = [
        "zstd",
        "-q",
        LEVEL,
        "--long=31",
        f"--patch-from={ready.old}",
        str(ready.new),
        "-o",
        str(served / "patch.zst"),
    ]
    succeed([*nice, *patch])
    if shutil.which("casync"):
        index, store = str(served / "new.caibx"), f"--store={served / 'default.castr'}"
        succeed(
            [
                *nice,
                "casync",
                "make",
                store,
                f"--chunk-size={CASYNC_CHUNKS}",
                "--compression=zstd",
                index,
                str(ready.new),
            ]
        )
    if shutil.which("zsyncmake"):
        done = subprocess.run(
            [*nice, "zsyncmake", "-z", "-f", "new.tar", "-u", "new.tar.gz", str(ready.new)], cwd=served, check=False
        )
        if done.returncode != 0:
            raise RuntimeError("zsyncmake failed")
    (served / "ready").touch()
    return ready


def _curl(_ready: Ready, url: str, work: Path) -> list[str]:
    return ["sh", "-c", f"curl -sf {url}/new.tar.zst | zstd -dq --long=27 > {work}/out.tar"]


def _patch(ready: Ready, url: str, work: Path) -> list[str]:
    undo = f"zstd -dq --long=31 --patch-from={ready.old} {work}/patch.zst -o {work}/out.tar"
    return ["sh", "-c", f"curl -sf -o {work}/patch.zst {url}/patch.zst && {undo}"]


def _casync(ready: Ready, url: str, work: Path) -> list[str]:
    seed = f"--seed={ready.old}"
    return ["casync", "extract", f"--store={url}/default.castr", seed, f"{url}/new.caibx", f"{work}/out.tar"]


def _zsync(ready: Ready, url: str, work: Path) -> list[str]:
    return ["zsync", "-q", "-i", str(ready.old), "-o", f"{work}/out.tar", f"{url}/new.tar.zsync"]


METHODS: dict[str, Callable[[Ready, str, Path], list[str]]] = {
    "curl of the whole, zstd -19": _curl,
    "zsync": _zsync,
    "casync 256K": _casync,
    "zstd -19 --patch-from": _patch,
}


def has(name: str) -> bool:
    """Whether what that method needs is installed."""
    return shutil.which(name.split(maxsplit=1)[0]) is not None


def perform(argv: list[str], server: Nginx) -> Took:
    """Run a client to its end."""
    server.forget()
    begun = time.perf_counter()
    environment = {"PATH": os.environ["PATH"], "HOME": "/root", "no_proxy": "127.0.0.1", "LC_ALL": "C.UTF-8"}
    process_id = os.posix_spawnp(
        argv[0], argv, environment, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    with watched(process_id) as memory:
        _, status = os.waitpid(process_id, 0)
    wall = (time.perf_counter() - begun) * 1000
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}")
    fetched = server.fetched()
    return Took(wall, fetched.bytes, fetched.requests, memory.most_mib)
