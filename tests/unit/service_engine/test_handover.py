"""The end of one run and the beginning of the next are one transaction, or two, and never none."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pcm.service.handover import Handover
from pcm.service.state import State

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path, NOW) as opened:
        yield opened


def test_the_end_is_stored_with_the_next_transaction_and_only_then_cleaned_up_after(state: State) -> None:
    handover, done = Handover(state), []

    def store() -> None:
        with state.transaction() as connection:
            connection.execute("INSERT INTO meta (key, value) VALUES ('end', 'x')")

    handover.leave(store, lambda: done.append("stored"))
    handover.afterwards(lambda: done.append("cleaned up"))
    assert (handover.waits, state.meta("end"), done) == (True, "", [])
    with state.transaction() as connection:
        handover.store()
        connection.execute("INSERT INTO meta (key, value) VALUES ('beginning', 'y')")
        assert done == []
    handover.stored()
    assert (handover.waits, state.meta("end"), state.meta("beginning")) == (False, "x", "y")
    assert done == ["stored", "cleaned up"]
    handover.settle()
    handover.stored()
    assert done == ["stored", "cleaned up"]


def test_what_takes_a_moment_waits_until_the_next_program_works(state: State) -> None:
    handover, done = Handover(state), []
    handover.leave(lambda: state.set_meta("end", "x"), lambda: done.append("stored"))
    handover.afterwards(lambda: done.append("long"))
    handover.afterwards(lambda: done.append("short"), takes_a_moment=True)
    handover.tidy()
    assert done == [], "never before the end is stored"
    handover.store()
    handover.stored()
    assert done == ["stored", "long"]
    handover.tidy()
    handover.tidy()
    assert done == ["stored", "long", "short"]
    handover.leave(lambda: None, lambda: None)
    handover.afterwards(lambda: done.append("last"), takes_a_moment=True)
    handover.settle()
    assert done[-1] == "last", "where no program follows it is not forgotten"


def test_an_end_survives_the_failure_of_the_next_beginning(state: State) -> None:
    handover, done = Handover(state), []
    handover.leave(lambda: state.set_meta("end", "x"), lambda: done.append("stored"))

    class NotNowError(Exception):
        """The next one may not begin."""

    def begin() -> None:
        with state.transaction():
            handover.store()
            raise NotNowError

    with pytest.raises(NotNowError):
        begin()
    assert (handover.waits, state.meta("end"), done) == (True, "", [])
    handover.settle()
    assert (handover.waits, state.meta("end"), done) == (False, "x", ["stored"])


def test_an_end_that_cannot_be_stored_keeps_waiting_and_nothing_is_cleaned_up(state: State) -> None:
    handover, done = Handover(state), []

    def store() -> None:
        raise OSError("no space")

    handover.leave(store, lambda: done.append("stored"))
    with pytest.raises(OSError, match="no space"):
        handover.settle()
    assert (handover.waits, done) == (True, [])


def test_nothing_is_stored_where_nothing_waits(state: State) -> None:
    handover = Handover(state)
    with state.transaction():
        handover.store()
    handover.stored()
    handover.settle()
    assert not handover.waits
