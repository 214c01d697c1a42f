"""The server for peers as a process: what it gives, to whom, and what strangers can cost it."""

import contextlib
import ctypes
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pcm.peers.connection import HEAD_S
from pcm.peers.server import MAX_CONNECTIONS, PER_ADDRESS, SENDING
from pcm.peers.wire import ABSENT, HERE, MAX_ASKED, WANTED, encode_wants, parse_picture
from pcm.service.peer_orders import ORDERS, WANTS, Orders, write_file
from tests.integration.network.namespaces import Computer, ip, lan

pytestmark = [pytest.mark.needs("network")]

ROOT = Path(__file__).resolve().parents[3]
PORT = 8441
MB = 1000 * 1000
SMALL, BIG = b"some content\n" * 100, os.urandom(40 * MB)


def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Peer:
    """A computer with a store and its keeper, and another one to ask from."""

    def __init__(self, stack: ExitStack, folder: Path, rate: int) -> None:
        self.lan = stack.enter_context(lan())
        self.computer, self.asker = self.lan.computer("peer"), self.lan.computer("asker")
        self.store, self.runtime = folder / "store", folder / "run"
        for place in (self.store, self.runtime):
            place.mkdir(mode=0o700)
        for content in (SMALL, BIG):
            self.put(content)
        self.log = folder / "log"
        write_file(str(self.runtime / ORDERS), Orders(PORT, rate, (64999, 64999), str(self.store)).encode())
        command = (sys.executable, "-m", "tests.integration.network.peer_keeper_process", str(self.runtime))
        with self.log.open("ab") as log:
            self.keeper = subprocess.Popen(self.computer.command(*command), cwd=ROOT, stdout=log, stderr=log)
        stack.callback(self.keeper.wait)
        stack.callback(self.keeper.kill)
        self.wait_until_it_serves()

    def wait_until_it_serves(self) -> None:
        end = time.monotonic() + 15
        while True:
            try:
                self.connect().close()
                if self.process:
                    return
            except OSError:
                pass
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def put(self, content: bytes) -> str:
        name = name_of(content)
        path = self.store / name[:2] / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
        return name

    def connect(self, source: Computer | None = None, address: str = "") -> socket.socket:
        return connect_from(source or self.asker, address or self.computer.address)

    @property
    def process(self) -> int:
        return int((self.runtime / "child").read_text())


def connect_from(computer: Computer, address: str, family: int = socket.AF_INET) -> socket.socket:
    """A connection of this process that begins on another computer: a thread goes there and comes back with it."""
    made: list[socket.socket | OSError] = []

    def go() -> None:
        place = os.open(f"/run/netns/{computer.namespace}", os.O_RDONLY)
        try:
            assert ctypes.CDLL(None, use_errno=True).setns(place, 0x40000000) == 0
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(20)
        finally:
            os.close(place)
        try:
            sock.connect((address, PORT))
            made.append(sock)
        except OSError as error:
            sock.close()
            made.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def read_answer(sock: socket.socket, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError("it closed the connection")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    length = int(headers["content-length"]) if body else 0
    while len(rest) < length:
        more = sock.recv(1 << 20)
        if not more:
            break
        rest += more
    return int(first.split()[1]), headers, rest


def ask(sock: socket.socket, name: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    sock.sendall("\r\n".join((f"{method} /pcm/1/files/{name} HTTP/1.1", "Host: x", *headers, "", "")).encode())
    return read_answer(sock, body=method == "GET")


def look(sock: socket.socket, *names: str) -> list[bytes]:
    body = b"".join(map(bytes.fromhex, names))
    sock.sendall(f"POST /pcm/1/have HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    status, _, said = read_answer(sock)
    assert status == 200
    return [state for state, _ in parse_picture(said, len(names)).states]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with ExitStack() as stack:
        yield Peer(stack, tmp_path_factory.mktemp("peer"), 400 * MB)


def test_a_file_comes_whole_and_in_ranges_on_one_connection(peer: Peer) -> None:
    with peer.connect() as sock:
        status, headers, body = ask(sock, name_of(BIG))
        assert (status, name_of(body), headers["content-length"]) == (200, name_of(BIG), str(len(BIG)))
        status, headers, body = ask(sock, name_of(BIG), "Range: bytes=1000-1999")
        assert (status, body) == (206, BIG[1000:2000])
        assert headers["content-range"] == f"bytes 1000-1999/{len(BIG)}"
        assert ask(sock, name_of(BIG), f"Range: bytes={len(BIG) - 5}-")[::2] == (206, BIG[-5:])
        assert ask(sock, name_of(BIG), f"Range: bytes={len(BIG)}-")[0] == 416
        assert ask(sock, name_of(SMALL), method="HEAD")[:2][0] == 200
        assert ask(sock, name_of(SMALL))[::2] == (200, SMALL)


def test_it_tells_what_it_has_what_it_wants_and_nothing_of_what_it_was_not_asked(peer: Peer) -> None:
    unknown, wanted = name_of(b"unknown"), name_of(b"wanted")
    write_file(str(peer.runtime / WANTS), encode_wants(b"i" * 16, [bytes.fromhex(wanted)]))
    try:
        with peer.connect() as sock:
            assert look(sock, name_of(SMALL), unknown, wanted) == [HERE, ABSENT, WANTED]
            assert ask(sock, unknown)[0] == 404
            status, headers, _ = ask(sock, wanted)
            assert (status, headers["retry-after"]) == (503, "1")
    finally:
        (peer.runtime / WANTS).unlink()
    with peer.connect() as sock:
        assert look(sock, wanted) == [ABSENT]


@pytest.mark.parametrize(
    "path", ["/", "/pcm/1/files/", "/pcm/1/files/../../../../etc/passwd", "/pcm/1/files/%2e%2e/state.db", "/pcm/1/have", "/etc/passwd",
             "/pcm/1/files/ab", "//"],
)  # fmt: skip
def test_nothing_but_a_hash_names_anything(peer: Peer, path: str) -> None:
    with peer.connect() as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        assert read_answer(sock)[::2] == (404, b"")
        assert sock.recv(1) == b""


def test_a_link_or_a_device_in_the_store_is_not_followed(peer: Peer, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    name = name_of(b"a link")
    place = peer.store / name[:2]
    place.mkdir(exist_ok=True)
    (place / name).symlink_to(secret)
    other = name_of(b"a pipe")
    (peer.store / other[:2]).mkdir(exist_ok=True)
    os.mkfifo(peer.store / other[:2] / other)
    with peer.connect() as sock:
        assert ask(sock, name)[0] == 404
        assert ask(sock, other)[0] == 404


def test_only_neighbours_are_served(peer: Peer) -> None:
    """From behind a router, with an address of another subnet, and by an address that is routed to it."""
    far = peer.lan.computer("far", addressed=False)
    ip("-n", far.namespace, "address", "add", "10.99.0.5/24", "dev", "eth0")
    ip("-n", far.namespace, "route", "add", "10.77.0.0/24", "dev", "eth0")
    ip("-n", peer.computer.namespace, "route", "add", "10.99.0.0/24", "dev", "eth0")
    with peer.connect(far) as sock:
        sock.settimeout(5)
        try:
            sock.sendall(f"GET /pcm/1/files/{name_of(SMALL)} HTTP/1.1\r\n\r\n".encode())
            assert sock.recv(10) == b""
        except ConnectionError:
            pass
    ip("-n", peer.computer.namespace, "address", "add", "10.99.0.1/24", "dev", "eth0")  # now it is one
    time.sleep(5.5)
    with peer.connect(far) as sock:
        assert ask(sock, name_of(SMALL))[0] == 200


def test_its_packets_do_not_cross_a_router(peer: Peer) -> None:
    router = peer.lan.computer("router")
    ip(
        "-n",
        router.namespace,
        "link",
        "add",
        "lan2",
        "type",
        "veth",
        "peer",
        "name",
        "eth1",
        "netns",
        peer.asker.namespace,
    )
    ip("-n", router.namespace, "address", "add", "10.98.0.1/24", "dev", "lan2")
    ip("-n", router.namespace, "link", "set", "lan2", "up")
    router.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    ip("-n", peer.asker.namespace, "address", "add", "10.98.0.2/24", "dev", "eth1")
    ip("-n", peer.asker.namespace, "link", "set", "eth1", "up")
    ip("-n", peer.computer.namespace, "route", "add", "10.98.0.0/24", "via", router.address)
    try:
        ip(
            "-n",
            peer.asker.namespace,
            "route",
            "add",
            f"{peer.computer.address}/32",
            "via",
            "10.98.0.1",
            "src",
            "10.98.0.2",
        )
        began = time.monotonic()
        with pytest.raises(OSError, match=r"timed out|Host is unreachable|No route"):  # its answer ends at the router
            connect_briefly(peer)
        assert time.monotonic() - began < 30
    finally:
        ip("-n", peer.asker.namespace, "route", "delete", f"{peer.computer.address}/32")
        ip("-n", peer.asker.namespace, "link", "delete", "eth1")


def connect_briefly(peer: Peer) -> None:
    code = f"import socket; socket.create_connection(({peer.computer.address!r}, {PORT}), 4)"
    done = subprocess.run(
        peer.asker.command(sys.executable, "-c", code), check=False, capture_output=True, text=True, timeout=20
    )
    if done.returncode:
        raise OSError(done.stderr.splitlines()[-1])


def test_so_many_connections_and_no_more(peer: Peer) -> None:
    computers = [peer.lan.computer(f"many{number}") for number in range(MAX_CONNECTIONS // PER_ADDRESS + 2)]
    held: list[socket.socket] = []
    try:
        for computer in computers:
            held.extend(peer.connect(computer) for _ in range(PER_ADDRESS + 2))
        time.sleep(0.5)
        open_ones = 0
        for sock in held:
            sock.settimeout(3)
            try:
                open_ones += ask(sock, name_of(SMALL), "Range: bytes=0-1")[0] == 206
            except OSError:
                continue
        assert open_ones == MAX_CONNECTIONS
    finally:
        for sock in held:
            sock.close()
    time.sleep(0.5)
    with peer.connect() as sock:
        assert ask(sock, name_of(SMALL))[0] == 200


def test_who_asks_slowly_or_reads_slowly_is_cut(peer: Peer) -> None:
    began = time.monotonic()
    with peer.connect() as dripping, peer.connect() as sleeping:
        sleeping.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sleeping.sendall(f"GET /pcm/1/files/{name_of(BIG)} HTTP/1.1\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # broken, or reset
            while time.monotonic() - began < 60:
                dripping.sendall(b"G")
                time.sleep(0.5)
        assert time.monotonic() - began < HEAD_S + 5
        time.sleep(max(0.0, 24 - (time.monotonic() - began)))
        came = 0
        try:
            while more := sleeping.recv(1 << 20):
                came += len(more)
        except ConnectionError:
            pass
        assert came < len(BIG)


def test_more_at_once_than_it_sends_are_told_to_wait(peer: Peer) -> None:
    computers = [peer.lan.computer(f"busy{number}") for number in range(SENDING + 1)]
    held = []
    try:
        for computer in computers[:SENDING]:
            sock = peer.connect(computer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(f"GET /pcm/1/files/{name_of(BIG)} HTTP/1.1\r\n\r\n".encode())
            held.append(sock)
        time.sleep(1)
        with peer.connect(computers[-1]) as sock:
            status, headers, _ = ask(sock, name_of(SMALL))
            assert (status, headers["retry-after"]) == (503, "1")
    finally:
        for sock in held:
            sock.close()


def test_a_flood_of_questions_is_answered_no_quicker_than_the_service_bears(peer: Peer) -> None:
    body = os.urandom(32 * MAX_ASKED)
    request = f"POST /pcm/1/have HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    answered = refused = 0
    before = peer.process
    with peer.connect() as sock:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            sock.sendall(request)
            status, _, _ = read_answer(sock)
            answered, refused = answered + (status == 200), refused + (status == 503)
    assert 0 < answered <= 9
    assert refused > 10
    assert peer.process == before  # and the service did not have to end it
    time.sleep(11)  # the next test starts afresh


def test_nonsense_ends_the_connection_and_nothing_else(peer: Peer) -> None:
    before = peer.process
    for nonsense in (b"\0" * 5000, b"\x16\x03\x01" + os.urandom(600), b"POST /pcm/1/have HTTP/1.1\r\nContent-Length: 31\r\n\r\n", b"GET\r\n\r\n",
                     b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 500, os.urandom(4000)):  # fmt: skip
        with peer.connect() as sock:
            try:
                sock.sendall(nonsense)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            except ConnectionError:
                pass
    with peer.connect() as sock:
        assert ask(sock, name_of(SMALL))[0] == 200
    assert peer.process == before


def test_the_process_has_no_rights_and_little_memory(peer: Peer) -> None:
    with peer.connect() as sock:
        assert ask(sock, name_of(BIG))[0] == 200
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{peer.process}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == ["64999"] * 4
    assert status["Gid"].split() == ["64999"] * 4
    assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    memory = int(status["VmRSS"].split()[0]) // 1024
    sys.stdout.write(f"\nserver for peers: {memory} MiB resident\n")
    assert memory <= 20
    limits = Path(f"/proc/{peer.process}/limits").read_text()
    assert [line.split()[-3:-1] for line in limits.splitlines() if line.startswith("Max file size")] == [["0", "0"]]


def test_it_stops_with_the_orders_and_with_the_service(tmp_path: Path) -> None:
    with ExitStack() as stack:
        peer = Peer(stack, tmp_path, 100 * MB)
        process = peer.process
        (peer.runtime / ORDERS).unlink()
        wait_for_end(process)
        write_file(str(peer.runtime / ORDERS), Orders(PORT, 10**8, (64999, 64999), str(peer.store)).encode())
        peer.wait_until_it_serves()
        process = peer.process
        with peer.connect() as sock:
            assert ask(sock, name_of(SMALL))[0] == 200
        peer.keeper.send_signal(signal.SIGKILL)
        wait_for_end(process, reaped=False)


def wait_for_end(process: int, *, reaped: bool = True) -> None:
    """Args: `reaped`: by its parent; who inherits it from a parent that was killed may take long, and it is no matter of ours."""
    end = time.monotonic() + 10
    while (state := state_of(process)) and (reaped or state not in "ZX"):
        assert time.monotonic() < end, f"the server is still there: {state}"
        time.sleep(0.05)


def state_of(process: int) -> str:
    """As proc(5) has it; empty if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_everybody_together_gets_no_more_than_the_rate(tmp_path: Path) -> None:
    with ExitStack() as stack:
        peer = Peer(stack, tmp_path, 8 * MB)
        computers = [peer.lan.computer(f"reader{number}") for number in range(4)]
        came = [0] * 4

        def read(number: int) -> None:
            with peer.connect(computers[number]) as sock:
                sock.sendall(f"GET /pcm/1/files/{name_of(BIG)} HTTP/1.1\r\n\r\n".encode())
                end = time.monotonic() + 3
                while time.monotonic() < end:
                    came[number] += len(sock.recv(1 << 20))

        threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 8 * MB < sum(came) < 8 * MB * 3 * 1.5
        assert min(came) > sum(came) / 16
