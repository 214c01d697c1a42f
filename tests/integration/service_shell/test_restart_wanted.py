"""The whole service, as real processes, when a program asks for a restart: what a trial does, which leaves the computer alone.

Restarts that come: `tests/e2e/test_host_restart.py`.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pcm.model.detection import FileDetection
from pcm.model.program import ExitCodes, Program
from pcm.service.machine.linux import clock
from pcm.service.records import to_text
from pcm.service.state import State
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.unit.trust.simulated import utc_now


@pytest.fixture
def asking(site: StaticSite, client: Client, marker: Path) -> Client:
    """A client on which a program has asked for a restart, and nothing was decided yet."""
    codes = ExitCodes(success=(1,), restart=(0,))
    program = Program(argv=("setup.sh",), detect=FileDetection(str(marker)), exit_codes=codes)
    manifest = site.package(marker, programs={"install": program})
    site.order(client.client_id, [client.mandatory(manifest)])
    return client


def wanted(client: Client) -> dict[str, Any] | None:
    found: dict[str, Any] | None = client.answer("status").get("standing", {}).get("restart")
    return found


def rows(client: Client, query: str) -> list[tuple[Any, ...]]:
    with State.open(client.places.state, utc_now()) as state:
        return state.rows(query)


def write(client: Client, statement: str, values: Sequence[object]) -> None:
    with State.open(client.places.state, utc_now()) as state, state.transaction() as connection:
        connection.execute(statement, values)


def test_a_trial_shows_that_a_restart_is_wanted_and_leaves_the_computer_alone(asking: Client) -> None:
    asking.once()
    assert asking.items()["viewer"]["state"] == "restart_pending"
    shown = wanted(asking)
    assert shown is not None
    assert (shown["packages"][0].startswith("viewer "), shown["policy"]) == (True, "ask")
    assert rows(asking, "SELECT begun, ended FROM restarts") == [(None, None)]


def test_q164329_another_boot_ends_it_and_the_site_hears_of_it_once(asking: Client, site: StaticSite) -> None:
    asking.once()
    for table, column in (("restarts", "boot_id"), ("instructions", "restart_boot_id")):
        write(asking, f"UPDATE {table} SET {column} = ?", ("0" * 32 + "-1",))
    for _ in range(2):
        asking.once()
    assert asking.items()["viewer"]["state"] == "succeeded"
    assert wanted(asking) is None
    assert rows(asking, "SELECT outcome FROM restarts") == [("restarted",)]
    assert asking.answer("ledger")["total"] == 1
    reports = list((site.logon_folder / "reports").glob(f"{asking.client_id}.*.json"))
    assert len(reports) == 2, "that it waits for the restart, and what came of it"


def test_nothing_begins_while_the_computer_goes_down(asking: Client, site: StaticSite, marker: Path) -> None:
    asking.once()
    write(asking, "UPDATE restarts SET begun = ?, boot_id = ?", (to_text(utc_now()), clock.boot_id()))
    other = site.package(marker, name="other", release=6)
    site.order(asking.client_id, [asking.mandatory(other, number=2)])
    checked = asking.once()
    assert checked["next_check_s"] > 60
    assert marker.read_text() == "installed\n"
    write(asking, "UPDATE restarts SET begun = ?", (to_text(utc_now() - timedelta(minutes=11)),))
    asking.once()
    assert marker.read_text() == "installed\ninstalled\n", "it did not go down, so work goes on"
    assert rows(asking, "SELECT outcome FROM restarts ORDER BY seq") == [("not_happened",), ("",)]
