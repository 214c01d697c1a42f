"""From fetched bytes to a plan: both repositories verified, cross-checked and planned, for 50 and 1,000 instructions.

The files are those of a real site, signed by it; they come from memory, so no network is in the figures. Nothing is cached by
the client but manifests; in the dearest case every instruction names another package. The metadata folders lie on this disk
and are made durable as always; another figure shows the same on a file system in memory. Beside it: the same signatures
verified bare, and the same bytes read by `json.loads`.
"""

import gc
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.formats import encode_canonical

from bench.measure import Report, Sample, in_turns, undisturbed_ms
from bench.place import publish_all, temporary_folder
from pcm.model.assignment import State as Stage
from pcm.model.errors import TransferError
from pcm.model.facts import Facts
from pcm.model.job import JobOrder
from pcm.protocol.admin import EnrolmentTokenRequest
from pcm.service.plan import Plan, Situation
from pcm.service.planner import plan
from pcm.service.records import InstructionRecord
from pcm.site import enrolment, jobs
from pcm.site.compile import Compiler
from pcm.testing.small_site import SmallClient, make_package, make_small_site
from pcm.trust.cross_check import Accepted, Circumstances, cross_check, gather
from pcm.trust.floors import Floors
from pcm.trust.instructions import Recipient, Seen, verify_instructions
from pcm.trust.manifests import Manifests
from pcm.trust.packages import verify_packages

SIZES = ((50, 50, 15), (1000, 100, 9), (1000, 1000, 9))  # instructions, packages, repeats
MOST_MS = 50.0
PLATFORM = "linux-x86_64"


@dataclass
class Case:
    """What one client is shown: file names → bytes of its logon server and of a distribution server."""

    site: str
    client_id: str
    size: int
    packages: int
    logon: dict[str, bytes]
    distribution: dict[str, bytes]

    @property
    def roots(self) -> tuple[bytes, bytes]:
        """The pinned roots of both repositories."""
        return self.logon["roots/1.root.json"], self.distribution["metadata/1.root.json"]


def measure(report: Report) -> None:
    """Add the figures for every size."""
    for size, packages, repeats in SIZES:
        with temporary_folder() as folder:
            case = make_case(folder, size, packages)
            _measure_case(report, case, folder, repeats)


def make_case(folder: Path, size: int, packages: int) -> Case:
    """A real site gives one client `size` jobs of so many packages; its files."""
    small = make_small_site(folder / "site")
    site = small.open()
    try:
        publish_all(small, site, [make_package(f"package-{number:04d}") for number in range(packages)])
        client = SmallClient()
        with site.database.write() as connection:
            token = enrolment.create_token(connection, EnrolmentTokenRequest(), "bench", site.clock()).token
            enrolment.enrol(connection, client.wish(site.name, token), client.client_id, site.name, 1, site.clock())
            for number in range(size):
                jobs.create(connection, JobOrder(f"package-{number % packages:04d}", "all"), "bench", site.clock())
        Compiler(site).compile_now()
        place = site.logon[0]
        place.leases.ensure(client.client_id)
        return Case(
            site.name,
            client.client_id,
            size,
            packages,
            files_below(place.folder.root),
            files_below(site.home.root),
        )
    finally:
        site.close()


def files_below(root: Path) -> dict[str, bytes]:
    """All files of a folder by their names below it."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def fetch_from(files: dict[str, bytes]) -> Callable[[str, int], Iterator[bytes]]:
    """A server of these files."""

    def fetch(name: str, _max_bytes: int) -> Iterator[bytes]:
        if name not in files:
            raise TransferError(f"There is no {name}.", code="transfer.not_found")
        yield files[name]

    return fetch


def verify_and_plan(case: Case, folder: Path, spent: dict[str, float]) -> Plan:
    """Checks 3 to 11 and the planner, as `service.inbox`, `catalogue` and `outlook` call them; `spent` takes ms by part."""
    marks = [("", time.perf_counter())]
    now = datetime.now(UTC)
    mine = verify_instructions(
        Recipient(case.site, case.client_id, "0.1.0"),
        case.roots[0],
        None,
        folder / "instructions-1",
        seen=Seen(),
        fetch=fetch_from(case.logon),
        now=now,
    )
    marks.append(("instructions", time.perf_counter()))
    fetch = fetch_from(case.distribution)
    least = msgspec.structs.asdict(mine.instructions.package_repository_min)
    packages = verify_packages(
        case.site, case.roots[1], None, folder / "packages-1", stored=Floors(), least=least, fetch=fetch
    )
    marks.append(("packages", time.perf_counter()))
    wanted = mine.instructions.instructions
    evidence = gather(wanted, packages.find, Manifests(folder / "manifests", fetch).read)
    marks.append(("manifests", time.perf_counter()))
    verdicts = cross_check(wanted, evidence, Circumstances(case.client_id, PLATFORM, packages.policy, now))
    packages.close()
    marks.append(("cross-check", time.perf_counter()))
    accepted = [verdict for verdict in verdicts if isinstance(verdict, Accepted)]
    records = [
        InstructionRecord(
            id=each.instruction.id,
            generation=each.instruction.generation,
            instruction=each.instruction,
            state=Stage.OFFERED,
            first_seen=now,
            changed=now,
            manifest_sha256=each.instruction.manifest.sha256,
        )
        for each in accepted
    ]
    situation = Situation(
        client_id=case.client_id,
        facts=Facts("pc-1", PLATFORM, "Debian", "12", "0.1.0"),
        zone=UTC,
        manifests={each.instruction.manifest.sha256: each.manifest for each in accepted},
        policy=packages.policy,
    )
    decided = plan(records, situation, now)
    marks.append(("planner", time.perf_counter()))
    for (_, begun), (name, ended) in pairwise(marks):
        spent[name] = (ended - begun) * 1000
    return decided


class Bare:
    """The same work without rules: each signature verified once, each document parsed once."""

    def __init__(self, case: Case) -> None:
        newest = _newest(case)
        self._documents = list(newest.values())
        keys: dict[str, Ed25519PublicKey] = {}
        parsed = [json.loads(data) for data in self._documents]
        for document in parsed:
            signed = document.get("signed", {})
            for keyid, key in {**signed.get("keys", {}), **(signed.get("delegations") or {}).get("keys", {})}.items():
                keys[keyid] = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key["keyval"]["public"]))
        self._signed = [
            (keys[each["keyid"]], bytes.fromhex(each["sig"]), str(encode_canonical(document["signed"])).encode())
            for document in parsed
            for each in document.get("signatures", ())
        ]

    @property
    def signatures(self) -> int:
        """How many there are."""
        return len(self._signed)

    @property
    def bytes(self) -> int:
        """Of all documents."""
        return sum(map(len, self._documents))

    def perform(self) -> None:
        """Do it."""
        for key, signature, message in self._signed:
            key.verify(signature, message)
        for data in self._documents:
            json.loads(data)


def _newest(case: Case) -> dict[str, bytes]:
    """What a client without a cache reads: the newest of each role, the instruction file, the manifests."""
    found: dict[str, bytes] = {}
    for files in (case.logon, case.distribution):
        newest: dict[str, int] = {}
        for name, data in files.items():
            version, _, role = Path(name).name.partition(".")
            if name.startswith("targets/") or name.endswith((".instructions.json", "timestamp.json")):
                found[name] = data
            elif version.isdigit() and int(version) > newest.get(role, 0):
                newest[role] = int(version)
                found[f"{files is case.logon} {role}"] = data
    return found


def _measure_case(report: Report, case: Case, folder: Path, repeats: int) -> None:
    parts: dict[str, Sample] = {}
    cpu, wall = Sample(), Sample()
    bare = Bare(case)

    def ours(place: Path) -> float:
        _prepare(case, place)
        spent: dict[str, float] = {}
        begun = time.process_time()
        clock = time.perf_counter()
        took = undisturbed_ms(lambda: _expect(verify_and_plan(case, place, spent), case.size))
        if place.is_relative_to(folder):
            cpu.values.append((time.process_time() - begun) * 1000)
            wall.values.append((time.perf_counter() - clock) * 1000)
            for name, value in spent.items():
                parts.setdefault(name, Sample()).values.append(value)
        return took

    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(
        50_000, 20, 20
    )  # as the worker does; and no client carries the site that made the case, so it is frozen
    with tempfile.TemporaryDirectory(dir=_memory(), prefix="pcm-bench-") as memory:
        took = in_turns(
            {
                "disk": lambda: ours(folder / "client"),
                "memory": lambda: ours(Path(memory) / "client"),
                "bare": lambda: undisturbed_ms(bare.perform),
            },
            repeats,
        )
    gc.set_threshold(*before)
    gc.unfreeze()
    peer = (f"{bare.signatures} bare verifies, json.loads of {bare.bytes // 1024} KiB", took["bare"].median)
    title = f"verify + plan of {case.size:,} instructions, {case.packages:,} packages"
    report.add(title, took["disk"].median, "ms", peer=peer, at_most=MOST_MS if case.size == 1000 else None)
    report.add(f"{title}: least of all repeats", took["disk"].least, "ms")
    report.add(f"{title}: CPU", cpu.median, "ms")
    report.add(f"{title}: clock, other programs' turns included", wall.median, "ms")
    report.add(f"{title}: folders in memory", took["memory"].median, "ms")
    for name, sample in parts.items():
        report.add(f"  of it: {name}", sample.median, "ms")


def _prepare(case: Case, place: Path) -> None:
    """A client's metadata folder before its first refresh, with the manifests that were fetched."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "manifests").mkdir(parents=True)
    for name, data in case.distribution.items():
        if name.startswith("targets/packages/"):
            sha256 = Path(name).name.partition(".")[0]
            (place / "manifests" / f"{sha256}.json").write_bytes(data)
    os.sync()


def _expect(decided: Plan, size: int) -> None:
    if len(decided.due()) != size:
        raise RuntimeError(f"{len(decided.due())} of {size} instructions are due: {decided.lines[:1]}")


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
