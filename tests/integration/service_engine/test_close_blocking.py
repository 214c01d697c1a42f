"""A program that cannot run beside others: they are waited for, or closed if the order says so. Real processes."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pcm.model.assignment import State as Stage
from pcm.model.detection import FileDetection
from pcm.model.facts import Facts
from pcm.model.instruction import Deferral, Notify
from pcm.model.program import Program
from pcm.service import views
from pcm.service.asking import Asker
from pcm.service.machine.linux.blocking import processes_named
from pcm.service.outlook import Outlook
from pcm.service.records import InstructionRecord, StepRecord
from pcm.service.steps.close_blocking import MOST_FIGHTS
from tests.integration.service_engine.trivial import BLOCKER, CLIENT, Client, wait_for

Begin = Callable[[str], subprocess.Popen[bytes]]
# it ends only when the next one is there and has set its trap, so that however soon somebody looks, one is found
COMES_BACK = """#!/bin/sh
trap '"$0" & while ! [ -e "$0.$!" ]; do sleep 0.01; done; exit 0' TERM
: > "$0.$$"
while :; do sleep 0.02; done
"""
STUBBORN = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.05; done\n"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    home = tmp_path / "home"
    done = FileDetection(path=str(home / "installed"))
    made = Client(
        home, {"install": Program(argv=("setup", str(home)), detect=done, blocking_processes=(BLOCKER, "pcm-other"))}
    )
    yield made
    made.close()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts what is in the way: a copy of `sleep`, or a script."""
    running: list[subprocess.Popen[bytes]] = []
    path = tmp_path / BLOCKER

    def start(script: str = "") -> subprocess.Popen[bytes]:
        if script:
            path.write_text(script)
            path.chmod(0o755)
        else:
            shutil.copy("/bin/sleep", path)
        process = subprocess.Popen([path, "600"], start_new_session=True)
        running.append(process)
        wait_for(lambda: b"pcm-test-" in Path(f"/proc/{process.pid}/comm").read_bytes())
        return process

    yield start
    path.unlink(missing_ok=True)
    for process in running:
        process.kill()
        process.wait()
    while left := processes_named([BLOCKER]):  # children of the one that comes back
        for each in left:
            os.kill(each.process_id, signal.SIGKILL)


def only(client: Client) -> InstructionRecord:
    [record] = client.context.journal.records()
    return record


def steps(client: Client) -> list[StepRecord]:
    found = client.state.rows("SELECT run FROM steps ORDER BY seq DESC LIMIT 1")
    return [each for each in client.context.history.steps(found[0][0]) if each.step == "close_blocking"]


def test_nothing_in_the_way_costs_one_look(client: Client) -> None:
    client.check(client.instruction())
    assert only(client).state is Stage.SUCCEEDED
    assert steps(client)[-1].detail == {"closed": [], "killed": [], "left": []}


def test_what_is_in_the_way_is_waited_for(client: Client, begin: Begin) -> None:
    blocker = begin("")
    client.check(client.instruction())
    assert (only(client).state, only(client).code, client.counted()) == (Stage.WAITING, "wait.blocking", 0)
    assert BLOCKER in only(client).reason
    assert blocker.poll() is None, "nobody said that it may be closed"
    assert list(client.context.staging.iterdir()) == []
    blocker.kill()
    blocker.wait()
    client.check()
    assert (only(client).state, client.counted()) == (Stage.SUCCEEDED, 1)


def test_what_is_in_the_way_is_asked_to_end_where_the_order_says_so(client: Client, begin: Begin) -> None:
    blocker = begin("")
    client.check(client.instruction(blocking_policy="close", notify=Notify(countdown_s=30)))
    assert blocker.wait(5) == -signal.SIGTERM
    assert (only(client).state, client.counted()) == (Stage.SUCCEEDED, 1)
    begun, told, ended = steps(client)
    assert (begun.detail, told.phase) == ({}, "begin")
    [asked] = told.detail["asked"]
    assert (asked["name"], asked["process"]) == (BLOCKER, blocker.pid)
    assert told.detail["until"] > told.at.isoformat()
    said = [outcome for _, outcome in client.context.journal.unreported() if outcome.state is Stage.ASKED]
    assert [outcome.code for outcome in said] == ["blocking.close"]
    assert BLOCKER in said[0].reason
    assert ended.detail == {"closed": [f"{BLOCKER} ({blocker.pid})"], "killed": [], "left": []}
    outlook = Outlook(client.state, client.machine, CLIENT, Facts(host_name="host", platform="linux-x86_64"))
    told_why = views.explain(client.state, outlook, Asker(0, "root"), only(client).id, client.now())
    assert f"closed: {BLOCKER} ({blocker.pid})." in " ".join(line.text for line in told_why.lines)


def test_what_does_not_end_is_ended_when_its_time_is_over(client: Client, begin: Begin) -> None:
    blocker = begin(STUBBORN)
    client.check(client.instruction(blocking_policy="close", notify=Notify(countdown_s=1)))
    assert blocker.wait(5) == -signal.SIGKILL
    assert only(client).state is Stage.SUCCEEDED
    assert steps(client)[-1].detail["killed"] == [f"{BLOCKER} ({blocker.pid})"]


def test_what_comes_back_each_time_is_not_fought_for_ever(client: Client, begin: Begin) -> None:
    blocker = begin(COMES_BACK)
    wait_for(lambda: Path(f"{blocker.args[0]}.{blocker.pid}").exists())  # type: ignore[index,str-bytes-safe]
    client.check(client.instruction(blocking_policy="close", notify=Notify(countdown_s=5)))
    record = only(client)
    assert (record.state, record.code, record.attempts, client.counted()) == (
        Stage.WAITING,
        "blocking.comes_back",
        1,
        0,
    )
    assert record.not_before is not None
    assert "started again each time" in record.reason


def test_q160853_what_comes_back_each_time_holds_overdue_work_up_no_longer_than_is_promised(
    client: Client, begin: Begin
) -> None:
    """A user who starts a program of that name again and again gains time until the deadline, and a few tries more."""
    blocker = begin(COMES_BACK)
    wait_for(lambda: Path(f"{blocker.args[0]}.{blocker.pid}").exists())  # type: ignore[index,str-bytes-safe]
    due = client.now() + timedelta(minutes=10)
    mandatory = client.instruction(
        blocking_policy="close",
        notify=Notify(countdown_s=5),
        deferral=Deferral(times=1, max_s=600),
        mandatory_after=due,
    )
    client.check(mandatory)
    assert client.counted() == 0
    codes = []
    for _ in range(MOST_FIGHTS + 1):
        client.shift += timedelta(hours=1)
        client.check()
        codes.append((only(client).code, client.counted()))
    waits, runs = codes[: MOST_FIGHTS - 1], codes[MOST_FIGHTS - 1 :]
    assert {count for _, count in waits} == {0}, codes
    assert {count for _, count in runs} == {1}, codes
    assert only(client).state is Stage.SUCCEEDED
    assert steps(client)[-1].detail["forced"] is True
    said = [outcome.code for _, outcome in client.context.journal.unreported()]
    assert said.count("blocking.forced") == 1
    outlook = Outlook(client.state, client.machine, CLIENT, Facts(host_name="host", platform="linux-x86_64"))
    told = views.explain(client.state, outlook, Asker(0, "root"), only(client).id, client.now()).lines
    assert any(line.code == "blocking.forced" and "went on beside it" in line.text for line in told)


def test_before_its_deadline_and_without_one_nothing_runs_beside_what_comes_back(client: Client, begin: Begin) -> None:
    blocker = begin(COMES_BACK)
    wait_for(lambda: Path(f"{blocker.args[0]}.{blocker.pid}").exists())  # type: ignore[index,str-bytes-safe]
    late = Deferral(times=1, max_s=30 * 86_400)
    policy: dict[str, Any] = {"blocking_policy": "close", "notify": Notify(countdown_s=5), "deferral": late}
    client.check(client.instruction(mandatory_after=client.now(), **policy))
    for _ in range(MOST_FIGHTS + 1):
        client.shift += timedelta(hours=7)
        client.check()
    assert (only(client).code, client.counted()) == ("blocking.comes_back", 0)


def test_q255284_an_order_that_expires_while_something_is_closed_does_not_run(client: Client, begin: Begin) -> None:
    begin(STUBBORN)
    expires = client.now() + timedelta(seconds=1)
    client.check(client.instruction(blocking_policy="close", notify=Notify(countdown_s=2), expires_after=expires))
    assert (only(client).state, client.counted()) == (Stage.EXPIRED, 0)
    assert client.state.rows("SELECT count(*) FROM runs") == [(0,)]


def test_the_planner_is_told_of_what_is_due_only(client: Client, begin: Begin) -> None:
    later = client.instruction(2, mandatory_after=client.now().replace(year=2099))
    optional = client.instruction(3, purpose="optional")
    client.take_in(client.instruction(1), later, optional)
    outlook = Outlook(client.state, client.machine, CLIENT, Facts(host_name="host", platform="linux-x86_64"))
    assert outlook.situation(client.context.journal.records(), client.now()).blocking == {}
    begin("")
    found = outlook.situation(client.context.journal.records(), client.now()).blocking
    assert found == {client.instruction(1).id: (BLOCKER,)}
    with client.state.transaction() as connection:
        connection.execute("UPDATE instructions SET requested_at = changed WHERE id = ?", (optional.id,))
    found = outlook.situation(client.context.journal.records(), client.now()).blocking
    assert set(found) == {client.instruction(1).id, optional.id}
