"""Steps 6 and 12 against a real logon server over HTTP: what an idle poll costs, fail-over, credentials, reports."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.model.errors import StoreError
from pcm.service.enrolment import install
from pcm.service.identity import load_identity
from pcm.service.state import State
from pcm.transport.health import Health
from tests.integration.service_shell.http_site import HttpSite, logon_over_http, report_of
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.unit.trust.simulated import utc_now


@pytest.fixture
def http(site: StaticSite, client: Client) -> Iterator[HttpSite]:
    with logon_over_http(site) as served:
        served.folder.write_key(client.client_id, load_identity(client.places.identity).public_pem().encode())
        install(client.places, site.configuration(logon=(served.url,)))
        yield served


def health_of(client: Client) -> dict[str, Health]:
    with State.open(client.places.state, utc_now()) as state:
        found: dict[str, Health] = {
            name: Health(*known) for name, known in json.loads(state.meta("servers.logon")).items()
        }
    return found


def test_an_idle_poll_is_one_request_and_under_a_kilobyte(site: StaticSite, client: Client, http: HttpSite) -> None:
    site.order(client.client_id, [])
    assert client.once()["problem"] is None
    http.wire.reset()
    assert client.once()["problem"] is None
    assert b" 304 " in http.wire.seen
    assert http.wire.requests <= 2
    assert 0 < http.wire.size <= 1024


def test_a_change_is_seen_at_the_next_poll(site: StaticSite, client: Client, http: HttpSite, marker: Path) -> None:
    site.order(client.client_id, [])
    client.once()
    site.order(client.client_id, [client.mandatory(site.package(marker))])
    client.once()
    assert marker.read_text() == "installed\n"
    outcome = report_of(http.taken[-1]).outcomes[-1]
    assert (outcome.state.value, outcome.result is not None) == ("succeeded", True)


def test_q191293_the_second_logon_server_is_tried_and_work_goes_on_without_any(
    site: StaticSite, client: Client, http: HttpSite, marker: Path
) -> None:
    install(client.places, site.configuration(logon=("http://127.0.0.1:9/logon", http.url)))
    soon = utc_now() + timedelta(seconds=3)
    manifest = site.package(marker)
    site.order(client.client_id, [client.mandatory(manifest, mandatory_after=soon)])
    assert client.once()["problem"] is None  # the first one does not answer, the second does
    install(client.places, site.configuration(logon=("http://127.0.0.1:9/logon",)))
    while utc_now() < soon:
        pass
    answer = client.once(code=5)
    assert answer["problem"]["code"] == "transfer.unreachable"
    assert answer["next_check_s"] <= 60 * 60
    assert marker.read_text() == "installed\n"  # from the cached instructions


def test_q230242_refused_credentials_are_not_hammered(site: StaticSite, client: Client, http: HttpSite) -> None:
    site.order(client.client_id, [])
    http.folder.key_path(client.client_id).unlink()
    assert client.once(code=4)["problem"]["code"] == "transfer.refused"
    assert health_of(client)[http.url].refused
    http.wire.reset()
    for _ in range(3):  # as the service itself does it: nobody forces it
        client.worker_check()
    assert http.wire.requests == 0
    assert "transfer.refused" in client.refusals()
    http.folder.write_key(client.client_id, load_identity(client.places.identity).public_pem().encode())
    assert client.once()["problem"] is None  # an administrator asks for it


def test_q164877_a_report_whose_answer_was_lost_is_sent_again_byte_for_byte(
    site: StaticSite, client: Client, http: HttpSite
) -> None:
    site.order(client.client_id, [])

    def fail() -> None:
        raise StoreError("The disk of the site is full.")

    http.before_answer = fail
    client.once()
    client.once()
    http.before_answer = lambda: None
    assert client.once()["waiting"] == 0
    assert len(http.taken) == 3
    assert len(set(http.taken)) == 1


def test_q188042_a_client_reports_changes_only_and_chains_its_reports(
    site: StaticSite, client: Client, http: HttpSite, marker: Path
) -> None:
    site.order(client.client_id, [])
    for _ in range(3):
        client.once()
    assert len(http.taken) == 1
    site.order(client.client_id, [client.mandatory(site.package(marker))])
    for _ in range(3):
        client.once()
    reports = [report_of(envelope) for envelope in http.taken]
    assert [report.seq for report in reports] == [1, 2]
    assert reports[0].prev_sha256 is None
    assert reports[1].prev_sha256 is not None
    assert reports[0].facts is not None
    assert reports[1].facts is None
    assert reports[1].ledger_head is not None


def test_a_clock_that_differs_is_named_in_the_refusal(site: StaticSite, client: Client, http: HttpSite) -> None:
    site.order(client.client_id, [])
    http.folder.key_path(client.client_id).unlink()
    problem = client.once(code=4)["problem"]
    assert "403" in problem["message"] or "401" in problem["message"]
    assert "clock" not in problem["message"]
