"""Domain controllers that lie, stall or break off: the right code, in time, one question, and the next account is served."""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pcm.model.errors import TransferError
from pcm.transport.client import TransferClient
from pcm.transport.framing import Request
from pcm.transport.in_process import transfer_in_thread
from pcm.transport.smb_account import KERBEROS, Key, Login, encode_login
from tests.samba_server import SambaServer, samba_server

pytestmark = pytest.mark.needs("samba")

REALM = "LIES.EXAMPLE"


@pytest.fixture(scope="module")
def server() -> Iterator[SambaServer]:
    with samba_server() as running:
        yield running


class Controller:
    """Listens on loopback, and answers each question as it is told; counts them."""

    def __init__(self) -> None:
        self.questions = 0
        self.answer: Callable[[socket.socket], None] = lambda connection: None
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                try:
                    length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
                    connection.recv(length, socket.MSG_WAITALL)
                    self.questions += 1
                    self.answer(connection)
                except OSError:
                    continue

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    made = Controller()
    path = tmp_path / "krb5.conf"
    path.write_text(
        f"[libdefaults]\n dns_lookup_kdc = false\n[realms]\n {REALM} = {{\n  kdc = 127.0.0.1:{made.port}\n }}\n"
    )
    monkeypatch.setenv("KRB5_CONFIG", str(path))
    yield made
    made.close()


@pytest.fixture
def client() -> Iterator[TransferClient]:
    made = transfer_in_thread()
    yield made
    made.close()


PASSWORD = Login("svc", REALM, KERBEROS, "word")
KEYS = Login("svc", REALM, KERBEROS, None, (Key(1, 18, bytes(32)), Key(1, 99, b"an unknown kind")))


def refused(client: TransferClient, server: SambaServer, login: Login = PASSWORD) -> TransferError:
    request = Request(f"{server.url}/x", account=encode_login(login), total_s=3, answer_s=3, min_rate=0)
    began = time.monotonic()
    with pytest.raises(TransferError) as caught:
        client.fetch(request)
    assert time.monotonic() - began < 5
    return caught.value


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length = bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2, "big")
    return bytes([tag]) + length + body


def number(value: int) -> bytes:
    return der(2, value.to_bytes((value.bit_length() // 8) + 1, "big"))


def krb_error(code: int, status: int | None = None) -> bytes:
    """RFC 4120 section 5.9.1, with the NTSTATUS as Windows adds it ([MS-KILE] 2.2.2)."""
    service = der(0x30, der(0xA0, number(2)), der(0xA1, der(0x30, der(0x1B, b"krbtgt"), der(0x1B, REALM.encode()))))
    fields = [
        der(0xA0, number(5)),
        der(0xA1, number(30)),
        der(0xA4, der(0x18, time.strftime("%Y%m%d%H%M%SZ", time.gmtime()).encode())),
        der(0xA5, number(1)),
        der(0xA6, number(code)),
        der(0xA9, der(0x1B, REALM.encode())),
        der(0xAA, service),
    ]
    if status is not None:
        data = der(0x30, der(0xA1, number(3)), der(0xA2, der(4, struct.pack("<III", status, 0, 1))))
        fields.append(der(0xAC, der(4, data)))
    return der(0x7E, der(0x30, *fields))


def saying(answer: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(len(answer).to_bytes(4, "big") + answer)


@pytest.mark.parametrize("login", [PASSWORD, KEYS], ids=["password", "keytab"])
@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        (6, None, "transfer.account_refused"),
        (18, None, "transfer.account_locked"),
        (18, 0xC0000234, "transfer.account_locked"),
        (18, 0xC0000072, "transfer.account_disabled"),
        (18, 0xC0000193, "transfer.account_expired"),
        (18, 0xC000006F, "transfer.account_restricted"),
        (23, 0xC0000071, "transfer.password_expired"),
        (23, None, "transfer.password_expired"),
        (12, None, "transfer.account_restricted"),
        (37, None, "transfer.clock_skew"),
        (14, None, "transfer.account_refused"),
        (60, None, "transfer.server_error"),
    ],
)
def test_each_refusal_is_named_after_one_question(
    controller: Controller, client: TransferClient, server: SambaServer, login: Login, code: int, status: int | None,
    expected: str,
) -> None:  # fmt: skip
    controller.answer = saying(krb_error(code, status))
    assert refused(client, server, login).code == expected
    assert refused(client, server, login).code == expected  # as it was: the controller is not asked again
    assert controller.questions == 1


LIES: dict[str, tuple[Callable[[socket.socket], None], set[str]]] = {
    "silent": (lambda _: time.sleep(6), {"transfer.timeout"}),
    "closes": (lambda _: None, {"transfer.kdc_unreachable"}),
    "cut": (lambda connection: connection.sendall(b"\0\0\1\0abc"), {"transfer.kdc_unreachable"}),
    "huge": (lambda connection: connection.sendall(b"\x7f\xff\xff\xff"), {"transfer.protocol"}),
    "empty": (saying(b""), {"transfer.server_error"}),
    "garbage": (saying(os.urandom(400)), {"transfer.server_error"}),
    "a ticket of nonsense": (saying(der(0x6B, os.urandom(100))), {"transfer.server_error"}),
    "asks for proof for ever": (saying(krb_error(25)), {"transfer.server_error", "transfer.account_refused"}),
    "too big for ever": (saying(krb_error(52)), {"transfer.server_error"}),
    "cut error": (saying(krb_error(18, 0xC0000072)[:60]), {"transfer.server_error"}),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_lying_controller_costs_its_time_and_nothing_else(
    controller: Controller, client: TransferClient, server: SambaServer, kind: str
) -> None:
    controller.answer, codes = LIES[kind]
    assert refused(client, server).code in codes
    assert controller.questions < 20
    (server.share / "x").write_bytes(b"x")
    assert client.fetch(Request(f"{server.url}/x", account=server.account)).read() == b"x"


def test_bytes_changed_anywhere_in_an_answer_do_no_harm(
    controller: Controller, client: TransferClient, server: SambaServer
) -> None:
    whole = krb_error(18, 0xC0000072)
    for at in range(0, len(whole), 3):
        controller.answer = saying(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        assert refused(client, server, PASSWORD._replace(password=f"word {at}")).code.startswith("transfer.")
