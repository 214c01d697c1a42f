"""Every endpoint with every role, without a token, and with a client's key; and one client with another's files."""

import re
from typing import get_args

import httpx
import pytest

from pcm.protocol.admin import Role
from pcm.site.intake import MOST_WRONG
from pcm.site.permissions import ENDPOINTS
from pcm.site.throttle import Throttle
from pcm.testing.small_site import SmallClient
from pcm.transport.signing import sign_request
from tests.integration.site.served import Served

CASES = [(method, path, role) for (method, path) in ENDPOINTS for role in get_args(Role)]


@pytest.fixture(scope="module")
def tokens(served: Served) -> dict[str, str]:
    made = {}
    for role in get_args(Role):
        answer = served.call("POST", "/api-tokens", {"name": f"the {role}", "role": role})
        made[role] = answer.json()["token"]
    return made


def fill(path: str) -> str:
    """A path for a pattern, naming nothing that exists."""
    return re.sub(r"\{.*?\}", "nothing", path).removeprefix("/v1")


@pytest.mark.parametrize(("method", "path", "role"), CASES, ids=[" ".join(case) for case in CASES])
def test_each_role_may_do_what_the_table_says(
    served: Served, tokens: dict[str, str], method: str, path: str, role: Role
) -> None:
    answer = served.call(method, fill(path), b"" if method in {"POST", "PUT"} else None, token=tokens[role])
    if role in ENDPOINTS[method, path]:
        assert answer.status_code not in {401, 403, 405, 500}, answer.text
    else:
        assert answer.status_code == 403
        assert answer.json()["code"] == "not_allowed"
        assert role in answer.json()["detail"]


@pytest.mark.parametrize(("method", "path"), list(ENDPOINTS), ids=[" ".join(key) for key in ENDPOINTS])
def test_nothing_answers_without_a_token(served: Served, method: str, path: str) -> None:
    served.site.wrong_tokens = Throttle(1000, 60)
    url = f"{served.url}/v1{fill(path)}"
    for headers in (
        {},
        {"authorization": "Basic eDp5"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer a.b.c"},
    ):
        answer = served.http.request(method, url, headers=headers, content=b"{}" if method != "GET" else None)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_what_is_not_in_the_table_is_not_there(served: Served) -> None:
    for method, path in (
        ("GET", "/nothing"),
        ("POST", "/site"),
        ("DELETE", "/jobs"),
        ("HEAD", "/site"),
        ("GET", "/site/"),
    ):
        assert served.call(method, path).status_code in {404, 405}
    assert served.http.get(f"{served.url}/").status_code == 404


def test_a_revoked_token_is_dead_at_once(served: Served) -> None:
    made = served.call("POST", "/api-tokens", {"name": "short", "role": "admin"}).json()
    assert served.call("GET", "/site", token=made["token"]).status_code == 200
    assert served.call("DELETE", f"/api-tokens/{made['id']}", token=made["token"]).status_code == 403
    assert served.call("DELETE", f"/api-tokens/{made['id']}").status_code == 204
    assert served.call("GET", "/site", token=made["token"]).status_code == 401
    listed = {each["id"]: each for each in served.call("GET", "/api-tokens").json()["items"]}
    assert listed[made["id"]]["revoked"] is not None
    assert "token" not in listed[made["id"]]


# --- the logon server --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clients(served: Served) -> tuple[SmallClient, SmallClient]:
    pair = served.enrolled("a"), served.enrolled("b")
    served.compile()
    return pair


def files_of(served: Served, client: SmallClient) -> list[str]:
    folder = served.site.own_logon.folder.root / "clients" / client.client_id
    return [f"clients/{client.client_id}/{path.name}" for path in folder.iterdir()]


def test_a_client_reads_its_own_files_only(served: Served, clients: tuple[SmallClient, SmallClient]) -> None:
    mine, theirs = clients
    assert served.as_client(mine, "GET", f"clients/{mine.client_id}/timestamp.json").status_code == 200
    for name in (f"clients/{theirs.client_id}/timestamp.json", *files_of(served, theirs)):
        assert served.as_client(mine, "GET", name).status_code in {403, 404}
        assert served.http.get(f"{served.url}/logon/{name}").status_code in {401, 404}
    stranger = SmallClient()
    assert served.as_client(stranger, "GET", f"clients/{mine.client_id}/timestamp.json").status_code == 403


def test_keys_are_never_served(served: Served, clients: tuple[SmallClient, SmallClient]) -> None:
    mine, _ = clients
    assert served.as_client(mine, "GET", f"clients/{mine.client_id}/client.pub").status_code == 404


def test_roots_and_packages_are_public(served: Served) -> None:
    for path in (
        "logon/roots/1.root.json",
        "distribution/metadata/1.root.json",
        "distribution/metadata/timestamp.json",
    ):
        assert served.http.get(f"{served.url}/{path}").status_code == 200


def test_who_guesses_tokens_is_told_to_wait_and_nobody_else(served: Served, tokens: dict[str, str]) -> None:
    served.site.wrong_tokens = Throttle(3, 60)
    assert served.call("GET", "/site", token=tokens["viewer"]).status_code == 200
    for _ in range(3):
        assert served.call("GET", "/site", token="a.b.c").status_code == 401
    answer = served.call("GET", "/site", token="a.b.c")
    assert (answer.status_code, answer.json()["code"]) == (429, "request.too_many")
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    assert served.call("GET", "/site", token=tokens["viewer"]).status_code == 200
    served.site.wrong_tokens = Throttle(1000, 60)


def test_who_guesses_enrolment_tokens_is_told_to_wait(served: Served) -> None:
    for _ in range(MOST_WRONG[0]):
        served.enrol(SmallClient("guess"), "guess")
    answer = served.enrol(SmallClient("guess"), "guess")
    assert (answer.status_code, answer.json()["code"]) == (429, "request.too_many")
    assert int(answer.headers["retry-after"]) >= 1
    assert served.enrolled("invited")


def test_a_client_that_floods_is_told_to_wait(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = served.enrolled("flood")
    monkeypatch.setattr(served.serving.intake, "_floods", Throttle(2, 60))
    for _ in range(2):
        report = client.report(served.site.name)
        assert served.as_client(client, "POST", "reports", report).status_code == 200
    answer = served.as_client(client, "POST", "reports", client.report(served.site.name))
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    other = served.enrolled("calm")
    assert served.as_client(other, "POST", "reports", other.report(served.site.name)).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "logon/../keys/policy.pem",
        "logon/%2e%2e/keys/policy.pem",
        "logon/roots/..%2f..%2fkeys%2fpolicy.pem",
        "distribution/../site.yaml",
        "distribution/metadata/%2e%2e/%2e%2e/admin.token",
        "distribution/metadata/..%5c..%5cadmin.token",
        "distribution//etc/passwd",
        "keys/policy.pem",
        "site.db",
    ],
)
def test_nothing_else_of_the_site_folder_is_served(served: Served, path: str) -> None:
    request = httpx.Request("GET", served.url)
    request.url = httpx.URL(served.url).copy_with(raw_path=f"/{path}".encode())
    answer = served.http.send(request)
    assert answer.status_code in {400, 401, 403, 404}
    assert b"PRIVATE" not in answer.content


def test_a_revoked_client_reads_and_reports_nothing_any_more(served: Served) -> None:
    client = served.enrolled("gone")
    served.compile()
    name = f"clients/{client.client_id}/timestamp.json"
    assert served.as_client(client, "GET", name).status_code == 200
    assert served.call("POST", f"/clients/{client.client_id}/revoke").json()["client"]["state"] == "revoked"
    assert served.as_client(client, "GET", name).status_code == 403
    assert served.as_client(client, "POST", "reports", client.report(served.site.name)).status_code == 403


def test_a_clients_signature_is_no_admin_token(served: Served, clients: tuple[SmallClient, SmallClient]) -> None:
    mine, _ = clients
    url = f"{served.url}/v1/site"
    signed = sign_request("GET", url, None, mine.key, mine.client_id, served.site.clock())
    assert served.http.get(url, headers=signed).status_code == 401
