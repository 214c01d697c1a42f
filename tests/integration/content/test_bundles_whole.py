"""Bundles in processes of their own: what they cost in memory at their limits, and what is left when they are killed."""

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcm.content.bundle_index import MAX_BASE, MAX_PLAIN, Listing, bundle_path
from pcm.content.object_store import FolderObjectStore, verify_store
from pcm.content.objects import pack
from pcm.content.patches import SEGMENT
from pcm.distribution.improving import improve
from pcm.model.package import PackageFile

MEGABYTE = 2**20
MEASURED = """
import re, sys
from pathlib import Path
from pcm.content.unpacking import unpack_unit
from pcm.model.errors import TrustError
kind, length, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
packed, base = (folder / "packed").read_bytes(), (folder / "base").read_bytes()
try:
    print(len(unpack_unit(kind, packed, base, length)))
except TrustError as error:
    print(error.code)
# not ru_maxrss, which begins with that of whoever started this
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
LARGEST = """
import random, sys
from pathlib import Path
from pcm.content import patches
kind, plain_length, base_length, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
rng = random.Random(3)
base = rng.randbytes(base_length)
plain = base[: plain_length // 2] + rng.randbytes(plain_length - plain_length // 2)
pack = patches.pack_bsdiff if kind == "bsdiff" else lambda new, old: patches.pack_zstd(new, old, 3)
(folder / "base").write_bytes(base)
(folder / "packed").write_bytes(pack(plain, base))
"""


def run(script: str, *arguments: object) -> list[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize(
    ("kind", "plain", "base"),
    [("zstd", MAX_PLAIN, MAX_BASE), ("zstd", SEGMENT, 5 * SEGMENT), ("bsdiff", SEGMENT // 2, SEGMENT)],
)
def test_the_largest_units_fit_into_a_clients_memory(kind: str, plain: int, base: int, tmp_path: Path) -> None:
    run(LARGEST, kind, plain, base, tmp_path)
    length, peak = run(MEASURED, kind, plain, tmp_path)
    assert int(length) == plain
    assert int(peak) * 1024 < 128 * MEGABYTE


def test_bombs_cost_no_more_than_what_is_honest(tmp_path: Path) -> None:
    import bz2  # noqa: PLC0415

    from pcm.content.bsdiff_streams import BZ2, RAW, write_streams  # noqa: PLC0415

    (tmp_path / "base").write_bytes(bytes(1000))
    block = (1 << 1 | 128 * 1024 << 3).to_bytes(3, "little") + b"z"
    frame = b"\x28\xb5\x2f\xfd\xe0" + MAX_PLAIN.to_bytes(8, "little") + block * 100_000  # 12.5 GB
    rows = (2**31 - 1).to_bytes(4, "big") * 3
    bzip = write_streams(1, [(RAW, rows), (BZ2, bz2.compress(bytes(300 * MEGABYTE))), (RAW, b"")])
    for kind, packed in (("zstd", frame), ("bsdiff", bzip)):
        (tmp_path / "packed").write_bytes(packed)
        began = time.monotonic()
        code, peak = run(MEASURED, kind, MAX_PLAIN, tmp_path)
        assert code in {"trust.content", "trust.endless_data"}
        assert int(peak) * 1024 < 96 * MEGABYTE
        assert time.monotonic() - began < 30


IMPROVE = """
import sys
from pathlib import Path
import msgspec
from pcm.content.bundle_index import Listing
from pcm.distribution.improving import improve
from pcm.model.package import PackageFile
root, listings = Path(sys.argv[1]), msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=list[tuple[str, list[PackageFile]]])
new, old = (Listing(*each) for each in listings)
improve(root, new, [old], on_progress=lambda progress: print(progress.part, progress.bytes_done, flush=True))
"""


def published(root: Path) -> tuple[Listing, Listing]:
    """Two versions of forty files, some large; the same for every call."""
    import msgspec  # noqa: PLC0415

    rng = random.Random(6)
    old = {f"lib{number}.so": rng.randbytes(3000) * rng.randrange(20, 200) for number in range(40)}
    new = {path: data[:5000] + rng.randbytes(2000) + data[5000:] for path, data in old.items()}
    store = FolderObjectStore(root)
    listings = []
    for files in (new, old):
        entries = []
        for path, data in files.items():
            sha256 = hashlib.sha256(data).hexdigest()
            store.put(sha256, len(data), pack(io.BytesIO(data), len(data), 1))
            entries.append(PackageFile(path, len(data), sha256))
        listings.append(Listing(hashlib.sha256(repr(entries).encode()).hexdigest(), entries))
    (root.parent / "listings").write_bytes(msgspec.json.encode([(each.sha256, each.files) for each in listings]))
    return listings[0], listings[1]


def test_killed_at_any_time_it_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    new, old = published(tmp_path / "whole")
    improve(tmp_path / "whole", new, [old])
    published(tmp_path / "killed")
    rng = random.Random(os.getpid())
    kills = 0
    for _ in range(60):
        command = [sys.executable, "-c", IMPROVE, str(tmp_path / "killed"), str(tmp_path / "listings")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(rng.randrange(1, 12)):
                process.stdout.readline()
            time.sleep(rng.random() * 0.02)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.stdout.read()
        if process.returncode == 0:
            break
        kills += 1
    assert kills >= 2
    assert improve(tmp_path / "killed", new, [old]).finished
    for name in (bundle_path(new.sha256, old.sha256),):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    store = FolderObjectStore(tmp_path / "killed")
    assert verify_store(store, {file.sha256: file.length for file in (*new.files, *old.files)}) == []
    store.sweep()
    packed = [
        {each.sha256: each.packed for each in FolderObjectStore(tmp_path / name).list()} for name in ("killed", "whole")
    ]
    assert packed[0] == packed[1]
