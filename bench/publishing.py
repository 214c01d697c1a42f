"""What it costs a site to tell its clients: instruction files made, signed and written by the compiler's own path.

One site, its clients enrolled by the site's own functions. Processor time is that of this process with all of its threads, by
part: from a client's rows to its signed file, the files and the lease in the logon folder, and the rest, which is the database.
Beside it: as many bare ed25519 signatures as each client needs, and as many bare files of the same sizes.
"""

import gc
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.measure import Report, Sample, cpu_ms, wall_ms
from bench.place import own_file_system, publish_all, temporary_folder
from pcm.logon.folder import LogonFolder
from pcm.logon.leases import Leases
from pcm.model.job import JobOrder
from pcm.protocol.admin import EnrolmentTokenRequest
from pcm.site import enrolment, jobs
from pcm.site.authority import LogonPlace, Site
from pcm.site.compile import Compiler
from pcm.testing.small_site import SmallClient, SmallSite, make_package, make_small_site

INSTRUCTIONS = 50
CLIENTS = 100
REPEATS = 5
MOST_CPU_MS = 0.5
MANY = 2000


def measure(report: Report) -> None:
    """Add the figures for one client with fifty instructions, and for one job on many clients."""
    with own_file_system() as folder:
        if folder is not None:
            _one_site(report, folder, "")
        else:
            with temporary_folder() as shared:
                _one_site(report, shared, " (shared file system)")
    with temporary_folder(in_memory=True) as folder:
        _one_site(report, folder, ", site in memory")
    with temporary_folder() as folder:
        _, site = open_small(folder, packages=3)
        try:
            _many_clients(report, site)
        finally:
            site.close()


def _one_site(report: Report, folder: Path, where: str) -> None:
    small, site = open_small(folder, packages=INSTRUCTIONS + 2 * REPEATS)
    try:
        _one_client(report, small, site, where)
    finally:
        site.close()


def open_small(folder: Path, packages: int) -> tuple[SmallSite, Site]:
    """A new site with some packages."""
    small = make_small_site(folder / "site")
    site = small.open()
    publish_all(small, site, [make_package(f"package-{number:03d}") for number in range(packages)])
    return small, site


def enrol_many(site: Site, number: int) -> list[SmallClient]:
    """Enrol clients in one transaction, by the function that answers each enrolment."""
    made = [SmallClient(f"pc-{each}") for each in range(number)]
    with site.database.write() as connection:
        for client in made:
            token = enrolment.create_token(connection, EnrolmentTokenRequest(), "bench", site.clock()).token
            enrolment.enrol(connection, client.wish(site.name, token), client.client_id, site.name, 1, site.clock())
    return made


def order(site: Site, package: int) -> None:
    """One more job for everybody."""
    with site.database.write() as connection:
        jobs.create(connection, JobOrder(f"package-{package:03d}", "all"), "bench", site.clock())


def _one_client(report: Report, small: SmallSite, site: Site, where: str) -> None:
    known = [each.client_id for each in enrol_many(site, CLIENTS)]
    for number in range(INSTRUCTIONS - 1):
        order(site, number)
    compiler = _InParts(site)  # one for all rounds, as a site has
    compiler.compile_now()
    samples = {name: Sample() for name in ("sign", "files", "aim", "synced", "database", "all", "wall")}
    as_it_is = site.logon
    gc.collect()
    gc.freeze()  # this process carries the whole measurement; a site's own does not
    for number in range(2 * REPEATS):
        synced = number % 2 == 1
        site.logon = _synced(site, small) if synced else as_it_is
        order(site, INSTRUCTIONS - 1 + number)
        _publish(compiler, samples, synced=synced)
    site.logon = as_it_is
    gc.unfreeze()
    _report_one(report, f"publish to one client, {INSTRUCTIONS} instructions{where}", samples, _bare(site, known[0]))


class _InParts(Compiler):
    """The compiler with a clock on what it does for one client; whatever else it does is the database."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.spent_ms = {"sign": 0.0, "files": 0.0}

    def _compile_one(self, *given: Any) -> Any:
        return self._clocked("sign", super()._compile_one, *given)

    def _write_one(self, *given: Any) -> Any:
        return self._clocked("files", super()._write_one, *given)

    def _clocked(self, part: str, act: Callable[..., Any], *given: Any) -> Any:
        begun = time.process_time()
        try:
            return act(*given)
        finally:
            self.spent_ms[part] += (time.process_time() - begun) * 1000


def _publish(compiler: _InParts, samples: dict[str, Sample], *, synced: bool) -> None:
    """One round for all clients; processor time of each part, for one client."""
    compiler.spent_ms = {"sign": 0.0, "files": 0.0}
    begun = time.perf_counter()
    everything = cpu_ms(lambda: _publish_all(compiler)) / CLIENTS
    wall = (time.perf_counter() - begun) * 1000 / CLIENTS
    signed, files = (compiler.spent_ms[part] / CLIENTS for part in ("sign", "files"))
    if synced:
        samples["synced"].values.append(files)
        return
    for name, value in (
        ("sign", signed),
        ("files", files),
        ("aim", signed + files),
        ("database", everything - signed - files),
        ("all", everything),
        ("wall", wall),
    ):
        samples[name].values.append(value)


def _publish_all(compiler: Compiler) -> None:
    done = 0
    while made := compiler.compile_batch()[1]:
        done += made
    if done != CLIENTS:
        raise RuntimeError(f"{done} of {CLIENTS} instruction files were signed")
    while compiler.write_batch():
        pass


def _synced(site: Site, small: SmallSite) -> tuple[LogonPlace, ...]:
    """The site's own logon server as it would be if each of its files were synced."""
    old, settings = site.logon[0], site.configuration.settings
    folder = LogonFolder(old.folder.root, durable=True)
    lease = site.keyring.signer("lease-main")
    leases = Leases(folder, lease, lambda: int(small.clock().timestamp() * 1000), settings.lease_days)
    return (LogonPlace(old.name, old.own, folder, leases),)


def _bare(site: Site, client_id: str) -> dict[str, Sample]:
    """Three signatures, and the writing of this client's files, without anything around them."""
    folder = site.logon[0].folder.root / "clients" / client_id
    newest: dict[str, bytes] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        newest[path.name.partition(".")[2]] = path.read_bytes()
    key, message = Ed25519PrivateKey.generate(), os.urandom(400)
    target = folder.parent / "bare"
    samples = {name: Sample() for name in ("signatures", "durable", "fast")}

    def sign() -> None:
        for _ in range(3 * CLIENTS):
            key.sign(message)

    def write(*, durable: bool) -> None:
        for number in range(CLIENTS):
            place = target / str(number)
            place.mkdir(parents=True)
            for name, data in newest.items():
                descriptor = os.open(place / name, os.O_WRONLY | os.O_CREAT, 0o644)
                os.write(descriptor, data)
                if durable:
                    os.fsync(descriptor)
                os.close(descriptor)

    for _ in range(REPEATS):
        samples["signatures"].values.append(cpu_ms(sign) / CLIENTS)
        for way in ("durable", "fast"):
            samples[way].values.append(cpu_ms(lambda way=way: write(durable=way == "durable")) / CLIENTS)  # type: ignore[misc]
            shutil.rmtree(target)
    return samples


def _report_one(report: Report, title: str, samples: dict[str, Sample], bare: dict[str, Sample]) -> None:
    signatures = bare["signatures"]
    peer = ("3 bare signatures, bare files", signatures.median + bare["fast"].median)
    least = ("3 bare signatures, bare files", signatures.least + bare["fast"].least)
    report.add(f"{title}: CPU, signed and written", samples["aim"].median, "ms", peer=peer, at_most=MOST_CPU_MS)
    report.add("  the same, least of all repeats", samples["aim"].least, "ms", peer=least)
    report.add(
        "  of it: rows to a signed file",
        samples["sign"].median,
        "ms",
        peer=("1 bare signature", signatures.median / 3),
    )
    report.add(
        "  of it: files and lease written, lease signed",
        samples["files"].median,
        "ms",
        peer=("2 bare signatures, bare files", signatures.median * 2 / 3 + bare["fast"].median),
    )
    report.add("  instead: each file synced", samples["synced"].median, "ms", peer=("bare", bare["durable"].median))
    report.add("  beside it: database, read and saved", samples["database"].median, "ms")
    report.add(f"{title}: CPU, database included", samples["all"].median, "ms", peer=peer)
    report.add("  the same, least of all repeats", samples["all"].least, "ms", peer=least)
    report.add(f"{title}: wall clock", samples["wall"].median, "ms")


def _many_clients(report: Report, site: Site) -> None:
    enrol_many(site, MANY)
    compiler = Compiler(site)
    _sign(compiler)
    gc.collect()
    gc.freeze()
    created: list[float] = []
    signed: list[float] = []
    cpu: list[float] = []
    for package in range(3):
        created.append(wall_ms(lambda package=package: order(site, package)))  # type: ignore[misc]
        cpu.append(cpu_ms(lambda: signed.append(wall_ms(lambda: _sign(compiler)))))
    gc.unfreeze()
    key, message = Ed25519PrivateKey.generate(), os.urandom(400)
    bare = min(wall_ms(lambda: [key.sign(message) for _ in range(MANY)]) for _ in range(3))
    total = Sample([each + other for each, other in zip(created, signed, strict=True)])
    report.add(
        f"job created → last of {MANY:,} instruction files signed",
        total.median / 1000,
        "s",
        peer=(f"{MANY:,} bare signatures", bare / 1000),
    )
    report.add("  of it: creating the job", Sample(created).median / 1000, "s")
    report.add("  CPU of signing, per client", Sample(cpu).median / MANY, "ms", peer=("bare signature", bare / MANY))


def _sign(compiler: Compiler) -> None:
    while compiler.compile_batch()[0]:
        pass
