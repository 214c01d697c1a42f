"""What is remembered of content, how `why` tells it, and how fast content may come."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pcm.content.assembly import Brought
from pcm.content.carrying import Complaint, Traffic
from pcm.content.client_store import ClientStore
from pcm.content.ways import Choice, Reason
from pcm.model.content_policy import ContentPolicy, RateHours
from pcm.model.errors import Retry, TransferError
from pcm.protocol.report import ContentWay
from pcm.service.content_limits import LOOK_S, METERED, Limits
from pcm.service.content_records import (
    MOST_PACKAGES,
    MOST_RECORDS,
    find_record,
    held_manifests,
    make_record,
    note_brought,
    note_held,
    read_held,
    read_records,
    reported_ways,
)
from pcm.service.content_views import explain_content, size
from pcm.service.journal import Journal, Verified
from pcm.service.records import to_text
from pcm.service.sources import DISTRIBUTION, Servers
from pcm.service.state import State
from pcm.service.verdicts import METERED_PAUSE_S, judge_error
from tests.unit.service_engine.making import NOON, instruction, manifest, record

CHOICE = Choice((), {}, (), (), {}, (Reason("patch", "patches from 1.0 take fewer bytes", 3, 400, 5000),), 400, 5000, 1)
BROUGHT = Brought(3, 9000, (), (Traffic("patch", "https://near/distribution", 3, 9000, 450),), CHOICE, 2.0)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path, NOON) as opened:
        yield opened


def test_how_content_came_is_remembered_with_what_it_spared(state: State) -> None:
    note_brought(state, make_record("a" * 64, NOON, BROUGHT))
    found = find_record(state, "a" * 64)
    assert found is not None
    assert (found.travelled, found.whole, found.saved) == (450, 5000, 4550)
    assert [(each.way, each.source, each.bytes) for each in found.ways] == [("patch", "https://near/distribution", 450)]
    assert find_record(state, "b" * 64) is None


def test_what_is_remembered_is_bounded(state: State) -> None:
    for number in range(MOST_RECORDS + 5):
        note_brought(state, make_record(f"{number:064x}", NOON, BROUGHT))
    assert len(read_records(state)) == MOST_RECORDS
    assert read_records(state)[0].manifest == f"{MOST_RECORDS + 4:064x}"
    for number in range(MOST_PACKAGES + 5):
        note_held(state, f"package{number}", f"{number:064x}")
    assert len(read_held(state)) == MOST_PACKAGES


def test_two_versions_of_a_package_are_held_newest_first(state: State) -> None:
    for name in ("a", "b", "a", "c"):
        note_held(state, "app", name * 64)
    assert read_held(state) == {"app": ("c" * 64, "a" * 64)}
    assert held_manifests(state) == {"a" * 64, "c" * 64}


@pytest.mark.parametrize("key", ["content.held", "content.brought"])
@pytest.mark.parametrize("text", ["", "{", "7", '[{"manifest":1}]', '{"a":5}'])
def test_a_damaged_memory_is_an_empty_one(state: State, key: str, text: str) -> None:
    state.set_meta(key, text)
    assert (read_records(state), read_held(state)) == ((), {})


def test_why_tells_which_way_content_took_and_what_it_spared(state: State) -> None:
    order = record(instruction())
    note_brought(state, make_record(order.manifest_sha256, NOON, BROUGHT))
    lines, content = explain_content(state, order, manifest(order.instruction), NOON)
    told = " ".join(line.text for line in lines)
    assert "450 bytes travelled, 4.55 kB less than whole files would" in told
    assert "as patches from https://near/distribution" in told
    assert "patches from 1.0 take fewer bytes" in told
    assert content is not None
    assert (content.saved, content.ways[0].way, content.ways[0].reason) == (4550, "patch", CHOICE.reasons[0].text)


def test_why_tells_which_way_content_would_take(state: State) -> None:
    order = record(instruction())
    lines, content = explain_content(state, order, manifest(order.instruction), NOON)
    assert content is not None
    assert content.missing_files == len({file.sha256 for file in manifest(order.instruction).files})
    assert "still to come" in lines[0].text
    for file in manifest(order.instruction).files:
        assert not ClientStore(state.folder / "store").has(file.sha256, file.length)


def test_nothing_is_told_of_a_package_without_a_manifest(state: State) -> None:
    assert explain_content(state, record(instruction()), None, NOON) == ([], None)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (4550, "4.55 kB"),
        (12_345_678, "12.3 MB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert size(count) == text


def test_servers_are_known_by_what_they_gave(state: State) -> None:
    servers = Servers(state, DISTRIBUTION, ("https://near/distribution", "https://bad"), ())
    complaint = Complaint("https://bad", "f", "trust.content", "wrong")
    brought = BROUGHT._replace(
        complaints=(complaint,), traffic=(Traffic("whole", "https://near/distribution", 1, 10**7, 10**7),)
    )
    servers.note_transfers(brought, NOON, random.Random(1), limited=False)
    again = Servers(state, DISTRIBUTION, servers.names, ())
    assert again.health["https://near/distribution"].rate == 5e6
    assert (again.health["https://bad"].failures, again.health["https://bad"].code) == (1, "trust.content")
    servers.note_transfers(BROUGHT, NOON, random.Random(1), limited=True)
    assert servers.health["https://near/distribution"].rate == 5e6


# ---- limits


class Surroundings:
    """A clock and a network that a test sets; counts how often the network is asked."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.reading = datetime(2026, 1, 5, 12, tzinfo=UTC)
        self.is_metered = False
        self.asked = 0

    def metered(self) -> bool:
        self.asked += 1
        return self.is_metered

    def limits(self, policy: ContentPolicy) -> Limits:
        return Limits(policy, lambda: self.reading, self.metered, lambda: self.seconds)


def test_the_rate_changes_with_the_clock_and_the_network() -> None:
    around = Surroundings()
    limits = around.limits(
        ContentPolicy(rate=1000, hours=(RateHours(start="18:00", end="24:00", rate=0),), metered_rate=10)
    )
    assert limits.rate() == 1000
    around.is_metered = True
    assert limits.rate() == 1000  # it is not looked at all the time
    around.seconds += LOOK_S
    assert limits.rate() == 10
    around.is_metered, around.reading = False, around.reading + timedelta(hours=7)
    around.seconds += LOOK_S
    assert limits.rate() == 0


def test_a_site_that_does_not_mind_never_asks_about_the_network() -> None:
    around = Surroundings()
    around.is_metered = True
    assert around.limits(ContentPolicy(metered="as_usual")).rate() == 0
    assert around.asked == 0


def test_waiting_for_another_network_is_no_failure() -> None:
    around = Surroundings()
    around.is_metered = True
    with pytest.raises(TransferError) as caught:
        around.limits(ContentPolicy(metered="wait")).rate()
    assert (caught.value.code, caught.value.retry) == (METERED, Retry.LATER)
    change = judge_error(record(instruction()), caught.value, NOON)
    assert (change.state.value, change.attempts, change.code) == ("waiting", 0, METERED)
    assert change.not_before == NOON + timedelta(seconds=METERED_PAUSE_S)


def test_the_first_run_since_reports_how_its_content_came(state: State) -> None:
    order = instruction()
    Journal(state).take_in([Verified(order)], NOON)
    sha256 = order.manifest.sha256
    assert reported_ways(state, sha256) == ()
    note_brought(state, make_record(sha256, NOON, BROUGHT))
    told = ContentWay("patch", "https://near/distribution", 3, 450)
    assert reported_ways(state, sha256) == (told,)
    assert reported_ways(state, "b" * 64) == ()
    with state.transaction() as connection:
        connection.execute(
            "INSERT INTO runs (run, instruction, generation, attempt, program, manifest_sha256, argv, run_as, started, reference, "
            "boot_id, finished) VALUES ('r', ?, 1, 1, 'install', ?, '[]', 'system', ?, '{}', 'b', 1)",
            (order.id, sha256, to_text(NOON + timedelta(minutes=1))),
        )
    assert reported_ways(state, sha256) == ()
