"""An administrator of a client rewrites what ran there: the site sees it, names it, and keeps who accepted it."""

import sqlite3
from collections.abc import Callable, Iterator

import pytest

from pcm.model.ledger_chain import link, seal
from tests.e2e.fleet import Client, Site, served_site


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with served_site() as made:
        made.make_package("tool")
        yield made


@pytest.fixture
def client(site: Site, request: pytest.FixtureRequest) -> Client:
    """A client on which two programs ran, and the site knows."""
    made = site.enrol(f"ledger-{abs(hash(request.node.name)) % 10**9}")
    for program in ("install", "again"):
        site.order("tool", "--program", program, group=made.home.name)
        assert made.once()["problem"] is None
    assert made.pcmsvc_json("ledger", "verify")["total"] == 2
    return made


def hash_anew(connection: sqlite3.Connection) -> None:
    rows, previous = connection.execute("SELECT body FROM ledger ORDER BY seq").fetchall(), None
    connection.execute("DELETE FROM ledger")
    for number, (body,) in enumerate(rows, start=1):
        connection.execute(
            "INSERT INTO ledger VALUES (?, ?, ?, ?)",
            (number, previous, body, sha256 := seal(number, previous, link(body))),
        )
        previous = sha256


def drop(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM ledger WHERE seq = 1")
    hash_anew(connection)


def change(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE ledger SET body = CAST(replace(body, 'install', 'inspect') AS BLOB) WHERE seq = 1")
    hash_anew(connection)


def truncate(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM ledger WHERE seq = 2")


def broken(site: Site) -> list[str]:
    return [view["client_id"] for view in site.json("client", "list", "--ledger-broken")]


@pytest.mark.parametrize("rewrite", [drop, change, truncate])
def test_a_rewritten_past_shows_at_the_site_until_somebody_accepts_it(
    site: Site, client: Client, rewrite: Callable[[sqlite3.Connection], None]
) -> None:
    with sqlite3.connect(client.home / "var" / "state.db") as connection:
        rewrite(connection)
    connection.close()
    assert client.pcmsvc_json("ledger", "verify", code=1)["breaks"]
    site.order("tool", "--program", "again", group=client.home.name)
    client.once()
    assert broken(site) == [client.client_id]
    shown = site.pcm("client", "show", client.client_id).text
    assert "BROKEN" in shown
    assert "ledger broken" in site.pcm("client", "list").text
    assert "ledger.broken" in site.pcm("client", "why", client.client_id).text
    assert "client.ledger_broken" in site.pcm("audit").text
    site.pcm("client", "accept-ledger", client.client_id, "--yes")
    assert broken(site) == []
    assert site.json("client", "show", client.client_id)["ledger_note"] == ""
    assert next(row["action"] for row in site.json("audit")) == "client.accept_ledger"
    site.pcm("client", "accept-ledger", client.client_id, "--yes", code=1)
    site.order("tool", "--program", "again", group=client.home.name)
    client.once()
    assert broken(site) == [], "it goes on from what was accepted"


def test_a_lost_database_is_told_as_one(site: Site, client: Client) -> None:
    (client.home / "var" / "state.db").write_bytes(b"not a database" * 400)
    client.once(code=None)
    assert broken(site) == [client.client_id]
    note = site.json("client", "show", client.client_id)["ledger_note"]
    assert "store.rebuilt" in note
    site.pcm("client", "accept-ledger", client.client_id, "--yes")
