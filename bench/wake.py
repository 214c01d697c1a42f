"""How soon an order runs at a client that waits for news: from the order to the site until the program has run.

Everything is real: `pcm site serve` under TLS, the resident service, a package that a packager signed. The client's own interval
is a day, so nothing but its connection tells it. Beside it: the same program started by hand.
"""

import subprocess
import time
from pathlib import Path

import httpx

from bench.measure import Report, Sample, wall_ms
from bench.place import enrol, publish_all, served_site, temporary_folder
from pcm.model.package import Package
from pcm.model.program import Program

ORDERS = 5
PATIENCE_S = 60.0
SETTLE_S = 6.0


def measure(report: Report) -> None:
    """Add the figure."""
    took, bare = Sample(), Sample()
    with temporary_folder() as folder, served_site(folder, tls=True) as served:
        client = enrol(served, "client")
        marks = [folder / f"mark-{number}" for number in range(ORDERS)]
        programs = [("/bin/sh", "-c", f"echo done > {mark}") for mark in marks]
        site = served.small.open()
        try:
            publish_all(served.small, site, [_package(number, argv) for number, argv in enumerate(programs)])
        finally:
            site.close()
        service = subprocess.Popen(client.pcmsvc("run"), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with httpx.Client(verify=str(served.authority), base_url=served.url, trust_env=False) as admin:
                admin.headers["authorization"] = f"Bearer {served.small.admin_token}"
                for number, mark in enumerate(marks):
                    time.sleep(SETTLE_S)
                    took.values.append(wall_ms(lambda name=f"news-{number}", mark=mark: _order(admin, name, mark)))  # type: ignore[misc]
                    bare.values.append(wall_ms(lambda argv=programs[number]: subprocess.run(argv, check=True)))  # type: ignore[misc]
        finally:
            service.terminate()
            service.wait(30)
    report.add(
        "order to the site until its program has run at a waiting client", took.median, "ms", peer=("sh", bare.median)
    )
    report.add("the same, least of all repeats", took.least, "ms", peer=("sh", bare.least))


def _package(number: int, argv: tuple[str, ...]) -> Package:
    return Package(
        package=f"news-{number}",
        version="1.0",
        release=1,
        platforms=("linux-any",),
        files=(),
        programs={"install": Program(argv=argv)},
    )


def _order(admin: httpx.Client, name: str, mark: Path) -> None:
    order = {"package": name, "version": "1.0", "program": "install", "group": "all", "purpose": "mandatory"}
    admin.post("/v1/jobs", json={"order": order, "dry_run": False}).raise_for_status()
    deadline = time.monotonic() + PATIENCE_S
    while not mark.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} has not run")
        time.sleep(0.005)
