"""What is remembered of servers between checks: each by its whole name, and only while somebody names it."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.model.errors import TransferError
from pcm.service.sources import DISTRIBUTION, Servers
from pcm.service.state import State
from tests.unit.service_engine.making import NOON

LONG = "https://distribution-server-of-the-second-floor-{}.branch-office.example.org/distribution"
BAD, GOOD = LONG.format("east"), LONG.format("west")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path / "var", NOON) as opened:
        yield opened


def ask(server: str) -> str:
    if server == BAD:
        raise TransferError("down", code="transfer.unreachable")
    return server


def test_q128456_servers_whose_long_names_differ_in_their_end_are_two_servers(state: State) -> None:
    answered, attempts = Servers(state, DISTRIBUTION, (BAD, GOOD), ()).ask(ask, NOON, random.Random(1))
    assert answered == GOOD
    assert [attempt.server for attempt in attempts] == [BAD, GOOD]
    later = Servers(state, DISTRIBUTION, (BAD, GOOD), ())  # as the next process finds them
    assert (later.health[BAD].failures, later.health[GOOD].failures) == (1, 0)
    assert [choice.server for choice in later.choices(NOON, random.Random(1))] == [GOOD, BAD]


def test_what_is_named_no_more_is_forgotten(state: State) -> None:
    Servers(state, DISTRIBUTION, (BAD, GOOD), ()).ask(ask, NOON, random.Random(1))
    Servers(state, DISTRIBUTION, (GOOD,), ()).ask(ask, NOON, random.Random(1))
    assert set(Servers(state, DISTRIBUTION, (BAD, GOOD), ()).health) == {GOOD}
