"""What it costs a client to learn that nothing is new: one check by the worker that the supervisor starts.

The client is enrolled at a site that `pcm site serve` serves; a proxy between them counts. The check is the one that follows on a
whole check, as nearly all do: it rests on that one's note, asks, and leaves a connection at the server that stirs when there is
news. The whole check stands beside it. Peers: an interpreter that does nothing, and bare clients that ask for the same file with
the same headers and get the same 304.
"""

import shutil
import sys
import urllib.request
from datetime import UTC, datetime

from bench.measure import Report, Sample, Spent, in_turns, run_child
from bench.place import EnrolledClient, ServedSite, enrol, served_site, temporary_folder
from pcm.service.identity import load_identity
from pcm.transport.signing import sign_request

REPEATS = 15
AIM_MS = 80.0
_GET = (
    "import http.client, sys; "
    "host, port, path, *fields = sys.argv[1:]; "
    "connection = http.client.HTTPConnection(host, int(port)); "
    "connection.request('GET', path, headers=dict(field.split(': ', 1) for field in fields)); "
    "answer = connection.getresponse(); answer.read(); sys.exit(answer.status != 304)"
)


def measure(report: Report) -> None:
    """Add the figures of an idle poll, in clear text and under TLS."""
    with temporary_folder() as folder, served_site(folder) as served:
        _in_clear(report, served, enrol(served, "client"))
    with temporary_folder() as folder, served_site(folder, tls=True) as served:
        _under_tls(report, served, enrol(served, "client"))


def signed_fields(served: ServedSite, client: EnrolledClient) -> tuple[str, dict[str, str]]:
    """URL and headers of a poll by this client that is answered 304 for the next five minutes."""
    identity = load_identity(client.places.identity)
    url = f"{served.url}/logon/clients/{identity.client_id}/timestamp.json"
    fields = sign_request("GET", url, None, identity.key, identity.client_id, datetime.now(UTC))
    with urllib.request.urlopen(urllib.request.Request(url, headers=fields)) as answer:
        fields["If-None-Match"] = answer.headers["etag"]
    return url, fields


def _in_clear(report: Report, served: ServedSite, client: EnrolledClient) -> None:
    url, fields = signed_fields(served, client)
    host, _, path = url.removeprefix("http://").partition("/")
    as_text = [f"{name}: {value}" for name, value in fields.items()]
    get = [sys.executable, "-I", "-c", _GET, *host.split(":"), f"/{path}", *as_text]
    curl = ["curl", "-sf", "-o", "/dev/null", *(part for text in as_text for part in ("-H", text)), url]
    commands = {
        "poll": client.worker(),
        "whole check": client.worker(whole=True),
        "python -c pass": [sys.executable, "-I", "-c", "pass"],
        "bare http.client": get,
    }
    if shutil.which("curl"):
        commands["curl"] = curl
    wires: dict[str, tuple[int, int, int]] = {}
    spent: dict[str, list[Spent]] = {name: [] for name in commands}

    def perform(name: str) -> float:
        served.wire.reset()
        done = run_child(commands[name], through_socket=name in ("poll", "whole check"))
        if done.code != 0:
            raise RuntimeError(f"{name} ended with {done.code}")
        wires[name] = (served.wire.requests, served.wire.up, served.wire.down)
        spent[name].append(done)
        if name == "poll" and served.wire.statuses != b"200 ":  # an answer that has begun
            raise RuntimeError(f"the poll was not idle: {served.wire.statuses!r}")
        return done.wall_ms

    walls = in_turns({name: lambda name=name: perform(name) for name in commands}, REPEATS)  # type: ignore[misc]
    cpus = {name: Sample([each.cpu_ms for each in done]) for name, done in spent.items()}
    requests, up, down = wires["poll"]
    peer = "curl" if "curl" in commands else "bare http.client"
    report.add("idle poll: requests", requests, "", peer=(peer, wires[peer][0]), at_most=2)
    report.add(
        "idle poll: bytes on the wire, both directions", up + down, "B", peer=(peer, sum(wires[peer][1:])), at_most=1024
    )
    report.add("idle poll: CPU", cpus["poll"].median, "ms", at_most=AIM_MS)
    for name in commands:
        if name != "poll":
            report.add(f"idle poll: CPU, beside {name}", cpus["poll"].median, "ms", peer=(name, cpus[name].median))
    report.add(
        "idle poll: CPU, least of all repeats",
        cpus["poll"].least,
        "ms",
        peer=("bare http.client", cpus["bare http.client"].least),
    )
    report.add(
        "idle poll: wall clock",
        walls["poll"].median,
        "ms",
        peer=("bare http.client", walls["bare http.client"].median),
    )
    report.add(
        "idle poll: wall clock, least of all repeats",
        walls["poll"].least,
        "ms",
        peer=("bare http.client", walls["bare http.client"].least),
        at_most=AIM_MS,
    )


def _under_tls(report: Report, served: ServedSite, client: EnrolledClient) -> None:
    kinds = {"idle poll": client.worker(), "whole check": client.worker(whole=True)}
    walls, cpus, amounts = ({name: Sample() for name in kinds} for _ in range(3))
    nothing = Sample()
    for _ in range(REPEATS):
        for name, command in kinds.items():
            served.wire.reset()
            done = run_child(command, through_socket=True)
            if done.code != 0:
                raise RuntimeError(f"a {name} under TLS ended with {done.code}")
            walls[name].values.append(done.wall_ms)
            cpus[name].values.append(done.cpu_ms)
            amounts[name].values.append(served.wire.bytes)
        context = "import ssl; ssl.create_default_context()"
        nothing.values.append(run_child([sys.executable, "-I", "-c", context]).cpu_ms)
    beside = ("python -c 'import ssl', one context", nothing.median)
    for name in kinds:
        most = AIM_MS if name == "idle poll" else None
        report.add(f"{name} under TLS: CPU", cpus[name].median, "ms", peer=beside, at_most=most)
        report.add(f"{name} under TLS: wall clock", walls[name].median, "ms")
        report.add(f"{name} under TLS: wall clock, least of all repeats", walls[name].least, "ms", at_most=most)
        report.add(f"{name} under TLS: bytes, handshake included", amounts[name].median, "B")
