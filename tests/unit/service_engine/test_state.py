"""The state database: whole transactions, modes, damage, and what must survive even its loss."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.model.errors import RequestError, StoreError
from pcm.service import store_errors
from pcm.service.keepsakes import merge_floors, merge_releases
from pcm.service.records import InstalledRelease
from pcm.service.schema import MIGRATIONS, VERSION
from pcm.service.state import State
from pcm.trust.floors import Floor, Floors
from tests.unit.service_engine.making import NOON, PAST

RELEASE = InstalledRelease("tool", release=5, min_release=3, version="5.0", installed=5, changed=NOON)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "var"


@pytest.fixture
def state(folder: Path) -> Iterator[State]:
    with State.open(folder, NOON) as opened:
        yield opened


def floors(**versions: int) -> Floors:
    return Floors({role: Floor(version, (f"key-{role}",)) for role, version in versions.items()})


def test_a_first_start_makes_everything_for_this_service_alone(folder: Path) -> None:
    State.open(folder, NOON).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "state.db": 0o600,
        "floors.json": 0o600,
    }


def test_a_folder_that_others_may_look_into_is_closed(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    State.open(folder, NOON).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_it_writes_ahead_and_syncs_and_knows_its_schema(state: State) -> None:
    values = [
        state.rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous", "foreign_keys", "user_version")
    ]
    assert values == ["wal", 2, 1, VERSION]
    assert len(MIGRATIONS) == VERSION


def set_two_and_fail(state: State) -> None:
    with state.transaction():
        state.set_meta("outer", "1")
        with state.transaction():
            state.set_meta("inner", "1")
        raise RequestError("no")


def set_one_and_fill(state: State) -> None:
    with state.transaction() as connection:
        state.set_meta("small", "1")
        connection.executemany("INSERT INTO manifests VALUES (?, ?)", [(str(n), b"x" * 9000) for n in range(99)])


def test_a_transaction_is_whole_or_nothing_and_may_be_joined(state: State) -> None:
    with pytest.raises(RequestError):
        set_two_and_fail(state)
    assert (state.meta("outer"), state.meta("inner")) == ("", "")
    with state.transaction():
        state.set_meta("outer", "1")
        with pytest.raises(RequestError), state.transaction():
            raise RequestError("an inner one that the outer one survives")
        state.set_meta("after", "1")
    assert (state.meta("outer"), state.meta("after")) == ("1", "1")
    state.delete_meta("after")
    assert state.meta("after", "none") == "none"


def test_what_is_not_durable_is_still_there_for_another_process(folder: Path, state: State) -> None:
    state.set_meta("quick", "1", durable=False)
    with State.open(folder, NOON, repair=False) as other:
        assert other.meta("quick") == "1"
    state.set_meta("slow", "1")
    assert state.rows("PRAGMA synchronous")[0][0] == 2


@pytest.mark.parametrize("bytes_left", [b"", b"this is no database", b"SQLite format 3\0" + b"\xff" * 4000])
def test_q229809_a_damaged_database_is_kept_aside_and_history_is_known_to_be_lost(
    folder: Path, bytes_left: bytes
) -> None:
    State.open(folder, NOON).close()
    (folder / "state.db").write_bytes(bytes_left)
    with State.open(folder, NOON) as state:
        assert state.rebuilt
        assert [refusal.code for refusal in state.refusals()] == ["store.rebuilt"]
        assert state.meta("history_lost")
    [aside] = folder.glob("state.db.damaged-*")
    assert aside.read_bytes() == bytes_left or not bytes_left  # SQLite writes a header into an empty file
    with State.open(folder, NOON) as again:
        assert again.rebuilt == ""


def test_q229809_a_database_that_vanished_is_a_lost_history_too(folder: Path) -> None:
    State.open(folder, NOON).close()
    (folder / "state.db").unlink()
    with State.open(folder, NOON) as state:
        assert "missing" in state.rebuilt


def test_a_page_damaged_inside_is_found_after_an_unclean_end(folder: Path) -> None:
    with State.open(folder, NOON) as state, state.transaction() as connection:
        connection.executemany("INSERT INTO manifests VALUES (?, ?)", [(str(n), b"x" * 500) for n in range(200)])
    body = bytearray((folder / "state.db").read_bytes())
    body[len(body) // 2 :] = os.urandom(len(body) - len(body) // 2)
    (folder / "state.db").write_bytes(body)
    with State.open(folder, NOON) as unaware:  # a clean end: the look at the whole file is spared
        with pytest.raises(StoreError) as caught:
            unaware.rows("SELECT * FROM manifests")
        assert caught.value.code == "store.damaged"
    with State.open(folder, NOON) as state:
        assert "damaged" in state.rebuilt or "malformed" in state.rebuilt
    assert not (folder / store_errors.SUSPECT).exists()


def test_without_the_lock_damage_is_told_and_nothing_is_moved(folder: Path) -> None:
    State.open(folder, NOON).close()
    (folder / "state.db").write_bytes(b"this is no database")
    with pytest.raises(StoreError) as caught:
        State.open(folder, NOON, repair=False)
    assert caught.value.code == "store.damaged"
    assert (folder / "state.db").read_bytes() == b"this is no database"


def test_a_newer_schema_is_never_taken_for_damage(folder: Path) -> None:
    State.open(folder, NOON).close()
    connection = sqlite3.connect(folder / "state.db")
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.execute("DELETE FROM meta WHERE key = 'schema.readable_from'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError) as caught:
        State.open(folder, NOON)
    assert caught.value.code == "store.newer_schema"
    assert list(folder.glob("*.damaged-*")) == []


def test_trust_floors_releases_and_kept_values_survive_the_loss_of_the_database(folder: Path) -> None:
    with State.open(folder, NOON) as state:
        state.store_floors("instructions", floors(root=1, targets=50))
        state.store_floors("packages", floors(root=2, snapshot=7))
        state.set_meta("serial", "41", kept=True)
        state.set_meta("other", "lost")
        state.store_release(RELEASE)
    (folder / "state.db").write_bytes(b"gone")
    with State.open(folder, NOON) as state:
        assert state.floors("instructions") == floors(root=1, targets=50)
        assert state.floors("packages") == floors(root=2, snapshot=7)
        assert (state.meta("serial"), state.meta("other")) == ("41", "")
        assert state.releases() == {"tool": RELEASE}


def test_an_older_database_put_back_takes_the_newer_floors_from_beside_it(folder: Path) -> None:
    with State.open(folder, NOON) as state:
        state.store_floors("instructions", floors(root=1, targets=50))
    old = (folder / "state.db").read_bytes()
    with State.open(folder, NOON) as state:
        state.store_floors("instructions", floors(root=1, targets=90))
    (folder / "state.db").write_bytes(old)
    with State.open(folder, NOON) as state:
        assert state.floors("instructions").version("targets") == 90


def test_floors_that_were_forgotten_by_a_newer_root_stay_forgotten(folder: Path) -> None:
    """A revoked key pushed a version up; the new root took that key, and the floor came down."""
    high = Floors({"root": Floor(1, ("r",)), "timestamp": Floor(9999, ("stolen",))})
    with State.open(folder, NOON) as state:
        state.store_floors("instructions", high)
    before = (folder / "floors.json").read_bytes()
    low = Floors({"root": Floor(2, ("r",)), "timestamp": Floor(100, ("fresh",))})
    with State.open(folder, NOON) as state:
        state.store_floors("instructions", low)
    (folder / "floors.json").write_bytes(before)  # as if the power had gone between both
    with State.open(folder, NOON) as state:
        assert state.floors("instructions") == low


def test_merging_floors_takes_the_higher_version_or_the_newer_keys() -> None:
    mine, theirs = floors(root=1, snapshot=5), floors(root=1, snapshot=7, timestamp=3)
    assert merge_floors(mine, theirs) == floors(root=1, snapshot=7, timestamp=3)
    assert merge_floors(theirs, mine) == floors(root=1, snapshot=7, timestamp=3)
    team = Floors({"targets": Floor(4, ("t",)), "team": Floor(2, ("new",))})
    older = Floors({"targets": Floor(3, ("t",)), "team": Floor(80, ("old",))})
    assert merge_floors(team, older) == merge_floors(older, team) == team


def test_merging_releases_takes_what_changed_last_and_the_higher_floor() -> None:
    earlier = InstalledRelease("tool", release=9, min_release=8, version="9", installed=9, changed=PAST)
    merged = merge_releases({"tool": RELEASE}, {"tool": earlier})
    assert merged["tool"] == InstalledRelease("tool", 9, 8, "5.0", 5, NOON)
    assert merge_releases({"tool": earlier}, {"tool": RELEASE}) == merged
    assert merge_releases({}, {"tool": RELEASE}) == {"tool": RELEASE}


def test_a_damaged_floors_file_is_kept_aside_and_made_again_from_the_database(folder: Path) -> None:
    with State.open(folder, NOON) as state:
        state.store_floors("instructions", floors(root=1, targets=50))
    (folder / "floors.json").write_bytes(b"{")
    with State.open(folder, NOON) as state:
        assert state.rebuilt == ""
        assert [refusal.code for refusal in state.refusals()] == ["store.floors_damaged"]
    assert len(list(folder.glob("floors.json.damaged-*"))) == 1
    (folder / "state.db").unlink()
    with State.open(folder, NOON) as state:
        assert state.floors("instructions").version("targets") == 50


def test_a_missing_floors_file_is_made_again_so_that_a_later_loss_is_noticed(folder: Path) -> None:
    State.open(folder, NOON).close()
    (folder / "floors.json").unlink()
    State.open(folder, NOON).close()
    (folder / "state.db").unlink()
    with State.open(folder, NOON) as state:
        assert state.rebuilt


def test_a_full_disk_changes_nothing_and_is_named(state: State) -> None:
    state.rows(f"PRAGMA max_page_count = {state.rows('PRAGMA page_count')[0][0]}")
    with pytest.raises(StoreError) as caught:
        set_one_and_fill(state)
    assert caught.value.code == "store.disk_full"
    assert state.meta("small") == ""
    assert state.rows("SELECT count(*) FROM manifests") == [(0,)]
    state.rows("PRAGMA max_page_count = 100000")
    state.set_meta("small", "2")
    assert state.meta("small") == "2"


def test_a_database_that_cannot_be_opened_is_told_as_such(folder: Path) -> None:
    (folder / "state.db").mkdir(parents=True)
    with pytest.raises(StoreError) as caught:
        State.open(folder, NOON)
    assert caught.value.code == "store.not_writable"
    assert str(folder) in str(caught.value)


def test_the_same_refusal_again_only_counts_up_until_it_is_reported(state: State) -> None:
    for source in ("a", "a", "b"):
        state.refuse("trust.rollback", NOON, "older", source)
    first, second = state.refusals(unreported=True)
    assert (first.count, first.source, second.count) == (2, "a", 1)
    state.mark_refusals_reported([first.seq, second.seq], 7)
    state.refuse("trust.rollback", NOON, "older", "a")
    assert [refusal.reported_in for refusal in state.refusals()] == [7, 7, None]
    assert len(state.refusals(unreported=True)) == 1


def test_a_note_goes_with_the_next_transaction_and_no_earlier(tmp_path: Path) -> None:
    with State.open(tmp_path, NOON) as state, State.open(tmp_path, NOON) as other:
        state.note("INSERT INTO meta (key, value) VALUES (?, ?)", ("noted", "1"))
        assert other.meta("noted") == ""
        state.set_meta("something", "else")
        assert (other.meta("noted"), other.meta("something")) == ("1", "else")


def test_a_note_inside_a_transaction_shares_its_fate(tmp_path: Path) -> None:
    with State.open(tmp_path, NOON) as state:

        def fail() -> None:
            with state.transaction():
                state.note("INSERT INTO meta (key, value) VALUES (?, ?)", ("noted", "1"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        state.write_notes()
        assert state.meta("noted") == ""


def test_a_transaction_that_fails_leaves_earlier_notes_to_the_next_one(tmp_path: Path) -> None:
    with State.open(tmp_path, NOON) as state:
        state.note("INSERT INTO meta (key, value) VALUES (?, ?)", ("noted", "1"))
        with pytest.raises(ZeroDivisionError), state.transaction():
            raise ZeroDivisionError
        assert state.meta("noted") == ""
        state.write_notes()
        assert state.meta("noted") == "1"


def test_notes_that_wait_are_written_at_the_end(tmp_path: Path) -> None:
    with State.open(tmp_path, NOON) as state:
        state.note("INSERT INTO meta (key, value) VALUES (?, ?)", ("noted", "1"))
    with State.open(tmp_path, NOON) as state:
        assert state.meta("noted") == "1"


def test_what_another_process_changes_is_noticed_and_what_this_one_changes_is_not(tmp_path: Path) -> None:
    with State.open(tmp_path, NOON) as state, State.open(tmp_path, NOON) as other:
        before = state.changed_by_others()
        state.set_meta("mine", "1")
        assert state.changed_by_others() == before
        other.set_meta("theirs", "1")
        assert state.changed_by_others() != before
