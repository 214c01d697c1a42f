"""What an administrator says about times and people when a job is ordered, and how a recurring job is shown."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from pcm.model.assignment import State
from pcm.protocol.report import Outcome
from tests.integration.cli.conftest import Pcm, ServedSite
from tests.integration.cli.test_orders import answer_json, enrol, hello, post_signed

__all__ = ["hello"]
WHEN = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2, hours=1)


def test_every_option_about_people_stands_in_the_order(pcm: Pcm, served: ServedSite, hello: str) -> None:
    enrol(pcm, served, "pc-people")
    said = ["--no-notify", "--busy", "ignore", "--blocking", "close", "--restart", "never"]
    order = answer_json(pcm("job", "create", hello, "-g", "all", "-p", "MODE=b", *said, "--json"))["order"]
    assert isinstance(order, dict)
    assert {name: order.get(name) for name in ("notify", "busy_policy", "blocking_policy", "restart_policy")} == {
        "notify": {"show": False},
        "busy_policy": "ignore",
        "blocking_policy": "close",
        "restart_policy": "never",
    }
    order = answer_json(pcm("job", "create", hello, "-g", "all", "-p", "MODE=b", "--countdown", "10m", "--json"))[
        "order"
    ]
    assert isinstance(order, dict)
    assert order["notify"] == {"countdown_s": 600}


def test_q141192_a_recurring_job_shows_its_last_and_its_next_time(pcm: Pcm, served: ServedSite, hello: str) -> None:
    client = enrol(pcm, served, "pc-recurs")
    times = ("--offer-after", WHEN.isoformat(), "--expires-after", (WHEN + timedelta(hours=8)).isoformat())
    made = pcm("job", "create", hello, "-g", "all", "-p", "MODE=b", "--recurs", "FREQ=DAILY", *times, "--json")
    job = str(answer_json(made)["id"])
    last, following = WHEN + timedelta(days=2), WHEN + timedelta(days=3)
    name = f"{job}.{client.client_id[:12]}"
    outcome = Outcome(name, job, 1, State.SUCCEEDED, datetime.now(UTC), occurrence=last)
    post_signed(f"{served.url}/logon/reports", client.report("lab", outcomes=(outcome,)), client)

    shown = pcm("job", "show", job).out
    for text in (
        "FREQ=DAILY; each time expires 8 hours after",
        f"{last:%Y-%m-%d %H:%M} (UTC)",
        f"{following:%Y-%m-%d %H:%M}",
    ):
        assert text in shown
    detail = json.loads(pcm("job", "show", job, "--json").out)
    mine = next(each for each in detail["assignments"]["items"] if each["host_name"] == "pc-recurs")
    assert datetime.fromisoformat(mine["occurrence"]) == last
    assert detail["job"]["state"] == "active"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (("--recurs", "FREQ=MINUTELY"), "HOURLY is the most"),
        (("--recurs", "FREQ=DAILY"), "say when that is"),
        (("--no-notify", "--countdown", "5m"), "only delays"),
    ],
)
def test_q174933_what_contradicts_itself_is_refused_before_anything_is_ordered(
    pcm: Pcm, hello: str, said: tuple[str, ...], why: str
) -> None:
    answer = pcm("job", "create", hello, "-g", "all", "-p", "MODE=b", *said)
    assert answer.code == 1
    assert why in answer.err
