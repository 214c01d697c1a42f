"""Enrolment and status reports over HTTP, as the service sends them."""

import json
import socket
import time

import pytest

from pcm.model.assignment import State
from pcm.protocol import codec
from pcm.protocol.admin_jobs import JobDetail, JobView
from pcm.protocol.report import MAX_ENVELOPE_BYTES, Outcome, RunResult
from pcm.testing.small_site import SmallClient, make_package
from pcm.transport.signing import sign_request
from tests.integration.site.served import Served


def token(served: Served, **fields: object) -> str:
    return str(served.call("POST", "/enrolment-tokens", fields).json()["token"])


def test_enrolment_by_token(served: Served) -> None:
    client = SmallClient("fresh")
    answer = served.enrol(client, token(served))
    assert answer.status_code == 200
    assert answer.json()["client_id"] == client.client_id


@pytest.mark.parametrize("case", ["wrong", "expired", "second use", "other host"])
def test_enrolment_with_a_token_that_does_not_count(served: Served, case: str) -> None:
    given = token(
        served, **({"expires_in_s": 1} if case == "expired" else {"host_name": "right"} if case == "other host" else {})
    )
    if case == "expired":
        time.sleep(1.1)
    if case == "second use":
        assert served.enrol(SmallClient("first"), given).status_code == 200
    answer = served.enrol(SmallClient("late"), "x" * 43 if case == "wrong" else given)
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert answer.json()["message"]


def test_enrolment_by_approval(served: Served) -> None:
    client = SmallClient("waiting")
    assert served.enrol(client).status_code == 202
    name = f"clients/{client.client_id}/timestamp.json"
    assert served.as_client(client, "GET", name).status_code == 403
    assert served.as_client(client, "POST", "reports", client.report(served.site.name)).status_code == 403
    shown = served.call("POST", f"/clients/{client.client_id}/approve").json()
    assert shown["client"]["state"] == "enrolled"
    served.compile()
    assert served.as_client(client, "GET", name).status_code == 200
    assert served.enrol(client).status_code == 200


def test_enrolment_needs_the_private_key(served: Served) -> None:
    """Somebody who only knows a public key cannot enrol it, nor use up a token with it."""
    victim, thief = SmallClient("victim"), SmallClient("thief")
    given = token(served)
    body = codec.encode(victim.wish(served.site.name, given))
    url = f"{served.url}/logon/enroll"
    for keyid in (victim.client_id, thief.client_id):
        signed = sign_request("POST", url, body, thief.key, keyid, served.site.clock())
        assert served.http.post(url, content=body, headers=signed).status_code in {401, 403}
    assert served.http.post(url, content=body).status_code == 401
    assert served.enrol(victim, given).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"{" * 1000, b"\xff", b'{"type":"pcm.enrolment","spec":"2.0"}'])
def test_malformed_enrolments(served: Served, body: bytes) -> None:
    client = SmallClient()
    assert served.as_client(client, "POST", "enroll", body).status_code == 400


def test_a_report_moves_the_job(served: Served) -> None:
    served.small.publish(served.site, make_package("reported"))
    client = served.enrolled("reporter")
    job = served.ask("POST", "/jobs", JobView, {"order": {"package": "reported", "group": "all"}}).id
    served.compile()
    now = served.site.clock()
    ran = RunResult("c" * 32, now, now, 0, "success", detected=True, output_tail="ok", output_bytes=2)
    said = Outcome(f"{job}.{client.client_id[:12]}", job, 1, State.SUCCEEDED, now, result=ran)
    envelope = client.report(served.site.name, serial=1, outcomes=(said,))
    for _ in range(2):
        answer = served.as_client(client, "POST", "reports", envelope)
        assert (answer.status_code, answer.json()) == (200, {"acknowledged": 1})
    detail = served.ask("GET", f"/jobs/{job}", JobDetail)
    assert {each.host_name: each.state for each in detail.assignments.items}["reporter"] == "succeeded"
    assert [each.output_tail for each in detail.results] == ["ok"]


def test_gap_and_fork_are_told_apart(served: Served) -> None:
    client = served.enrolled("forker")
    served.as_client(client, "POST", "reports", client.report(served.site.name))
    gap, _ = client.sign_report(served.site.name, 5, "a" * 64)
    answer = served.as_client(client, "POST", "reports", gap)
    assert (answer.status_code, answer.json()["code"], answer.json()["acknowledged"]) == (409, "report.gap", 1)
    fork, _ = client.sign_report(served.site.name, 1, None, serial=9)
    answer = served.as_client(client, "POST", "reports", fork)
    assert (answer.status_code, answer.json()["code"]) == (403, "report.fork")
    shown = served.call("GET", f"/clients/{client.client_id}").json()
    assert shown["client"]["state"] == "quarantined"
    assert {each["code"] for each in shown["refusals"]} >= {"report.gap", "report.fork"}


def test_a_report_by_another_client_or_nobody(served: Served) -> None:
    mine, other = served.enrolled("mine"), served.enrolled("other")
    envelope = mine.report(served.site.name)
    assert served.as_client(other, "POST", "reports", envelope).status_code == 403
    assert served.http.post(f"{served.url}/logon/reports", content=envelope).status_code == 401
    assert served.as_client(SmallClient(), "POST", "reports", envelope).status_code == 403
    assert served.as_client(mine, "POST", "reports", envelope).status_code == 200


def test_a_body_that_was_not_signed(served: Served) -> None:
    client = served.enrolled("tampered")
    url = f"{served.url}/logon/reports"
    envelope = client.report(served.site.name)
    signed = sign_request("POST", url, envelope, client.key, client.client_id, served.site.clock())
    assert served.http.post(url, content=envelope + b" ", headers=signed).status_code == 401


def test_oversize_and_malformed_reports(served: Served) -> None:
    client = served.enrolled("large")
    answer = served.as_client(client, "POST", "reports", b"x" * (MAX_ENVELOPE_BYTES + 1))
    assert answer.status_code == 413
    for body in (b"", b"{}", b"\x00", json.dumps({"payload": "", "payloadType": "x", "signatures": []}).encode()):
        assert served.as_client(client, "POST", "reports", body).status_code in {400, 403}
    assert served.as_client(client, "POST", "reports", client.report(served.site.name)).json() == {"acknowledged": 1}
    assert served.call("GET", "/site").json()["poison"] >= 1


def test_many_clients_report_at_once(served: Served) -> None:
    clients = [served.enrolled(f"many-{number}") for number in range(8)]
    sockets = []
    host, port = served.url.removeprefix("http://").split(":")
    for client in clients:
        body = client.report(served.site.name)
        url = f"{served.url}/logon/reports"
        signed = sign_request("POST", url, body, client.key, client.client_id, served.site.clock())
        head = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        connection = socket.create_connection((host, int(port)), timeout=20)
        connection.sendall(
            f"POST /logon/reports HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        sockets.append(connection)
    for connection in sockets:
        with connection:
            assert connection.recv(15).startswith(b"HTTP/1.1 200")
