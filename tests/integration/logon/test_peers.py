"""Who is told of peers over real HTTP: a client of its own subnet, by its signature, and nobody else."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pcm.logon.app import LogonApp, create_app
from pcm.logon.folder import LogonFolder
from pcm.logon.folder_keys import FolderKeys
from pcm.transport.framing import Request
from pcm.transport.in_process import transfer_in_thread
from pcm.transport.signing import sign_request
from tests.asgi_server import free_port, served
from tests.integration.logon.test_app import ID, KEY, OTHER, OTHER_ID, STRANGER, Running, pem, refusal

HERE, THERE = "port=8441&at=10.0.0.1-24", "port=8441&at=10.0.0.2-24"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    folder = LogonFolder(tmp_path)
    port = free_port()
    base = f"http://127.0.0.1:{port}/logon"
    for key, client_id in ((KEY, ID), (OTHER, OTHER_ID)):
        folder.write_key(client_id, pem(key))
    with served(create_app(LogonApp(folder, base, FolderKeys(folder))), port):
        client = transfer_in_thread()
        yield Running(base, folder, client, [], [])
        client.close()


def test_two_clients_of_one_subnet_learn_of_each_other(running: Running) -> None:
    assert json.loads(running.ask(f"clients/{ID}/peers?{HERE}").read()) == {"peers": []}
    told = json.loads(running.ask(f"clients/{OTHER_ID}/peers?{THERE}", OTHER).read())
    assert told == {"peers": [{"address": "10.0.0.1", "port": 8441}]}
    answer = running.ask(f"clients/{ID}/peers?{HERE}")
    assert answer.headers.get("content-type") == "application/json"
    assert json.loads(answer.read()) == {"peers": [{"address": "10.0.0.2", "port": 8441}]}


def test_nobody_asks_for_another_and_nobody_unsigned(running: Running) -> None:
    running.ask(f"clients/{ID}/peers?{HERE}").read()
    assert refusal(running.ask(f"clients/{ID}/peers?{THERE}", OTHER)) == (403, "not_allowed")
    assert refusal(running.ask(f"clients/{ID}/peers?{THERE}", STRANGER))[0] == 403
    unsigned = running.client.exchange(Request(f"{running.base}/clients/{ID}/peers?{HERE}"))
    assert refusal(unsigned) == (401, "trust.request_unsigned")


def test_what_is_signed_is_all_that_counts(running: Running) -> None:
    """A signature for one address does not say another one."""
    signed = sign_request("GET", f"{running.base}/clients/{ID}/peers?{HERE}", None, KEY, ID, datetime.now(UTC))
    changed = Request(f"{running.base}/clients/{ID}/peers?{THERE}", headers=signed)
    assert refusal(running.client.exchange(changed))[0] == 401


@pytest.mark.parametrize("query", ["", "?port=80&at=10.0.0.1-24", "?at=10.0.0.1-24", "?port=8441&at=host"])
def test_half_a_question_is_none(running: Running, query: str) -> None:
    assert refusal(running.ask(f"clients/{ID}/peers{query}")) == (400, "request.peers")
