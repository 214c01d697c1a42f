"""How many clients one core of the site answers: idle polls (304) beside nginx's, and reports taken in beside bare verifies.

`pcm site serve` answers polls that are signed by the clients' keys; nginx answers 304 for a file of the same size. Both get the
same load from the same generator: wrk if it is here, else a loop of this process, in turns. A core's worth is requests divided by
the processor time that the server spent, so the generator's own share does not matter.
"""

import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from bench.measure import Report, Sample, cpu_ms, cpu_seconds, in_turns, tree_of, wall_ms
from bench.place import ServedSite, served_site, temporary_folder
from bench.publishing import enrol_many, open_small
from bench.wire import free_port
from pcm.site.compile import Compiler
from pcm.site.intake import Intake
from pcm.transport.signing import sign_request

POLLERS = 50
SECONDS = 3
REPEATS = 3
LEAST_RATIO = 0.20
REPORTS = 1000
_NGINX = """\
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
daemon off;
{user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    server {{ listen 127.0.0.1:{port}; location / {{ root {folder}/files; }} }}
}}
"""
_WRK = """\
local polls = {{ {polls} }}
local next = 0
request = function()
  next = next % #polls + 1
  return wrk.format("GET", polls[next][1], polls[next][2])
end
done = function(summary, latency, requests)
  io.write(string.format("%d %d %d\\n", summary.requests, summary.errors.status, summary.duration))
end
"""
Poll = tuple[str, dict[str, str]]


def measure(report: Report) -> None:
    """Add the figures of polls and of reports."""
    with temporary_folder() as folder, served_site(folder) as served:
        _measure_polls(report, served, folder)
    with temporary_folder() as folder:
        _measure_reports(report, folder)


def _measure_polls(report: Report, served: ServedSite, folder: Path) -> None:
    mine = _polls(served)
    servers: dict[str, tuple[int, int, list[Poll]]] = {"site": (served.port, served.process_id, mine)}
    with _nginx(folder) as nginx:
        if nginx is not None:
            servers["nginx"] = nginx
        cores = in_turns(
            {name: lambda server=server: _rate_of(folder, *server) for name, server in servers.items()},  # type: ignore[misc]
            REPEATS,
        )
    peer = ("nginx static 304", cores["nginx"].median) if "nginx" in cores else None
    report.add(
        f"idle polls (signed, 304) a second and core, load by {'wrk' if shutil.which('wrk') else 'python'}",
        cores["site"].median,
        "1/s",
        peer=peer,
        at_least=LEAST_RATIO if peer else None,
        of_ratio=True,
    )
    bare = Sample([cpu_ms(check) for check in [_bare_verifies(POLLERS)] * REPEATS])
    report.add(
        "  the same, beside the signature alone",
        cores["site"].median,
        "1/s",
        peer=("bare P-256 verifies a second", POLLERS / bare.median * 1000),
    )


def _polls(served: ServedSite) -> list[Poll]:
    """Signed questions of many clients, each with the tag of its newest lease."""
    site = served.small.open()
    try:
        clients = enrol_many(site, POLLERS)
        Compiler(site).compile_now()
    finally:
        site.close()
    polls = []
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    for client in clients:
        path = f"/logon/clients/{client.client_id}/timestamp.json"
        fields = sign_request("GET", f"{served.url}{path}", None, client.key, client.client_id, datetime.now(UTC))
        etag = _tag_of(connection, path, fields)
        polls.append((path, {**fields, "If-None-Match": etag}))
    return polls


def _tag_of(connection: http.client.HTTPConnection, path: str, fields: dict[str, str]) -> str:
    connection.request("GET", path, headers=fields)
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path} was answered with {answer.status}")
    return str(answer.headers["etag"])


@contextmanager
def _nginx(folder: Path) -> Iterator[tuple[int, int, list[Poll]] | None]:
    """Nginx with one worker and one file as long as a lease; None if it is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    place, port = folder / "nginx", free_port()
    (place / "files").mkdir(parents=True)
    (place / "files" / "timestamp.json").write_bytes(b"x" * 500)
    user = "user root;" if os.geteuid() == 0 else ""
    (place / "nginx.conf").write_text(_NGINX.format(folder=place, port=port, user=user))
    process = subprocess.Popen(
        [program, "-p", str(place), "-c", str(place / "nginx.conf")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(0.5)
        etag = _tag_of(http.client.HTTPConnection("127.0.0.1", port), "/timestamp.json", {})
        yield port, process.pid, [("/timestamp.json", {"If-None-Match": etag})]
    finally:
        process.terminate()
        process.wait(20)


def _rate_of(folder: Path, port: int, process_id: int, polls: list[Poll]) -> float:
    """Answers for each second of processor time that the server spent."""
    before = sum(cpu_seconds(each) for each in tree_of(process_id))
    load = _load_by_wrk if shutil.which("wrk") else _load_by_python
    answered = load(folder, port, polls)
    spent = sum(cpu_seconds(each) for each in tree_of(process_id)) - before
    return answered / max(spent, 0.01)


def _load_by_wrk(folder: Path, port: int, polls: list[Poll]) -> int:
    listed = ",\n".join(f"{{{json.dumps(path)}, {_in_lua(fields)}}}" for path, fields in polls)
    script = folder / "load.lua"
    script.write_text(_WRK.format(polls=listed))
    done = subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{SECONDS}s", "-s", str(script), f"http://127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        check=True,
    )
    requests, errors, _ = done.stdout.splitlines()[-1].split()
    if int(errors):
        raise RuntimeError(f"{errors} of {requests} polls were refused")
    return int(requests)


def _in_lua(fields: dict[str, str]) -> str:
    return "{" + ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in fields.items()) + "}"


def _load_by_python(_folder: Path, port: int, polls: list[Poll]) -> int:
    until = time.monotonic() + SECONDS

    def ask(start: int) -> int:
        connection, answered = http.client.HTTPConnection("127.0.0.1", port), 0
        while time.monotonic() < until:
            path, fields = polls[(start + answered) % len(polls)]
            connection.request("GET", path, headers=fields)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 304:
                raise RuntimeError(f"a poll was answered with {answer.status}")
            answered += 1
        return answered

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(ask, range(8)))


def _measure_reports(report: Report, folder: Path) -> None:
    _, site = open_small(folder, packages=1)
    intake = Intake(site)
    intake.start()
    try:
        clients = enrol_many(site, REPORTS)
        walls, cpus = Sample(), Sample()
        for _ in range(REPEATS):
            envelopes = [(client.client_id, client.report(site.name)) for client in clients]
            cpus.values.append(
                cpu_ms(lambda told=envelopes: walls.values.append(wall_ms(lambda: _offer_all(intake, told))))  # type: ignore[misc]
            )
    finally:
        intake.stop()
        site.close()
    bare = Sample([cpu_ms(check) for check in [_bare_verifies(REPORTS)] * REPEATS])
    report.add(
        "reports taken in, durable: a second",
        REPORTS / walls.median * 1000,
        "1/s",
        peer=("bare P-256 verifies a second", REPORTS / bare.median * 1000),
    )
    report.add(
        "reports taken in, durable: CPU of each",
        cpus.median / REPORTS,
        "ms",
        peer=("bare P-256 verify", bare.median / REPORTS),
        at_most=2.0,
        of_ratio=True,
    )


def _offer_all(intake: Intake, told: Sequence[tuple[str, bytes]]) -> None:
    """Every report to its acknowledgement, as the logon server hands them over."""
    waiting = [intake.offer(client_id, envelope) for client_id, envelope in told]
    for each in waiting:
        if each.result(60).code:
            raise RuntimeError(f"a report was not taken: {each.result()}")


def _bare_verifies(number: int) -> Callable[[], None]:
    key = generate_private_key(SECP256R1())
    public, message = key.public_key(), b"x" * 400
    signature = key.sign(message, ECDSA(SHA256()))

    def verify() -> None:
        for _ in range(number):
            public.verify(signature, message, ECDSA(SHA256()))

    return verify
