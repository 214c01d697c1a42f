"""A client whose logon servers are all shares: it reads, and says why its reports wait."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from pcm.model.errors import TransferError
from pcm.model.facts import Facts
from pcm.protocol.enrolment import ClientConfiguration
from pcm.service.enrolment import ask_site
from pcm.service.identity import Identity
from pcm.service.outbox import Outbox, takes_reports
from pcm.service.places import find_places
from pcm.service.share_client import ShareClient
from pcm.service.sources import LOGON, Network, Servers
from pcm.service.state import State
from pcm.service.views import show_status
from pcm.transport.channel import Channel
from pcm.transport.framing import Settings
from pcm.trust import envelopes

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SHARE = "smb://files.example.org/pcm/logon"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path / "state", NOW) as opened:
        yield opened


def configuration(*logon: str) -> ClientConfiguration:
    return ClientConfiguration(
        site="hq", logon=logon, distribution=("/distribution",), instructions_root="{}", packages_root="{}"
    )


def identity() -> Identity:
    key = generate_private_key(SECP256R1())
    return Identity(key, envelopes.client_id_of(key.public_key()))


def nobody() -> Channel:
    pytest.fail("no transfer process is needed")


def network(tmp_path: Path, who: Identity) -> Network:
    return Network(ShareClient(nobody, Settings(), find_places(tmp_path), lambda: NOW), who, lambda: NOW)


def test_reports_wait_and_nothing_is_held_against_the_server(state: State, tmp_path: Path) -> None:
    who, configured = identity(), configuration(SHARE)
    outbox = Outbox(state, who, configured, "boot")
    outbox.write(Facts("pc-1", "linux-x86_64"), 0, NOW)
    servers = Servers(state, LOGON, (), configured.logon)
    sent = outbox.send(network(tmp_path, who), servers, lambda: NOW)
    assert (sent.acknowledged, sent.waiting) == (0, 1)
    assert sent.error is not None
    assert sent.error.code == "transfer.read_only"
    assert servers.health == {}
    assert "take no reports" in show_status(state, configured, who.client_id, NOW).unreported_why


def test_with_an_https_server_beside_it_there_is_nothing_to_say(state: State) -> None:
    configured = configuration(SHARE, "https://pcm.example.org/logon")
    assert show_status(state, configured, "0" * 32, NOW).unreported_why == ""
    assert [takes_reports(server) for server in configured.logon] == [False, True]


def test_nobody_enrols_over_a_share(tmp_path: Path) -> None:
    who = identity()
    with pytest.raises(TransferError, match="is a share, which cannot enrol anybody"):
        ask_site(network(tmp_path, who), configuration(SHARE), who, None)
