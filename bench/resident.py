"""What `pcmsvc run` costs while nothing happens: memory of everything that stays, how soon it answers, idle CPU.

The service is enrolled at a site that is served under TLS, has made its first check and waits at its server for news. Beside
it: an interpreter that sleeps. Memory is proportional: on a computer where nothing else runs this interpreter, its program text
counts whole, so private memory stands beside it.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Report, Sample, memory_kib, on_processor_s, tree_of
from bench.place import EnrolledClient, enrol, served_site, temporary_folder

IDLE_S = 130.0  # two looks at the clocks
STARTS = 5


def measure(report: Report) -> None:
    """Add the figures of the resident service."""
    with temporary_folder() as folder, served_site(folder, tls=True) as served:
        client = enrol(served, "client")
        soon = Sample()
        for _ in range(STARTS):
            with _service(client) as (_, ready_ms):
                soon.values.append(ready_ms)
        bare_ms = Sample([_bare_ready_ms(folder / f"bare-{number}") for number in range(STARTS)])
        with _service(client) as (process, _), _bare_sleeper() as bare:
            _await_alone(process)
            mine, bare_memory = [memory_kib(each) for each in tree_of(process)], memory_kib(bare)
            waiting = held_connections(process)
            begun = on_processor_s(process)
            time.sleep(IDLE_S)
            spent = (on_processor_s(process) - begun) * 3600 / IDLE_S
    sleeper = "python -c 'time.sleep(99)'"
    report.add(
        f"pcmsvc run, idle: memory (PSS of {len(mine)} process)",
        sum(pss for pss, _ in mine) / 1024,
        "MiB",
        peer=(sleeper, bare_memory[0] / 1024),
        at_most=14.0,
    )
    report.add(
        "pcmsvc run, idle: private memory",
        sum(private for _, private in mine) / 1024,
        "MiB",
        peer=(sleeper, bare_memory[1] / 1024),
    )
    report.add(
        "pcmsvc run: start to local socket ready",
        soon.median,
        "ms",
        peer=("python that binds a socket", bare_ms.median),
        at_most=300.0,
    )
    report.add("pcmsvc run, idle: connections that wait for news", waiting, "")
    report.add("pcmsvc run, idle: CPU, reckoned for an hour", spent, "s", at_most=0.05)


def held_connections(process_id: int) -> int:
    """TCP connections that a process holds."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    connections = {f"socket:[{line.split()[9]}]" for line in lines}
    held = Path(f"/proc/{process_id}/fd").iterdir()
    return sum(os.readlink(each) in connections for each in held)  # noqa: PTH115 - it names no file


@contextlib.contextmanager
def _service(client: EnrolledClient) -> Iterator[tuple[int, float]]:
    """The resident service, and milliseconds from its start until its socket took a connection."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        client.pcmsvc("run"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _await_socket(client.places.socket)
        yield process.pid, (time.perf_counter() - begun) * 1000
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def _bare_sleeper() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(99)"])
    try:
        time.sleep(0.3)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _bare_ready_ms(path: Path) -> float:
    code = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(9)"
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-I", "-c", code, str(path)])
    try:
        _await_socket(path)
        return (time.perf_counter() - begun) * 1000
    finally:
        process.kill()
        process.wait()


def _await_socket(path: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(0.001)
    raise RuntimeError(f"nobody answers at {path}")


def _await_alone(process_id: int) -> None:
    """Wait until the first check is over and only what stays is there."""
    deadline = time.monotonic() + 30
    time.sleep(0.5)
    while time.monotonic() < deadline:
        if len(tree_of(process_id)) == 1:
            time.sleep(0.5)
            if len(tree_of(process_id)) == 1:
                return
        time.sleep(0.1)
    raise RuntimeError("the first check of the service does not end")
