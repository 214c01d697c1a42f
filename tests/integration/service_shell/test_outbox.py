"""Reports on a real database: made only of news, chained, and the same bytes for ever once they are written."""

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from pcm.model.assignment import State as Stage
from pcm.model.errors import StoreError
from pcm.model.facts import Facts
from pcm.protocol import codec
from pcm.protocol.enrolment import ClientConfiguration
from pcm.protocol.report import MAX_BYTES, MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, Outcome, Report, RunResult, read_report
from pcm.service.history import History
from pcm.service.identity import Identity
from pcm.service.outbox import Outbox
from pcm.service.state import State
from pcm.trust import envelopes
from tests.unit.trust.simulated import utc_now

FACTS = Facts("pc-1", "linux-x86_64")
NOW = utc_now()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path / "state", NOW) as opened:
        yield opened


@pytest.fixture
def identity() -> Identity:
    key = generate_private_key(SECP256R1())
    return Identity(key, envelopes.client_id_of(key.public_key()))


@pytest.fixture
def outbox(state: State, identity: Identity) -> Outbox:
    configuration = ClientConfiguration(
        site="hq", logon=("/logon",), distribution=("/distribution",), instructions_root="{}", packages_root="{}"
    )
    return Outbox(state, identity, configuration, "boot")


def rows(state: State) -> list[tuple[int, bytes]]:
    return [(seq, envelope) for seq, envelope in state.rows("SELECT seq, envelope FROM outbox ORDER BY seq")]


def reports(state: State, identity: Identity) -> list[Report]:
    return [
        read_report(
            envelopes.verify_of_client(
                envelope, identity.key.public_key(), payload_type=PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES
            )
        )
        for _, envelope in rows(state)
    ]


def note(state: State, number: int = 1, tail: str = "") -> None:
    result = RunResult(run="0" * 32, started=NOW, ended=NOW, exit_code=0, exit_class="success", output_tail=tail)
    outcome = Outcome(f"j{number:010d}.x", f"j{number:010d}", 1, Stage.SUCCEEDED, NOW, result=result)
    with state.transaction() as connection:
        connection.execute("INSERT INTO outcomes (body) VALUES (?)", (codec.encode(outcome),))


def test_the_first_report_tells_the_facts_and_the_second_only_news(
    state: State, outbox: Outbox, identity: Identity
) -> None:
    assert outbox.write(FACTS, 1, NOW) == 1
    assert outbox.write(FACTS, 1, NOW) == 0
    note(state)
    state.refuse("trust.rollback", NOW, "Older files.", "file:///x")
    assert outbox.write(FACTS, 1, NOW) == 1
    first, second = reports(state, identity)
    assert (first.facts, second.facts) == (FACTS, None)
    assert [each.code for each in second.refusals] == ["trust.rollback"]
    assert len(second.outcomes) == 1
    assert outbox.write(FACTS, 2, NOW) == 1  # it stands on other instructions now
    assert outbox.write(Facts("renamed", "linux-x86_64"), 2, NOW) == 1


def test_reports_form_a_chain_of_hashes(state: State, outbox: Outbox, identity: Identity) -> None:
    for number in range(4):
        note(state, number)
        outbox.write(FACTS, 1, NOW)
    previous = None
    for (seq, envelope), expected in zip(rows(state), range(1, 5), strict=True):
        payload, _ = envelopes.read(envelope, payload_type=PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
        report = read_report(payload)
        assert (seq, report.seq, report.prev_sha256) == (expected, expected, previous)
        previous = hashlib.sha256(payload).hexdigest()


def test_what_is_written_never_changes(state: State, outbox: Outbox) -> None:
    outbox.write(FACTS, 1, NOW)
    before = rows(state)
    note(state)
    outbox.write(FACTS, 1, NOW + timedelta(days=1))
    assert rows(state)[:1] == before


def test_many_large_results_are_spread_over_reports_that_fit(state: State, outbox: Outbox, identity: Identity) -> None:
    for number in range(250):
        note(state, number, tail="\x01" * 8192)  # six bytes each in JSON
    outbox.write(FACTS, 1, NOW)
    told = [outcome.job for report in reports(state, identity) for outcome in report.outcomes]
    assert told == [f"j{number:010d}" for number in range(250)]
    assert all(len(codec.encode(report)) <= MAX_BYTES for report in reports(state, identity))


def test_acknowledged_reports_go_but_the_chain_goes_on(state: State, outbox: Outbox, identity: Identity) -> None:
    for number in range(60):
        note(state, number)
        outbox.write(FACTS, 1, NOW)
    outbox.acknowledge(60, NOW)
    assert outbox.waiting() == 0
    assert len(rows(state)) == 50
    note(state)
    outbox.write(FACTS, 1, NOW)
    assert reports(state, identity)[-1].seq == 61
    outbox.acknowledge(10**6, NOW)  # whatever a server says
    outbox.acknowledge(0, NOW)
    assert outbox.waiting() == 0


def test_a_lost_database_goes_on_after_the_last_acknowledged_report(
    state: State, outbox: Outbox, identity: Identity
) -> None:
    for number in range(3):
        note(state, number)
        outbox.write(FACTS, 1, NOW)
    outbox.acknowledge(3, NOW)
    last = hashlib.sha256(
        envelopes.read(rows(state)[-1][1], payload_type=PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES)[0]
    ).hexdigest()
    folder = state.folder
    state.close()
    for path in folder.glob("state.db*"):
        path.unlink()
    with State.open(folder, NOW) as fresh:
        again = Outbox(fresh, identity, outbox._configuration, "boot")
        again.write(FACTS, 1, NOW)
        report = reports(fresh, identity)[0]
        assert (report.seq, report.prev_sha256) == (4, last)
        assert "store.rebuilt" in [refusal.code for refusal in report.refusals]


def test_q160775_what_no_report_could_be_written_of_is_news_still(
    state: State, outbox: Outbox, identity: Identity
) -> None:
    """The disk is full between taking the news out of the journal and storing the report."""
    note(state, 1)
    state.refuse("trust.rollback", NOW, "Older files.", "file:///x")
    state.rows("CREATE TRIGGER full BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StoreError):
        outbox.write(FACTS, 1, NOW)
    assert rows(state) == []
    state.rows("DROP TRIGGER full")
    note(state, 2)
    assert outbox.write(FACTS, 1, NOW) == 1
    [report] = reports(state, identity)
    assert [outcome.job for outcome in report.outcomes] == ["j0000000001", "j0000000002"]
    assert [refusal.code for refusal in report.refusals] == ["trust.rollback"]
    assert (report.seq, report.facts) == (1, FACTS)


def test_q292030_what_the_site_has_not_acknowledged_waits_for_it_for_years(
    state: State, outbox: Outbox, identity: Identity
) -> None:
    for number in range(120):
        note(state, number)
        outbox.write(FACTS, 1, NOW)
    outbox.acknowledge(20, NOW)
    before = {seq: envelope for seq, envelope in rows(state) if seq > 20}
    assert (outbox.waiting(), len(before)) == (100, 100)
    History(state).prune(NOW + timedelta(days=3650))
    note(state, 120)
    outbox.write(FACTS, 1, NOW + timedelta(days=3650))
    kept = dict(rows(state))
    assert {seq: kept.get(seq) for seq in before} == before
    assert outbox.waiting() == 101
    waiting = [report for report in reports(state, identity) if report.seq > 20]
    assert [outcome.job for report in waiting for outcome in report.outcomes] == [
        f"j{number:010d}" for number in range(20, 121)
    ]
