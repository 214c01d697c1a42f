"""Our service beside other products, on the same work in the same run: a check that finds nothing, programs run, idle memory.

A peer is given its work in a local file and asks no server; ours asks its site under TLS for the first, and for the programs is
given instructions that are verified already: everything from the start of its process to the last durable result counts.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence

from bench.drain import make_client
from bench.measure import Report, Sample, Spent, in_turns, memory_kib, run_child, tree_of
from bench.peers import SIZES, Peers, peers
from bench.place import as_own, enrol, served_site, temporary_folder

REPEATS = 5
CHECK_MS = 80.0
SETTLE_S = 12.0
_LOOP = 'n=0; while [ "$n" -lt "$1" ]; do /bin/true; n=$((n+1)); done'
_AIMS = {(100, "salt-call --local"): 0.35, (10, "ansible-playbook"): 0.1}


def measure(report: Report) -> None:
    """Add the figures, if the peers can be had here."""
    with peers() as others:
        _nothing_to_do(report, {} if others is None else others.idle())
        for size in SIZES:
            _programs(report, size, {} if others is None else others.programs(size))
        if others is not None:
            _residents(report, others)


def _nothing_to_do(report: Report, others: dict[str, list[str]]) -> None:
    with temporary_folder() as folder, served_site(folder, tls=True) as served:
        client = enrol(served, "client")
        spent = _in_turns({"pcmsvc": client.worker(), **others})
    walls = {name: Sample([each.wall_ms for each in done]) for name, done in spent.items()}
    cpus = {name: Sample([each.cpu_ms for each in done]) for name, done in spent.items()}
    report.add("check that finds nothing new, under TLS: wall clock", walls["pcmsvc"].median, "ms", at_most=CHECK_MS)
    report.add("check that finds nothing new, under TLS: CPU", cpus["pcmsvc"].median, "ms", at_most=CHECK_MS)
    for name in others:
        report.add(f"  beside {name}", walls["pcmsvc"].median, "ms", peer=(name, walls[name].median))


def _programs(report: Report, size: int, others: dict[str, list[str]]) -> None:
    with temporary_folder() as folder:
        homes = iter(range(REPEATS + 1))
        ours = as_own("bench.drain")

        def perform(argv: Sequence[str]) -> float:
            if argv is ours:
                home = folder / str(next(homes))
                make_client(home, size)
                argv = [*ours, str(home), str(size)]
            return _done(argv).wall_ms

        commands = {"pcmsvc": ours, "sh": ["/bin/sh", "-c", _LOOP, "sh", str(size)], **others}
        perform(ours)  # byte code is written
        took = in_turns({name: lambda argv=argv: perform(argv) for name, argv in commands.items()}, REPEATS)  # type: ignore[misc]
    for name in commands:
        if name != "pcmsvc":
            report.add(
                f"{size} programs, start of the process to the last durable result, beside {name}",
                took["pcmsvc"].median,
                "ms",
                peer=(name, took[name].median),
                at_most=_AIMS.get((size, name)),
                of_ratio=True,
            )


def _residents(report: Report, others: Peers) -> None:
    for name, argv in others.residents().items():
        with _resident(argv) as process_id:
            report.add(f"{name}, idle: memory (PSS)", _pss_mib(process_id), "MiB")


@contextlib.contextmanager
def _resident(argv: Sequence[str]) -> Iterator[int]:
    """A process that stays, once it has settled."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        time.sleep(SETTLE_S)
        yield process.pid
    finally:
        for each in reversed(tree_of(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        process.wait(30)


def _pss_mib(process_id: int) -> float:
    return sum(memory_kib(each)[0] for each in tree_of(process_id)) / 1024


def _in_turns(commands: dict[str, list[str]]) -> dict[str, list[Spent]]:
    spent: dict[str, list[Spent]] = {name: [] for name in commands}
    for argv in commands.values():
        _done(argv)
    for _ in range(REPEATS):
        for name, argv in commands.items():
            spent[name].append(_done(argv))
    return spent


def _done(argv: Sequence[str]) -> Spent:
    spent = run_child(argv)
    if spent.code != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with {spent.code}")
    return spent
