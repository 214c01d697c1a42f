"""The admin API over HTTP: uploads, publications, groups, jobs, ceremonies, and every kind of bad input."""

import contextlib
import hashlib
import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from pcm.content.objects import pack
from pcm.protocol.admin import ClientDetail, ClientView, KeysStatus, MetadataUpload, Page, TargetFile, Why
from pcm.protocol.admin_jobs import GroupView, JobDetail, JobPlan, JobView
from pcm.protocol.admin_packages import (
    BATCH_HEADER,
    PackageDetail,
    PackageView,
    PublicationAnswer,
    TeamView,
    VersionDetail,
)
from pcm.protocol.enrolment import ClientConfiguration
from pcm.protocol.policy import SitePolicy, write_policy
from pcm.testing.small_site import TEAM, make_package
from pcm.trust import delegations, roots
from tests.integration.site.served import Served, serve_small_site

CONTENT = b"#!/bin/sh\nexit 0\n" * 1000


def packed(body: bytes) -> bytes:
    return b"".join(pack(io.BytesIO(body), len(body)))


def upload(served: Served, name: str, body: bytes | Iterator[bytes]) -> Any:
    return served.call("PUT", f"/objects/{name}", body)


# --- objects -----------------------------------------------------------------------------------------------------------------


def test_an_object_is_missing_then_there(served: Served) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert served.call("POST", "/objects/missing", {"sha256": [sha256, sha256]}).json() == {"missing": [sha256]}
    answer = upload(served, sha256, packed(CONTENT))
    assert answer.json() == {"sha256": sha256, "length": len(CONTENT)}
    assert upload(served, sha256, packed(CONTENT)).status_code == 200
    assert served.call("POST", "/objects/missing", {"sha256": [sha256]}).json() == {"missing": []}
    fetched = served.http.get(f"{served.url}/distribution/objects/{sha256[:2]}/{sha256}.zst")
    assert fetched.content == packed(CONTENT)


def test_uploads_leave_the_last_of_the_disk_to_the_site_itself(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may upload must not be able to end the site's own records by it; what is refused can come later."""
    content = b"where there is little room " * 100
    sha256, body = hashlib.sha256(content).hexdigest(), packed(content)
    with monkeypatch.context() as patched:
        patched.setattr("pcm.site.api.objects.RESERVE_BYTES", 2**60)
        answer = upload(served, sha256, body)
        assert (answer.status_code, answer.json()["code"]) == (507, "store.disk_full")
        together = bytes.fromhex(sha256) + len(body).to_bytes(BATCH_HEADER - 32, "big") + body
        answer = served.call("POST", "/objects", together)
        assert (answer.status_code, answer.json()["code"]) == (507, "store.disk_full")
        assert served.call("POST", "/objects/missing", {"sha256": [sha256]}).json() == {"missing": [sha256]}
    assert upload(served, sha256, body).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "trust.content"),
        (b"not zstd at all, not in the least", "trust.content"),
        (packed(b"something else"), "trust.content"),
        (packed(b"x") + b"more", "trust.content"),
        (packed(b"x" * 5000)[:-3], "trust.content"),
    ],
)
def test_what_is_not_the_object_is_never_visible(served: Served, body: bytes, code: str) -> None:
    sha256 = hashlib.sha256(b"x").hexdigest()
    answer = upload(served, sha256, body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert served.call("POST", "/objects/missing", {"sha256": [sha256]}).json() == {"missing": [sha256]}


@pytest.mark.parametrize("name", ["abc", "A" * 64, "%2e%2e", "0" * 65])
def test_wrong_object_names(served: Served, name: str) -> None:
    assert upload(served, name, packed(b"x")).status_code in {400, 404}


def test_an_endless_upload_is_cut_off(served: Served) -> None:
    sha256 = hashlib.sha256(b"x").hexdigest()
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield packed(b"x")
        while sent < 500_000_000:
            sent += 65_536
            yield b"\0" * 65_536

    try:
        answer = upload(served, sha256, endless())
    except httpx.HTTPError:
        pass  # the site hung up, which is as good
    else:
        assert answer.status_code == 422
    assert sent < 50_000_000
    assert served.call("POST", "/objects/missing", {"sha256": [sha256]}).json() == {"missing": [sha256]}


def test_an_upload_that_breaks_off_leaves_nothing(served: Served) -> None:
    sha256 = hashlib.sha256(b"broken").hexdigest()
    body = packed(b"broken")
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"PUT /v1/objects/{sha256} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.small.admin_token}\r\n"
            f"content-length: {len(body) + 50}\r\n\r\n"
        )
        connection.sendall(head.encode() + body[:10])
    assert served.call("POST", "/objects/missing", {"sha256": [sha256]}).json() == {"missing": [sha256]}


def test_uploads_that_stand_still_keep_only_their_own_token_waiting(served: Served) -> None:
    made = served.call("POST", "/api-tokens", {"name": "build", "role": "packager"}).json()["token"]
    content = b"from another packager"
    sha256, body = hashlib.sha256(content).hexdigest(), packed(content)
    host, port = served.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as held:
        for number in range(6):
            connection = held.enter_context(socket.create_connection((host, int(port))))
            head = (
                f"PUT /v1/objects/{number:064x} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {made}\r\n"
                "content-length: 1000\r\n\r\n"
            )
            connection.sendall(head.encode())
        time.sleep(0.5)
        began = time.monotonic()
        assert upload(served, sha256, body).status_code == 200
        assert time.monotonic() - began < 10


# --- packages, jobs ----------------------------------------------------------------------------------------------------------


def test_a_package_is_published_and_withdrawn_over_http(served: Served) -> None:
    upload(served, hashlib.sha256(CONTENT).hexdigest(), packed(CONTENT))
    publication = served.small.sign_publication(served.site, make_package("web", contents={"setup.sh": CONTENT}))
    team = served.ask("GET", f"/teams/{TEAM}", TeamView)
    answer = served.ask("POST", "/publications", PublicationAnswer, publication)
    assert answer.version == team.next_version
    assert answer.published == ("packages/base/web/1.0/manifest.json",)
    assert "web" in [each.name for each in served.ask("GET", "/packages", Page[PackageView]).items]
    assert served.ask("GET", "/packages/web", PackageDetail).package.newest == "1.0"
    detail = served.ask("GET", "/packages/web/1.0", VersionDetail)
    assert detail.manifest == publication.manifests[0].body
    sha256 = detail.version.manifest.sha256
    path = f"distribution/targets/packages/base/web/1.0/{sha256}.manifest.json"
    assert served.http.get(f"{served.url}/{path}").content == detail.manifest
    withdrawn = served.ask(
        "POST", "/publications", PublicationAnswer, served.small.sign_withdrawal(served.site, "web", "1.0")
    )
    assert withdrawn.withdrawn == answer.published
    assert served.ask("GET", "/packages/web", PackageDetail).package.newest is None


def test_a_refused_publication_says_why(served: Served) -> None:
    publication = served.small.sign_publication(served.site, make_package("web2", contents={"a": b"nowhere"}))
    answer = served.call("POST", "/publications", publication)
    assert (answer.status_code, answer.json()["code"]) == (409, "package.objects_missing")
    assert served.call("GET", "/packages/web2").status_code == 404


def test_a_job_from_plan_to_cancel(served: Served) -> None:
    served.small.publish(served.site, make_package("jobbed"))
    client = served.enrolled("job-pc")
    order = {"package": "jobbed", "group": "all"}
    plan = served.ask("POST", "/jobs", JobPlan, {"order": order, "dry_run": True})
    assert plan.included >= 1
    job = served.ask("POST", "/jobs", JobView, {"order": order})
    listed = served.ask("GET", "/jobs", Page[JobView])
    assert listed.items[0].id == job.id
    served.compile()
    detail = served.ask("GET", f"/jobs/{job.id}", JobDetail)
    assert client.client_id in [each.client_id for each in detail.assignments.items]
    why = served.ask("GET", f"/clients/{client.client_id}/why", Why, job=job.id)
    assert why.job == job.id
    assert served.ask("POST", f"/jobs/{job.id}/cancel", JobView).state == "cancelling"
    assert served.call("POST", f"/jobs/{job.id}/cancel").json()["code"] == "job.state"


def test_a_job_that_contradicts_itself_is_refused_with_its_reason(served: Served) -> None:
    served.small.publish(served.site, make_package("odd"))
    order = {"package": "odd", "group": "all", "purpose": "optional", "mandatory_after": "2030-01-01T00:00:00Z"}
    answer = served.call("POST", "/jobs", {"order": order})
    assert (answer.status_code, answer.json()["code"]) == (409, "job.contradiction")
    assert "deadline" in answer.json()["detail"]


def test_groups_over_http(served: Served) -> None:
    client = served.enrolled("group-pc")
    made = served.ask("POST", "/groups", GroupView, {"name": "pilot", "clients": [client.client_id]})
    assert made.clients == (client.client_id,)
    assert served.ask("PUT", "/groups/pilot", GroupView, {"name": "pilot", "clients": []}).size == 0
    assert served.call("PUT", "/groups/pilot", {"name": "other", "clients": []}).json()["code"] == "request.group"
    assert {each.name for each in served.ask("GET", "/groups", Page[GroupView]).items} >= {"all", "pilot"}
    assert served.call("DELETE", "/groups/pilot").status_code == 204
    assert served.call("GET", "/groups/pilot").status_code == 404


def test_clients_are_listed_in_pages_and_by_state(served: Served) -> None:
    for number in range(3):
        served.enrolled(f"page-{number}")
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = served.call("GET", "/clients", limit=2, **({"cursor": cursor} if cursor else {})).json()
        seen += [each["client_id"] for each in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) >= 3
    assert served.call("GET", "/clients", state="revoked").json()["items"] == []
    assert served.call("GET", "/clients", state="odd").json()["code"] == "request.query"


def test_one_client_by_name(served: Served) -> None:
    client = served.enrolled("Named-PC")
    detail = served.ask("GET", "/clients/named-pc", ClientDetail)
    assert detail.client.client_id == client.client_id
    assert detail.groups == ("all",)
    assert detail.fingerprint.replace(" ", "") == client.client_id


def test_the_kit_is_all_that_a_client_needs(served: Served) -> None:
    kit = msgspec.json.decode(served.call("GET", "/kit").content, type=ClientConfiguration)
    assert kit.logon == (f"{served.url}/logon",)
    assert json.loads(kit.packages_root)["signed"]["_type"] == "root"


# --- bad input ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"order": 5}',
        b'{"order": {"package": "x"}}',
        b"[" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"order": {"package": "x", "group": "all", "priority": 1000}}',
        b'{"order": {"package": "x", "group": "all", "offer_after": "yesterday"}}',
    ],
)
def test_malformed_bodies_are_refused(served: Served, body: bytes) -> None:
    answer = served.call("POST", "/jobs", body)
    assert answer.status_code in {400, 413}
    problem = answer.json()
    assert problem["code"].startswith("protocol.")
    assert problem["status"] == answer.status_code
    assert problem["detail"]


def test_a_body_that_is_too_long_is_refused(served: Served) -> None:
    answer = served.call("POST", "/jobs", b"x" * (3 * 2**20))
    assert (answer.status_code, answer.json()["code"]) == (413, "request.too_large")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "cursor=%00", "cursor=x", "limit=1&limit=2"]
)
def test_wrong_pages_are_refused(served: Served, query: str) -> None:
    url = f"{served.url}/v1/jobs?{query}"
    answer = served.http.get(url, headers={"authorization": f"Bearer {served.small.admin_token}"})
    assert answer.status_code == 400


@pytest.mark.parametrize("name", ["%00", "a" * 3000, "%27%20or%201=1", "..", "%ff"])
def test_odd_names_are_only_not_found(served: Served, name: str) -> None:
    for path in ("clients", "packages", "groups", "jobs", "teams"):
        url = f"{served.url}/v1/{path}/{name}"
        answer = served.http.get(url, headers={"authorization": f"Bearer {served.small.admin_token}"})
        assert answer.status_code in {400, 404}, path


# --- ceremonies --------------------------------------------------------------------------------------------------------------


def policy_upload(served: Served, policy: SitePolicy, *, sign: bool = True) -> MetadataUpload:
    keys = served.ask("GET", "/keys", KeysStatus)
    staged = delegations.StagedTargets.after(keys.packages_targets, keys.packages_root, served.small.expires_s())
    body = write_policy(policy)
    staged.set_policy(body)
    if sign:
        staged.sign(served.small.offline.signer("targets"))
    return MetadataUpload("packages", "targets", staged.to_bytes(), (TargetFile("policy/site.json", body),))


def test_a_new_policy_comes_in_signed_only(served: Served) -> None:
    policy = SitePolicy(site=served.site.name, spread_s=3600)
    unsigned = served.call("POST", "/metadata", policy_upload(served, policy, sign=False))
    assert unsigned.json()["code"] == "request.threshold"
    answer = served.ask("POST", "/metadata", KeysStatus, policy_upload(served, policy))
    assert answer.policy == write_policy(policy)
    assert (
        served.call("POST", "/metadata", MetadataUpload("packages", "targets", answer.packages_targets)).status_code
        == 409
    )


def test_a_policy_that_was_not_signed_is_refused(served: Served) -> None:
    upload = policy_upload(served, SitePolicy(site=served.site.name, spread_s=1))
    other = write_policy(SitePolicy(site=served.site.name, spread_s=2))
    changed = msgspec.structs.replace(upload, files=(TargetFile("policy/site.json", other),))
    assert served.call("POST", "/metadata", changed).json()["code"] == "request.publication"


@pytest.mark.parametrize("body", [b"", b"{}", b"[]"])
def test_rubbish_metadata_is_refused(served: Served, body: bytes) -> None:
    for role in ("root", "targets"):
        for repository in ("packages", "instructions"):
            upload = {"repository": repository, "role": role, "body": msgspec.to_builtins(body)}
            assert served.call("POST", "/metadata", upload).json()["code"] == "request.metadata"


def test_keys_are_rotated_by_a_new_root(tmp_path: Path) -> None:
    """Policy and online keys are replaced; clients go on with the new ones, and nothing is signed with the old."""
    with serve_small_site(tmp_path) as served:
        client = served.enrolled()
        served.compile()
        keys = served.ask("GET", "/keys", KeysStatus)
        for repository, current, role, name in (
            ("instructions", keys.instructions_root, "targets", "policy"),
            ("packages", keys.packages_root, "timestamp", "online"),
        ):
            fresh = served.site.keyring.create(f"{name}.2")
            staged = roots.StagedRoot.after(current, served.small.expires_s())
            old = served.site.keyring.public(name).keyid
            for each in ("snapshot", "timestamp") if role == "timestamp" else (role,):
                staged.add_key(each, fresh)
                staged.remove_key(each, old)
            unsigned = MetadataUpload(repository, "root", staged.to_bytes())  # type: ignore[arg-type]
            assert served.call("POST", "/metadata", unsigned).json()["code"] == "request.threshold"
            staged.sign(served.small.offline.signer("root-1"))
            upload = MetadataUpload(repository, "root", staged.finish())  # type: ignore[arg-type]
            served.ask("POST", "/metadata", KeysStatus, upload)
        assert served.site.policy.public_key.keyid == served.site.keyring.public("policy.2").keyid
        served.compile()
        targets = served.site.own_logon.folder.newest_targets(client.client_id)
        assert json.loads(targets[1])["signatures"][0]["keyid"] == served.site.policy.public_key.keyid
        assert served.http.get(f"{served.url}/logon/roots/2.root.json").status_code == 200
        stamp = served.http.get(f"{served.url}/distribution/metadata/timestamp.json").json()
        assert stamp["signatures"][0]["keyid"] == served.site.online.public_key.keyid


def test_the_other_repositorys_root_is_refused(served: Served) -> None:
    keys = served.ask("GET", "/keys", KeysStatus)
    staged = roots.StagedRoot.after(keys.packages_root, served.small.expires_s())
    staged.sign(served.small.offline.signer("root-1"))
    upload = MetadataUpload("instructions", "root", staged.to_bytes())
    assert served.call("POST", "/metadata", upload).json()["code"] in {"request.metadata", "request.threshold"}


def test_uploads_that_stand_still_keep_nobody_else_waiting(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    head = (
        f"PUT /v1/objects/{'0' * 64} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n"
        f"Authorization: Bearer {served.small.admin_token}\r\n\r\n"
    )
    slow = [socket.create_connection((host, int(port))) for _ in range(40)]
    try:
        for each in slow:
            each.sendall(head.encode() + b"(")
        begun = time.monotonic()
        assert served.call("GET", "/site").status_code == 200
        client = served.enrolled("meanwhile")
        report = client.report(served.site.name)
        assert served.as_client(client, "POST", "reports", report).status_code == 200
        assert time.monotonic() - begun < 10
    finally:
        for each in slow:
            each.close()


def test_a_gap_is_resumed_over_http(served: Served) -> None:
    client = served.enrolled("restored")
    envelope, _ = client.sign_report(served.site.name, 5, "0" * 64)
    assert served.as_client(client, "POST", "reports", envelope).status_code == 409
    listed = served.ask("GET", "/clients", Page[ClientView], gap="true").items
    assert [each.host_name for each in listed] == ["restored"]
    lines = served.ask("GET", f"/clients/{client.client_id}/why", Why).lines
    assert [line.code for line in lines if line.holds is False and "resume" in line.answer] == ["report.gap"]
    served.ask("POST", f"/clients/{client.client_id}/resume", ClientDetail)
    assert served.as_client(client, "POST", "reports", envelope).status_code == 200
    again = served.call("POST", f"/clients/{client.client_id}/resume")
    assert (again.status_code, again.json()["code"]) == (409, "client.state")
