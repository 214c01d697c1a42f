"""One logon server that holds a newer root back does not decide: the others are asked once a day."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.service.enrolment import install
from pcm.service.inbox import ROOTS_ASKED
from pcm.service.records import to_text
from pcm.service.state import State
from pcm.trust import roots
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.unit.trust.simulated import named, utc_now


class Two:
    """The site's own logon folder, and an older copy of it on a server that its thief looks after."""

    def __init__(self, site: StaticSite, client: Client) -> None:
        self.site, self.client = site, client
        self.thief = site.folder / "thief"
        site.order(client.client_id, [])
        shutil.copytree(site.logon_folder, self.thief)
        install(client.places, site.configuration(logon=(f"file://{self.thief}", f"file://{site.logon_folder}")))
        assert client.once()["problem"] is None
        assert self.last_server() == f"file://{self.thief}"

    def revoke_policy_key(self) -> None:
        """The keepers take the stolen key away, and the site goes on with another."""
        site = self.site
        staged = site.next_root(roots.INSTRUCTIONS)
        staged.remove_key("targets", site.policy_key.public_key.keyid)
        site.policy_key = named("policy-after-theft")
        staged.add_key("targets", site.policy_key.public_key)
        site.release_root(roots.INSTRUCTIONS, site.sign_root(staged))
        site.order(self.client.client_id, [])

    def next_day(self) -> None:
        with State.open(self.client.places.state, utc_now()) as state:
            state.set_meta(ROOTS_ASKED, to_text(utc_now() - timedelta(hours=25)))

    def last_server(self) -> str:
        with State.open(self.client.places.state, utc_now()) as state:
            return state.meta("last_server")


@pytest.fixture
def two(site: StaticSite, client: Client) -> Two:
    return Two(site, client)


def test_a_root_that_one_server_holds_back_is_found_at_another_within_a_day(two: Two) -> None:
    two.revoke_policy_key()
    two.client.once()
    assert two.last_server() == f"file://{two.thief}"  # it has no reason to doubt yet
    two.next_day()
    assert two.client.once()["problem"] is None
    assert two.last_server() == f"file://{two.site.logon_folder}"
    assert any(code.startswith("trust.") for code in two.client.refusals())
    two.client.once()
    assert two.last_server() == f"file://{two.site.logon_folder}"  # and it stays so


def test_they_are_asked_once_a_day(two: Two) -> None:
    two.revoke_policy_key()
    for _ in range(3):
        two.client.once()
    assert two.last_server() == f"file://{two.thief}"


@pytest.mark.parametrize("forge", ["garbage", "unsigned", "another role"])
def test_a_server_that_shows_a_forged_root_changes_nothing_but_what_is_known_of_it(two: Two, forge: str) -> None:
    site = two.site
    forged = Path(site.logon_folder / "roots" / "2.root.json")
    if forge == "garbage":
        forged.write_bytes(b"\xff{}")
    elif forge == "unsigned":
        staged = site.next_root(roots.INSTRUCTIONS)
        staged.sign(site.keepers[0])
        forged.write_bytes(staged.to_bytes())
    else:
        forged.write_bytes((site.logon_folder / "clients" / two.client.client_id / "timestamp.json").read_bytes())
    two.next_day()
    assert two.client.once()["problem"] is None
    assert two.last_server() == f"file://{two.thief}"
    assert "trust.rogue_root" in two.client.refusals()
    assert two.client.once()["problem"] is None


def test_a_server_that_does_not_answer_is_no_trouble(two: Two) -> None:
    shutil.rmtree(two.site.logon_folder)
    two.next_day()
    assert two.client.once()["problem"] is None
    assert two.client.refusals() == []
