"""The ledger's chain: whatever is changed in the past shows."""

import sqlite3
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import StoreError
from pcm.service import ledger
from pcm.service.records import LedgerEntry
from pcm.service.schema import MIGRATIONS

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def opened() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in MIGRATIONS[0]:
        connection.execute(statement)
    return connection


def entry(number: int) -> LedgerEntry:
    return LedgerEntry(
        run=f"{number:032x}",
        instruction="j0000000001.0123456789ab",
        job="j0000000001",
        generation=1,
        package="viewer",
        version="1.0",
        release=1,
        program="install",
        argv=("setup.sh",),
        run_as="system",
        manifest_path="packages/apps/viewer/1.0/manifest.json",
        manifest_sha256="0" * 64,
        started=NOW,
        ended=NOW,
        exit_code=0,
        state="succeeded",
    )


def test_it_begins_empty_and_grows_by_one_hash_each() -> None:
    connection = opened()
    assert (ledger.head(connection), ledger.count(connection), ledger.find_break(connection)) == (None, 0, None)
    heads = [ledger.append(connection, entry(number)) for number in range(3)]
    assert len(set(heads)) == 3
    assert ledger.head(connection) == heads[-1]
    assert [each.sha256 for each in ledger.read(connection, 2)] == heads[1:]
    assert ledger.read(connection, 1)[0].entry == entry(2)
    assert ledger.find_break(connection) is None
    connection.close()


def test_the_same_entries_give_the_same_head_and_others_do_not() -> None:
    one, other, third = opened(), opened(), opened()
    for connection in (one, other):
        for number in range(3):
            ledger.append(connection, entry(number))
    for number in (0, 2, 1):
        ledger.append(third, entry(number))
    assert ledger.head(one) == ledger.head(other) != ledger.head(third)
    for connection in (one, other, third):
        connection.close()


@pytest.mark.parametrize(
    ("tampering", "broken_at"),
    [
        ("UPDATE ledger SET body = CAST(replace(body, 'viewer', 'virus1') AS BLOB) WHERE seq = 3", 3),
        ("UPDATE ledger SET body = 'text' WHERE seq = 3", 3),
        ("UPDATE ledger SET sha256 = '00' WHERE seq = 5", 5),
        ("UPDATE ledger SET prev_sha256 = NULL WHERE seq = 2", 2),
        ("DELETE FROM ledger WHERE seq = 1", 1),
        ("DELETE FROM ledger WHERE seq = 4", 4),
        ("UPDATE ledger SET seq = 99 WHERE seq = 2", 2),
    ],
)
def test_any_change_of_the_past_is_found(tampering: str, broken_at: int) -> None:
    connection = opened()
    for number in range(6):
        ledger.append(connection, entry(number))
    connection.execute(tampering)
    assert ledger.find_break(connection) == broken_at
    connection.close()


@given(st.binary(max_size=200))
def test_a_damaged_entry_is_a_store_error(body: bytes) -> None:
    connection = opened()
    connection.execute("INSERT INTO ledger VALUES (1, NULL, ?, 'x')", (body,))
    with pytest.raises(StoreError):
        ledger.read(connection, 1)
    assert ledger.find_break(connection) == 1
    connection.close()


def test_it_belongs_to_the_callers_transaction() -> None:
    connection = opened()
    connection.execute("BEGIN")
    ledger.append(connection, entry(1))
    connection.execute("ROLLBACK")
    assert ledger.count(connection) == 0
    connection.close()
