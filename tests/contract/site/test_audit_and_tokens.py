"""The audit chain and API tokens on both databases; what the site shows of itself."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey
from sqlalchemy import delete, update

from pcm.model.errors import RequestError, TrustError
from pcm.protocol.admin import Role
from pcm.site import audit, client_views, site_views, tokens
from pcm.site import clients as client_rows
from pcm.site.db import tables
from pcm.site.pages import Slice
from tests.contract.site.conftest import Office


def issue(office: Office, role: Role = "viewer", lifetime_s: int = 3600) -> Any:
    with office.site.database.write() as connection:
        return tokens.issue(
            connection, office.site.token_key, office.site.name, "ann", role, office.clock(), lifetime_s
        )


def verify(office: Office, token: str) -> tokens.Actor:
    with office.site.database.read() as connection:
        return tokens.verify(connection, office.site.token_key, office.site.name, token, office.clock())


def refused(office: Office, token: str) -> None:
    with pytest.raises(RequestError) as raised:
        verify(office, token)
    assert raised.value.code == "unauthenticated"


def forged(office: Office, key: Any, algorithm: str, **claims: Any) -> str:
    answer = issue(office)
    body = {
        "iss": office.site.name,
        "aud": tokens.AUDIENCE,
        "sub": "ann",
        "scope": "admin",
        "exp": int(answer.expires.timestamp()),
        "jti": answer.id,
        **claims,
    }
    return jwt.encode({"alg": algorithm}, body, key, algorithms=[algorithm])


def test_a_token_says_who_and_which_role(office: Office) -> None:
    actor = verify(office, issue(office, "operator").token)
    assert (actor.name, actor.role) == ("ann", "operator")


def test_the_first_administrators_token_is_one(office: Office) -> None:
    assert verify(office, office.small.admin_token).role == "admin"
    assert (office.small.folder / "admin.token").stat().st_mode & 0o077 == 0


def test_tokens_expire(office: Office) -> None:
    token = issue(office, lifetime_s=60).token
    office.clock.forward(seconds=61)
    refused(office, token)


def test_tokens_are_revoked(office: Office) -> None:
    answer = issue(office)
    with office.site.database.write() as connection:
        tokens.revoke(connection, answer.id, office.clock())
    refused(office, answer.token)
    with office.site.database.write() as connection, pytest.raises(RequestError) as raised:
        tokens.revoke(connection, answer.id, office.clock())
    assert raised.value.code == "not_found"


def test_a_token_without_its_row_counts_nothing(office: Office) -> None:
    answer = issue(office)
    with office.site.database.write() as connection:
        connection.execute(delete(tables.api_tokens).where(tables.api_tokens.c.jti == answer.id))
    refused(office, answer.token)


def test_a_role_that_the_row_does_not_have_is_refused(office: Office) -> None:
    refused(office, forged(office, office.site.token_key, "Ed25519", scope="admin"))
    verify(office, forged(office, office.site.token_key, "Ed25519", scope="viewer"))


@pytest.mark.parametrize(
    "claims", [{"iss": "elsewhere"}, {"aud": "another-api"}, {"exp": 1}, {"jti": "0" * 32}, {"jti": None}]
)
def test_every_claim_is_checked(office: Office, claims: dict[str, Any]) -> None:
    refused(office, forged(office, office.site.token_key, "Ed25519", **{"scope": "viewer", **claims}))


def test_another_key_or_algorithm_is_refused(office: Office) -> None:
    refused(office, forged(office, OKPKey.generate_key("Ed25519"), "Ed25519", scope="viewer"))
    public = str(office.site.token_key.as_dict(private=False)["x"])
    refused(office, forged(office, OctKey.import_key(public), "HS256", scope="viewer"))


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "é", "x" * 5000, "eyJhbGciOiJub25lIn0.e30."])
def test_rubbish_is_refused(office: Office, token: str) -> None:
    refused(office, token)


def test_the_chain_holds(office: Office) -> None:
    office.package()
    office.enrolled()
    assert office.audited()[:1] == ["site.init"]


@pytest.mark.parametrize("change", ["detail", "actor", "gone", "last gone but one"])
def test_a_changed_audit_log_is_noticed(office: Office, change: str) -> None:
    for name in "abc":
        office.enrolled(name)
    table = tables.audit
    with office.site.database.write() as connection:
        rows = connection.execute(table.select().order_by(table.c.seq)).all()
        victim = rows[-2].seq if change == "last gone but one" else rows[2].seq
        if "gone" in change:
            connection.execute(delete(table).where(table.c.seq == victim))
        else:
            connection.execute(update(table).where(table.c.seq == victim).values({change: "x"}))
    with office.site.database.read() as connection, pytest.raises(TrustError) as raised:
        audit.verify_chain(connection)
    assert raised.value.code == "audit.broken"


def test_a_failed_change_leaves_no_audit_row(office: Office) -> None:
    before = office.audited()
    with pytest.raises(RequestError):
        office.order(package="nothing")
    assert office.audited() == before


def test_the_audit_log_is_shown_newest_first_in_pages(office: Office) -> None:
    for name in "abc":
        office.enrolled(name)
    with office.site.database.read() as connection:
        first = site_views.list_audit(connection, Slice(2))
        second = site_views.list_audit(connection, Slice(2, first.next))
    seqs = [row.seq for row in (*first.items, *second.items)]
    assert seqs == sorted(seqs, reverse=True)
    assert len(set(seqs)) == 4


def test_the_site_shows_itself(office: Office) -> None:
    office.package()
    office.enrolled()
    office.order()
    with office.site.database.read() as connection:
        status = site_views.status(connection, office.site)
        kit = site_views.kit(connection, office.site)
        keys = site_views.keys_status(connection)
    assert (status.clients, status.assignments, status.packages, status.jobs) == ({"enrolled": 1}, {"offered": 1}, 1, 1)
    assert status.dirty == 1
    assert kit.logon == ("http://127.0.0.1:8440/logon",)
    assert b'"_type":"root"' in kit.instructions_root.replace(" ", "").replace("\n", "").encode()
    assert {role.role for role in keys.packages} == {"root", "targets", "snapshot", "timestamp", "base"}
    assert {key.name for role in keys.instructions for key in role.keys} == {"root-1", "policy", "lease-main"}
    assert msgspec.json.encode(keys)


def test_why_answers_question_by_question(office: Office) -> None:
    office.package()
    client = office.enrolled()
    job = office.order()

    def told(name: str | None = job) -> dict[str, bool | None]:
        with office.site.database.read() as connection:
            row = client_rows.find(connection, client.client_id)
            why = client_views.why(connection, row, name, office.clock())
        return {line.question: line.holds for line in why.lines}

    before = told()
    assert before["Was it targeted?"] is True
    assert before["Is it in its instruction file?"] is False
    assert before["Has it reported?"] is False
    office.compile()
    assert told()["Is it in its instruction file?"] is True
    assert told()["Has the client fetched it?"] is False
    office.report(client, serial=1)
    assert told()["Has the client fetched it?"] is True
    assert told()["Does it stand on the newest?"] is True
    office.cancel(job)
    assert told()["Is the job active?"] is False
    with pytest.raises(RequestError):
        told("j0000000000")
    assert "Was it targeted?" not in told(None)


def test_time_passes_for_last_seen(office: Office) -> None:
    client = office.enrolled()
    office.report(client)
    office.clock.now += timedelta(minutes=7)
    with office.site.database.read() as connection:
        row = client_rows.find(connection, client.client_id)
        why = client_views.why(connection, row, None, office.clock())
    assert "7 minutes ago" in why.lines[1].answer


def test_tokens_are_listed_in_pages(office: Office) -> None:
    with office.site.database.write() as connection:
        for number in range(4):
            tokens.issue(
                connection, office.site.token_key, office.site.name, f"t{number}", "viewer", office.clock(), 60
            )
    seen, cursor = [], None
    while True:
        with office.site.database.read() as connection:
            part = tokens.list_tokens(connection, Slice(2, cursor))
        seen += [token.name for token in part.items]
        cursor = part.next
        if cursor is None:
            break
    assert seen == ["t3", "t2", "t1", "t0", "first administrator"]
