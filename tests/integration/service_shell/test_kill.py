"""kill -9 of the real service at every point that it names, from the first byte verified to the last report acknowledged.

`tests/integration/service_engine/test_kill.py` does the same to the engine alone, recovery included; this is the whole program,
against a logon server over HTTP: no second blind run, no lost result, the right state after the next start. Restarts of the
computer: `tests/e2e/test_host_restart.py`, where there is one to restart.
"""

import hashlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.model.detection import FileDetection
from pcm.model.program import Program
from pcm.protocol.report import MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, Report
from pcm.service import faults
from pcm.service.enrolment import install
from pcm.service.identity import load_identity
from pcm.trust import envelopes
from tests.integration.service_shell.http_site import HttpSite, logon_over_http, report_of
from tests.integration.service_shell.static_site import Client, StaticSite

# what only some programs come past is killed in the engine's test
OF_SOME_PROGRAMS = ("close_blocking.", "health.", "rollback.", "return.")
POINTS = [point for point in faults.POINTS if not point.startswith(("recovery.", "restart.", *OF_SOME_PROGRAMS))]


@pytest.fixture
def http(site: StaticSite, client: Client) -> Iterator[HttpSite]:
    with logon_over_http(site) as served:
        served.folder.write_key(client.client_id, load_identity(client.places.identity).public_pem().encode())
        install(client.places, site.configuration(logon=(served.url,)))
        yield served


def chain(http: HttpSite) -> list[Report]:
    """The distinct reports that the site has, which must be one unbroken chain."""
    seen: dict[int, bytes] = {}
    for envelope in http.taken:
        payload, _ = envelopes.read(envelope, payload_type=PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
        seq = report_of(envelope).seq
        assert seen.setdefault(seq, payload) == payload, "a report that is sent again is the same to the byte"
    assert sorted(seen) == list(range(1, len(seen) + 1))
    previous = None
    for seq in sorted(seen):
        report = report_of_payload(http, seq)
        assert report.prev_sha256 == previous
        previous = hashlib.sha256(seen[seq]).hexdigest()
    return [report_of_payload(http, seq) for seq in sorted(seen)]


def report_of_payload(http: HttpSite, seq: int) -> Report:
    return next(report for report in map(report_of, http.taken) if report.seq == seq)


@pytest.mark.parametrize("point", POINTS)
def test_q164877_a_kill_anywhere_loses_no_result_and_runs_nothing_twice(
    site: StaticSite, client: Client, http: HttpSite, marker: Path, point: str
) -> None:
    program = Program(argv=("setup.sh",), detect=FileDetection(str(marker)))
    site.order(client.client_id, [client.mandatory(site.package(marker, programs={"install": program}))])
    killed = client.run("once", code=None, PCM_FAULT=point)
    assert killed.returncode == -signal.SIGKILL, f"{point} was not reached: {killed.stdout}{killed.stderr}"
    for _ in range(2):
        client.once()
    assert marker.read_text() == "installed\n"
    assert client.items()["viewer"]["state"] == "succeeded"
    assert client.answer("ledger")["total"] == 1
    outcomes = [outcome for report in chain(http) for outcome in report.outcomes]
    assert outcomes[-1].state.value == "succeeded"
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    assert len(results) == 1
    assert results[0].detected is True
    assert client.answer("status").get("unreported", 0) == 0
    assert list(client.places.staging.iterdir()) == []
