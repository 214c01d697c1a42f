"""Whether somebody should be disturbed is asked only where the answer could matter, and what may wait then waits."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pcm.model.assignment import State as Stage
from pcm.model.facts import Facts
from pcm.model.instruction import Deferral
from pcm.protocol.report import RunResult
from pcm.service.journal import Change
from pcm.service.machine.interface import Engaged, Session
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.outlook import Outlook
from pcm.service.plan import Presence
from tests.integration.service_engine.trivial import CLIENT, Client


class Desk(LinuxMachine):
    """This computer, at which somebody sits. `asked`: how often it was asked whether to disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.people = [Session("ada", 1000, active=True, remote=False)]
        self.state = Engaged(("presentation", "battery"), locked=True)
        self.asked = 0

    def sessions(self) -> Sequence[Session]:
        """Who was put there."""
        return self.people

    def engaged(self, sessions: Sequence[Session]) -> Engaged:
        """What was put there."""
        assert sessions == self.people
        self.asked += 1
        return self.state


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def client(tmp_path: Path, desk: Desk) -> Iterator[Client]:
    made = Client(tmp_path, machine=desk)
    yield made
    made.close()


def presence(client: Client, **order: Any) -> Presence:
    client.take_in(client.instruction(**order))
    return seen(client)


def seen(client: Client) -> Presence:
    outlook = Outlook(client.state, client.machine, CLIENT, Facts(host_name="host", platform="linux-x86_64"))
    return outlook.situation(client.context.journal.records(), client.now()).presence


def test_what_is_due_hears_who_is_busy(client: Client, desk: Desk) -> None:
    told = presence(client, deferral=Deferral(times=3, max_s=3600))
    assert (told.users, told.active, told.busy, told.locked) == (("ada",), "ada", ("presentation", "battery"), True)
    assert desk.asked == 1


@pytest.mark.parametrize("what", ["ignores it", "is not due and here", "is done", "has nobody to disturb"])
def test_nobody_is_asked_where_the_answer_would_change_nothing(client: Client, desk: Desk, what: str) -> None:
    later = client.now() + timedelta(days=1)
    orders: dict[str, dict[str, Any]] = {
        "ignores it": {"busy_policy": "ignore"},
        "is not due and here": {"mandatory_after": later},
    }
    wanted = client.instruction(**orders.get(what, {}))
    client.take_in(wanted)
    if what == "is not due and here":
        client.context.journal.mark_fetched(wanted.id)
    if what == "is done":
        now = client.now()
        client.context.journal.change(wanted.id, Change(state=Stage.RUNNING), now)
        result = RunResult(run="ab" * 16, started=now, ended=now, exit_code=0, exit_class="success")
        client.context.journal.change(wanted.id, Change(state=Stage.SUCCEEDED, result=result), now)
    if what == "has nobody to disturb":
        desk.people = []
    told = seen(client)
    assert (told.busy, told.locked, desk.asked) == ((), False, 0)
