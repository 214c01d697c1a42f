"""Orders that recur, and orders that another one makes needless: from the administrator to the client and back, on both databases."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.fleet import Client, Site, served_site


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    database = None if request.param == "sqlite" else request.getfixturevalue("postgresql_server").create_database()
    with served_site(database) as made:
        yield made


@pytest.fixture
def client(site: Site, request: pytest.FixtureRequest) -> Client:
    return site.enrol(request.node.originalname.replace("_", "-")[:60])


def test_q141192_a_recurring_job_runs_for_its_latest_time_once_and_stays_ordered(site: Site, client: Client) -> None:
    site.make_package("weekly")
    first = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3, hours=1)
    times = ("--offer-after", first.isoformat(), "--expires-after", (first + timedelta(hours=8)).isoformat())
    job = site.order("weekly", "--recurs", "FREQ=DAILY", *times, group=client.home.name)
    for _ in range(3):
        client.once()
    assert [line for line in site.ran() if line.startswith("weekly")] == ["weekly 1.0 install quick"]
    shown = site.json("job", "show", job)
    [row] = shown["assignments"]["items"]
    assert (shown["job"]["state"], row["state"]) == ("active", "succeeded")
    assert datetime.fromisoformat(row["occurrence"]) == first + timedelta(days=3)
    client.wait_for(job)
    item = client.item(job)
    assert item["state"] == "succeeded"
    assert datetime.fromisoformat(item["next_at"]) == first + timedelta(days=4)
    foreseen = client.pcmsvc_json("simulate", "--at", "+12h", "--starts", "2")["starts"]
    assert [datetime.fromisoformat(each["at"]) for each in foreseen] == [first + timedelta(days=day) for day in (4, 5)]
    site.pcm("job", "cancel", job, "--yes")
    client.wait_for(job, gone=True)
    client.once()
    assert site.json("job", "show", job)["job"]["state"] == "cancelled"


def test_of_two_orders_only_the_one_that_takes_the_others_place_is_carried_out(site: Site, client: Client) -> None:
    for name, more in (("older", ""), ("newer", "supersedes: [older]\n")):
        site.make_package(name, more=more)
    jobs = [site.order(name, group=client.home.name) for name in ("older", "newer")]
    client.once()
    client.once()  # the site names the newer one no longer, and still the older one does not come back
    assert [line for line in site.ran() if line.startswith(("older", "newer"))] == ["newer 1.0 install quick"]
    assert [site.job_states(job)[client.client_id] for job in jobs] == ["not_applicable", "succeeded"]
    why = client.why(jobs[0])
    assert "superseded" in why
