"""What `pcmsvc once` says to whoever watches: one line for each fact, and no fact twice."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.service.enrolment import install
from tests.integration.service_shell.http_site import HttpSite, logon_over_http
from tests.integration.service_shell.static_site import Client, StaticSite


@pytest.fixture
def http(site: StaticSite, client: Client) -> Iterator[HttpSite]:
    with logon_over_http(site) as served:
        install(client.places, site.configuration(logon=(served.url,)))
        yield served


def lines_of(client: Client, code: int) -> list[str]:
    done = client.run("once", code=code)
    said = [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in (done.stdout + done.stderr).splitlines()]
    assert len(said) == len(set(said)), said
    return said


def test_a_server_that_refuses_is_told_once_in_its_own_words(client: Client, http: HttpSite) -> None:
    said = lines_of(client, 4)
    told = [line for line in said if "403" in line or "401" in line]
    assert len(told) == 1, said
    assert told[0].endswith("[transfer.refused]")
    assert told[0].count("http://") == 1
    assert "{" not in told[0]


def test_a_refused_file_is_told_once_with_short_key_ids(site: StaticSite, client: Client, marker: Path) -> None:
    site.order(client.client_id, [client.mandatory(site.package(marker))])
    path = site.logon_folder / "clients" / client.client_id / "timestamp.json"
    path.write_bytes(path.read_bytes().replace(b'"version":', b'"version":1', 1))
    said = lines_of(client, 1)
    told = [line for line in said if "[trust." in line]
    assert len(told) == 1, said
    assert not re.search(r"[0-9a-f]{40}", told[0])


def test_a_run_is_told_as_it_goes(site: StaticSite, client: Client, marker: Path) -> None:
    site.order(client.client_id, [client.mandatory(site.package(marker))])
    said = lines_of(client, 0)
    assert [line for line in said if "viewer" in line] == [
        "viewer 1.0: install is due.",
        next(line for line in said if line.startswith("viewer 1.0: succeeded.")),
    ]


def test_several_servers_are_each_named(site: StaticSite, client: Client) -> None:
    install(client.places, site.configuration(logon=("http://127.0.0.1:9/a", "http://127.0.0.1:10/b")))
    said = lines_of(client, 5)
    told = [line for line in said if "port 9" in line]
    assert len(told) == 1, said
    assert "None of 2 servers helped." in told[0]
    assert "port 10" in told[0]
