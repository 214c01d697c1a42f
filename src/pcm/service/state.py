"""The client's state database: opened, checked, migrated, and changed only in whole transactions.

Serves steps 6–12; `service.worker` opens it right after the lock, before anything else is decided. `pcm.service.journal` and the
shell's own modules stand on `transaction` and `rows`. It never decides what runs, and never mends a database in place: a damaged
one is kept aside, a fresh one begins, and what ran before is found again by detection (KB Q229809, Q122202).

Every transaction is one of two kinds. `durable`: on the disk when it returns, whatever the power does. Not durable: it survives
the death of this process, and after a power cut may be missing, but only together with everything later (one write-ahead log).
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from pcm.model.errors import MachineError, StoreError
from pcm.service import store_errors
from pcm.service.journal_rows import SELECT_RELEASES, read_release
from pcm.service.keepsakes import FILE, Keepsakes, merge_floors, merge_releases, write_keepsakes
from pcm.service.records import InstalledRelease, RefusalRecord, to_text, to_time
from pcm.service.rest import NAME as REST
from pcm.service.schema import MIGRATIONS, READABLE, READABLE_FROM, VERSION
from pcm.service.state_folder import DATABASE, connect, make_folder, recall, set_aside
from pcm.trust.floors import Floor, Floors

Rows = list[tuple[Any, ...]]


class State:
    """One open state database. Made by `State.open`; used by one thread; closed by `close` or as a context manager.

    Attributes:
        folder: The state folder.
        rebuilt: Why this opening began a fresh database in place of a lost one; empty if it did not.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self.rebuilt = ""
        self._connection = connection
        self._rest = f"{folder}/{REST}"
        self._depth = 0
        self._durable = True  # as `_connect` sets it
        self._notes: list[tuple[str, tuple[Any, ...]]] = []
        self._floors_changed = False
        self._releases_changed = False

    @classmethod
    def open(cls, folder: Path, now: datetime, *, repair: bool = True) -> Self:
        """Open the database in `folder`, making or rebuilding it if need be.

        Args:
            folder: Made with mode 0700 if it is missing.
            now: Aware; the time of a rebuilding, if there is one.
            repair: False for whoever does not hold the instance lock: damage is then an error, and opening waits for nobody who
                writes, unless the tables are older than this service.

        Raises:
            StoreError: `store.disk_full`, `store.busy`, `store.not_writable`, `store.newer_schema`, `store.damaged` (only
                without `repair`).
        """
        with store_errors.mapped_system(folder):
            make_folder(folder)
            keepsakes, trouble = recall(folder, now, repair=repair)
            loss = ""
            try:
                state = cls._open_checked(folder, known=keepsakes is not None or bool(trouble))
            except (sqlite3.DatabaseError, StoreError) as error:
                if not repair or not store_errors.is_damage(error):
                    raise
                set_aside(folder, now)
                state = cls(folder, connect(folder))
                loss = store_errors.describe(error)
            state._migrate_to_newest(keepsakes, now, loss=loss, trouble=trouble)
            if repair:
                state._join(keepsakes)
            return state

    @classmethod
    def _open_checked(cls, folder: Path, *, known: bool) -> Self:
        ended_badly = store_errors.ended_badly(folder)  # before SQLite touches its log
        state = cls(folder, connect(folder))
        try:
            state._check(known=known, thoroughly=ended_badly)
        except BaseException:
            state._connection.close()
            raise
        return state

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still to be kept, in the database and beside it, and close it. Safe to call twice."""
        with contextlib.suppress(StoreError):  # a full disk, of which somebody has been told already
            self.write_notes()
            self._notes = []
        if self._releases_changed or self._floors_changed:
            self._keep()
        self._connection.close()

    # -- transactions -------------------------------------------------------------------------------------------------

    def transaction(self, *, durable: bool = True) -> AbstractContextManager[sqlite3.Connection]:
        """Change several rows or none. Inside another transaction it joins that one, and its durability.

        Raises:
            StoreError: `store.disk_full` and others; then nothing was changed.
        """
        return _Joined(self._connection) if self._depth else self._begin(durable=durable)

    @contextlib.contextmanager
    def _begin(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        before = self._floors_changed, self._releases_changed
        notes, self._notes = self._notes, []
        with store_errors.mapped(self.folder):
            try:
                if durable is not self._durable:
                    self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                    self._durable = durable
                self._connection.execute("BEGIN IMMEDIATE")
                self._depth = 1
                self._end_rest()
                for query, parameters in notes:
                    self._connection.execute(query, parameters)
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._notes = notes + self._notes
                self._floors_changed, self._releases_changed = before
                self._undo()
                raise
            finally:
                self._depth = 0
        if self._floors_changed:
            self._keep()

    def note(self, query: str, parameters: tuple[Any, ...]) -> None:
        """Change something with the next transaction: for what a kill may take, and nothing decides by."""
        if self._depth:
            self._connection.execute(query, parameters)
        else:
            self._notes.append((query, parameters))

    def write_notes(self) -> None:
        """Write what waits, before this process turns to something that may take long, or somebody reads it."""
        if self._notes:
            with self.transaction(durable=False):
                pass

    def changed_by_others(self) -> int:
        """A number that is another one once any other process has changed the database."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def rows(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Rows:
        """Read rows. Raises StoreError."""
        try:
            return self._connection.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise store_errors.explain(error, self.folder) from error

    def _end_rest(self) -> None:
        """What an earlier check has left for the next one was made from what is about to change (`rest`)."""
        try:
            os.unlink(self._rest)  # noqa: PTH108 - at each transaction
        except FileNotFoundError:
            return
        except OSError as error:
            raise store_errors.explain_system(error, self.folder) from error

    def _undo(self) -> None:
        if self._connection.in_transaction:
            # the first error is the one to tell; a disk that is full may refuse even this
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    # -- meta, floors, releases, refusals -----------------------------------------------------------------------------

    def meta(self, key: str, default: str = "") -> str:
        """One small value by its key."""
        found = self.rows("SELECT value FROM meta WHERE key = ?", (key,))
        return str(found[0][0]) if found else default

    def set_meta(self, key: str, value: str, *, kept: bool = False, durable: bool = True) -> None:
        """Store a small value. `kept`: it survives even the loss of the database (one more file write)."""
        with self.transaction(durable=durable) as connection:
            connection.execute(
                "INSERT INTO meta (key, value, kept) VALUES (?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value, kept = excluded.kept",
                (key, value, kept),
            )
            self._floors_changed = self._floors_changed or kept

    def delete_meta(self, key: str) -> None:
        """Forget a small value, if it is there."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM meta WHERE key = ?", (key,))

    def touch(self, name: str, at: datetime) -> None:
        """Note when something last happened, as the time of an empty file: a poll that brings nothing syncs no disk.

        Raises:
            StoreError, MachineError: this disk.
        """
        path = self.folder / name
        with store_errors.mapped_system(self.folder):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600))
            os.utime(path, (at.timestamp(), at.timestamp()))

    def touched(self, name: str) -> datetime | None:
        """When `touch` was last called for this name; None if it never was."""
        try:
            return datetime.fromtimestamp((self.folder / name).stat().st_mtime, UTC)
        except OSError:
            return None

    def floors(self, repository: str) -> Floors:
        """Version floors of one repository, `instructions` or `packages`."""
        found = self.rows("SELECT role, version, keyids FROM floors WHERE repository = ?", (repository,))
        return Floors({role: Floor(version, tuple(keyids.split())) for role, version, keyids in found})

    def store_floors(self, repository: str, floors: Floors) -> None:
        """Replace one repository's floors; `pcm.trust.floors` alone decides what they are."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM floors WHERE repository = ?", (repository,))
            connection.executemany(
                "INSERT INTO floors (repository, role, version, keyids) VALUES (?, ?, ?, ?)",
                [(repository, role, floor.version, " ".join(floor.keys)) for role, floor in floors.roles.items()],
            )
            self._floors_changed = True

    def releases(self) -> dict[str, InstalledRelease]:
        """What programs of ours put on or took off here, by package."""
        return {row[0]: read_release(row) for row in self.rows(SELECT_RELEASES)}

    def release(self, package: str) -> InstalledRelease | None:
        """What is known here of one package."""
        return next(map(read_release, self.rows(f"{SELECT_RELEASES} WHERE package = ?", (package,))), None)

    def store_release(self, release: InstalledRelease) -> None:
        """Record what was installed or removed. It reaches `floors.json` when the state is closed or next opened."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO releases (package, release, min_release, version, installed, changed) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    release.package,
                    release.release,
                    release.min_release,
                    release.version,
                    release.installed,
                    to_text(release.changed),
                ),
            )
            self._releases_changed = True

    def refuse(self, code: str, at: datetime, reason: str, source: str = "") -> None:
        """Record something refused as a whole. The same again, not yet reported, only counts up."""
        with self.transaction() as connection:
            again = connection.execute(
                "UPDATE refusals SET count = count + 1 WHERE code = ? AND source = ? AND reported_in IS NULL",
                (code, source),
            )
            if again.rowcount == 0:
                connection.execute(
                    "INSERT INTO refusals (code, at, reason, source) VALUES (?, ?, ?, ?)",
                    (code, to_text(at), reason, source),
                )

    def refusals(self, *, unreported: bool = False, limit: int = 100) -> list[RefusalRecord]:
        """Refusals, oldest first; the newest `limit` of them unless only unreported ones are wanted."""
        query = "SELECT seq, code, at, reason, source, count, reported_in FROM refusals"
        if unreported:
            found = self.rows(f"{query} WHERE reported_in IS NULL ORDER BY seq LIMIT ?", (limit,))
        else:
            found = self.rows(f"{query} ORDER BY seq DESC LIMIT ?", (limit,))[::-1]
        return [RefusalRecord(seq, code, to_time(at), *rest) for seq, code, at, *rest in found]

    def mark_refusals_reported(self, seqs: Sequence[int], report_seq: int) -> None:
        """Say in which report these refusals went out."""
        with self.transaction() as connection:
            connection.executemany(
                "UPDATE refusals SET reported_in = ? WHERE seq = ?", [(report_seq, seq) for seq in seqs]
            )

    # -- opening ------------------------------------------------------------------------------------------------------

    def _check(self, *, known: bool, thoroughly: bool) -> None:
        version = self._user_version()
        if version > VERSION and not self._is_readable():
            raise StoreError(
                f"The state database in {self.folder} was written by a newer PCM service (schema {version}, this one knows "
                f"{VERSION}). Install that version again.",
                code="store.newer_schema",
            )
        if version == 0 and known:
            raise StoreError(f"The state database in {self.folder} is missing or empty.", code="store.damaged")
        if version and thoroughly:
            found = self._connection.execute("PRAGMA quick_check(1)").fetchall()
            if found != [("ok",)]:
                raise StoreError(
                    f"The state database in {self.folder} is damaged: {found[0][0]}.", code="store.damaged"
                )
            store_errors.clear_suspicion(self.folder)

    def _migrate_to_newest(self, keepsakes: Keepsakes | None, now: datetime, *, loss: str, trouble: str) -> None:
        """Bring the schema up to date, and note in it what was lost."""
        if self._user_version() < VERSION or loss or trouble:
            with self.transaction():
                self._migrate()
                if loss:
                    self.rebuilt = loss
                    self._merge(
                        keepsakes or Keepsakes()
                    )  # in one with the rest: the file beside it is written after this
                    for key, value in (keepsakes or Keepsakes()).meta.items():
                        self.set_meta(key, value, kept=True)
                    self.set_meta("history_lost", to_text(now))
                    self.refuse("store.rebuilt", now, loss[:1000], DATABASE)
                if trouble:
                    self.refuse("store.floors_damaged", now, trouble[:1000], FILE)
        self._floors_changed = self._releases_changed = False

    def _join(self, keepsakes: Keepsakes | None) -> None:
        """Bring both copies of the floors together. Only with the lock: who has it changes first the one, then the other."""
        if self._keepsakes() != keepsakes:
            self._merge(keepsakes or Keepsakes())
            write_keepsakes(self.folder, self._keepsakes())
        self._floors_changed = self._releases_changed = False

    def _is_readable(self) -> bool:
        """Whether the newer service that made this schema says that this one can work with it (`schema.READABLE_FROM`)."""
        try:
            found = self._connection.execute("SELECT value FROM meta WHERE key = ?", (READABLE,)).fetchone()
        except sqlite3.OperationalError:
            return False
        return found is not None and str(found[0]).isdecimal() and int(found[0]) <= VERSION

    def _migrate(self) -> None:
        for number, statements in enumerate(MIGRATIONS[self._user_version() :], start=self._user_version() + 1):
            for statement in statements:
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {number}")
        self.set_meta(READABLE, str(READABLE_FROM))

    def _merge(self, keepsakes: Keepsakes) -> None:
        with self.transaction():
            for repository, theirs in keepsakes.floors.items():
                mine = self.floors(repository)
                merged = merge_floors(mine, theirs)
                if merged != mine:
                    self.store_floors(repository, merged)
            installed = self.releases()
            for package, release in merge_releases(installed, keepsakes.releases).items():
                if installed.get(package) != release:
                    self.store_release(release)

    def _keepsakes(self) -> Keepsakes:
        repositories = [str(row[0]) for row in self.rows("SELECT DISTINCT repository FROM floors")]
        kept = {str(key): str(value) for key, value in self.rows("SELECT key, value FROM meta WHERE kept = 1")}
        return Keepsakes({name: self.floors(name) for name in repositories}, self.releases(), kept)

    def _keep(self) -> None:
        # The database has it already, and each opening compares both; a full disk must not undo what is committed.
        with contextlib.suppress(StoreError, MachineError):
            write_keepsakes(self.folder, self._keepsakes())
            self._floors_changed = self._releases_changed = False

    def _user_version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])


class _Joined(NamedTuple):
    """A transaction inside another one: it begins and ends nothing."""

    connection: sqlite3.Connection

    def __enter__(self) -> sqlite3.Connection:
        return self.connection

    def __exit__(self, *_: object) -> None:
        pass
