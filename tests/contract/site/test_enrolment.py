"""Enrolment on both databases: tokens, hosts, approval, repetition, revocation."""

import threading
from collections.abc import Callable

import msgspec
import pytest

from pcm.model.errors import RequestError, TrustError
from pcm.protocol.enrolment import EnrolmentAnswer, EnrolmentRequest
from pcm.site import clients as client_rows
from pcm.site.configuration import Settings
from pcm.site.db.tables import assignments, clients, enrolment_tokens
from pcm.site.intake import MOST_PENDING, MOST_WRONG
from pcm.testing.small_site import SmallClient, enrol
from tests.contract.site.conftest import Office


def ask(office: Office, client: SmallClient, token: str | None = None) -> EnrolmentAnswer:
    return enrol(office.intake, client, office.site.name, token)


def refused(office: Office, client: SmallClient, token: str | None = None) -> RequestError:
    with pytest.raises(RequestError) as raised:
        ask(office, client, token)
    return raised.value


def approve(office: Office, client: SmallClient) -> None:
    with office.site.database.write() as connection:
        client_rows.approve(connection, client_rows.find(connection, client.client_id), "tester", office.clock())


def revoke(office: Office, client: SmallClient) -> None:
    with office.site.database.write() as connection:
        client_rows.revoke(connection, client_rows.find(connection, client.client_id), "tester", office.clock())


def test_a_token_lets_one_computer_in(office: Office) -> None:
    client = SmallClient("PC-1")
    answer = ask(office, client, office.token())
    assert answer.state == "enrolled"
    assert answer.client_id == client.client_id
    assert answer.fingerprint.replace(" ", "") == client.client_id
    row = office.client(client)
    assert (row.state, row.host_name, row.host_key, row.platform) == ("enrolled", "PC-1", "pc-1", "linux-x86_64")
    assert "client.enrol" in office.audited()


def test_the_key_is_on_the_logon_server_before_the_answer(office: Office) -> None:
    client = office.enrolled()
    place = office.site.own_logon
    assert place.folder.key_path(client.client_id).read_text() == client.public_pem()


def test_tokens_are_kept_as_hashes_only(office: Office) -> None:
    token = office.token()
    [row] = office.rows(enrolment_tokens)
    assert token not in str(row)


def test_a_wrong_token_is_refused(office: Office) -> None:
    error = refused(office, SmallClient(), "x" * 43)
    assert error.code == "not_allowed"
    assert office.rows(clients) == []


def test_an_expired_token_is_refused(office: Office) -> None:
    token = office.token(expires_in_s=60)
    office.clock.forward(seconds=61)
    assert "expired" in refused(office, SmallClient(), token).message


def test_a_token_is_used_once(office: Office) -> None:
    token = office.token()
    ask(office, SmallClient("a"), token)
    assert "used already" in refused(office, SmallClient("b"), token).message
    assert len(office.rows(clients)) == 1


def test_a_token_may_be_for_one_host_only(office: Office) -> None:
    token = office.token(host_name="PC-7")
    assert "another name" in refused(office, SmallClient("pc-8"), token).message
    assert ask(office, SmallClient("pc-7"), token).state == "enrolled"


def test_two_computers_with_one_token_at_once(office: Office) -> None:
    token = office.token()
    outcomes: list[str] = []

    def run(name: str) -> None:
        try:
            outcomes.append(ask(office, SmallClient(name), token).state)
        except RequestError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=run, args=(f"pc-{number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["enrolled", *["not_allowed"] * 4]


def test_without_a_token_a_computer_waits_for_approval(office: Office) -> None:
    client = SmallClient()
    assert ask(office, client).state == "pending"
    assert ask(office, client).state == "pending"
    assert office.compile() == 0
    approve(office, client)
    assert ask(office, client).state == "enrolled"
    assert office.compile() == 1


def test_a_waiting_computer_may_bring_a_token_after_all(office: Office) -> None:
    client = SmallClient()
    ask(office, client)
    assert ask(office, client, office.token()).state == "enrolled"


def test_waiting_computers_are_bounded(open_office: Callable[..., Office]) -> None:
    office = open_office(settings=Settings(max_pending=2))
    for name in "ab":
        ask(office, SmallClient(name))
    assert refused(office, SmallClient("c")).code == "enrolment.full"
    assert ask(office, SmallClient("d"), office.token()).state == "enrolled"


def test_the_same_key_again_gets_the_same_answer_and_no_second_row(office: Office) -> None:
    client = SmallClient()
    token = office.token()
    assert ask(office, client, token) == ask(office, client, token) == ask(office, client)
    assert len(office.rows(clients)) == 1


def test_q162165_a_revoked_key_never_comes_back(office: Office) -> None:
    client = office.enrolled()
    revoke(office, client)
    assert refused(office, client, office.token()).code == "not_allowed"
    with pytest.raises(RequestError) as raised:
        approve(office, client)
    assert raised.value.code == "client.state"


def test_q127052_a_computer_set_up_anew_under_its_name_is_another_client_and_inherits_nothing(office: Office) -> None:
    office.package()
    old = office.enrolled("pc-1")
    job = office.order()
    office.compile()
    revoke(office, old)
    new = office.enrolled("pc-1")
    office.compile()
    assert new.client_id != old.client_id
    assert {(row.client_id, row.host_name, row.state) for row in office.rows(clients)} == {
        (old.client_id, "pc-1", "revoked"),
        (new.client_id, "pc-1", "enrolled"),
    }
    [mine] = office.rows(assignments, assignments.c.client == office.client(new).id)
    [theirs] = office.rows(assignments, assignments.c.client == office.client(old).id)
    assert (mine.job, theirs.job) == (job, job)
    [instruction] = office.instructions(new).instructions
    assert instruction.id == f"{job}.{new.client_id[:12]}"
    assert office.report(new).acknowledged == 1  # a chain of its own
    with pytest.raises(TrustError) as raised:
        office.report(old)
    assert raised.value.code == "trust.unknown_client"


def test_a_revoked_clients_files_are_removed(office: Office) -> None:
    client = office.enrolled()
    office.compile()
    folder = office.site.own_logon.folder.root / "clients" / client.client_id
    assert folder.is_dir()
    revoke(office, client)
    office.compile()
    assert not folder.exists()


def test_another_sites_wish_is_refused(office: Office) -> None:
    client = SmallClient()
    wish = msgspec.structs.replace(client.wish("elsewhere"), token=office.token())
    with pytest.raises(RequestError) as raised:
        office.intake.enrol(wish, client.client_id)
    assert raised.value.code == "enrolment.wrong_site"


def test_facts_with_odd_characters_are_kept(office: Office) -> None:
    client = office.enrolled("pc\x00\u2028é")
    assert office.client(client).host_name == "pc\ufffd\u2028é"


def test_clients_are_found_by_id_beginning_and_name(office: Office) -> None:
    client = office.enrolled("Desk-1")
    for name in (client.client_id, client.client_id[:8], "desk-1", "DESK-1"):
        with office.site.database.read() as connection:
            assert client_rows.find(connection, name).client_id == client.client_id
    with office.site.database.read() as connection, pytest.raises(RequestError) as raised:
        client_rows.find(connection, "nobody")
    assert raised.value.code == "not_found"


def test_an_ambiguous_name_is_not_guessed(office: Office) -> None:
    office.enrolled("desk")
    office.enrolled("desk")
    with office.site.database.read() as connection, pytest.raises(RequestError) as raised:
        client_rows.find(connection, "desk")
    assert raised.value.code == "request.ambiguous"


def test_no_host_name_stands_in_the_way_of_another_clients_id(office: Office) -> None:
    victim = office.enrolled("pc-1")
    for name in (victim.client_id, victim.client_id[:12], victim.client_id.upper()):
        office.enrolled(name)
    with office.site.database.read() as connection:
        for reference in (victim.client_id, victim.client_id[:12]):
            assert client_rows.find(connection, reference).client_id == victim.client_id


def test_a_revoked_client_does_not_keep_its_name(office: Office) -> None:
    old = office.enrolled("pc-1")
    revoke(office, old)
    with office.site.database.read() as connection:
        assert client_rows.find(connection, "pc-1").client_id == old.client_id
    new = office.enrolled("PC-1")
    with office.site.database.read() as connection:
        assert client_rows.find(connection, "pc-1").client_id == new.client_id


def test_wrong_tokens_are_slowed_down_by_source_and_right_ones_are_not(office: Office) -> None:
    wishes = SmallClient("pc-1").wish(office.site.name, "guess")

    def offer(wish: EnrolmentRequest, source: str) -> str:
        client = SmallClient(wish.facts.host_name)
        wish = msgspec.structs.replace(wish, public_key=client.public_pem())
        try:
            return office.intake.enrol(wish, client.client_id, source).body.decode()
        except RequestError as error:
            return error.code

    most, _ = MOST_WRONG
    assert [offer(wishes, "192.0.2.1") for _ in range(most + 2)] == ["not_allowed"] * most + ["request.too_many"] * 2
    assert offer(wishes, "192.0.2.2") == "not_allowed"
    right = msgspec.structs.replace(wishes, token=office.token())
    assert '"enrolled"' in offer(right, "192.0.2.1")
    assert offer(right, "192.0.2.1") == "request.too_many"  # it is used up


def test_many_that_want_approval_are_slowed_down_and_known_ones_are_not(office: Office) -> None:
    first = SmallClient("pc-0")
    wish = first.wish(office.site.name)
    most, _ = MOST_PENDING
    for number in range(most):
        client = SmallClient(f"pc-{number}") if number else first
        assert office.intake.enrol(client.wish(office.site.name), client.client_id, "192.0.2.1").status == 202
    late = SmallClient("late")
    with pytest.raises(RequestError) as raised:
        office.intake.enrol(late.wish(office.site.name), late.client_id, "192.0.2.1")
    assert raised.value.code == "request.too_many"
    assert office.intake.enrol(wish, first.client_id, "192.0.2.1").status == 202


def test_a_token_that_is_tried_again_is_audited(office: Office) -> None:
    token = office.token()
    ask(office, SmallClient("pc-1"), token)
    assert "used already" in refused(office, SmallClient("thief"), token).message
    assert office.audited()[-1] == "enrolment_token.misuse"
    before = office.audited()
    refused(office, SmallClient("thief"), "a guess")
    assert office.audited() == before
