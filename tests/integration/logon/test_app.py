"""The logon server over real HTTP, asked by the real client: who gets what, and who gets nothing."""

import asyncio
import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner

from pcm.logon.app import Answer, LogonApp, create_app, read_public_key, receive_body
from pcm.logon.folder import LogonFolder
from pcm.logon.folder_keys import FolderKeys
from pcm.logon.leases import Leases
from pcm.model.errors import RequestError, StoreError, TransferError
from pcm.model.facts import Facts
from pcm.protocol import codec
from pcm.protocol.enrolment import EnrolmentRequest
from pcm.transport.client import Response, TransferClient
from pcm.transport.framing import Request
from pcm.transport.in_process import transfer_in_thread
from pcm.transport.signing import sign_request
from pcm.trust.envelopes import client_id_of
from pcm.trust.instruction_repository import sign_instructions
from tests.asgi_server import free_port, served

KEY, OTHER, STRANGER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
ID, OTHER_ID = client_id_of(KEY.public_key()), client_id_of(OTHER.public_key())
POLICY, LEASE = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Running(NamedTuple):
    base: str
    folder: LogonFolder
    client: TransferClient
    reports: list[tuple[str, bytes]]
    enrolments: list[tuple[EnrolmentRequest, str]]

    def ask(
        self,
        path: str,
        key: ec.EllipticCurvePrivateKey = KEY,
        body: bytes | None = None,
        *,
        headers: dict[str, str] | None = None,
        now: datetime | None = None,
        keyid: str | None = None,
    ) -> Response:
        url, method = f"{self.base}/{path}", "GET" if body is None else "POST"
        keyid = keyid or client_id_of(key.public_key())
        signed = sign_request(method, url, body, key, keyid, now or datetime.now(UTC))
        return self.client.exchange(Request(url, method, {**signed, **(headers or {})}, body or b"", total_s=20))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = LogonFolder(tmp_path_factory.mktemp("logon"))
    reports: list[tuple[str, bytes]] = []
    enrolments: list[tuple[EnrolmentRequest, str]] = []

    async def take_report(client_id: str, body: bytes) -> Answer:
        if body == b"full":
            raise StoreError("no room", code="store.disk_full")
        if body == b"fork":
            raise RequestError("the chain forks", code="conflict")
        reports.append((client_id, body))
        return Answer(200, b'{"acknowledged":7}')

    async def take_enrolment(asked: EnrolmentRequest, client_id: str, address: str) -> Answer:
        assert address == "127.0.0.1"
        enrolments.append((asked, client_id))
        return Answer(200, b'{"state":"enrolled"}')

    port = free_port()
    base = f"http://127.0.0.1:{port}/logon"
    leases = Leases(folder, LEASE, lambda: int(datetime.now(UTC).timestamp() * 1000))
    app = LogonApp(
        folder, base, FolderKeys(folder), leases=leases, report_sink=take_report, enrolment_sink=take_enrolment
    )
    for key, client_id in ((KEY, ID), (OTHER, OTHER_ID)):
        folder.write_key(client_id, pem(key))
        folder.write(sign_instructions(client_id, b"{}", POLICY, 1_772_366_400_000).files())
    folder.write({"roots/1.root.json": b'{"root":1}'})
    with served(create_app(app), port):
        client = transfer_in_thread()
        yield Running(base, folder, client, reports, enrolments)
        client.close()


def refusal(response: Response) -> tuple[int, str]:
    return response.status, json.loads(response.read())["code"]


def test_a_client_reads_its_own_repository(running: Running) -> None:
    timestamp = running.ask(f"clients/{ID}/timestamp.json")
    assert timestamp.status == 200
    version = json.loads(timestamp.read())["signed"]["version"]
    assert timestamp.etag == f'"{version:x}"'
    snapshot = json.loads(running.ask(f"clients/{ID}/{version}.snapshot.json").read())["signed"]
    targets_version = snapshot["meta"]["targets.json"]["version"]
    targets = json.loads(running.ask(f"clients/{ID}/{targets_version}.targets.json").read())["signed"]["targets"]
    digest = targets[f"clients/{ID}/instructions.json"]["hashes"]["sha256"]
    assert running.ask(f"clients/{ID}/{digest}.instructions.json").read() == b"{}"


def test_an_idle_poll_is_answered_not_changed(running: Running) -> None:
    etag = running.ask(f"clients/{ID}/timestamp.json").etag
    assert etag is not None
    again = running.ask(f"clients/{ID}/timestamp.json", headers={"If-None-Match": etag})
    assert (again.status, again.etag, again.read()) == (304, etag, b"")


def test_an_idle_poll_fits_into_a_kilobyte(running: Running) -> None:
    url = f"{running.base}/clients/{ID}/timestamp.json"
    signed = sign_request("GET", url, None, KEY, ID, datetime.now(UTC))
    asked = len(f"GET {url}") + sum(len(name) + len(value) + 4 for name, value in signed.items()) + 130
    assert asked < 800


def test_q189809_nobody_elses_instructions_are_shown(running: Running) -> None:
    assert refusal(running.ask(f"clients/{OTHER_ID}/timestamp.json")) == (403, "not_allowed")
    with pytest.raises(TransferError) as caught:
        running.client.fetch(Request(f"{running.base}/clients/{ID}/timestamp.json"))
    assert caught.value.code == "transfer.refused"


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"key": STRANGER}, 403, "trust.unknown_client"),
        ({"key": STRANGER, "keyid": ID}, 401, "trust.request_signature"),
        ({"now": datetime.now(UTC) - timedelta(days=1)}, 401, "trust.request_age"),
        ({"now": datetime.now(UTC) + timedelta(days=1)}, 401, "trust.request_age"),
    ],
)
def test_who_does_not_prove_who_they_are_gets_nothing(
    running: Running, options: dict[str, Any], status: int, code: str
) -> None:
    assert refusal(running.ask(f"clients/{ID}/timestamp.json", **options)) == (status, code)


def test_a_signature_for_another_server_is_not_taken(running: Running) -> None:
    """The Host header says what it likes: the address that was configured counts."""
    url = f"http://logon.example.org/logon/clients/{ID}/timestamp.json"
    signed = sign_request("GET", url, None, KEY, ID, datetime.now(UTC))
    asked = Request(f"{running.base}/clients/{ID}/timestamp.json", headers={**signed, "Host": "logon.example.org"})
    assert refusal(running.client.exchange(asked)) == (401, "trust.request_signature")


def test_a_query_is_part_of_what_is_signed(running: Running) -> None:
    url = f"{running.base}/clients/{ID}/timestamp.json"
    signed = sign_request("GET", url, None, KEY, ID, datetime.now(UTC))
    assert refusal(running.client.exchange(Request(f"{url}?x=1", headers=signed)))[0] == 401


@pytest.mark.parametrize(
    "name", ["client.pub", "9.root.json", "..", "1.targets.json", "%2e%2e/x", "timestamp.json/", "x%00"]
)
def test_other_files_are_not_there(running: Running, name: str) -> None:
    assert running.ask(f"clients/{ID}/{name}").status == 404


def test_roots_are_public_and_the_next_one_is_missing(running: Running) -> None:
    assert running.client.fetch(Request(f"{running.base}/roots/1.root.json")).read() == b'{"root":1}'
    with pytest.raises(TransferError) as caught:
        running.client.fetch(Request(f"{running.base}/roots/2.root.json"))
    assert caught.value.code == "transfer.not_found"


def test_a_removed_key_takes_the_right_at_once(running: Running) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    client_id = client_id_of(key.public_key())
    running.folder.write_key(client_id, pem(key))
    running.folder.write(sign_instructions(client_id, b"{}", POLICY, 1_772_366_400_000).files())
    assert running.ask(f"clients/{client_id}/timestamp.json", key).status == 200
    running.folder.remove_client(client_id)
    assert refusal(running.ask(f"clients/{client_id}/timestamp.json", key)) == (403, "trust.unknown_client")


def test_a_key_file_that_is_another_clients_counts_for_nothing(running: Running) -> None:
    client_id = "f" * 32
    running.folder.write_key(client_id, pem(KEY))
    assert refusal(running.ask(f"clients/{client_id}/timestamp.json", keyid=client_id)) == (403, "trust.unknown_client")


def test_reports_reach_their_sink_with_their_sender(running: Running) -> None:
    answer = running.ask("reports", body=b"envelope")
    assert (answer.status, answer.read()) == (200, b'{"acknowledged":7}')
    assert running.reports[-1] == (ID, b"envelope")


def test_what_a_sink_says_no_to_has_its_status(running: Running) -> None:
    assert refusal(running.ask("reports", body=b"fork")) == (409, "conflict")
    assert refusal(running.ask("reports", body=b"full")) == (503, "store.disk_full")


def test_reports_of_strangers_and_large_ones_do_not_reach_it(running: Running) -> None:
    before = len(running.reports)
    assert refusal(running.ask("reports", STRANGER, b"x")) == (403, "trust.unknown_client")
    assert refusal(running.ask("reports", body=b"x" * 800_000)) == (413, "request.too_large")
    assert len(running.reports) == before


def enrolment(key: ec.EllipticCurvePrivateKey) -> bytes:
    return codec.encode(EnrolmentRequest(site="demo", public_key=pem(key).decode(), facts=Facts(**_facts()), token="t"))


def _facts() -> dict[str, Any]:
    needed = {field.name: field.type for field in msgspec.structs.fields(Facts) if field.required}
    return {name: "linux-x86_64" if name == "platform" else "x" for name in needed}


def test_an_enrolment_is_signed_with_the_key_that_it_brings(running: Running) -> None:
    answer = running.ask("enroll", STRANGER, enrolment(STRANGER))
    assert answer.status == 200, answer.read()
    asked, client_id = running.enrolments[-1]
    assert (client_id, asked.token) == (client_id_of(STRANGER.public_key()), "t")


def test_nobody_enrols_with_somebody_elses_key(running: Running) -> None:
    before = len(running.enrolments)
    assert refusal(running.ask("enroll", STRANGER, enrolment(OTHER))) == (403, "trust.unknown_client")
    assert refusal(running.ask("enroll", STRANGER, enrolment(OTHER), keyid=OTHER_ID)) == (
        401,
        "trust.request_signature",
    )
    assert running.ask("enroll", STRANGER, b"{}").status == 400
    assert len(running.enrolments) == before


def test_a_key_of_an_unheard_of_kind_is_the_askers_fault() -> None:
    der = OTHER.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    odd = base64.encodebytes(der.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030177"))).decode()
    with pytest.raises(RequestError) as caught:
        read_public_key(f"-----BEGIN PUBLIC KEY-----\n{odd}-----END PUBLIC KEY-----\n".encode())
    assert caught.value.code == "request.public_key"


@pytest.mark.parametrize("announced", [b"\xb2", b"-1", b"1e3", b"9" * 30, b" "])
def test_a_length_that_is_no_number_is_refused(announced: bytes) -> None:
    async def never() -> dict[str, Any]:
        raise AssertionError

    with pytest.raises(RequestError) as caught:
        asyncio.run(receive_body({"headers": [(b"content-length", announced)]}, never, 1000))
    assert caught.value.code == "request.too_large"


@pytest.mark.parametrize("method", ["PUT", "HEAD"])
def test_other_methods_are_not_there(running: Running, method: str) -> None:
    assert running.client.exchange(Request(f"{running.base}/reports", method)).status == 404


def test_a_body_that_drips_is_given_up() -> None:
    async def drip() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    with pytest.raises(RequestError) as caught:
        asyncio.run(receive_body({"headers": []}, drip, 1000, limit_s=0.1))
    assert caught.value.code == "request.too_slow"


def test_a_body_that_breaks_off_is_given_up() -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(RequestError) as caught:
        asyncio.run(receive_body({"headers": []}, gone, 1000))
    assert caught.value.code == "request.incomplete"


def test_a_body_without_announced_length_is_counted() -> None:
    async def endless() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    with pytest.raises(RequestError) as caught:
        asyncio.run(receive_body({"headers": []}, endless, 1000))
    assert caught.value.code == "request.too_large"


def test_a_folder_without_leases_of_its_own_serves_the_sites(tmp_path: Path) -> None:
    folder = LogonFolder(tmp_path)
    folder.write_key(ID, pem(KEY))
    folder.write({f"clients/{ID}/timestamp.json": b"{}"})
    port = free_port()
    base = f"http://127.0.0.1:{port}/logon"
    with served(create_app(LogonApp(folder, base, FolderKeys(folder))), port):
        client = transfer_in_thread()
        served_by = Running(base, folder, client, [], [])
        first = served_by.ask(f"clients/{ID}/timestamp.json")
        assert first.read() == b"{}"
        assert first.etag is not None
        again = served_by.ask(f"clients/{ID}/timestamp.json", headers={"If-None-Match": first.etag})
        assert (again.status, again.read()) == (304, b"")
        assert refusal(served_by.ask("reports", body=b"x"))[0] == 404
        client.close()
