"""The compiler on both databases: what is in a file, when it changes, that clients accept it, and that one never stops the others."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import Signer
from sqlalchemy import update

from pcm.model.assignment import State
from pcm.model.errors import RequestError, TransferError
from pcm.model.program import Program
from pcm.protocol.approval import PAYLOAD_TYPE, read_approval, write_approval
from pcm.protocol.report import Outcome
from pcm.site import approvals, repository
from pcm.site.compile import BATCH, Compiler
from pcm.site.configuration import Settings
from pcm.site.db.tables import clients, jobs, poison, settings
from pcm.testing.small_site import SmallClient
from pcm.trust import approvals as client_side
from pcm.trust import envelopes
from pcm.trust.instructions import Recipient, Seen, VerifiedInstructions, verify_instructions
from tests.contract.site.conftest import Office


@pytest.fixture
def ready(office: Office) -> Office:
    office.package()
    return office


def look(office: Office, client: SmallClient, following: Path, place: int = 0) -> VerifiedInstructions:
    """Verify the client's instructions from one logon folder, as the client does."""
    with office.site.database.read() as connection:
        root = repository.require(connection, repository.INSTRUCTIONS, "root").body
    logon = office.site.logon[place]
    logon.leases.ensure(client.client_id)

    def fetch(name: str, _most: int) -> list[bytes]:
        found = logon.folder.read(name)
        if found is None:
            raise TransferError(name, code="transfer.not_found")
        return [found]

    me = Recipient(office.site.name, client.client_id, "0.1.0")
    return verify_instructions(me, root, None, following, seen=Seen(), fetch=fetch, now=datetime.now(UTC))


def report(office: Office, client: SmallClient, job: str, state: State) -> None:
    said = Outcome(f"{job}.{client.client_id[:12]}", job, 1, state, office.clock())
    office.report(client, serial=office.client(client).serial, outcomes=(said,))


def test_every_enrolled_client_gets_a_file_even_without_work(ready: Office, tmp_path: Path) -> None:
    client = ready.enrolled()
    assert ready.compile() == 1
    seen = look(ready, client, tmp_path / "copy")
    assert seen.instructions.instructions == ()
    assert seen.instructions.servers.logon == ("http://127.0.0.1:8440/logon",)
    assert seen.instructions.package_repository_min.snapshot == 2


def test_an_instruction_says_what_was_ordered(ready: Office, tmp_path: Path) -> None:
    client = ready.enrolled()
    job = ready.order(priority=7, expires_after=ready.clock.now + timedelta(days=2), note="secret plans")
    ready.compile()
    seen = look(ready, client, tmp_path / "copy")
    [instruction] = seen.instructions.instructions
    assert instruction.id == f"{job}.{client.client_id[:12]}"
    assert (instruction.job, instruction.package, instruction.version, instruction.release) == (job, "tool", "1.0", 1)
    assert (instruction.priority, instruction.purpose, instruction.generation) == (7, "mandatory", 1)
    assert instruction.mandatory_after == instruction.offer_after
    assert b"secret plans" not in seen.body


def test_q140928_all_logon_folders_have_it_whole(open_office: Callable[..., Office], tmp_path: Path) -> None:
    office = open_office(static=True)
    office.package()
    client = office.enrolled()
    office.order()
    office.compile()
    bodies = {look(office, client, tmp_path / str(place), place).body for place in (0, 1)}
    assert len(bodies) == 1


def test_an_unchanged_file_is_not_signed_anew(ready: Office) -> None:
    client = ready.enrolled()
    ready.order()
    assert ready.compile() == 1
    before = ready.client(client)
    with ready.site.database.write() as connection:
        connection.execute(update(clients).values(dirty=True))
    assert ready.compile() == 0
    after = ready.client(client)
    assert (after.serial, after.targets_version, after.dirty) == (before.serial, before.targets_version, False)


def test_serials_count_up_with_each_change(ready: Office) -> None:
    client = ready.enrolled()
    serials = []
    for version in range(1, 4):
        if version > 1:
            ready.package(version=f"1.{version}", release=version)
        ready.order()
        ready.compile()
        serials.append(ready.instructions(client).serial)
    assert serials == [1, 2, 3]
    versions = ready.client(client)
    assert versions.targets_version > 0


def test_what_is_done_is_no_longer_in_the_file(ready: Office) -> None:
    client = ready.enrolled()
    job = ready.order()
    ready.compile()
    report(ready, client, job, State.SUCCEEDED)
    ready.order(note="again")
    ready.compile()
    assert job not in [each.job for each in ready.instructions(client).instructions]


def test_what_failed_stays_so_that_it_can_be_tried_again(ready: Office) -> None:
    client = ready.enrolled()
    job = ready.order()
    ready.compile()
    report(ready, client, job, State.FAILED)
    other = ready.order(note="another")
    ready.compile()
    assert [each.job for each in ready.instructions(client).instructions] == [job, other]


def test_a_job_waits_for_others_only_while_they_are_undone(ready: Office) -> None:
    client, windows = ready.enrolled("a"), ready.enrolled("b")
    first = ready.order()
    second = ready.order(program="uninstall", after=(first,))
    ready.compile()
    after = {each.job: each.after for each in ready.instructions(client).instructions}
    assert after == {first: (), second: (first,)}
    report(ready, client, first, State.SUCCEEDED)
    with ready.site.database.write() as connection:
        connection.execute(update(clients).values(dirty=True))
    ready.compile()
    assert [each.after for each in ready.instructions(client).instructions] == [()]
    assert len(ready.instructions(windows).instructions) == 2


def test_now_by_the_clients_clock_has_come_everywhere(ready: Office) -> None:
    client = ready.enrolled()
    ready.order(clock="client")
    ready.compile()
    [instruction] = ready.instructions(client).instructions
    assert instruction.offer_after <= ready.clock.now - timedelta(hours=12)


def test_q168130_one_client_that_cannot_be_compiled_stops_nobody(ready: Office) -> None:
    bad, good = ready.enrolled("bad"), ready.enrolled("good")
    with ready.site.database.write() as connection:
        connection.execute(
            update(clients)
            .where(clients.c.client_id == bad.client_id)
            .values(client_id="not-an-id-but-32-characters-long")
        )
    ready.order()
    ready.compile()
    assert len(ready.instructions(good).instructions) == 1
    [item] = ready.rows(poison)
    assert item.source == "not-an-id-but-32-characters-long"
    [row] = ready.rows(clients, clients.c.client_id != good.client_id)
    assert row.compile_failures > 0
    assert row.retry_after > ready.clock.now


def test_q168130_a_folder_that_cannot_be_written_is_tried_again_later(ready: Office) -> None:
    bad, good = ready.enrolled("bad"), ready.enrolled("good")
    folder = ready.site.own_logon.folder.root / "clients" / bad.client_id
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    ready.compile()
    assert ready.site.own_logon.folder.newest_targets(good.client_id) is not None
    assert ready.client(bad).unwritten
    folder.unlink()
    ready.clock.forward(hours=1)
    ready.rounds.tick()
    assert ready.site.own_logon.folder.newest_targets(bad.client_id) is not None
    assert not ready.client(bad).unwritten


def test_q161043_a_damaged_order_stops_only_the_clients_that_have_it(ready: Office) -> None:
    concerned = ready.enrolled("a")
    job = ready.order()
    ready.compile()
    with ready.site.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job).values(body="{", state="cancelled"))
    other = ready.enrolled("b")
    with ready.site.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job).values(state="active"))
        connection.execute(update(clients).values(dirty=True))
    later = ready.order()
    ready.compile()
    assert [each.job for each in ready.instructions(other).instructions] == [later]
    assert [each.job for each in ready.instructions(concerned).instructions] == [job]
    assert ready.client(concerned).retry_after is not None


def test_a_crash_after_the_database_is_made_good(ready: Office, tmp_path: Path) -> None:
    client = ready.enrolled()
    ready.order()
    ready.rounds.compiler.compile_batch()  # and then the process dies, before any file is written
    assert ready.site.own_logon.folder.newest_targets(client.client_id) is None
    signed = ready.client(client)
    assert Compiler(ready.site).compile_now() == 0
    after = ready.client(client)
    assert (after.serial, after.targets) == (signed.serial, signed.targets)
    assert len(look(ready, client, tmp_path / "copy").instructions.instructions) == 1


def test_files_that_are_lost_are_written_again_at_the_start(ready: Office, tmp_path: Path) -> None:
    client = ready.enrolled()
    ready.compile()
    ready.site.own_logon.folder.remove_client(client.client_id)
    ready.rounds.prepare()
    assert ready.compile() == 0
    assert look(ready, client, tmp_path / "copy").instructions.serial == 1


def test_signatures_are_renewed_at_half_their_time(ready: Office) -> None:
    client = ready.enrolled()
    ready.compile()
    ready.clock.forward(days=10)
    ready.rounds.tick()
    assert ready.client(client).serial == 1
    ready.clock.forward(days=6)
    ready.rounds.tick()
    assert ready.client(client).serial == 2
    assert ready.instructions(client).expires > ready.clock.now + timedelta(days=29)


def test_leases_in_static_folders_are_renewed(open_office: Callable[..., Office]) -> None:
    office = open_office(static=True)
    client = office.enrolled()
    office.compile()
    name = f"clients/{client.client_id}/timestamp.json"
    place = office.site.logon[1].folder
    first = place.read(name)
    office.rounds.tick()
    assert place.read(name) == first
    office.clock.forward(days=1.5)
    office.rounds.tick()
    assert place.read(name) != first


def test_q199994_a_change_of_servers_reaches_every_client(ready: Office) -> None:
    first, second = ready.enrolled("a"), ready.enrolled("b")
    ready.compile()
    configuration = ready.site.configuration
    moved = msgspec.structs.replace(configuration.logon[0], location="http://other.example/logon")
    ready.site.configuration = msgspec.structs.replace(configuration, logon=(moved,))
    ready.rounds.prepare()
    assert ready.compile() == 2
    for client in (first, second):
        assert ready.instructions(client).servers.logon == ("http://other.example/logon",)
    ready.rounds.prepare()
    assert ready.compile() == 0
    assert "servers.change" in ready.audited()


def test_more_clients_than_one_batch(ready: Office) -> None:
    many = [SmallClient(f"pc-{number}") for number in range(BATCH + 5)]
    for client in many:
        ready.intake.enrol(client.wish(ready.site.name, ready.token()), client.client_id)
    ready.order()
    assert ready.compile() == BATCH + 5
    assert all(not row.dirty and not row.unwritten for row in ready.rows(clients))


def test_settings_reach_the_file(open_office: Callable[..., Office]) -> None:
    office = open_office(settings=Settings(poll_after_s=77, min_client_version="0.0.1", instruction_days=4))
    client = office.enrolled()
    office.compile()
    file = office.instructions(client)
    assert (file.poll_after_s, file.min_client_version) == (77, "0.0.1")
    assert file.expires - file.issued == timedelta(days=4)


# --- approvals ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(open_office: Callable[..., Office]) -> Office:
    """A package whose removal needs two of three approvers."""
    office = open_office(approvers=("ann", "bob", "eve"))
    programs = {"install": Program(argv=("/bin/true",)), "uninstall": Program(argv=("/bin/true",), approvals=2)}
    office.package(programs=programs)
    return office


def approval(office: Office, order: str, *names: str, **changes: Any) -> bytes:
    with office.site.database.read() as connection:
        question = approvals.question(connection, order, office.site.name, emergency=False)
    payload = question.payload
    if changes:
        payload = write_approval(msgspec.structs.replace(read_approval(payload), **changes))
    envelope: bytes | None = None
    for name in names:
        signer = office.small.offline.signer(f"approver-{name}")

        def sign(data: bytes, signer: Signer = signer) -> bytes:
            return bytes.fromhex(signer.sign(data).signature)

        envelope = envelopes.add_signature(envelope, PAYLOAD_TYPE, payload, signer.public_key.keyid, sign)
    assert envelope is not None
    return envelope


def approve(office: Office, job: str, envelope: bytes) -> tuple[str, ...]:
    with office.site.database.write() as connection:
        return approvals.add(connection, job, envelope, office.site.name, "tester", office.clock())


def test_an_unapproved_job_is_in_no_file(guarded: Office) -> None:
    client = guarded.enrolled()
    job = guarded.order(program="uninstall")
    guarded.compile()
    assert guarded.job(job).state == "waiting_for_approval"
    assert guarded.instructions(client).instructions == ()
    approve(guarded, job, approval(guarded, job, "ann"))
    guarded.compile()
    assert guarded.instructions(client).instructions == ()
    assert guarded.job(job).approvals_given == 1


@pytest.mark.parametrize("together", [True, False])
def test_an_approved_job_carries_what_each_client_checks(guarded: Office, together: bool) -> None:
    members = [guarded.enrolled(f"pc-{number}") for number in range(5)]
    job = guarded.order(program="uninstall")
    if together:
        assert approve(guarded, job, approval(guarded, job, "ann", "bob")) == ("ann", "bob")
    else:
        approve(guarded, job, approval(guarded, job, "ann"))
        approve(guarded, job, approval(guarded, job, "bob"))
    guarded.compile()
    with guarded.site.database.read() as connection:
        policy = repository.current_policy(connection)
    for client in members:
        [instruction] = guarded.instructions(client).instructions
        agreed = client_side.check_approvals(instruction, 2, policy, client.client_id, guarded.clock())
        assert agreed.approvers == {"ann", "bob"}
    assert guarded.job(job).state == "active"
    assert "job.approve" in guarded.audited()


def test_nobody_joins_an_approved_job(guarded: Office) -> None:
    guarded.enrolled("a")
    job = guarded.order(program="uninstall")
    approve(guarded, job, approval(guarded, job, "ann", "bob"))
    late = guarded.enrolled("late")
    guarded.compile()
    assert guarded.instructions(late).instructions == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"package": "other"},
        {"release": 9},
        {"audience": None},
        {"audience": "0" * 64},
        {"job": "j0000000000"},
        {"emergency": True, "program": "install"},
        {"expires": datetime(2099, 1, 1, tzinfo=UTC)},
    ],
)
def test_an_approval_of_something_else_is_refused(guarded: Office, changes: dict[str, Any]) -> None:
    guarded.enrolled()
    job = guarded.order(program="uninstall")
    with pytest.raises(RequestError) as raised:
        approve(guarded, job, approval(guarded, job, "ann", **changes))
    assert raised.value.code == "approval.other_order"


def test_a_strangers_approval_is_refused(guarded: Office) -> None:
    guarded.enrolled()
    job = guarded.order(program="uninstall")
    guarded.small.offline.create("approver-mallory")
    with pytest.raises(RequestError) as raised:
        approve(guarded, job, approval(guarded, job, "mallory"))
    assert raised.value.code == "approval.unknown_signer"


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 20_000, base64.b64encode(b"x")])
def test_what_is_no_approval_is_refused(guarded: Office, body: bytes) -> None:
    guarded.enrolled()
    job = guarded.order(program="uninstall")
    with pytest.raises(RequestError) as raised:
        approve(guarded, job, body)
    assert raised.value.code.startswith("protocol.")


def test_the_same_approval_twice_counts_once(guarded: Office) -> None:
    guarded.enrolled()
    job = guarded.order(program="uninstall")
    envelope = approval(guarded, job, "ann")
    approve(guarded, job, envelope)
    approve(guarded, job, envelope)
    approve(guarded, job, approval(guarded, job, "ann"))
    assert guarded.job(job).approvals_given == 1


def test_a_cancelled_job_is_not_approved(guarded: Office) -> None:
    guarded.enrolled()
    job = guarded.order(program="uninstall")
    envelope = approval(guarded, job, "ann")
    guarded.cancel(job)
    with pytest.raises(RequestError) as raised:
        approve(guarded, job, envelope)
    assert raised.value.code == "job.state"


def test_after_a_restart_of_the_machine_all_files_are_written_again(ready: Office, tmp_path: Path) -> None:
    client = ready.enrolled()
    ready.compile()
    name = f"clients/{client.client_id}/{ready.client(client).targets_version}.targets.json"
    place = ready.site.own_logon.folder
    (place.root / name).write_bytes(b"")  # what a power cut may leave of a file that was not synced
    ready.rounds.prepare()
    assert ready.compile() == 0
    assert place.read(name) == b""
    with ready.site.database.write() as connection:
        connection.execute(update(settings).where(settings.c.name == "boot_id").values(value="another"))
    ready.rounds.prepare()
    assert ready.compile() == 0
    assert look(ready, client, tmp_path / "copy").instructions.serial == 1
