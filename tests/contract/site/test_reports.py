"""Status reports on both databases: next, repeated, gap, fork, legal moves, poison, dropped files."""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import event, select

from pcm.model.assignment import State
from pcm.model.errors import PcmError
from pcm.model.facts import Facts
from pcm.protocol.report import PAYLOAD_TYPE, Outcome, Refusal, RunResult
from pcm.site import clients as client_rows
from pcm.site import reports as report_rows
from pcm.site.db.tables import assignments, poison, refusals, reports, results
from pcm.site.db.tables import clients as client_table
from pcm.site.pages import Slice
from pcm.site.set_aside import MOST
from pcm.testing.small_site import SmallClient
from pcm.trust import envelopes
from tests.contract.site.conftest import Office


@pytest.fixture
def ready(office: Office) -> Office:
    office.package()
    return office


def outcome(office: Office, client: SmallClient, job: str, state: State, **fields: Any) -> Outcome:
    return Outcome(f"{job}.{client.client_id[:12]}", job, fields.pop("generation", 1), state, office.clock(), **fields)


def result(office: Office, **fields: Any) -> RunResult:
    return RunResult(fields.pop("run", "a" * 32), office.clock(), office.clock(), **fields)


def offered(office: Office) -> tuple[SmallClient, str]:
    """A client that has been offered a job."""
    client = office.enrolled()
    job = office.order()
    office.compile()
    return client, job


def state_of(office: Office, job: str) -> str:
    [row] = office.rows(assignments, assignments.c.job == job)
    return str(row.state)


def refused(office: Office, client: SmallClient, envelope: bytes) -> PcmError:
    with pytest.raises(PcmError) as raised:
        office.offer(client, envelope)
    return raised.value


def test_reports_in_their_order(ready: Office) -> None:
    client = ready.enrolled()
    for seq in range(1, 4):
        assert ready.report(client).acknowledged == seq
    row = ready.client(client)
    assert (row.last_seq, row.last_report_sha256) == (3, client.previous)
    assert len(ready.rows(reports)) == 3


def test_q164877_the_same_again_is_acknowledged_and_changes_nothing(ready: Office) -> None:
    client, job = offered(ready)
    said = outcome(ready, client, job, State.SUCCEEDED, result=result(ready, exit_code=0, exit_class="success"))
    envelope = client.report(ready.site.name, outcomes=(said,))
    first = ready.offer(client, envelope)
    assert first == ready.offer(client, envelope)
    ready.report(client)
    assert ready.offer(client, envelope).acknowledged == 2
    assert len(ready.rows(results)) == 1
    assert len(ready.rows(reports)) == 2


def test_a_gap_is_not_taken_and_harms_nobody(ready: Office) -> None:
    client = ready.enrolled()
    envelope, _ = client.sign_report(ready.site.name, 3, "0" * 64)
    verdict = ready.offer(client, envelope)
    assert (verdict.code, verdict.acknowledged) == ("report.gap", 0)
    assert ready.client(client).state == "enrolled"
    assert ready.report(client).acknowledged == 1


@pytest.mark.parametrize("case", ["other content", "other past", "first again"])
def test_q183398_a_client_that_exists_twice_is_quarantined(ready: Office, case: str) -> None:
    client = ready.enrolled()
    ready.report(client)
    ready.report(client)
    seq, previous = {
        "other content": (2, client.previous),
        "other past": (3, "f" * 64),
        "first again": (1, None),
    }[case]
    envelope, _ = client.sign_report(ready.site.name, seq, previous, serial=99)
    assert ready.offer(client, envelope).code == "report.fork"
    row = ready.client(client)
    assert row.state == "quarantined"
    assert "exists twice" in row.note
    assert ready.audited()[-1] == "client.quarantine"
    assert refused(ready, client, client.report(ready.site.name)).code == "trust.unknown_client"


def test_a_quarantined_client_is_shown_nothing_until_it_is_approved(ready: Office) -> None:
    client, _ = offered(ready)
    ready.report(client)
    fork, _ = client.sign_report(ready.site.name, 1, None, serial=5)
    ready.offer(client, fork)
    ready.compile()
    folder = ready.site.own_logon.folder.root / "clients" / client.client_id
    assert not folder.exists()
    with ready.site.database.write() as connection:
        row = client_rows.find(connection, client.client_id)
        client_rows.approve(connection, row, "tester", ready.clock())
    ready.compile()
    assert ready.site.own_logon.folder.newest_targets(client.client_id) is not None
    assert ready.report(client).acknowledged == 2


def test_a_quarantined_client_begins_a_new_chain_at_any_number(ready: Office) -> None:
    client = ready.enrolled()
    for _ in range(5):
        ready.report(client)
    clone = SmallClient(key=client.key, seq=2, previous="a" * 64)
    ready.report(clone)
    with ready.site.database.write() as connection:
        row = client_rows.find(connection, client.client_id)
        client_rows.approve(connection, row, "tester", ready.clock())
    assert ready.report(clone).acknowledged == 4
    assert ready.report(clone).acknowledged == 5


def test_q138241_one_result_holds_everything(ready: Office) -> None:
    client, job = offered(ready)
    ran = result(ready, exit_code=3010, exit_class="restart", detected=True, output_tail="done\x00\r\n", output_bytes=7)
    ready.report(client, outcomes=(outcome(ready, client, job, State.RESTART_PENDING, result=ran),))
    [row] = ready.rows(results)
    assert (row.exit_code, row.exit_class, row.detected, row.output_tail) == (3010, "restart", True, "done\ufffd\r\n")
    assert state_of(ready, job) == "restart_pending"


def test_q172872_results_tell_for_which_user_each_is(ready: Office) -> None:
    client, job = offered(ready)
    for run, user in enumerate(("alice", "bob", "")):
        ran = result(ready, run=f"{run:032x}", exit_code=run, run_as=user)
        reason = f"For {user or 'all'}: done."
        said = outcome(ready, client, job, State.WAITING, code="wait.next_logon", reason=reason, result=ran)
        ready.report(client, outcomes=(said,))
    found = ready.rows(results, results.c.job == job)
    assert sorted((row.run_as, row.exit_code) for row in found) == [("", 2), ("alice", 0), ("bob", 1)]
    assert state_of(ready, job) == "waiting"


def test_the_largest_exit_codes_are_kept(ready: Office) -> None:
    client, job = offered(ready)
    for number, code in enumerate((0xC0000005, -(2**31))):
        ran = result(ready, run=f"{number:032x}", exit_code=code)
        ready.report(client, outcomes=(outcome(ready, client, job, State.FAILED, result=ran),))
    assert {row.exit_code for row in ready.rows(results)} == {0xC0000005, -(2**31)}


def test_q152229_late_events_do_not_overwrite_the_truth(ready: Office) -> None:
    client, job = offered(ready)
    ready.report(client, outcomes=(outcome(ready, client, job, State.SUCCEEDED),))
    ready.report(client, outcomes=(outcome(ready, client, job, State.WAITING),))
    assert state_of(ready, job) == "succeeded"
    [note] = ready.rows(refusals)
    assert note.code == "report.illegal_move"
    assert "succeeded cannot become waiting" in note.reason


def test_several_moves_in_one_report_follow_each_other(ready: Office) -> None:
    client, job = offered(ready)
    states = (State.WAITING, State.RUNNING, State.FAILED, State.WAITING, State.RUNNING, State.SUCCEEDED)
    ready.report(client, outcomes=tuple(outcome(ready, client, job, state) for state in states))
    assert state_of(ready, job) == "succeeded"
    assert ready.rows(refusals) == []


def test_outcomes_for_other_generations_and_unknown_jobs_are_notes(ready: Office) -> None:
    client, job = offered(ready)
    ready.report(
        client,
        outcomes=(
            outcome(ready, client, job, State.SUCCEEDED, generation=2),
            outcome(ready, client, "j0000000000", State.SUCCEEDED),
        ),
    )
    assert state_of(ready, job) == "offered"
    assert {row.code for row in ready.rows(refusals)} == {"report.other_generation", "report.unknown_assignment"}


def test_a_client_cannot_speak_for_another(ready: Office) -> None:
    victim, job = offered(ready)
    other = ready.enrolled("b", platform="windows-x86_64")
    ready.report(other, outcomes=(outcome(ready, victim, job, State.SUCCEEDED),))
    [row] = ready.rows(assignments, assignments.c.job == job, assignments.c.client == ready.client(victim).id)
    assert row.state == "offered"


def test_refusals_are_shown_with_their_code(ready: Office) -> None:
    client, job = offered(ready)
    ready.report(
        client,
        refusals=(Refusal("trust.rollback", ready.clock(), "older files", "http://x", 3),),
        outcomes=(outcome(ready, client, job, State.REFUSED, code="trust.unsigned_program", reason="no"),),
    )
    assert {(row.code, row.job, row.times) for row in ready.rows(refusals)} == {
        ("trust.rollback", None, 3),
        ("trust.unsigned_program", job, 1),
    }
    assert state_of(ready, job) == "refused"


def test_q172899_receipt_is_stamped_by_the_site(ready: Office) -> None:
    client, job = offered(ready)
    future = ready.clock.now + timedelta(days=4000)
    said = Outcome(f"{job}.{client.client_id[:12]}", job, 1, State.WAITING, future)
    ready.report(client, sent=future, outcomes=(said,))
    assert ready.client(client).last_seen <= ready.clock.now
    [row] = ready.rows(assignments)
    assert row.changed <= ready.clock.now


def test_facts_follow_the_client(ready: Office) -> None:
    client = ready.enrolled()
    ready.report(client, facts=Facts("Renamed", "linux-arm64", "Debian", "13", "0.2"), ledger_head="c" * 64, serial=4)
    row = ready.client(client)
    assert (row.host_name, row.host_key, row.platform, row.ledger_head, row.stands_on) == (
        "Renamed",
        "renamed",
        "linux-arm64",
        "c" * 64,
        4,
    )


def test_a_wrong_signature_is_refused_and_set_aside(ready: Office) -> None:
    client, stranger = ready.enrolled(), SmallClient()
    envelope, payload = client.sign_report(ready.site.name, 1, None)
    forged = envelopes.sign_as_client(PAYLOAD_TYPE, payload, stranger.key)
    assert refused(ready, client, forged).code == "trust.unsigned"
    assert refused(ready, client, envelope.replace(b'"sig":"', b'"sig":"AAAA')).code in {
        "trust.unsigned",
        "trust.malformed",
        "protocol.malformed",
    }
    assert {row.source for row in ready.rows(poison)} == {client.client_id}
    assert ready.client(client).last_seq == 0


def test_unknown_revoked_and_pending_clients_report_nothing(ready: Office) -> None:
    stranger = SmallClient()
    assert refused(ready, stranger, stranger.report(ready.site.name)).code == "trust.unknown_client"


def test_a_report_of_another_client_or_site_is_refused(ready: Office) -> None:
    client, other = ready.enrolled("a"), ready.enrolled("b")
    _, payload = other.sign_report(ready.site.name, 1, None)
    relabelled = envelopes.sign_as_client(PAYLOAD_TYPE, payload, client.key)
    assert refused(ready, client, relabelled).code == "report.wrong_sender"
    assert refused(ready, client, client.sign_report("elsewhere", 1, None)[0]).code == "report.wrong_sender"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff\xfe", b'{"payload":"","payloadType":"x","signatures":[]}', b"[" * 500]
)
def test_q190135_malformed_envelopes_are_refused(ready: Office, body: bytes) -> None:
    client = ready.enrolled()
    assert refused(ready, client, body).code.startswith(("protocol.", "trust."))
    assert ready.report(client).acknowledged == 1


def test_q159201_an_unreadable_report_is_set_aside_and_the_next_ones_go_on(ready: Office) -> None:
    """A newer client may say what this site does not understand: its chain goes on, and the item is kept."""
    client = ready.enrolled()
    _, payload = client.sign_report(ready.site.name, 1, None)
    strange = msgspec.json.encode({**msgspec.json.decode(payload), "spec": "9.0"})
    assert ready.offer(client, envelopes.sign_as_client(PAYLOAD_TYPE, strange, client.key)).acknowledged == 1
    client.seq, client.previous = 1, hashlib.sha256(strange).hexdigest()
    assert ready.report(client).acknowledged == 2
    [item] = ready.rows(poison)
    assert item.code == "protocol.unknown_version"


def test_q140389_many_reports_at_once_are_written_in_groups(ready: Office) -> None:
    clients = [ready.enrolled(f"pc-{number}") for number in range(10)]
    waiting = [
        ready.intake.offer(client.client_id, client.report(ready.site.name)) for _ in range(10) for client in clients
    ]
    assert all(not each.result(30).code for each in waiting)
    assert {ready.client(client).last_seq for client in clients} == {10}


def test_q162558_what_has_come_while_the_database_was_busy_is_one_transaction(ready: Office) -> None:
    clients = [ready.enrolled(f"pc-{number}") for number in range(8)]
    commits: list[object] = []
    with ready.site.database.write() as busy:
        names = [client.client_id for client in clients]
        busy.execute(select(client_table.c.id).where(client_table.c.client_id.in_(names)).with_for_update()).all()
        waiting = [
            ready.intake.offer(client.client_id, client.report(ready.site.name)) for _ in range(5) for client in clients
        ]
        event.listen(ready.site.database.engine, "commit", commits.append)
    assert all(not each.result(30).code for each in waiting)
    assert {ready.client(client).last_seq for client in clients} == {5}
    assert len(commits) <= 3, "this one, what had begun to wait first, and all the others together"


def test_old_raw_reports_are_forgotten(ready: Office) -> None:
    client = ready.enrolled()
    envelope = client.report(ready.site.name)
    ready.offer(client, envelope)
    ready.clock.forward(days=40)
    ready.report(client)
    ready.rounds.forget()
    assert [row.seq for row in ready.rows(reports)] == [2]
    assert ready.offer(client, envelope).acknowledged == 2
    assert ready.client(client).state == "enrolled"


def test_reports_left_in_a_folder_are_taken_in_and_acknowledged_by_file(open_office: Callable[..., Office]) -> None:
    office = open_office(static=True)
    office.package()
    client = office.enrolled()
    office.compile()
    drop = office.site.logon[1].folder.root / "reports"
    first, second = client.report(office.site.name), client.report(office.site.name)
    (drop / f"{client.client_id}.2.json").write_bytes(second)
    office.rounds.tick()
    assert office.client(client).last_seq == 0
    (drop / f"{client.client_id}.1.json").write_bytes(first)
    (drop / f"{'0' * 32}.1.json").write_bytes(first)
    (drop / "rubbish.json").write_bytes(b"{}")
    office.rounds.tick()
    assert office.client(client).last_seq == 2
    assert [path.name for path in drop.iterdir()] == ["rubbish.json"]
    assert office.instructions(client).acknowledged_seq == 2


def test_a_link_in_the_drop_folder_is_not_followed(open_office: Callable[..., Office]) -> None:
    office = open_office(static=True)
    client = office.enrolled()
    drop = office.site.logon[1].folder.root / "reports"
    secret = office.small.folder / "keys" / "policy.pem"
    (drop / f"{client.client_id}.1.json").symlink_to(secret)
    office.rounds.tick()
    assert secret.exists()
    assert [bytes(row.body) for row in office.rows(poison)] == [f"{client.client_id}.1.json".encode()]


def resume(office: Office, client: SmallClient) -> None:
    with office.site.database.write() as connection:
        client_rows.resume(connection, client_rows.find(connection, client.client_id), "tester", office.clock())


def gaps(office: Office) -> list[str]:
    with office.site.database.read() as connection:
        return [view.client_id for view in client_rows.list_clients(connection, Slice(), None, gap=True).items]


def test_after_a_restored_database_reports_go_on_once_somebody_says_so(ready: Office) -> None:
    client = ready.enrolled()
    ready.report(client)
    for _ in range(5):
        client.report(ready.site.name)  # the site took them, and has forgotten them since
    lost = client.report(ready.site.name, serial=40)
    for _ in range(3):
        assert ready.offer(client, lost).code == "report.gap"
    [note] = ready.rows(refusals)
    assert (note.code, note.times) == ("report.gap", 3)
    assert gaps(ready) == [client.client_id]
    resume(ready, client)
    assert ready.offer(client, lost).acknowledged == 7
    assert gaps(ready) == []
    assert ready.report(client).acknowledged == 8
    assert ready.audited()[-1] == "client.resume"
    # instructions go on above what the client has seen
    ready.compile()
    assert ready.instructions(client).serial == 41


def test_resuming_lets_no_old_report_in_again(ready: Office) -> None:
    client = ready.enrolled()
    old = client.report(ready.site.name)
    ready.offer(client, old)
    ready.report(client)
    envelope, _ = client.sign_report(ready.site.name, 9, "0" * 64)
    ready.offer(client, envelope)
    resume(ready, client)
    other, _ = client.sign_report(ready.site.name, 1, None, serial=7)
    assert ready.offer(client, old).acknowledged == 2
    assert ready.client(client).last_seq == 2
    assert ready.offer(client, other).code == "report.fork"


def test_where_nothing_is_missing_nothing_is_resumed(ready: Office) -> None:
    client = ready.enrolled()
    envelope, _ = client.sign_report(ready.site.name, 3, "0" * 64)
    with pytest.raises(PcmError) as raised:
        resume(ready, client)
    assert raised.value.code == "client.state"
    ready.offer(client, envelope)
    for _ in range(2):
        ready.report(client)
    with pytest.raises(PcmError):
        resume(ready, client)
    assert ready.client(client).last_report_sha256 == client.previous


def test_a_client_that_floods_fills_no_table(ready: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEPT_WHOLE", "MOST_RESULTS", "MOST_REFUSALS"):
        monkeypatch.setattr(report_rows, name, 5)
    client, job = offered(ready)
    other = ready.enrolled("other")
    ready.report(other, refusals=(Refusal("clock.behind", ready.clock()),))
    for number in range(20):
        said = outcome(ready, client, job, State.WAITING, result=result(ready, run=f"{number:032x}"))
        refusal = Refusal(f"trust.made_up_{number}", ready.clock())
        assert not ready.report(client, outcomes=(said,), refusals=(refusal,)).code
    assert [row.seq for row in ready.rows(reports) if row.envelope and row.seq > 1] == [16, 17, 18, 19, 20]
    assert [row.run[-2:] for row in ready.rows(results)] == ["0f", "10", "11", "12", "13"]
    mine = ready.rows(refusals, refusals.c.client == ready.client(client).id)
    assert len(mine) <= 5
    assert len(ready.rows(refusals, refusals.c.client == ready.client(other).id)) == 1


def test_rubbish_of_one_client_is_kept_in_part_only(ready: Office) -> None:
    client = ready.enrolled()
    for number in range(MOST + 5):
        refused(ready, client, b"rubbish %d" % number)
    assert len(ready.rows(poison)) == MOST
    ready.clock.forward(days=40)
    ready.rounds.forget()
    assert ready.rows(poison) == []
