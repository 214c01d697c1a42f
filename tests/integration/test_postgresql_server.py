"""The private PostgreSQL server that other tests take for granted."""

import psycopg
import pytest

from tests.postgresql_server import PostgresqlServer

pytestmark = pytest.mark.needs("postgresql")


def connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url.replace("postgresql+psycopg", "postgresql"))


def test_each_database_is_empty_and_speaks_utf8(postgresql_database: str) -> None:
    with connect(postgresql_database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
        connection.execute("CREATE TABLE mine (name text)")


def test_databases_share_nothing(postgresql_server: PostgresqlServer, postgresql_database: str) -> None:
    other = postgresql_server.create_database()
    with connect(postgresql_database) as connection:
        connection.execute("CREATE TABLE mine (name text)")

    with connect(other) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM mine")


def test_a_database_can_be_dropped_while_somebody_is_connected(postgresql_server: PostgresqlServer) -> None:
    url = postgresql_server.create_database()
    with connect(url) as connection:
        postgresql_server.drop_database(url)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()


def test_the_shared_database_stays(postgresql_url: str) -> None:
    with connect(postgresql_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_it_listens_on_no_network(postgresql_database: str) -> None:
    with connect(postgresql_database) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
