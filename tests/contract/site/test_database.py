"""Both databases: the same schema by migration and by tables, the same times, the same errors, writers that wait their turn."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, select, text
from sqlalchemy.exc import StatementError

from pcm.model.errors import RequestError, StoreError
from pcm.site.db import tables
from pcm.site.db.database import Database, metadata
from pcm.site.db.upgrade import upgrade


@pytest.fixture
def ready(database: Database) -> Database:
    upgrade(database)
    return database


def test_migrations_make_exactly_the_tables(ready: Database) -> None:
    with ready.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_upgrading_twice_changes_nothing(ready: Database) -> None:
    with ready.write() as connection:
        connection.execute(insert(tables.settings).values(name="a", value="b"))
    upgrade(ready)
    with ready.read() as connection:
        assert connection.execute(select(tables.settings.c.value)).scalar() == "b"


def test_a_newer_schema_is_refused(ready: Database) -> None:
    with ready.write() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(StoreError) as raised:
        upgrade(ready)
    assert raised.value.code == "store.newer"


def test_q169474_times_come_back_as_utc_to_the_microsecond(ready: Database) -> None:
    moments = [
        datetime(2026, 3, 29, 3, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2))),
        datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC),
    ]
    with ready.write() as connection:
        for number, moment in enumerate(moments):
            connection.execute(
                insert(tables.audit).values(
                    seq=number, at=moment, actor="", action="", subject="", detail="", prev_sha256="", sha256=""
                )
            )
    with ready.read() as connection:
        kept = list(connection.execute(select(tables.audit.c.at).order_by(tables.audit.c.seq)).scalars())
    assert kept == moments
    assert all(moment.tzinfo is UTC for moment in kept)


def test_a_time_without_an_offset_is_refused(ready: Database) -> None:
    with pytest.raises(StatementError), ready.write() as connection:
        connection.execute(insert(tables.groups).values(name="a", kind="names", created=datetime(2026, 1, 1)))


def test_a_failed_block_leaves_nothing(ready: Database) -> None:
    def fail() -> None:
        with ready.write() as connection:
            connection.execute(insert(tables.settings).values(name="a", value="b"))
            raise RequestError("no")

    with pytest.raises(RequestError):
        fail()
    with ready.read() as connection:
        assert connection.execute(select(tables.settings)).all() == []


def test_a_contradiction_is_a_store_conflict(ready: Database) -> None:
    with ready.write() as connection:
        connection.execute(insert(tables.settings).values(name="a", value="b"))
    with pytest.raises(StoreError) as raised, ready.write() as connection:
        connection.execute(insert(tables.settings).values(name="a", value="b"))
    assert raised.value.code == "store.conflict"


def test_foreign_keys_hold(ready: Database) -> None:
    with pytest.raises(StoreError), ready.write() as connection:
        connection.execute(insert(tables.group_members).values(group_id=1, client=1))


def test_many_writers_all_get_their_turn(ready: Database) -> None:
    with ready.write() as connection:
        connection.execute(insert(tables.settings).values(name="n", value="0"))
    failures: list[Exception] = []

    def count_up() -> None:
        try:
            for _ in range(10):
                with ready.write() as connection:
                    query = select(tables.settings.c.value).where(tables.settings.c.name == "n").with_for_update()
                    value = connection.execute(query).scalar_one()
                    connection.execute(tables.settings.update().values(value=str(int(value) + 1)))
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=count_up) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with ready.read() as connection:
        assert connection.execute(select(tables.settings.c.value)).scalar() == "60"


def test_another_process_may_write_too(ready: Database, database_url: str) -> None:
    other = Database(database_url)
    try:
        with other.write() as connection:
            connection.execute(insert(tables.settings).values(name="a", value="b"))
        with ready.read() as connection:
            assert connection.execute(select(tables.settings.c.name)).scalar() == "a"
    finally:
        other.close()


def test_sqlite_is_durable(ready: Database) -> None:
    if not ready.is_sqlite:
        pytest.skip("a matter of PostgreSQL's own settings")
    with ready.read() as connection:
        pragmas = {
            name: connection.execute(text(f"pragma {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(RequestError) as raised:
        Database(url)
    assert raised.value.code == "request.database"


def test_a_missing_folder_is_a_store_error() -> None:
    with pytest.raises(StoreError):
        Database("sqlite:////nowhere/at/all/site.db").check()
