"""The version before comes back to a database that a newer one has changed: it goes on, and loses nothing."""

import re
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pcm.model.errors import StoreError
from pcm.service.records import InstalledRelease
from pcm.service.schema import MIGRATIONS, READABLE, READABLE_FROM, VERSION
from pcm.service.state import State
from pcm.trust.floors import Floor, Floors

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
SOURCE = Path(__file__).parents[3] / "src" / "pcm" / "service"
ADDS = re.compile(r"CREATE (TABLE|INDEX) |ALTER TABLE \w+ ADD COLUMN \w+ \w+( DEFAULT \S+| NOT NULL DEFAULT \S+)?$")


def make_newer(folder: Path, readable_from: str | None) -> None:
    """What a newer service's migration may do: a column more in every table, and a table more."""
    connection = sqlite3.connect(folder / "state.db", isolation_level=None)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for table in tables:
        if not table.startswith("sqlite_"):
            connection.execute(f"ALTER TABLE {table} ADD COLUMN newer TEXT")
            connection.execute(f"ALTER TABLE {table} ADD COLUMN newer_still INTEGER NOT NULL DEFAULT 7")
    connection.execute("CREATE TABLE quite_new (one TEXT PRIMARY KEY)")
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    if readable_from is None:
        connection.execute("DELETE FROM meta WHERE key = ?", (READABLE,))
    else:
        connection.execute("UPDATE meta SET value = ? WHERE key = ?", (readable_from, READABLE))
    connection.close()


def test_q168463_the_version_before_goes_on_with_what_a_newer_one_has_added(tmp_path: Path) -> None:
    floors = Floors({"targets": Floor(50, ("a",))})
    with State.open(tmp_path, NOON) as state:
        state.store_floors("instructions", floors)
        state.refuse("trust.rollback", NOON, "before")
    make_newer(tmp_path, str(VERSION))
    with State.open(tmp_path, NOON) as state:
        assert state.floors("instructions") == floors
        higher = Floors({"targets": Floor(51, ("a",))})
        state.store_floors("instructions", higher)
        state.store_release(InstalledRelease("editor", 3, 2, "1.0", True, NOON))
        state.set_meta("a", "b", kept=True)
        state.refuse("trust.rollback", NOON, "after")
    with State.open(tmp_path, NOON) as state:
        assert state.floors("instructions") == higher
        assert state.releases()["editor"].release == 3
        assert [each.count for each in state.refusals()] == [2]
        assert state.rows("PRAGMA user_version") == [(VERSION + 1,)]  # it is still the newer one's
    assert list(tmp_path.glob("*.damaged-*")) == []


@pytest.mark.parametrize("says", [None, str(VERSION + 1), "nonsense"])
def test_what_a_newer_one_does_not_open_to_it_it_leaves_alone(tmp_path: Path, says: str | None) -> None:
    State.open(tmp_path, NOON).close()
    make_newer(tmp_path, says)
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(StoreError) as caught:
        State.open(tmp_path, NOON)
    assert caught.value.code == "store.newer_schema"
    assert (tmp_path / "state.db").read_bytes() == before


def test_this_version_says_from_which_on_its_database_can_be_used(tmp_path: Path) -> None:
    with State.open(tmp_path, NOON) as state:
        assert state.meta(READABLE) == str(READABLE_FROM)


def test_migrations_since_then_only_add() -> None:
    for statements in MIGRATIONS[READABLE_FROM:]:
        assert [each for each in statements if not ADDS.match(each)] == []


def test_every_row_that_is_written_names_its_columns() -> None:
    """Else a column more would end the version before."""
    statements = [
        (path.name, found)
        for path in SOURCE.rglob("*.py")
        for found in re.findall(r"INSERT (?:OR \w+ )?INTO (\w+ *\(?)", path.read_text())
    ]
    assert len(statements) > 10
    assert [(name, found) for name, found in statements if not found.endswith("(")] == []
    assert [path.name for path in SOURCE.rglob("*.py") if "SELECT *" in path.read_text()] == []
