"""How quickly content comes: one large object over loopback, hashed on the way and stored, beside curl that stores it.

Ours is what a client does: a process without rights speaks HTTP and TLS and unpacks, the service hashes and stores what it says.
curl does less: it writes what comes. Where the content can be compressed, the same work is done by curl, zstd, sha256sum and
tee in a pipe. Everything is measured in turns in one run; nginx serves all of them from the page cache.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import zstandard

from bench.measure import Report, Sample, in_turns
from bench.nginx import nginx
from bench.nginx import program as nginx_program
from bench.place import temporary_folder
from pcm.content.client_store import ClientStore
from pcm.model.package import PackageFile
from pcm.service.machine.here import this_machine
from pcm.service.machine.interface import OwnProgram
from pcm.transport.channel import SocketChannel
from pcm.transport.client import TransferClient
from pcm.transport.framing import Request, Settings
from tests.certificates import own_certificate

MEBI = 1024 * 1024
SIZE = 1024  # MiB
REPEATS = 5
MOST_MEMORY = 128.0
PLAIN_RATIO, TLS_RATIO = 0.9, 0.75


@dataclass(frozen=True)
class Content:
    """One object below a server's root, and the file that it stands for."""

    path: str
    length: int
    sha256: str


def measure(report: Report, size: int = SIZE, repeats: int = REPEATS) -> None:
    """Add the figures, if nginx and curl are here."""
    if nginx_program() is None or shutil.which("curl") is None:
        return
    with temporary_folder() as folder:
        root = folder / "root"
        root.mkdir()
        noise = _object(root, "noise.zst", size, _noise)
        text = _object(root, "text.zst", size, _text)
        certificate = own_certificate(folder)
        for file in (*root.iterdir(), *certificate):
            file.chmod(0o644)
        with nginx(root, folder / "plain") as plain, nginx(root, folder / "tls", certificate) as tls:
            ca = str(certificate[0])
            _compare(report, "http", plain.url, noise, folder, ca, repeats, PLAIN_RATIO)
            _compare(report, "https", tls.url, noise, folder, ca, repeats, TLS_RATIO)
            _compare_unpacking(report, plain.url, text, folder, ca, repeats)


def _compare(
    report: Report, how: str, url: str, content: Content, folder: Path, ca: str, repeats: int, aim: float
) -> None:
    out = folder / "curl.out"
    curl = ["curl", "-s", "--cacert", ca, "-o", str(out), f"{url}/{content.path}"]
    ours = _Ours(f"{url}/{content.path}", content, folder, ca)
    took = in_turns(
        {
            "pcm": ours.bring,
            "curl": lambda: _seconds(curl, out),
            "pcm with a part": lambda: ours.bring(parted=True),
        },
        repeats,
    )
    size = content.length / MEBI
    rates = {name: size / sample.median for name, sample in took.items()}
    name = f"{size:,.0f} MiB by {how}, not compressible"
    beside = ("curl -o", rates["curl"])
    report.add(f"{name}: hashed, stored", rates["pcm"], "MiB/s", peer=beside, at_least=aim, of_ratio=True)
    report.add("  with a part to go on from", rates["pcm with a part"], "MiB/s", peer=beside)
    _add_cost(report, ours, took)


def _compare_unpacking(report: Report, url: str, content: Content, folder: Path, ca: str, repeats: int) -> None:
    out = folder / "pipe.out"
    pipe = f"curl -s {url}/{content.path} | zstd -dc | tee {out} | sha256sum"
    ours = _Ours(f"{url}/{content.path}", content, folder, ca)
    actions: dict[str, Callable[[], float]] = {"pcm": ours.bring}
    if shutil.which("zstd"):
        actions["pipe"] = lambda: _seconds(["sh", "-c", pipe], out)
    else:
        script = "import sys,zstandard as z; z.ZstdDecompressor().copy_stream(sys.stdin.buffer, sys.stdout.buffer)"
        unpacker = f"{sys.executable} -c '{script}'"
        actions["pipe"] = lambda: _seconds(["sh", "-c", pipe.replace("zstd -dc", unpacker)], out)
    took = in_turns(actions, repeats)
    size = content.length / MEBI
    peer = ("curl | zstd -d | tee | sha256sum", size / took["pipe"].median)
    name = f"{size:,.0f} MiB by http, compressible: unpacked, hashed, stored"
    report.add(name, size / took["pcm"].median, "MiB/s", peer=peer)
    _add_cost(report, ours, took)


def _add_cost(report: Report, ours: "_Ours", took: Mapping[str, Sample]) -> None:
    report.add("  processor time of both processes", ours.cpu.least, "s")
    report.add("  memory at the most, both together (RSS)", ours.memory, "MiB", at_most=MOST_MEMORY)
    report.add("  quickest of the repeats", took["pcm"].least, "s")


class _Ours:
    """Our client, in a process of its own that tells what it took."""

    def __init__(self, url: str, content: Content, folder: Path, ca: str) -> None:
        self._arguments = [url, str(content.length), content.sha256, str(folder / "store"), ca]
        self.cpu, self.memory = Sample(), 0.0

    def bring(self, *, parted: bool = False) -> float:
        command = [sys.executable, "-m", "bench.transfer_speed", "--bring", *self._arguments, str(int(parted))]
        told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        if not parted:
            self.cpu.values.append(told["cpu_s"])
            self.memory = max(self.memory, told["memory_mib"])
        return float(told["wall_s"])


def bring(url: str, length: int, sha256: str, store: Path, ca: str, *, parted: bool) -> dict[str, float]:
    """Fetch, unpack, hash and store one object as a client does; what it took."""
    children: list[int] = []

    def open_channel() -> SocketChannel:
        machine = this_machine()
        ours, theirs = socket.socketpair()
        account = machine.transfer_account("_pcm") if os.geteuid() == 0 else None
        with theirs:
            file = theirs.fileno()
            start = OwnProgram("pcm.transport.start", arguments=(str(file),), account=account, kept_descriptors=(file,))
            child = machine.spawn(start)
        children.append(child.process_id)
        return SocketChannel(ours, child.close)

    shutil.rmtree(store, ignore_errors=True)
    kept = ClientStore(store)
    client = TransferClient(open_channel, Settings(ca_file=ca))
    client.protections()
    part = os.open(store / "part", os.O_RDWR | os.O_CREAT, 0o600) if parted else None
    file = PackageFile("large", length, sha256)
    request = Request(
        url, max_bytes=length + (length >> 7) + 1024, total_s=3600, decode="zstd", max_decoded_bytes=length, part=part
    )
    before = _cpu_s(os.getpid()) + _cpu_s(children[0])
    began = time.perf_counter()
    with client.fetch(request) as response:
        kept.add(file.sha256, file.length, response.iter_bytes(), url)
    wall = time.perf_counter() - began
    cpu = _cpu_s(os.getpid()) + _cpu_s(children[0]) - before
    memory = sum(_peak_mib(each) for each in (os.getpid(), children[0]))
    client.close()
    shutil.rmtree(store)
    return {"wall_s": wall, "cpu_s": cpu, "memory_mib": memory}


def _cpu_s(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mib(process_id: int) -> float:
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _seconds(command: list[str], out: Path) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - began
    out.unlink()
    return took


def _object(root: Path, name: str, size: int, pieces: Callable[[random.Random], bytes]) -> Content:
    chance, digest = random.Random(3), hashlib.sha256()
    packer = zstandard.ZstdCompressor(level=3).chunker(size=size * MEBI, chunk_size=MEBI)
    with (root / name).open("wb") as file:
        for _ in range(size):
            piece = pieces(chance)
            digest.update(piece)
            for packed in packer.compress(piece):
                file.write(packed)
        for packed in packer.finish():  # type: ignore[no-untyped-call] # missing in its stub
            file.write(packed)
    return Content(name, size * MEBI, digest.hexdigest())


def _noise(chance: random.Random) -> bytes:
    return chance.randbytes(MEBI)


def _text(chance: random.Random) -> bytes:
    """Bytes that zstd makes about a third of."""
    words = [chance.randbytes(chance.randrange(2, 12)) for _ in range(2000)]
    piece = b"".join(chance.choices(words, k=MEBI // 5))
    return piece[:MEBI].ljust(MEBI, b".")


def main() -> int:
    """Measure, or bring one object and tell what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=SIZE, help="MiB (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--bring", nargs=6, metavar=("URL", "LENGTH", "SHA256", "STORE", "CA", "PARTED"))
    options = parser.parse_args()
    if options.bring:
        url, length, sha256, store, ca, parted = options.bring
        print(json.dumps(bring(url, int(length), sha256, Path(store), ca, parted=parted == "1")))
        return 0
    report = Report("transfer_speed")
    measure(report, options.size, options.repeats)
    return min(report.finish(), 1)


if __name__ == "__main__":
    sys.exit(main())
