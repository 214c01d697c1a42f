"""The transfer process itself: what it cannot do any more, what it survives, TLS and proxies."""

import ast
import ctypes
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from pcm.model.errors import TransferError
from pcm.service.machine.here import this_machine
from pcm.service.machine.interface import Account, OwnProgram
from pcm.testing.hostile_server import HostileServer
from pcm.transport.channel import SocketChannel
from pcm.transport.client import TransferClient
from pcm.transport.framing import Request, Settings
from pcm.transport.in_process import transfer_in_thread
from pcm.transport.transfer import open_to_all
from tests.certificates import own_certificate
from tests.transfer_process import open_process, start_process

PROTECTIONS = {
    "file_limit", "memory_limit", "no_core", "no_exec", "no_file_writing", "no_new_privs", "no_new_processes", "not_dumpable",
}  # fmt: skip


def hardened(code: str) -> "subprocess.CompletedProcess[str]":
    """Run `code` in a process that has hardened itself."""
    program = f"import os, sys\nfrom pcm.transport.hardening import harden\nheld = harden()\n{code}"
    return subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )


def test_all_protections_hold_on_this_machine() -> None:
    client = TransferClient(open_process)
    assert set(client.protections()) == PROTECTIONS
    client.close()


def test_a_hardened_process_starts_no_program() -> None:
    result = hardened("try:\n    os.execv('/bin/true', ['true'])\nexcept PermissionError:\n    print('refused')")
    assert result.stdout == "refused\n", result.stderr


def test_a_hardened_process_looks_into_no_other() -> None:
    result = hardened(
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.ptrace(16, os.getppid(), 0, 0), ctypes.get_errno())"
    )
    assert result.stdout == "-1 1\n", result.stderr


def test_a_hardened_process_writes_no_file(tmp_path: Path) -> None:
    result = hardened(
        f"try:\n    os.write(os.open({str(tmp_path / 'x')!r}, os.O_WRONLY | os.O_CREAT), b'x')\nexcept OSError:\n    print('refused')"
    )
    assert result.stdout == "refused\n", result.stderr


def test_a_hardened_process_takes_no_more_memory_than_it_may() -> None:
    result = hardened("try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('refused')")
    assert result.stdout == "refused\n", result.stderr


def test_a_hardened_process_stays_so() -> None:
    result = hardened(
        "import resource\nprint(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_FSIZE))"
    )
    assert result.stdout == "(0, 0) (0, 0)\n", result.stderr


@pytest.mark.needs("root")
def test_a_hardened_process_without_rights_starts_no_child() -> None:
    result = hardened(
        "os.setgid(65534)\nos.setuid(65534)\ntry:\n    os.fork()\nexcept BlockingIOError:\n    print('refused')"
    )
    assert result.stdout == "refused\n", result.stderr


def test_it_imports_nothing_that_the_service_keeps_out() -> None:
    program = (
        "import sys, pcm.transport.transfer\n"
        "heavy = {'asyncio', 'cryptography', 'msgspec', 'zstandard', 'ssl', 'tuf', 'starlette', 'httpx', 'dataclasses'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    usual = {"ssl"}  # http.client imports it where there is one
    if os.geteuid() == 0 and not open_to_all(sys.path):
        usual |= {
            "zstandard",
            "cryptography",
            "dataclasses",
            "msgspec",
        }  # see `ON_DEMAND`; the latter two come with shares
    assert set(ast.literal_eval(result.stdout)) <= usual


def test_it_ends_when_nobody_asks_any_more() -> None:
    channel = open_process()
    began = time.monotonic()
    channel.close()
    assert time.monotonic() - began < 2


def started() -> tuple["subprocess.Popen[bytes]", TransferClient]:
    process, channel = start_process()
    channels = [channel]
    return process, TransferClient(lambda: channels.pop() if channels else open_process())


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_transfer_process_that_is_killed_is_replaced(when: str) -> None:
    with HostileServer({"large": bytes(8_000_000)}) as server:
        process, client = started()
        client.protections()
        request = Request(f"{server.url}/large", max_bytes=8_000_000)
        pieces = None
        if when == "during":
            pieces = client.fetch(request).iter_bytes()
            next(pieces)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(TransferError) as caught:
            b"".join(pieces if pieces is not None else client.fetch(request).iter_bytes())
        assert caught.value.code == "transfer.protocol"
        assert len(client.fetch(request).read()) == 8_000_000
        client.close()


def test_a_transfer_process_that_stands_still_is_given_up() -> None:
    with HostileServer() as server:
        process, client = started()
        client.protections()
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(TransferError) as caught:
            client.fetch(Request(f"{server.url}/good", total_s=0.2))
        assert caught.value.code == "transfer.timeout"
        process.kill()
        process.wait()
        client.close()


def test_nonsense_from_the_privileged_side_ends_it_with_an_exit_code() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"hello\n")
        ours.shutdown(socket.SHUT_WR)
        result = subprocess.run(
            [sys.executable, "-I", "-m", "pcm.transport.transfer"],
            stdin=theirs.fileno(),
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert result.returncode == 70
    assert b"one JSON object" in result.stderr


def test_a_fifo_a_device_and_a_link_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/hostname")
    client = TransferClient(open_process)
    for path in (tmp_path / "fifo", tmp_path / "link", Path("/dev/zero"), tmp_path):
        with pytest.raises(TransferError) as caught:
            client.fetch(Request(path.as_uri(), total_s=2))
        assert caught.value.code == "transfer.protocol"
    client.close()


@pytest.mark.parametrize(
    "url", ["file:///tmp/../etc/hostname", "file:///tmp/%2e%2e/etc/hostname", "file:///tmp/x%00y", "file://host/x"]
)
def test_strange_file_urls_are_refused(url: str) -> None:
    client = transfer_in_thread()
    with pytest.raises(TransferError) as caught:
        client.fetch(Request(url))
    assert caught.value.code == "transfer.protocol"
    client.close()


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    return own_certificate(tmp_path_factory.mktemp("tls"))


def accepting(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    def run() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()


@pytest.fixture
def https(certificate: tuple[Path, Path]) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def serve(client: socket.socket) -> None:
        try:
            with context.wrap_socket(client, server_side=True) as secured:
                while secured.recv(65536):
                    secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
        except OSError:
            client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting(listener, serve)
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/x"
        listener.shutdown(socket.SHUT_RDWR)


def test_https_with_a_configured_authority(https: str, certificate: tuple[Path, Path]) -> None:
    client = TransferClient(open_process, Settings(ca_file=str(certificate[0])))
    assert client.fetch(Request(https)).read() == b"secret"
    assert client.fetch(Request(https)).read() == b"secret"
    client.close()


def test_https_from_somebody_unknown_is_refused(https: str) -> None:
    client = TransferClient(open_process)
    with pytest.raises(TransferError) as caught:
        client.fetch(Request(https))
    assert caught.value.code == "transfer.certificate"
    client.close()


def test_https_of_another_name_is_refused(https: str, certificate: tuple[Path, Path]) -> None:
    client = TransferClient(open_process, Settings(ca_file=str(certificate[0])))
    with pytest.raises(TransferError) as caught:
        client.fetch(Request(https.replace("127.0.0.1", "localhost")))
    assert caught.value.code == "transfer.certificate"
    client.close()


def test_an_authority_file_that_is_not_there_is_named(https: str) -> None:
    client = TransferClient(open_process, Settings(ca_file="/nowhere/ca.pem"))
    with pytest.raises(TransferError, match=r"/nowhere/ca\.pem"):
        client.fetch(Request(https))
    client.close()


# ---- proxies


class Proxy:
    """Passes CONNECT on, and answers everything else itself."""

    def __init__(self, listener: socket.socket) -> None:
        self.heads: list[str] = []
        self.settings = Settings(proxy=f"http://127.0.0.1:{listener.getsockname()[1]}")
        accepting(listener, self._serve)

    def _serve(self, client: socket.socket) -> None:
        head = client.recv(65536).decode()
        self.heads.append(head.split("\r\n")[0])
        if not head.startswith("CONNECT"):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nproxy")
            client.close()
            return
        host, port = head.split(" ")[1].rsplit(":", 1)
        if host != "127.0.0.1":
            client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            client.close()
            return
        server = socket.create_connection((host, int(port)))
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        for one, other in ((client, server), (server, client)):
            threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            return
        finally:
            other.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Proxy(listener)
        listener.shutdown(socket.SHUT_RDWR)


def test_http_goes_through_the_configured_proxy(proxy: Proxy) -> None:
    client = TransferClient(open_process, proxy.settings)
    assert client.fetch(Request("http://site.example/a?b=c")).read() == b"proxy"
    assert proxy.heads == ["GET http://site.example/a?b=c HTTP/1.1"]
    client.close()


def test_hosts_without_proxy_are_reached_directly(proxy: Proxy) -> None:
    with HostileServer() as server:
        client = TransferClient(open_process, proxy.settings._replace(no_proxy=("127.0.0.1", ".example.org")))
        assert client.fetch(Request(f"{server.url}/good")).read() == b"good"
        client.close()
    assert proxy.heads == []


def test_https_goes_through_the_proxy_by_connect(proxy: Proxy, https: str, certificate: tuple[Path, Path]) -> None:
    client = TransferClient(open_process, proxy.settings._replace(ca_file=str(certificate[0])))
    assert client.fetch(Request(https)).read() == b"secret"
    assert proxy.heads[0].startswith("CONNECT 127.0.0.1:")
    client.close()


def test_a_proxy_that_refuses_is_told(proxy: Proxy) -> None:
    client = TransferClient(open_process, proxy.settings)
    with pytest.raises(TransferError, match="403 Forbidden") as caught:
        client.fetch(Request("https://site.example/"))
    assert caught.value.code == "transfer.unreachable"
    client.close()


def test_a_proxy_of_another_kind_is_refused() -> None:
    client = TransferClient(open_process, Settings(proxy="socks5://127.0.0.1:1"))
    with pytest.raises(TransferError, match="http://host:port"):
        client.fetch(Request("http://site.example/"))
    client.close()


def test_connections_are_used_again(certificate: tuple[Path, Path]) -> None:
    connections: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        connections.append(client)
        while client.recv(65536):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting(listener, serve)
        client = TransferClient(open_process)
        request = Request(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        for _ in range(5):
            assert client.fetch(request).read() == b"ok"
        assert len(connections) == 1
        connections[0].shutdown(socket.SHUT_RDWR)  # the server tires of waiting: the next request opens another
        assert client.fetch(request).read() == b"ok"
        assert len(connections) == 2
        client.close()
        listener.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()


def test_prctl_constants_are_this_kernels() -> None:
    status = hardened("print(open('/proc/self/status').read())").stdout
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert ctypes.sizeof(ctypes.c_void_p) == 8


@pytest.mark.needs("root")
def test_it_works_under_an_account_that_may_nothing(tmp_path: Path) -> None:
    """As the service starts it: rights are given up in the child, which may be unable to read its own libraries then."""

    def open_as_nobody() -> SocketChannel:
        ours, theirs = socket.socketpair()
        with theirs:
            file = theirs.fileno()
            program = OwnProgram(
                "pcm.transport.transfer",
                arguments=(str(file),),
                account=Account(65533, 65533),
                kept_descriptors=(file,),
            )
            child = this_machine().spawn(program)
        return SocketChannel(ours, child.close)

    secret = tmp_path / "secret"
    secret.write_bytes(b"only for root")
    secret.chmod(0o600)
    client = TransferClient(open_as_nobody)
    assert set(client.protections()) == PROTECTIONS
    with pytest.raises(TransferError) as caught:
        client.fetch(Request(secret.as_uri()))
    assert caught.value.code == "transfer.refused"
    with HostileServer({"packed": zstandard.ZstdCompressor().compress(b"packed")}) as server:
        request = Request(f"{server.url}/packed", decode="zstd", max_decoded_bytes=100)
        assert client.fetch(request).read() == b"packed"
        assert client.fetch(request._replace(url=request.url.replace("127.0.0.1", "localhost"))).read() == b"packed"
    client.close()


def test_folders_that_not_everybody_may_enter_are_noticed(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    assert open_to_all(["/usr/lib", "/nowhere"])
    (tmp_path / "closed").chmod(0o700)
    assert not open_to_all(["/usr/lib", str(inner)])
