"""The resident service's side of the server for peers: what it opens, for whom, and what a server taken over can ask of it."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcm.model.package import PackageFile
from pcm.peers.asking import Peer
from pcm.peers.broker import Broker, BrokerGone
from pcm.peers.sealing import seal
from pcm.peers.sharing import make_groups
from pcm.peers.subnets import Subnet, own_subnets
from pcm.peers.wire import ABSENT, COMING, HERE, LOOK, MAX_LOOK, OPEN, WANTED
from pcm.service.peer_fetching import Fetching
from pcm.service.peer_finding import choose
from pcm.service.peer_keeper import MOST_ASKED, Opener, PeerKeeper
from pcm.service.peer_orders import Orders, read_orders, write_file
from pcm.service.places import create_places, find_places

NAME = bytes(range(32))
CONTENT = b"what was packaged"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    place = tmp_path / "store" / NAME.hex()[:2]
    place.mkdir(parents=True)
    (place / NAME.hex()).write_bytes(CONTENT)
    return tmp_path / "store"


@pytest.fixture
def keeper(store: Path, tmp_path: Path) -> Iterator[tuple[PeerKeeper, list[str]]]:
    said: list[str] = []
    watched: dict[int, Callable[[], None]] = {}
    made = PeerKeeper(str(tmp_path), watched.__setitem__, watched.__delitem__, said.append)
    made._opener = Opener(str(store), str(tmp_path / "wants"))
    yield made, said
    made.stop()


def ask(keeper: PeerKeeper, packet: bytes) -> tuple[bytes | None, int]:
    return keeper._answer(packet)


def test_a_hash_is_opened_for_reading_and_nothing_else(keeper: tuple[PeerKeeper, list[str]]) -> None:
    answer, file = ask(keeper[0], OPEN + NAME)
    assert answer == HERE + b"\0"
    try:
        assert os.read(file, 100) == CONTENT
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(file, b"x")
    finally:
        os.close(file)
    assert ask(keeper[0], OPEN + bytes(32)) == (ABSENT + b"\0", -1)


@pytest.mark.parametrize(
    "packet", [b"", OPEN, LOOK, OPEN + NAME + NAME, OPEN + b"../../etc/passwd", b"list" + NAME, LOOK + NAME * (MAX_LOOK + 1), OPEN + NAME[:31]],
)  # fmt: skip
def test_what_no_honest_server_asks_is_answered_with_its_end(
    keeper: tuple[PeerKeeper, list[str]], packet: bytes
) -> None:
    assert ask(keeper[0], packet) == (None, -1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(packet=st.binary(max_size=200))
def test_any_packet_opens_a_file_of_the_store_or_none(keeper: tuple[PeerKeeper, list[str]], packet: bytes) -> None:
    _, file = ask(keeper[0], packet)
    if file >= 0:
        os.close(file)
        assert packet == OPEN + NAME


def test_whoever_asks_more_than_an_honest_one_is_ended(keeper: tuple[PeerKeeper, list[str]]) -> None:
    packet = LOOK + NAME * MAX_LOOK
    answered = 0
    while ask(keeper[0], packet)[0] is not None:
        answered += 1
        assert answered <= MOST_ASKED // MAX_LOOK
    assert answered == MOST_ASKED // MAX_LOOK


def test_what_a_check_wants_is_told_as_it_changes(store: Path, tmp_path: Path) -> None:
    places = find_places(tmp_path / "home")
    create_places(places)
    groups = make_groups([PackageFile("a", 9_000_000, "11" * 32), PackageFile("b", 9_000_000, "22" * 32)])
    fetching = Fetching(places, groups)
    opener = Opener(str(store), str(places.runtime / "peers.wanted"))
    names = [bytes.fromhex("11" * 32), bytes.fromhex("22" * 32), NAME, bytes(32)]
    picture = opener.look(names)
    assert picture.fetch == fetching.id
    assert [state for state, _ in picture.states] == [WANTED, WANTED, HERE, ABSENT]
    fetching.tell("22" * 32, COMING, 300)
    assert opener.look(names[:2]).states == ((WANTED, 0), (COMING, 44))
    fetching.end()
    assert [state for state, _ in opener.look(names).states] == [ABSENT, ABSENT, HERE, ABSENT]


@pytest.mark.parametrize(
    "text", ["", "pcm-peers 1", "pcm-peers 1\t0\t1\t1\t1\t/s", "pcm-peers 1\t8441\t-1\t1\t1\t/s", "pcm-peers 2\t8441\t1\t1\t1\t/s",
             "pcm-peers 1\t8441\t1\t1\t1\trelative", "pcm-peers 1\t8441\t1\t1\t1\t/s\tmore", "x" * 5000],
)  # fmt: skip
def test_orders_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "peers").write_text(text)
    assert read_orders(str(tmp_path / "peers")) is None


def test_orders_come_back_as_they_were_written(tmp_path: Path) -> None:
    orders = Orders(8441, 5, (1, 2), "/var/lib/pcm/store")
    write_file(str(tmp_path / "peers"), orders.encode())
    found = read_orders(str(tmp_path / "peers"))
    assert found is not None
    assert found.same(orders)
    assert read_orders(str(tmp_path / "none")) is None


def test_a_broker_takes_one_descriptor_and_an_end_is_an_end() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    broker = Broker(its.detach())
    with ours, open(os.devnull, "rb") as nothing:  # noqa: PTH123
        socket.send_fds(ours, [HERE + b"\0"], [nothing.fileno()])
        state, file = broker.open(NAME)
        os.close(file)
        assert state == HERE
        assert ours.recv(100) == OPEN + NAME
        ours.send(b"nonsense")
        with pytest.raises(BrokerGone):
            broker.look([NAME])
    with pytest.raises(BrokerGone):
        broker.open(NAME)
    broker.close()


def test_a_sealed_process_opens_and_connects_nothing() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        held: list[str] = ["sealed"] if "no_opening" in seal() else []
        for name, attempt in (
            ("open", lambda: os.open("/etc/hostname", os.O_RDONLY)),
            ("socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
            ("unix", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)),
            ("mkdir", lambda: Path("/tmp/never").mkdir()),
            ("unlink", lambda: Path("/tmp/never").unlink()),
            ("exec", lambda: os.execv("/bin/true", ["true"])),
        ):
            try:
                attempt()
            except PermissionError:
                held.append(name)
            except OSError as error:
                held.append(f"{name}:{error.errno}")
        os.write(writing, " ".join(held).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    told = os.read(reading, 1000).decode()
    os.close(reading)
    assert told.split() == ["sealed", "open", "socket", "unix", "mkdir", "unlink", "exec"]


NEAR = [Subnet(bytes((10, 0, 0, 5)), 24)]


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        (("10.0.0.6", 8441), True), (("10.0.0.5", 8441), False), (("10.0.1.6", 8441), False), (("10.0.0.6", 8442), False),
        (("10.0.0.6", 22), False), (("8.8.8.8", 8441), False), (("localhost", 8441), False), (("127.0.0.1", 8441), False),
        (("::1", 8441), False), (("10.0.0.6/24", 8441), False),
    ],
)  # fmt: skip
def test_a_lying_logon_server_sends_nobody_elsewhere(told: tuple[str, int], asked: bool) -> None:
    """Only into the own subnet, to the port that the signed policy names, and not to oneself."""
    assert choose([told], NEAR, 8441) == ([Peer("10.0.0.6", 8441)] if asked else [])


def test_the_kernel_tells_subnets_and_never_the_loopback() -> None:
    assert all(not subnet.holds(bytes((127, 0, 0, 1))) for subnet in own_subnets())
