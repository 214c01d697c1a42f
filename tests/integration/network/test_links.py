"""A client on a real network whose cables are cut: fail-over, work without any server, wake-up, addresses that come and go."""

import json
import time
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.protocol.instructions import Servers
from pcm.service.state import State
from tests.integration.network.conftest import Office
from tests.integration.network.namespaces import connections
from tests.unit.trust.simulated import utc_now

pytestmark = [pytest.mark.needs("network")]


def test_q153571_a_server_whose_cable_is_cut_is_passed_over_and_asked_again_later(office: Office) -> None:
    first, second, third = office.serve(3)
    here = office.lan.computer("client")
    office.site.order(office.client.client_id, [], poll_after_s=1800)
    office.check(here)
    assert (first.polls(), second.polls(), third.polls()) == (1, 0, 0)
    first.computer.cut()
    second.computer.swallow()  # nobody says no: only time tells
    began = time.monotonic()
    office.check(here)
    assert time.monotonic() - began < 45  # ten seconds for each that does not answer, and some
    assert third.polls() == 1
    office.check(here)  # both rest, and the one that answers is asked first
    assert third.polls() == 2
    first.computer.plug_in()
    asked = first.polls()

    def asked_again() -> bool:
        office.check(here)
        return first.polls() > asked

    office.wait_until(asked_again, 90)  # half a minute of rest, with jitter


def test_q188578_without_any_server_the_service_lives_and_does_what_it_knows(office: Office) -> None:
    """Work goes on from the verified instructions, and stops when their signatures have expired."""
    first, second = office.serve(2)
    here = office.lan.computer("client")
    soon, end, later = (utc_now() + timedelta(seconds=seconds) for seconds in (10, 35, 40))
    one = office.site.package(office.marker, name="one")
    two = office.site.package(office.marker, name="two")
    orders = [
        office.client.mandatory(one, number=1, mandatory_after=soon),
        office.client.mandatory(two, number=2, mandatory_after=later),
    ]
    office.site.order(office.client.client_id, orders, poll_after_s=1800, expires=end)
    office.start(here)
    office.wait_until(lambda: first.waits() == 1)
    here.cut()
    office.wait_until(office.marker.exists, 35)
    assert office.marker.read_text() == "installed\n"
    assert soon <= utc_now() < end
    office.wait_until(lambda: utc_now() > later + timedelta(seconds=12), 60)
    assert second.polls() == 0
    assert office.marker.read_text() == "installed\n"  # the second one's order had expired by then
    shown = office.client.items()["two"]
    assert shown["state"] != "succeeded"
    assert office.stop() == 0


def test_news_arrive_at_once_and_not_with_the_next_poll(office: Office) -> None:
    [server] = office.serve()
    here = office.lan.computer("client")
    office.site.order(office.client.client_id, [], poll_after_s=1800)
    office.start(here)
    office.wait_until(lambda: server.waits() and office.is_idle())
    time.sleep(1)
    asked = server.polls()
    office.site.order(
        office.client.client_id, [office.client.mandatory(office.site.package(office.marker))], poll_after_s=1800
    )
    assert office.wait_until(office.marker.exists) < 6
    assert server.polls() - asked <= 3
    office.wait_until(lambda: server.waits() >= 2)  # and it waits again


def test_nobody_is_spoken_to_by_the_resident_process(office: Office) -> None:
    """It holds the connection that a glance has left, and the kernel looks after it."""
    [server] = office.serve()
    here = office.lan.computer("client")
    office.site.order(office.client.client_id, [], poll_after_s=1800)
    office.start(here)
    office.wait_until(lambda: server.waits() and office.is_idle())
    [connection] = connections(here, server.computer)
    assert "timer:(keepalive," in connection
    assert connection.split()[:2] == ["0", "0"]  # nothing unread, nothing unsent


def test_q178662_the_network_comes_after_the_service(office: Office) -> None:
    [server] = office.serve()
    here = office.lan.computer("client", addressed=False)
    office.site.order(office.client.client_id, [office.client.mandatory(office.site.package(office.marker))])
    office.start(here)
    office.wait_until(lambda: (office.client.places.state / "last-check").exists() and office.is_idle(), 40)
    assert server.polls() == 0
    here.add_address()
    assert office.wait_until(office.marker.exists, 40) < 25  # and not after the pause that a failure costs


def test_a_change_of_address_is_noticed_and_the_connection_renewed(office: Office) -> None:
    [server] = office.serve()
    here = office.lan.computer("client")
    office.site.order(office.client.client_id, [], poll_after_s=1800)
    office.start(here)
    office.wait_until(lambda: server.waits() and office.is_idle())
    waits = server.waits()
    here.remove_address()
    here.add_address("10.77.0.200")
    office.wait_until(lambda: server.waits() > waits, 30)
    office.wait_until(office.is_idle)
    [connection] = connections(here, server.computer)
    assert "10.77.0.200:" in connection
    office.site.order(office.client.client_id, [office.client.mandatory(office.site.package(office.marker))])
    assert office.wait_until(office.marker.exists) < 6


def test_other_addresses_that_come_and_go_are_none_of_its_business(office: Office) -> None:
    """Containers, tunnels: the connection stands on another address, and stands."""
    [server] = office.serve()
    here = office.lan.computer("client")
    office.site.order(office.client.client_id, [], poll_after_s=1800)
    office.start(here)
    office.wait_until(lambda: server.waits() and office.is_idle())
    before = server.asked()
    for _ in range(20):
        here.add_address("10.77.0.201")
        here.remove_address("10.77.0.201")
        time.sleep(0.1)
    time.sleep(15)
    assert server.asked() == before


def test_an_address_that_flaps_costs_a_check_a_minute_at_most(office: Office) -> None:
    [server] = office.serve()
    here = office.lan.computer("client")
    office.site.order(office.client.client_id, [], poll_after_s=1800)
    office.start(here)
    office.wait_until(lambda: server.waits() and office.is_idle())
    before = len(server.asked())
    end = time.monotonic() + 25
    while time.monotonic() < end:
        here.remove_address()
        here.add_address()
        time.sleep(0.1)
    assert len(server.asked()) - before <= 8  # one check, even if it had to look at everything


def test_a_server_that_cries_wolf_gets_a_few_checks_and_then_hardly_any(office: Office) -> None:
    [server] = office.serve()
    here = office.lan.computer("client")
    office.site.order(office.client.client_id, [], poll_after_s=1800)
    office.check(here)
    office.check(here)
    liar = office.serve(1, manners="liar")[-1]
    office.configure(liar)
    office.site.order(office.client.client_id, [], poll_after_s=1800)
    office.start(here)
    time.sleep(25)
    assert 0 < liar.polls() <= 8  # two for each check without a note, and it is believed three times
    assert server.polls() <= 4


def test_q153288_preferred_servers_come_first_and_the_quickest_next(office: Office) -> None:
    preferred, slow, quick = office.serve(3, delays=(0.0, 0.4, 0.0))
    here = office.lan.computer("client")
    office.site.order(office.client.client_id, [], servers=Servers(logon=(preferred.url,)))
    office.check(here)
    assert preferred.polls() == 1
    office.configure(slow, quick)  # nobody prefers one of these two: each is asked once, in any order, and measured
    office.site.order(office.client.client_id, [], servers=Servers(logon=(preferred.url,)))
    preferred.computer.cut()
    for server, other in ((slow, quick), (quick, slow)):
        other.computer.cut()
        office.check(here)
        other.computer.plug_in()
        assert server.polls() >= 1
    office.wait_until(lambda: rested(office), 60)
    before = (slow.polls(), quick.polls())
    office.check(here)
    assert (slow.polls(), quick.polls()) == (before[0], before[1] + 1)


def rested(office: Office) -> bool:
    """Whether no server rests after a failure any more, but the preferred one."""
    with State.open(office.client.places.state, utc_now()) as state:
        known = json.loads(state.meta("servers.logon") or "{}")
    dues = [health[5] for url, health in known.items() if url != office.servers[0].url and health[5]]
    return all(due < utc_now().isoformat() for due in dues)


def test_q184858_refused_credentials_are_shown_once_to_each_server_and_then_rest(office: Office) -> None:
    """Whoever counts failed logons, to lock an account, never counts far."""
    servers = office.serve(2)
    here = office.lan.computer("client")
    office.site.order(office.client.client_id, [], poll_after_s=5)
    (office.site.logon_folder / "clients" / office.client.client_id / "client.pub").unlink()
    office.start(here)
    office.wait_until(lambda: all(server.polls() for server in servers))
    asked = [server.polls() for server in servers]
    assert asked == [1, 1]
    here.add_address("10.77.0.202")  # nor does a new address make it try again
    time.sleep(20)
    assert [server.polls() for server in servers] == asked
    assert all(line.endswith(" 403") for server in servers for line in server.asked())
    assert "transfer.refused" in office.client.refusals()


def test_no_namespace_is_left(office: Office) -> None:
    office.lan.computer("client")
    assert Path(f"/run/netns/{office.lan.switch}").exists()
