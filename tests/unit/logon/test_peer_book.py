"""Who learns of whom: clients of one subnet, of one place, and nothing but address and port."""

import random
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.logon.peers import KEPT_S, PeerBook
from pcm.model.errors import RequestError
from pcm.protocol.peers import MAX_BYTES, MOST_PEERS, PeerAddress, read_peers

DAY = 86_400.0


def book() -> PeerBook:
    return PeerBook(random.Random(1))


def ask(known: PeerBook, client: str, at: str, source: str = "", now: float = 0.0, port: int = 8441) -> set[str]:
    query = f"port={port}&at={at}".encode()
    return {peer.address for peer in read_peers(known.ask(client, source or at.partition("-")[0], query, now)).peers}


def test_clients_of_one_subnet_learn_of_each_other_and_of_nobody_else() -> None:
    known = book()
    assert ask(known, "a", "10.0.0.1-24") == set()
    assert ask(known, "b", "10.0.0.2-24") == {"10.0.0.1"}
    assert ask(known, "c", "10.0.1.3-24") == set()
    assert ask(known, "d", "10.0.0.4-16") == set()  # a subnet of another size is another subnet
    assert ask(known, "a", "10.0.0.1-24") == {"10.0.0.2"}


def test_nothing_but_address_and_port_is_told() -> None:
    known = book()
    ask(known, "c0ffee", "10.0.0.1-24")
    told = known.ask("b", "10.0.0.2", b"port=9000&at=10.0.0.2-24", 0.0)
    assert msgspec.json.decode(told) == {"peers": [{"address": "10.0.0.1", "port": 8441}]}


def test_two_branches_with_the_same_private_addresses_are_two_places() -> None:
    known = book()
    ask(known, "a", "192.168.1.10-24", source="203.0.113.5")
    assert ask(known, "b", "192.168.1.11-24", source="198.51.100.7") == set()
    assert ask(known, "c", "192.168.1.12-24", source="203.0.113.9") == {"192.168.1.10"}


def test_nobody_can_send_others_to_a_stranger() -> None:
    known = book()
    ask(known, "liar", "8.8.8.8-24", source="10.0.0.66")
    ask(known, "liar2", "10.0.0.66-24,127.0.0.1-8,169.254.1.1-16,224.0.0.1-8,0.0.0.0-8", source="10.0.0.66")
    assert ask(known, "a", "8.8.8.9-24", source="8.8.8.9") == set()
    assert ask(known, "b", "127.0.0.2-8,169.254.1.2-16,224.0.0.2-8,10.0.0.2-24", source="10.0.0.2") == {"10.0.0.66"}


def test_an_address_of_the_public_network_counts_if_the_request_came_from_it() -> None:
    known = book()
    ask(known, "a", "203.0.114.5-24", source="203.0.114.5")
    assert ask(known, "b", "203.0.114.6-24", source="::ffff:203.0.114.6") == {"203.0.114.5"}


def test_at_most_64_are_told_and_not_always_the_same() -> None:
    known = book()
    for number in range(200):
        ask(known, f"client{number}", f"10.0.0.{number + 1}-24")
    first, second = (ask(known, "client0", "10.0.0.1-24") for _ in range(2))
    assert len(first) == len(second) == MOST_PEERS
    assert first != second


def test_a_subnet_of_a_hundred_thousand_costs_a_question_next_to_nothing() -> None:
    """All of them may ask at once, and the logon server has one processor for it."""
    known = book()
    everybody = {
        str(number): PeerAddress(f"10.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", 8441)
        for number in range(100_000)
    }
    ask(known, "first", "10.0.0.1-8")
    [place] = known._places
    known._places[place].update(everybody)
    began = time.process_time()
    for number in range(20):
        assert len(ask(known, "asks", f"10.0.1.{number}-8")) == MOST_PEERS
    assert time.process_time() - began < 0.2


def test_a_day_without_a_poll_and_it_is_forgotten_a_poll_from_elsewhere_and_at_once() -> None:
    known = book()
    ask(known, "a", "10.0.0.1-24")
    ask(known, "b", "10.0.0.2-24")
    known.note_poll("a", "10.0.0.1", KEPT_S - 10)
    assert ask(known, "c", "10.0.0.3-24", now=KEPT_S + 10) == {"10.0.0.1"}
    known.note_poll("a", "10.9.9.9", KEPT_S + 20)
    known.note_poll("nobody", "10.9.9.9", KEPT_S + 20)
    assert ask(known, "c", "10.0.0.3-24", now=KEPT_S + 30) == set()


@pytest.mark.parametrize(
    "query", [b"", b"port=80&at=10.0.0.1-24", b"port=70000&at=10.0.0.1-24", b"at=10.0.0.1-24", b"port=8441&at=", b"port=8441&at=host",
              b"port=8441&at=10.0.0.1-24&x=1", b"port=8441&at=" + b"1" * 600],
)  # fmt: skip
def test_anything_else_is_refused(query: bytes) -> None:
    with pytest.raises(RequestError):
        book().ask("a", "10.0.0.1", query, 0.0)


@given(st.text("0123456789abcdef.:,-", min_size=1, max_size=100), st.text("0123456789abcdef.:", max_size=30))
def test_whatever_is_said_hurts_nobody(at: str, source: str) -> None:
    known = book()
    known.ask("a", source, f"port=8441&at={at}".encode(), 0.0)
    known.ask("a", source, f"port=8441&at={at}".encode(), 1.0)
    assert len(known) == 1


@pytest.mark.parametrize("data", [b"", b"[]", b'{"peers": [{"address": "1", "port": 8441}]}', b'{"peers": [{"address": "10.0.0.1", "port": 80}]}',
                                  b" " * (MAX_BYTES + 1)])  # fmt: skip
def test_a_servers_list_is_read_within_bounds(data: bytes) -> None:
    with pytest.raises(RequestError):
        read_peers(data)
    assert PeerAddress("10.0.0.1", 8441)
