"""A client whose ledger's past was rewritten is found by the site, on both databases, whatever way it was done.

Real: the client's database with its ledger and outbox, its signed reports, the site's intake.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pcm.model.errors import RequestError
from pcm.model.facts import Facts
from pcm.model.ledger_chain import link, seal
from pcm.protocol.enrolment import ClientConfiguration
from pcm.service import ledger, ledger_check
from pcm.service.identity import Identity
from pcm.service.outbox import Outbox
from pcm.service.records import LedgerEntry
from pcm.service.state import State
from pcm.service.state_folder import DATABASE
from pcm.site import client_ledgers, client_views, clients
from pcm.site.pages import Slice
from pcm.testing.small_site import SmallClient
from tests.contract.site.conftest import Office

FACTS = Facts("pc-1", "linux-x86_64")


class Computer:
    """An enrolled client's records, without the rest of its service."""

    def __init__(self, office: Office, folder: Path) -> None:
        self.office = office
        self.folder = folder
        self.client = office.enrolled()
        self.configuration = ClientConfiguration(
            site=office.site.name, logon=("/logon",), distribution=("/d",), instructions_root="{}", packages_root="{}"
        )

    @contextmanager
    def opened(self) -> Iterator[State]:
        with State.open(self.folder, self.office.clock()) as state:
            yield state

    def runs(self, *names: str) -> None:
        """Programs ran: each leaves its entry."""
        with self.opened() as state, state.transaction() as connection:
            for name in names:
                ledger.append(connection, self.entry(name))

    def entry(self, name: str) -> LedgerEntry:
        now = self.office.clock()
        return LedgerEntry(
            run="0" * 32, instruction="j0000000001.x", job="j0000000001", generation=1, package=name, version="1", release=1,
            program="install", argv=("setup.sh",), run_as="system", manifest_path="packages/apps/x/1/manifest.json",
            manifest_sha256="0" * 64, started=now, ended=now, exit_code=0, state="succeeded",
        )  # fmt: skip

    def report(self, *, lose: bool = False) -> None:
        """Write what is news, and bring it to the site (or not); the site acknowledges."""
        with self.opened() as state:
            outbox = Outbox(state, Identity(self.client.key, self.client.client_id), self.configuration, "boot")
            outbox.write(FACTS, 0, self.office.clock())
            waiting = state.rows("SELECT seq, envelope FROM outbox WHERE acknowledged IS NULL ORDER BY seq")
            for seq, envelope in () if lose else waiting:
                verdict = self.office.offer(self.client, envelope)
                assert (verdict.code, verdict.acknowledged) == ("", seq)
                outbox.acknowledge(seq, self.office.clock())

    def tamper(self, change: Callable[[sqlite3.Connection], object]) -> None:
        """Somebody with administrator rights writes to the database while the service sleeps."""
        connection = sqlite3.connect(self.folder / DATABASE, isolation_level=None)
        change(connection)
        connection.close()

    def verify(self) -> list[ledger_check.Break]:
        with self.opened() as state:
            return ledger_check.verify(state)

    @property
    def row(self) -> Any:
        return self.office.client(self.client)


@pytest.fixture
def computer(office: Office, tmp_path: Path) -> Computer:
    made = Computer(office, tmp_path / "client")
    made.runs("one", "two", "three")
    made.report()
    made.runs("four", "five", "six")
    made.report()
    assert (made.row.ledger_total, made.row.ledger_broken, made.verify()) == (6, None, [])
    return made


def chain_anew(connection: sqlite3.Connection) -> None:
    """Number and hash everything that is left, so that the chain holds in itself."""
    rows = connection.execute("SELECT body FROM ledger ORDER BY seq").fetchall()
    connection.execute("DELETE FROM ledger")
    previous = None
    for number, (body,) in enumerate(rows, start=1):
        sha256 = seal(number, previous, link(body))
        connection.execute("INSERT INTO ledger VALUES (?, ?, ?, ?)", (number, previous, body, sha256))
        previous = sha256


def drop(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM ledger WHERE seq = 2")


def change(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE ledger SET body = CAST(replace(body, 'two', 'six') AS BLOB) WHERE seq = 2")


def reorder(connection: sqlite3.Connection) -> None:
    for old, new in ((2, 99), (3, 2), (99, 3)):
        connection.execute("UPDATE ledger SET seq = ? WHERE seq = ?", (new, old))


def truncate(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM ledger WHERE seq > 4")


def empty(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM ledger")


WAYS: list[Callable[[sqlite3.Connection], None]] = [drop, change, reorder, truncate, empty]


@pytest.mark.parametrize("consistently", [False, True], ids=["as it is", "chain hashed anew"])
@pytest.mark.parametrize("way", WAYS)
def test_a_rewritten_past_is_found_by_the_site_once_something_runs_again(
    computer: Computer, way: Callable[[sqlite3.Connection], None], consistently: bool
) -> None:
    computer.tamper(way)
    if consistently:
        computer.tamper(chain_anew)
    computer.runs("seven")
    computer.report()
    assert computer.row.ledger_broken is not None
    assert computer.office.audited()[-1] == "client.ledger_broken"
    with computer.office.site.database.read() as connection:
        shown = client_views.show(connection, clients.find(connection, computer.client.client_id))
        listed = clients.list_clients(connection, Slice(), None, ledger_broken=True).items
    assert shown.ledger_note
    assert [view.client_id for view in listed] == [computer.client.client_id]


@pytest.mark.parametrize("way", [truncate, empty])
def test_a_shorter_ledger_is_found_although_nothing_runs(computer: Computer, way: Callable[..., None]) -> None:
    computer.tamper(way)
    computer.report()
    assert "it had 6 entries" in computer.row.ledger_note


def test_even_if_it_grows_past_what_it_was(computer: Computer) -> None:
    computer.tamper(drop)
    computer.tamper(chain_anew)
    computer.runs("seven", "eight", "nine")
    computer.report()
    assert computer.row.ledger_broken is not None


def test_even_if_what_was_told_is_forgotten_too(computer: Computer) -> None:
    """The note of how far reports went is set back, so that the whole ledger is told again: then its beginning does not fit."""
    computer.tamper(change)
    computer.tamper(chain_anew)
    computer.tamper(lambda connection: connection.execute("DELETE FROM meta WHERE key LIKE 'reported.%'"))
    computer.runs("seven")
    computer.report()
    assert "its first 6 entries are not those that it had" in computer.row.ledger_note


def test_even_if_what_was_told_is_moved_on(computer: Computer) -> None:
    computer.tamper(chain_anew)
    computer.tamper(lambda connection: connection.execute("UPDATE meta SET value = '7' WHERE key = 'reported.ledger'"))
    computer.runs("seven", "eight")
    computer.report()
    assert "never reported" in computer.row.ledger_note


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("consistently", [False, True])
def test_pcmsvc_ledger_verify_finds_it_and_names_the_entries(
    computer: Computer, way: Callable[[sqlite3.Connection], None], consistently: bool
) -> None:
    computer.tamper(way)
    if consistently:
        computer.tamper(chain_anew)
    found = computer.verify()
    first = {"drop": 2, "change": 2, "reorder": 2, "truncate": 5, "empty": 1}[way.__name__]
    assert found[0].first == first
    assert all(each.text for each in found)


def test_one_changed_entry_of_a_chain_hashed_anew_is_named_alone(computer: Computer) -> None:
    computer.tamper(change)
    computer.tamper(chain_anew)
    assert [(each.first, each.last, each.code) for each in computer.verify()][:1] == [(2, 2, "ledger.rewritten")]


def test_a_report_that_the_site_has_yet_to_get_counts_too(computer: Computer) -> None:
    computer.runs("seven")
    computer.report(lose=True)
    computer.tamper(lambda connection: connection.execute("DELETE FROM ledger WHERE seq = 7"))
    [found] = computer.verify()
    assert (found.first, found.last, found.code) == (7, 7, "ledger.shorter")


def test_what_the_client_itself_finds_is_told_once(computer: Computer) -> None:
    computer.tamper(change)  # the head stays, so the site could not know by itself
    for name in ("seven", "eight"):
        computer.runs(name)
        computer.report()
    assert "it says itself: Entry 2 was changed after it was written." in computer.row.ledger_note
    assert computer.office.audited().count("client.ledger_broken") == 1


def test_a_lost_database_is_told_as_such_until_an_administrator_accepts_it(computer: Computer) -> None:
    (computer.folder / DATABASE).write_bytes(b"damaged" * 1000)
    computer.runs("again")
    [found] = computer.verify()
    assert found.code == "ledger.shorter"
    assert "was lost and began anew" in found.text
    computer.report()
    assert "store.rebuilt" in computer.row.ledger_note
    accept(computer)
    assert computer.row.ledger_broken is None
    assert computer.office.audited()[-1] == "client.accept_ledger"
    computer.runs("and", "on")
    computer.report()
    assert (computer.row.ledger_total, computer.row.ledger_broken) == (3, None)
    assert computer.verify() == []
    with computer.opened() as state:
        assert ledger_check.entries_before(state)[0] == 6


def accept(computer: Computer) -> None:
    with computer.office.site.database.write() as connection:
        row = clients.find(connection, computer.client.client_id)
        client_ledgers.accept(connection, row, "tester", computer.office.clock())


def test_a_break_stays_until_it_is_accepted_and_what_is_whole_needs_no_acceptance(computer: Computer) -> None:
    with pytest.raises(RequestError) as refused:
        accept(computer)
    assert refused.value.code == "client.state"
    computer.tamper(truncate)
    computer.report()
    since = computer.row.ledger_broken
    computer.office.clock.forward(days=3)
    computer.runs("seven")
    computer.report()
    assert computer.row.ledger_broken == since
    with computer.office.site.database.read() as connection:
        trace = client_views.why(
            connection,
            clients.find(connection, computer.client.client_id),
            None,
            computer.office.clock() + timedelta(1),
        )
    assert "ledger.broken" in [line.code for line in trace.lines]
    accept(computer)
    computer.runs("eight")
    computer.report()
    assert computer.row.ledger_broken is None


def test_a_long_ledger_is_told_in_several_reports(office: Office, tmp_path: Path) -> None:
    computer = Computer(office, tmp_path / "client")
    computer.runs(*(f"p{number}" for number in range(2300)))
    computer.report()
    assert (computer.row.last_seq, computer.row.ledger_total, computer.row.ledger_broken) == (3, 2300, None)
    assert computer.verify() == []


def test_told_from_its_beginning_again_a_ledger_is_no_other(computer: Computer) -> None:
    """After this computer has become another client: what a first report tells is less than what was known, and nothing was lost."""
    with computer.opened() as state, state.transaction():
        state.set_meta(ledger_check.SITE_KNOWS, f"6 {computer.row.ledger_head}", kept=True)
        [(seq,)] = state.rows("SELECT min(seq) FROM outbox")
        ledger_check.note_acknowledged(state, seq)
        assert state.meta(ledger_check.SITE_KNOWS).startswith("6 ")
        assert ledger_check.entries_before(state) == (0, "")


def test_a_service_that_tells_no_numbers_yet_is_no_break(office: Office) -> None:
    client: SmallClient = office.enrolled()
    for head in ("a" * 64, "b" * 64):
        office.report(client, ledger_head=head)
    assert office.client(client).ledger_broken is None
    assert office.client(client).ledger_head == "b" * 64


def test_after_resuming_what_the_missing_reports_told_is_believed(computer: Computer) -> None:
    office = computer.office
    computer.runs("seven")
    computer.report(lose=True)
    with computer.opened() as state, state.transaction() as connection:
        connection.execute("UPDATE outbox SET acknowledged = '2026-01-01' WHERE acknowledged IS NULL")
    computer.runs("eight")
    with computer.opened() as state:
        outbox = Outbox(state, Identity(computer.client.key, computer.client.client_id), computer.configuration, "boot")
        outbox.write(FACTS, 0, office.clock())
        [(envelope,)] = state.rows("SELECT envelope FROM outbox WHERE acknowledged IS NULL")
    assert office.offer(computer.client, envelope).code == "report.gap"
    with office.site.database.write() as connection:
        clients.resume(connection, clients.find(connection, computer.client.client_id), "tester", office.clock())
    assert office.offer(computer.client, envelope).code == ""
    assert (computer.row.ledger_total, computer.row.ledger_broken) == (8, None)
