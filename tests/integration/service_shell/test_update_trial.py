"""A version of the service on trial: what it has to do before it says that it works, and how a return is told."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from pcm.service.check import TRIAL_PAUSE_S
from pcm.service.enrolment import install
from pcm.service.facts import AGENT_VERSION
from pcm.service.identity import load_identity
from pcm.service.trial import Confirmed, Return, Returns, Trial, read_record, write_record
from tests.integration.service_shell.http_site import HttpSite, logon_over_http, report_of
from tests.integration.service_shell.quick import check, note_of, until_quick
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.unit.trust.simulated import utc_now


@pytest.fixture
def http(site: StaticSite, client: Client) -> Iterator[HttpSite]:
    """A logon server, and a client that has nothing to do and rests."""
    with logon_over_http(site) as served:
        served.folder.write_key(client.client_id, load_identity(client.places.identity).public_pem().encode())
        install(client.places, site.configuration(logon=(served.url,)))
        site.order(client.client_id, [], poll_after_s=1800)
        until_quick(client)
        yield served


def put_on_trial(client: Client, new: str = AGENT_VERSION) -> Trial:
    now = utc_now()
    trial = Trial(id="ab", old="0.0.9", new=new, begun=now, until=now + timedelta(minutes=15), patience_s=900)
    client.places.trial.parent.mkdir(parents=True, exist_ok=True)
    write_record(client.places.trial, trial)
    return trial


def test_q168463_a_version_on_trial_verifies_everything_before_it_says_that_it_works(
    client: Client, http: HttpSite
) -> None:
    trial = put_on_trial(client)
    http.wire.reset()
    done = check(client)
    done.close()
    assert (done.code, done.whole) == (0, True)  # the note of the version before holds no longer
    assert b"if-none-match" not in http.wire.seen.lower()
    assert b"/timestamp.json HTTP" in http.wire.seen
    assert b" 304 " not in http.wire.seen
    confirmed = read_record(Confirmed, client.places.confirmed)
    assert confirmed is not None
    assert (confirmed.trial, confirmed.version, confirmed.server) == (trial.id, AGENT_VERSION, http.url)
    assert not note_of(client).exists()
    assert done.pause is not None
    assert done.pause <= TRIAL_PAUSE_S
    client.places.trial.unlink()  # as what watches does
    until_quick(client)


def test_the_version_before_does_not_confirm_in_the_new_ones_name(client: Client, http: HttpSite) -> None:
    put_on_trial(client, "99.0")
    check(client).close()
    assert not client.places.confirmed.exists()


def test_a_server_that_is_not_there_confirms_nothing(site: StaticSite, client: Client, http: HttpSite) -> None:
    install(client.places, site.configuration(logon=("http://127.0.0.1:9/logon",)))
    put_on_trial(client)
    done = check(client)
    done.close()
    assert not client.places.confirmed.exists()
    assert json.loads(done.line)["next_check_s"] <= TRIAL_PAUSE_S


def test_an_answer_that_does_not_hold_confirms_nothing(site: StaticSite, client: Client, http: HttpSite) -> None:
    put_on_trial(client)
    timestamp = site.logon_folder / "clients" / client.client_id / "timestamp.json"
    whole = timestamp.read_bytes()
    timestamp.write_bytes(whole.replace(b'"version":', b'"version":1'))
    check(client).close()
    assert not client.places.confirmed.exists()
    timestamp.write_bytes(whole)
    client.once()
    assert client.places.confirmed.exists()


def test_q168463_the_site_is_told_once_of_a_return(client: Client, http: HttpSite) -> None:
    client.places.returns.parent.mkdir(parents=True, exist_ok=True)
    gone = Return(id="ab", old=AGENT_VERSION, new="98.0", at=utc_now(), why="It did not reach the site.")
    write_record(client.places.returns, Returns(returns=(gone,), bad=("98.0",)))
    http.taken.clear()
    for _ in range(3):
        check(client).close()
    told = [refusal for envelope in http.taken for refusal in report_of(envelope).refusals]
    assert [(each.code, each.source) for each in told] == [("update.returned", "version 98.0")]
    assert told[0].reason == f"Version {AGENT_VERSION} is in use again instead of 98.0. It did not reach the site."
    until_quick(client)
