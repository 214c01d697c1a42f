"""`pcmsvc simulate` on a real client: the plan of another time, and nothing done."""

from datetime import datetime, timedelta
from pathlib import Path

from pcm.service.state import State
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.unit.trust.simulated import utc_now


def test_it_tells_what_starts_when_and_leaves_everything_as_it_is(
    site: StaticSite, client: Client, marker: Path
) -> None:
    now = utc_now().replace(microsecond=0)
    wanted = client.mandatory(site.package(marker), offer_after=now, mandatory_after=now + timedelta(hours=2))
    site.order(client.client_id, [wanted])
    client.once()
    before = (client.home / "var" / "state.db").read_bytes()

    early = client.answer("simulate", "--at", "+1h")
    assert [(each["action"], each["code"]) for each in early["plan"]] == [("wait", "wait.deadline")]
    [start] = early["starts"]
    assert datetime.fromisoformat(start["at"]) == now + timedelta(hours=2)
    late = client.run("simulate", "--at", "+3h").stdout
    assert "as if nothing happened until then" in late
    assert "It is due." in late

    assert not marker.exists()
    assert (client.home / "var" / "state.db").read_bytes() == before
    with State.open(client.home / "var", utc_now()) as state:
        assert state.rows("SELECT count(*) FROM runs") == [(0,)]


def test_a_time_that_is_none_is_said_so(client: Client) -> None:
    assert "is no time" in client.run("simulate", "--at", "soon", code=2).stderr
    passed = client.run("simulate", "--at", "2020-01-01T00:00Z", code=2).stderr
    assert "'2020-01-01T00:00Z' has passed: this looks ahead. `pcmsvc log`" in passed
