"""Package content: what an update costs, on the wire and on the clock, beside zsync, casync, zstd --patch-from and plain curl.

`make bench-content`; on real software (`content_pairs`), all methods in turns from one nginx. The first run prepares everything,
which takes half an hour on two cores; it is kept in the cache. `ARGS=pyarrow` measures one pair only.
"""

import filecmp
import math
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import content_ours, content_peers, content_publishing, transfer_speed
from bench.content_ours import Published
from bench.content_pairs import Pair, cache, pairs
from bench.content_peers import METHODS, Ready, Took
from bench.measure import Report
from bench.nginx import Nginx, nginx
from bench.nginx import program as nginx_program
from bench.place import temporary_folder

REPEATS = 3
CASYNC, WHOLE = "casync 256K", "curl of the whole, zstd -19"
BYTES, BYTES_THOROUGH, WALL, REQUESTS, MEMORY_MIB = 0.35, 0.25, 0.4, 4, 128
OURS = "pcm"
_MB = 1e6


def main() -> int:
    """Measure; returns how many aims do not hold."""
    if nginx_program() is None:
        print("nginx is not installed: apt-get install --no-install-recommends nginx-light", file=sys.stderr)
        return 1
    report = Report("content")
    found = list(pairs(sys.argv[1:] or None))
    took: list[dict[str, Took]] = []
    with temporary_folder() as folder, nginx(cache() / "served", folder / "nginx") as server:
        for pair in found:
            print(f"{pair.name} ...", file=sys.stderr)
            ready, published = content_peers.prepare(pair, cache()), content_ours.publish(pair, cache())
            took.append(_update(ready, published, server, folder))
            _tell(report, pair, took[-1])
            _from_nothing(report, published, server, folder)
    _together(report, took)
    content_publishing.measure(report, found)
    transfer_speed.measure(report)
    return report.finish()


def _update(ready: Ready, published: Published, server: Nginx, folder: Path) -> dict[str, Took]:
    """The median run of each method; each result is compared, byte for byte."""
    runs: dict[str, list[Took]] = {OURS: [], **{name: [] for name in METHODS if content_peers.has(name)}}
    for _ in range(REPEATS):
        for name, done in runs.items():
            work = folder / "work"
            work.mkdir()
            if name == OURS:
                done.append(content_ours.updated(published, work / "store", server))
            else:
                done.append(
                    content_peers.perform(METHODS[name](ready, f"{server.url}/{ready.pair.name}", work), server)
                )
                if not filecmp.cmp(work / "out.tar", ready.new, shallow=False):
                    raise RuntimeError(f"{name} made other bytes")
            shutil.rmtree(work)
    return {name: sorted(done, key=lambda each: each.wall_ms)[len(done) // 2] for name, done in runs.items()}


def _tell(report: Report, pair: Pair, took: dict[str, Took]) -> None:
    ours = took[OURS]
    for name, other in took.items():
        if name == OURS:
            continue
        most = 1.0 if name == WHOLE else None
        peer = (name, other.bytes / _MB)
        report.add(f"{pair.name}: bytes of an update", ours.bytes / _MB, "MB", peer=peer, at_most=most, of_ratio=True)
        report.add("  wall clock", ours.wall_ms, "ms", peer=(name, other.wall_ms))
        report.add(
            "  memory, all processes (the peer's largest one)", ours.memory_mib, "MiB", peer=(name, other.memory_mib)
        )
    requests = (CASYNC, took[CASYNC].requests) if CASYNC in took else None
    report.add(f"{pair.name}: requests", ours.requests, "", peer=requests, at_most=REQUESTS)
    report.add(f"{pair.name}: memory, all processes", ours.memory_mib, "MiB", at_most=MEMORY_MIB)


def _from_nothing(report: Report, published: Published, server: Nginx, folder: Path) -> None:
    """A client that has nothing, or a version of long ago: never more bytes than all objects (and the heads of answers)."""
    took = content_ours.update(published, folder / "empty", server, nothing=True)
    shutil.rmtree(folder / "empty")
    whole = published.whole_bytes() + took.requests * content_ours.HEAD_BYTES
    name = f"{published.pair.name}: bytes from nothing"
    report.add(name, took.bytes / _MB, "MB", peer=("all objects", whole / _MB), at_most=1.0, of_ratio=True)


def _together(report: Report, took: Sequence[dict[str, Took]]) -> None:
    """Geometric means over the pairs."""
    both = [(each[OURS], each[CASYNC]) for each in took if CASYNC in each]
    if not both:
        return
    size, wall = (
        math.exp(statistics.fmean(math.log(getattr(ours, field) / getattr(other, field)) for ours, other in both))
        for field in ("bytes", "wall_ms")
    )
    report.add(f"{len(both)} pairs: bytes, beside {CASYNC} (geometric mean)", size, "", at_most=BYTES)
    report.add("  with bsdiff where it wins", size, "", at_most=BYTES_THOROUGH)
    report.add(f"{len(both)} pairs: wall clock, beside {CASYNC} (geometric mean)", wall, "", at_most=WALL)


if __name__ == "__main__":
    sys.exit(main())
