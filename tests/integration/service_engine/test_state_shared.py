"""The state database, opened and closed by several processes at once: nobody fails because somebody else has it open."""

import contextlib
import multiprocessing
import random
import sqlite3
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from pcm.model.errors import StoreError
from pcm.service import store_errors
from pcm.service.keepsakes import FILE, read_keepsakes
from pcm.service.rest import NAME as REST
from pcm.service.state import State
from pcm.trust.floors import Floor, Floors
from tests.unit.service_engine.making import NOON

PROCESSES = 3
FRESH, OPENINGS = 200, 150

_spawn = multiprocessing.get_context("spawn")


def open_fresh_ones(folder: Path, together: Barrier, complaints: "Queue[str]") -> None:
    """Be one of those who open, at the same moment, a database that nobody has opened before; again and again."""
    chance = random.Random()
    for number in range(FRESH):
        together.wait(60)
        time.sleep(chance.uniform(0, 0.002))  # the barrier lets them go one after another
        with telling(complaints), State.open(folder / str(number), NOON, repair=False) as state:
            state.meta("anything")


def open_again_and_again(folder: Path, together: Barrier, complaints: "Queue[str]") -> None:
    """Open, read, write and close, as workers and commands do: somebody is always the first, and somebody the last."""
    together.wait(60)
    for number in range(OPENINGS):
        with telling(complaints), State.open(folder, NOON, repair=False) as state:
            if number % 3:
                state.meta("anything")
            else:
                state.set_meta("anything", str(number), durable=False)


@contextlib.contextmanager
def telling(complaints: "Queue[str]") -> Iterator[None]:
    try:
        yield
    except StoreError:
        complaints.put(traceback.format_exc())


@pytest.mark.parametrize("work", [open_fresh_ones, open_again_and_again])
def test_several_processes_open_and_close_it_at_once(tmp_path: Path, work: object) -> None:
    together, complaints = _spawn.Barrier(PROCESSES), _spawn.Queue()
    arguments = (tmp_path, together, complaints)
    processes = [_spawn.Process(target=work, args=arguments) for _ in range(PROCESSES)]  # type: ignore[arg-type]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert complaints.empty(), complaints.get()
    assert [process.exitcode for process in processes] == [0] * PROCESSES


def test_whoever_begins_a_fresh_database_at_the_same_moment_is_waited_for(tmp_path: Path) -> None:
    """The one moment at which SQLite itself waits for nobody: the change of a fresh file to writing ahead."""
    folder = tmp_path / "var"
    folder.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(folder / "state.db", check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        leaving = threading.Timer(0.3, other.rollback)
        began = time.monotonic()
        leaving.start()
        with State.open(folder, NOON, repair=False) as state:
            assert time.monotonic() - began > 0.25
            assert state.rows("PRAGMA journal_mode") == [("wal",)]
        leaving.join()


def test_whoever_keeps_it_for_ever_is_named_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcm.service.state_folder.BUSY_S", 0.3)
    folder = tmp_path / "var"
    folder.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(folder / "state.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError) as caught:
            State.open(folder, NOON, repair=False)
    assert caught.value.code == "store.busy"


def test_a_reader_waits_for_no_writer_and_changes_nothing(tmp_path: Path) -> None:
    """Also while floors stand in the database and not yet beside it: whoever has the lock is at it."""
    with State.open(tmp_path, NOON) as working:
        working.store_floors("packages", Floors({"root": Floor(1, ("key",))}))
        (tmp_path / REST).touch()
        kept = read_keepsakes(tmp_path)
        assert kept is not None
        (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes().replace(b'"version":1', b'"version":0'))
        before = (tmp_path / FILE).read_bytes()
        with working.transaction(), contextlib.suppress(FileNotFoundError):
            (tmp_path / REST).touch()
            began = time.monotonic()
            with State.open(tmp_path, NOON, repair=False) as reading:
                assert reading.floors("packages").version("root") == 1
            assert time.monotonic() - began < 5
        assert (tmp_path / REST).exists()
        assert (tmp_path / FILE).read_bytes() == before
    State.open(tmp_path, NOON).close()
    assert read_keepsakes(tmp_path) == kept, "whoever has the lock brings both together"


def test_two_connections_of_one_process_keep_their_locks(tmp_path: Path) -> None:
    """Closing any descriptor of a file drops the locks that its process holds on it (fcntl(2))."""
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    with State.open(tmp_path, NOON) as writing, writing.transaction():
        State.open(tmp_path, NOON, repair=False).close()
        stranger = _spawn.Process(target=exec, args=(code.replace("sys.argv[1]", repr(str(tmp_path / "state.db"))),))
        stranger.start()
        stranger.join(60)
        assert stranger.exitcode == 1, "another process wrote into an open transaction"


def test_the_last_one_to_close_may_take_the_log_away_at_any_moment(tmp_path: Path) -> None:
    log = tmp_path / "state.db-wal"
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            log.touch()
            log.unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert not store_errors.ended_badly(tmp_path)
    finally:
        over.set()
        other.join()
