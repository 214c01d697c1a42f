"""A state database of its own for each test here, and what is read from it. Tests with other places have theirs instead."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.service.history import History
from pcm.service.journal import Journal
from pcm.service.state import State
from tests.unit.service_engine.making import NOON


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path / "var", NOON) as opened:
        yield opened


@pytest.fixture
def journal(state: State) -> Journal:
    return Journal(state)


@pytest.fixture
def history(state: State) -> History:
    return History(state)
