"""Connections: one engine for SQLite or PostgreSQL, one way to read, one way to write, one boundary for its errors.

Serves steps 2–5 and 12. A writer on SQLite begins at once as writer (BEGIN IMMEDIATE) and waits its turn, so it
never fails half way because another one was faster; on PostgreSQL rows are locked where order matters. What is
committed has reached the disk (synchronous=FULL) before anybody is told. It decides nothing about what is stored.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, event, make_url, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pcm.model.errors import RequestError, StoreError
from pcm.site.db import tables, tables_content, tables_packages

BUSY_TIMEOUT_MS = 15_000
metadata = tables.metadata
assert tables_packages.packages.metadata is metadata
assert tables_content.deliveries.metadata is metadata


class Database:
    """One site's database.

    Args:
        url: SQLAlchemy URL: `sqlite:////folder/site.db` or `postgresql+psycopg://…`.

    Raises:
        RequestError: `request.database`: a URL of another kind.
    """

    def __init__(self, url: str) -> None:
        self.engine = _make_engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        # writers of one process queue here rather than by polling the file's lock
        self._turn = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading: one consistent view.

        Raises:
            StoreError: `store.busy`, `store.failed`.
        """
        with _mapped(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction for writing: committed at the end, undone if the block raises.

        Raises:
            StoreError: as `read`; `store.conflict`: it contradicts what is stored.
        """
        with _mapped():
            if not self.is_sqlite:
                with self.engine.begin() as connection:
                    yield connection
                return
            with self._turn, self.engine.connect() as connection:
                connection.info["immediate"] = True
                try:
                    with connection.begin():
                        yield connection
                finally:
                    connection.info.pop("immediate", None)

    def check(self) -> None:
        """Ask the database for a sign of life. Raises StoreError."""
        with self.read() as connection:
            connection.execute(text("select 1"))

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def take_turn(connection: Connection, what: str) -> None:
    """Let one transaction at a time do `what`, until it ends. On SQLite there is only one writer anyway."""
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)
        connection.execute(text("select pg_advisory_xact_lock(:number)"), {"number": number})


def _make_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise RequestError("The database URL is not understood.", code="request.database") from None
    if parsed.get_backend_name() == "postgresql":
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"), pool_size=8, max_overflow=8, pool_pre_ping=True
        )
    if parsed.get_backend_name() != "sqlite":
        raise RequestError(
            f"Databases of the kind {parsed.get_backend_name()!r} are not supported: use sqlite or postgresql.",
            code="request.database",
        )
    if parsed.database:
        with contextlib.suppress(OSError):  # connecting tells what is wrong
            os.close(os.open(parsed.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = create_engine(parsed, pool_size=8, max_overflow=8, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 must not begin transactions of its own
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.get("immediate") else "BEGIN")


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise StoreError(
            f"The database refuses a contradiction: {_first_line(error)}.", code="store.conflict"
        ) from error
    except DataError as error:  # PostgreSQL refuses text with NUL, and numbers out of range
        raise RequestError(
            f"A value cannot be stored or searched for: {_first_line(error)}.", code="request.value"
        ) from error
    except (OperationalError, PoolTimeout) as error:
        raise StoreError(f"The database does not answer: {_first_line(error)}.", code="store.busy") from error
    except DBAPIError as error:
        raise StoreError(f"The database failed: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).split("\n", 1)[0].rstrip(".")[:200]
