"""File servers that lie, stall or break off, and whoever sits on the line to an honest one: the right code, in time, and the next
question is answered."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pcm.model.errors import TransferError
from pcm.transport.client import TransferClient
from pcm.transport.framing import Request
from pcm.transport.smb_account import KERBEROS, NTLM, Login, encode_login
from tests.samba_server import PASSWORD, SHARE, USER, SambaServer, samba_server
from tests.transfer_process import open_process

pytestmark = pytest.mark.needs("samba")

Change = Callable[[int, bytes], bytes | None]
LENGTH = 3_000_000
READ, SIGNED_FLAG = 8, 0x08


@pytest.fixture(scope="module")
def encrypting() -> Iterator[SambaServer]:
    with samba_server() as server:
        (server.share / "file").write_bytes(os.urandom(LENGTH))
        yield server


@pytest.fixture(scope="module")
def signing() -> Iterator[SambaServer]:
    """A server that cannot encrypt: its sessions are signed."""
    with samba_server("server smb encrypt = off\nmap to guest = bad user\nguest account = nobody") as server:
        (server.share / "file").write_bytes(os.urandom(LENGTH))
        yield server


@pytest.fixture(scope="module")
def client() -> Iterator[TransferClient]:
    made = TransferClient(open_process)
    yield made
    made.close()


def ask(client: TransferClient, url: str, account: str, **limits: Any) -> bytes:
    given: dict[str, Any] = {
        "max_bytes": LENGTH,
        "total_s": 8.0,
        "min_rate": 1000,
        "rate_window_s": 0.5,
        "answer_s": 1.5,
        **limits,
    }
    request = Request(url, account=account)._replace(**given)
    with client.fetch(request) as response:
        return response.read()


def refused(client: TransferClient, url: str, account: str, **limits: Any) -> str:
    began = time.monotonic()
    with pytest.raises(TransferError) as caught:
        ask(client, url, account, **limits)
    assert time.monotonic() - began < 8
    return caught.value.code


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server on loopback; each connection is served in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=run, args=(connection,), daemon=True).start()

        def run(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                serve(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def read_message(connection: socket.socket) -> bytes:
    head = connection.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        raise ConnectionResetError
    return connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)


# ---- servers that do not speak SMB, or speak it strangely


def endlessly(connection: socket.socket, message: bytes) -> None:
    read_message(connection)
    while True:
        connection.sendall(framed(message))


def answer_once(connection: socket.socket, data: bytes) -> None:
    read_message(connection)
    connection.sendall(data)
    time.sleep(10)


def drip(connection: socket.socket) -> None:
    connection.sendall(b"\0\0\1\0")
    while True:
        connection.sendall(b"x")
        time.sleep(0.2)


INTERIM = 52 + 64 + 9  # bytes of "not yet" (or of an error) in an encrypted session
PENDING = b"\xfeSMB" + struct.pack("<HHIHHIIQIIQ16s", 64, 0, 0x103, 0, 1, 2 | 1, 0, 0, 0, 0, 0, bytes(16)) + bytes(9)
STRANGE = {
    "silent": (lambda connection: time.sleep(10), {"transfer.timeout"}),
    "closes": (lambda connection: None, {"transfer.unreachable"}),
    "web server": (
        lambda connection: answer_once(connection, b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9),
        {"transfer.protocol"},
    ),
    "garbage": (lambda connection: answer_once(connection, framed(os.urandom(300))), {"transfer.protocol"}),
    "zeros": (lambda connection: answer_once(connection, framed(bytes(300))), {"transfer.protocol"}),
    "huge length": (lambda connection: answer_once(connection, b"\xff\xff\xff\xff"), {"transfer.protocol"}),
    "tiny length": (lambda connection: answer_once(connection, framed(b"\xfeSMB")), {"transfer.protocol"}),
    "cut": (lambda connection: connection.sendall(b"\0\0\1\0" + b"\xfeSMB"), {"transfer.unreachable"}),
    "pending for ever": (lambda connection: endlessly(connection, PENDING), {"transfer.protocol", "transfer.timeout"}),
    "drip": (drip, {"transfer.too_slow", "transfer.timeout"}),
    "encrypted before any session": (
        lambda connection: answer_once(connection, framed(b"\xfdSMB" + os.urandom(200))),
        {"transfer.protocol"},
    ),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_server_costs_its_time_and_nothing_else(
    kind: str, client: TransferClient, encrypting: SambaServer
) -> None:
    serve, codes = STRANGE[kind]
    with listening(serve) as port:
        assert refused(client, f"smb://127.0.0.1:{port}/{SHARE}/file", encrypting.account) in codes
    assert len(ask(client, f"{encrypting.url}/file", encrypting.account)) == LENGTH


# ---- an honest server, and somebody on the line


@contextlib.contextmanager
def on_the_line(server: SambaServer, change: Change) -> Iterator[str]:
    """Somebody between client and server. `change`: of each answer by its number, the other answer; None breaks the line."""
    port = int(server.url.split(":")[2].split("/")[0])

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as real:
            threading.Thread(target=hand_on, args=(connection, real), daemon=True).start()
            number = 0
            try:
                while (other := change(number, read_message(real))) is not None:
                    connection.sendall(framed(other))
                    number += 1
            finally:
                connection.shutdown(socket.SHUT_RDWR)  # closing alone does not, while the other thread reads

    with listening(serve) as own:
        yield f"smb://127.0.0.1:{own}/{SHARE}/file"


def hand_on(connection: socket.socket, real: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := connection.recv(65536):
            real.sendall(data)


def command(answer: bytes) -> int:
    return int.from_bytes(answer[12:14], "little") if answer[:4] == b"\xfeSMB" else -1


def flip(at: int, *, only: int = READ) -> Change:
    return lambda _, answer: (
        answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :]
        if command(answer) == only and len(answer) > at
        else answer
    )


def strip_signature(_: int, answer: bytes) -> bytes:
    if command(answer) != READ or len(answer) < 200:  # a short one says that the file will come later, unsigned
        return answer
    flags = int.from_bytes(answer[16:20], "little") & ~SIGNED_FLAG
    return answer[:16] + flags.to_bytes(4, "little") + answer[20:48] + bytes(16) + answer[64:]


def test_a_changed_byte_in_a_signed_session_is_noticed(client: TransferClient, signing: SambaServer) -> None:
    with on_the_line(signing, lambda _, answer: answer) as url:
        assert len(ask(client, url, signing.account)) == LENGTH  # the line as such does no harm
    with on_the_line(signing, flip(200)) as url:
        assert refused(client, url, signing.account) == "transfer.insecure"


def test_an_answer_without_its_signature_is_not_believed(client: TransferClient, signing: SambaServer) -> None:
    with on_the_line(signing, strip_signature) as url:
        assert refused(client, url, signing.account) == "transfer.insecure"


def test_what_was_negotiated_cannot_be_changed_on_the_line(client: TransferClient, encrypting: SambaServer) -> None:
    # the server's capabilities, in its first answer: both sides then have other keys
    with on_the_line(encrypting, flip(64 + 24, only=0)) as url:
        assert refused(client, url, encrypting.account) in (
            "transfer.insecure",
            "transfer.protocol",
            "transfer.unreachable",
        )


def test_a_changed_byte_in_an_encrypted_session_is_noticed(client: TransferClient, encrypting: SambaServer) -> None:
    def change(_: int, answer: bytes) -> bytes:
        return answer[:-1] + bytes([answer[-1] ^ 1]) if answer[:4] == b"\xfdSMB" else answer

    with on_the_line(encrypting, change) as url:
        assert refused(client, url, encrypting.account) == "transfer.protocol"


def test_nothing_of_a_file_can_be_read_on_the_line(client: TransferClient, encrypting: SambaServer) -> None:
    heard = bytearray()

    def listen(_: int, answer: bytes) -> bytes:
        heard.extend(answer)
        return answer

    with on_the_line(encrypting, listen) as url:
        data = ask(client, url, encrypting.account)
    assert len(heard) > LENGTH
    assert data[:32] not in heard


def test_a_line_that_breaks_half_way_is_truncated(client: TransferClient, encrypting: SambaServer) -> None:
    with on_the_line(encrypting, lambda number, answer: None if number > 6 else answer) as url:
        assert refused(client, url, encrypting.account) == "transfer.truncated"


def test_a_server_that_stalls_half_way_is_too_slow(client: TransferClient, encrypting: SambaServer) -> None:
    def stall(number: int, answer: bytes) -> bytes:
        if number > 6:
            time.sleep(3)
        return answer

    with on_the_line(encrypting, stall) as url:
        assert refused(client, url, encrypting.account) == "transfer.too_slow"


# ---- accounts


def test_a_session_as_guest_is_refused(client: TransferClient, signing: SambaServer) -> None:
    stranger = encode_login(Login("stranger", "", NTLM, "whatever"))  # whom this server lets in as guest
    assert refused(client, f"{signing.url}/file", stranger) == "transfer.insecure"


@pytest.mark.parametrize("login", [Login(USER, "", NTLM, "wrong"), Login("stranger", "", NTLM, PASSWORD)])
def test_a_wrong_password_or_user_is_told_so(client: TransferClient, encrypting: SambaServer, login: Login) -> None:
    assert refused(client, f"{encrypting.url}/file", encode_login(login)) == "transfer.account_refused"


def test_without_an_account_nothing_is_asked(client: TransferClient, encrypting: SambaServer) -> None:
    with pytest.raises(TransferError) as caught:
        client.fetch(Request(f"{encrypting.url}/file"))
    assert caught.value.code == "transfer.no_account"


def test_a_realm_without_controllers_is_told_so(client: TransferClient, encrypting: SambaServer) -> None:
    login = encode_login(Login("somebody", "NOWHERE.INVALID", KERBEROS, "word"))
    assert refused(client, f"{encrypting.url}/file", login) == "transfer.kdc_unreachable"


def test_what_the_account_may_not_read_is_named(client: TransferClient, encrypting: SambaServer) -> None:
    secret = encrypting.share / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0o600)
    with pytest.raises(TransferError) as caught:
        ask(client, f"{encrypting.url}/secret", encrypting.account)
    assert caught.value.code == "transfer.refused"
    assert f"The account {USER} may not read \\\\127.0.0.1\\{SHARE}\\secret" in caught.value.message


# ---- files


def test_a_link_out_of_the_share_leads_nowhere(client: TransferClient, encrypting: SambaServer) -> None:
    (encrypting.share / "link").symlink_to("/etc/hostname")
    assert refused(client, f"{encrypting.url}/link", encrypting.account) in ("transfer.not_found", "transfer.refused")


@pytest.mark.parametrize("path", ["file:stream", "a%5Cb", "a%2Fb", "a%00b", "%2e%2e/file", "a*", "", "a//b", "%ff"])
def test_names_that_mean_something_to_a_file_server_are_refused(
    client: TransferClient, encrypting: SambaServer, path: str
) -> None:
    assert refused(client, f"{encrypting.url}/{path}", encrypting.account) == "transfer.protocol"


def test_a_share_that_is_not_there(client: TransferClient, encrypting: SambaServer) -> None:
    assert refused(client, encrypting.url.replace(SHARE, "other") + "/file", encrypting.account) == "transfer.not_found"


def test_spaces_and_letters_of_any_language_can_be_in_names(client: TransferClient, encrypting: SambaServer) -> None:
    (encrypting.share / "Büro 100 % 日本").write_bytes(b"x")
    assert ask(client, f"{encrypting.url}/B%C3%BCro%20100%20%25%20%E6%97%A5%E6%9C%AC", encrypting.account) == b"x"


def test_nothing_is_ever_written_to_a_share(client: TransferClient, encrypting: SambaServer) -> None:
    request = Request(f"{encrypting.url}/new", method="POST", body=b"x", account=encrypting.account)
    with pytest.raises(TransferError) as caught:
        client.fetch(request)
    assert caught.value.code == "transfer.protocol"
    assert not (encrypting.share / "new").exists()


def test_a_session_that_the_server_ended_is_begun_again(client: TransferClient, encrypting: SambaServer) -> None:
    said: list[int] = []

    def change(_: int, answer: bytes) -> bytes | None:
        if len(answer) != INTERIM:  # a server that is busy says so first, which is not counted
            said.append(len(answer))
            if len(said) == 10:  # a file was closed, for the second time
                return None
        return answer

    (encrypting.share / "small").write_bytes(b"small")
    with on_the_line(encrypting, change) as url:
        for _ in range(5):
            assert ask(client, url.replace("/file", "/small"), encrypting.account) == b"small"
    assert len(said) > 10
