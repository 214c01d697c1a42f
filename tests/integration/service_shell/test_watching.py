"""`watch`: what changes is told as it changes, only to whom it concerns, and it costs the service nothing that anybody could miss."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pcm.model.program import Program
from pcm.protocol.local import LocalRequest
from pcm.service import watching
from pcm.service.history import History
from pcm.service.journal import Journal
from pcm.service.state import State
from tests.integration.service_shell.people import ANNA, BEN, Line, ask_as
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.integration.service_shell.test_supervisor import Resident
from tests.unit.trust.simulated import utc_now

pytestmark = pytest.mark.needs("root")
WATCH = LocalRequest("watch")


@pytest.fixture
def resident(site: StaticSite, client: Client) -> Iterator[Resident]:
    site.order(client.client_id, [])
    client.once()
    running = Resident(client)
    yield running
    running.stop()


def seen_until(line: Line, holds: Callable[[dict[str, Any]], bool], seconds: float = 30.0) -> list[dict[str, Any]]:
    """Lines up to the one that fits."""
    end = time.monotonic() + seconds
    found: list[dict[str, Any]] = []
    while True:
        told = line.read(max(0.1, end - time.monotonic()))
        assert told is not None, found
        found.append(told)
        if holds(told):
            return found


def states(told: dict[str, Any]) -> dict[str, str]:
    return {item["package"]: item["state"] for item in told.get("items", ())}


def slow_program(marker: Path, seconds: float) -> dict[str, Program]:
    return {"install": Program(argv=("/bin/sh", "-c", f"sleep {seconds}; echo installed >> {marker}"), estimated_s=5)}


def test_a_watcher_sees_all_at_first_and_each_change_then(
    resident: Resident, site: StaticSite, client: Client, marker: Path
) -> None:
    line = Line(resident, ANNA, WATCH)
    first = line.read()
    assert (first["answer"], first["items"]) == ("items", [])
    site.order(client.client_id, [client.mandatory(site.package(marker, programs=slow_program(marker, 1.5)))])
    resident.ask("sync")
    told = seen_until(line, lambda told: states(told).get("viewer") == "succeeded")
    running = [item for each in told for item in each.get("items", ()) if item["state"] == "running"]
    assert running[0]["started"]
    assert running[0]["estimated_s"] == 5
    assert "run" in {item["step"] for item in running}
    line.close()


def test_bytes_are_told_while_they_come(resident: Resident, client: Client, site: StaticSite, marker: Path) -> None:
    """The worker's note stands in for a long download: what it says reaches the watcher, and its end does too."""
    order = client.mandatory(site.package(marker), purpose="optional", mandatory_after=None)
    site.order(client.client_id, [order], poll_after_s=3600)
    resident.ask("sync")
    resident.wait_until(lambda: children(resident) == 0 and ask_as(resident, ANNA, "list")["items"])
    resident.wait_until(lambda: children(resident) == 0)  # each check begins by taking away what an earlier one left
    line = Line(resident, ANNA, WATCH)
    line.read()
    first = _first_file(client, order.id)
    note = client.places.runtime / "progress"
    for done in (10, 20, 30):
        fresh = note.with_name(".fresh")
        fresh.write_text(f'{{"first":"{first}","files":1,"done":{done},"total":30,"rate":5.0,"left_s":1.0}}')
        fresh.replace(note)
        told = seen_until(line, lambda told: _transfer(told) is not None, 10)[-1]
        assert _transfer(told) == {"id": order.id, "done": done, "total": 30, "rate": 5.0, "left_s": 1.0}
    note.unlink()
    assert _transfer(seen_until(line, lambda told: _transfer(told) is None, 10)[-1]) is None
    line.close()


def _transfer(told: dict[str, Any]) -> dict[str, Any] | None:
    found: dict[str, Any] | None = told.get("transfer") or told.get("standing", {}).get("transfer")
    return found


def _first_file(client: Client, wanted: str) -> str:
    with State.open(client.places.state, utc_now(), repair=False) as state:
        record = Journal(state).record(wanted)
        return History(state).manifests([record.manifest_sha256])[record.manifest_sha256].files[0].sha256


def test_nobody_is_told_of_what_concerns_others_only(
    resident: Resident, site: StaticSite, client: Client, marker: Path
) -> None:
    theirs = client.mandatory(site.package(marker, name="theirs"), number=1, allowed_users=("bin",))
    all_of_us = client.mandatory(site.package(marker, name="ours", release=1), number=2)
    mine, others = Line(resident, ANNA, WATCH), Line(resident, BEN, WATCH)
    assert (mine.read()["items"], others.read()["items"]) == ([], [])
    site.order(client.client_id, [theirs, all_of_us])
    resident.ask("sync")
    told = seen_until(mine, lambda told: states(told).get("ours") == "succeeded")
    assert {item["package"] for each in told for item in each.get("items", ())} == {"ours"}
    seen_until(others, lambda told: states(told).get("theirs") == "succeeded")
    mine.close()
    others.close()


def test_a_pause_and_its_end_are_told(resident: Resident) -> None:
    line = Line(resident, ANNA, WATCH)
    assert "pause" not in line.read().get("standing", {})
    assert ask_as(resident, 0, "pause")["answer"] == "accepted"
    told = seen_until(line, lambda told: bool(told.get("standing", {}).get("pause")))[-1]
    assert told["standing"]["hold_code"] == "wait.paused"
    assert ask_as(resident, 0, "resume")["answer"] == "accepted"
    seen_until(line, lambda told: "standing" not in told or not told["standing"].get("pause"))
    line.close()


def children(resident: Resident) -> int:
    path = Path(f"/proc/{resident.process.pid}/task/{resident.process.pid}/children")
    return len(path.read_text().split())


def test_it_ends_with_its_watcher(resident: Resident) -> None:
    resident.wait_until(lambda: children(resident) == 0)
    line = Line(resident, ANNA, WATCH)
    line.read()
    assert children(resident) == 1
    line.close()
    resident.wait_until(lambda: children(resident) == 0)


def test_whoever_talks_while_watching_is_left(resident: Resident) -> None:
    line = Line(resident, ANNA, WATCH)
    line.read()
    line.connection.sendall(b'{"verb":"list"}\n')
    assert line.read() is None
    line.close()


def test_it_ends_with_the_service_and_holds_its_end_up_for_nobody(resident: Resident) -> None:
    line = Line(resident, ANNA, WATCH)
    line.read()
    began = time.monotonic()
    assert resident.stop() == 0
    assert line.read() is None
    assert time.monotonic() - began < 8, "less than the ten seconds after which a service is given up"
    line.close()


def test_one_user_has_two_places_and_all_users_four(resident: Resident) -> None:
    lines = [Line(resident, user_id, WATCH) for user_id in (ANNA, ANNA, BEN, BEN)]
    assert [line.read()["answer"] for line in lines] == ["items"] * 4
    for user_id in (ANNA, 65534):
        late = Line(resident, user_id, WATCH)
        told = late.read()
        assert (told["answer"], told["code"]) == ("error", "local.busy")
        late.close()
        assert ask_as(resident, user_id, "list")["answer"] == "items", "asking is still answered"
    administrator = Line(resident, 0, WATCH)
    assert administrator.read()["answer"] == "items"
    for line in (*lines, administrator):
        line.close()
    resident.wait_until(lambda: children(resident) == 0)
    again = Line(resident, ANNA, WATCH)
    assert again.read()["answer"] == "items"
    again.close()


def test_killed_in_the_middle_it_leaves_its_place_free(resident: Resident) -> None:
    resident.wait_until(lambda: children(resident) == 0)
    lines = [Line(resident, ANNA, WATCH) for _ in range(watching.PER_USER)]
    for line in lines:
        line.read()
    path = Path(f"/proc/{resident.process.pid}/task/{resident.process.pid}/children")
    for number in path.read_text().split():
        os.kill(int(number), 9)
    resident.wait_until(lambda: children(resident) == 0)
    again = Line(resident, ANNA, WATCH)
    assert again.read()["answer"] == "items"
    for line in (*lines, again):
        line.close()


def test_while_nothing_happens_a_watcher_costs_next_to_nothing(resident: Resident) -> None:
    resident.wait_until(lambda: children(resident) == 0)
    line = Line(resident, ANNA, WATCH)
    line.read()
    [number] = Path(f"/proc/{resident.process.pid}/task/{resident.process.pid}/children").read_text().split()

    def spent() -> int:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    time.sleep(1)
    before = spent()
    time.sleep(3)
    assert spent() - before <= 0.05 * os.sysconf("SC_CLK_TCK") * 3, "at most a twentieth of one processor"
    line.close()
