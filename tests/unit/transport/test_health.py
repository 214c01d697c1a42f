"""The order in which servers are tried is the documented one, and fail-over goes through all of them."""

import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import TransferError, TrustError
from pcm.transport.failover import try_each
from pcm.transport.framing import ACCOUNT_REFUSALS
from pcm.transport.health import Choice, Health, order, record_failure, record_success

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


def names(choices: list[Choice]) -> list[str]:
    return [choice.server for choice in choices]


def test_q165508_the_documented_order_is_the_real_one() -> None:
    health = {
        "slow": Health(latency_s=0.9),
        "fast": Health(latency_s=0.01),
        "down": Health(latency_s=0.001, failures=3, code="transfer.timeout", due=LATER),
        "refused": Health(failures=1, refused=True, code="transfer.refused", due=LATER),
    }
    servers = ["refused", "down", "slow", "new", "fast", "mine"]
    choices = order(servers, ["mine"], health, NOW, random.Random(1))
    assert names(choices) == ["mine", "fast", "slow", "new", "down", "refused"]
    assert [choice.usable for choice in choices] == [True] * 5 + [False]
    assert choices[0].reason == "preferred, number 1"
    assert choices[1].reason == "answers in 10 ms"
    assert choices[4].reason.startswith(
        "last resort: failed 3 times in a row (transfer.timeout), rests until 2026-03-01T00:05"
    )
    assert "refused this client's key" in choices[5].reason


def test_q153288_preferred_servers_come_before_measured_ones_and_in_their_own_order() -> None:
    health = {"wan": Health(latency_s=0.001)}
    assert names(order(["wan", "b", "a"], ["a", "b", "elsewhere"], health, NOW, random.Random(1))) == ["a", "b", "wan"]


def test_q156402_the_nearest_is_the_quickest_that_was_measured_however_the_site_lists_it() -> None:
    known = {"far": Health(latency_s=0.4), "near": Health(latency_s=0.002), "middle": Health(latency_s=0.05)}
    for listed in itertools.permutations(["far", "near", "middle", "new"]):
        assert names(order(listed, [], known, NOW, random.Random(3))) == ["near", "middle", "far", "new"]
    moved = known  # the computer is carried to another office: some answers later the order is another one
    for _ in range(20):
        moved = moved | {"near": record_success(moved["near"], latency_s=0.5)}
        moved = moved | {"far": record_success(moved["far"], latency_s=0.002)}
    assert names(order(["near", "middle", "far"], [], moved, NOW, random.Random(3))) == ["far", "middle", "near"]


def test_q161310_what_is_neither_preferred_nor_measured_is_shuffled_evenly() -> None:
    tried = [tuple(names(order(["a", "b", "c"], [], {}, NOW, random.Random(seed)))) for seed in range(600)]
    counts = [tried.count(each) for each in itertools.permutations("abc")]
    assert sum(counts) == 600
    assert all(60 <= count <= 140 for count in counts), counts
    kept = [names(order(["a", "b", "c", "first"], ["first"], {}, NOW, random.Random(seed)))[0] for seed in range(50)]
    assert set(kept) == {"first"}


def test_q156402_a_server_of_this_subnet_comes_before_quicker_ones_and_after_preferred_ones() -> None:
    known = {"quick": Health(latency_s=0.001, rate=1e9), "here": Health(latency_s=0.2), "slow": Health(latency_s=0.9)}
    servers = ["quick", "slow", "here", "new here", "first"]
    choices = order(servers, ["first"], known, NOW, random.Random(1), near={"here", "new here"})
    assert names(choices) == ["first", "here", "new here", "quick", "slow"]
    assert [choice.reason for choice in choices[1:4]] == [
        "on this subnet, answers in 200 ms",
        "on this subnet, not measured yet",
        "answers in 1 ms, 1000.0 MB/s",
    ]
    down = known | {"here": Health(failures=1, code="transfer.timeout", due=LATER)}
    assert names(order(["quick", "here"], [], down, NOW, random.Random(1), near={"here"})) == ["quick", "here"]


def test_q156402_of_servers_that_answer_alike_the_one_with_the_higher_rate_comes_first() -> None:
    known = {"thin": Health(latency_s=0.01, rate=2e5), "thick": Health(latency_s=0.03, rate=5e7), "new": Health()}
    assert names(order(["new", "thin", "thick"], [], known, NOW, random.Random(1))) == ["thick", "thin", "new"]


def test_unknown_servers_are_spread_over_clients() -> None:
    first = {order(["a", "b", "c"], [], {}, NOW, random.Random(seed))[0].server for seed in range(40)}
    assert first == {"a", "b", "c"}


def test_q199994_a_server_that_is_named_no_more_is_never_chosen() -> None:
    health = {"gone": Health(latency_s=0.001)}
    assert names(order(["a"], ["gone"], health, NOW, random.Random(1))) == ["a"]


def test_a_preferred_server_that_failed_waits_its_turn_and_then_leads_again() -> None:
    health = {"mine": Health(failures=1, code="transfer.timeout", due=LATER)}
    assert names(order(["mine", "b"], ["mine"], health, NOW, random.Random(1))) == ["b", "mine"]
    assert names(order(["mine", "b"], ["mine"], health, LATER, random.Random(1))) == ["mine", "b"]


servers = st.lists(st.sampled_from("abcdefgh"), max_size=10)
healths = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.builds(
        Health,
        latency_s=st.none() | st.floats(0, 100),
        failures=st.integers(0, 99),
        refused=st.booleans(),
        due=st.none() | st.sampled_from([NOW - timedelta(1), LATER]),
    ),
)


@given(servers, servers, healths, st.integers())
def test_every_server_stands_in_the_order_once(
    all_: list[str], preferred: list[str], health: dict[str, Health], seed: int
) -> None:
    choices = order(all_, preferred, health, NOW, random.Random(seed))
    assert sorted(names(choices)) == sorted(set(all_))
    assert all(choice.reason for choice in choices)
    usable = [choice.usable for choice in choices]
    assert usable == sorted(usable, reverse=True)


def test_pauses_double_up_to_an_hour() -> None:
    health, pauses = Health(), []
    for _ in range(12):
        health = record_failure(health, "transfer.timeout", NOW, random.Random(7))
        assert health.due is not None
        pauses.append((health.due - NOW).total_seconds())
    assert 22 <= pauses[0] <= 38
    assert max(pauses) <= 4500
    assert pauses[5] > pauses[0] * 10


def test_q230242_a_refusal_rests_for_hours_and_success_forgets_it() -> None:
    health = record_failure(Health(latency_s=0.1), "transfer.refused", NOW, random.Random(7))
    assert health.due is not None
    assert health.due - NOW >= timedelta(hours=3)
    again = record_success(health, latency_s=0.1)
    assert (again.failures, again.refused, again.due) == (0, False, None)
    assert again.latency_s == pytest.approx(0.1)


def test_rates_come_from_large_transfers_only() -> None:
    assert record_success(Health(), transferred=(1000, 0.001)).rate is None
    assert record_success(Health(), transferred=(1_000_000, 0.5)).rate == 2_000_000


def choices(*servers: str) -> list[Choice]:
    return [Choice(server, True, "test") for server in servers]


def test_q191293_the_next_server_is_asked_when_one_does_not_answer() -> None:
    asked: list[str] = []

    def ask(server: str) -> str:
        asked.append(server)
        if server != "c":
            raise TransferError("no route", code="transfer.unreachable")
        return "answer"

    health: dict[str, Health] = {}
    result, attempts = try_each(choices("a", "b", "c", "d"), ask, health, NOW, random.Random(1))
    assert (result, asked) == ("answer", ["a", "b", "c"])
    assert [attempt.code for attempt in attempts] == ["transfer.unreachable", "transfer.unreachable", ""]
    assert health["a"].failures == 1
    assert health["c"].latency_s is not None
    assert "d" not in health


def test_when_none_answers_all_are_told() -> None:
    def ask(server: str) -> str:
        raise TransferError("a is down" if server == "a" else "out of order", code="transfer.timeout")

    with pytest.raises(TransferError, match=r"None of 2 servers helped\. a is down; b: out of order") as caught:
        try_each(choices("a", "b"), ask, {}, NOW, random.Random(1))
    assert caught.value.code == "transfer.timeout"


def test_one_server_is_told_once() -> None:
    def ask(server: str) -> str:
        raise TransferError(f"{server} is down", code="transfer.timeout")

    with pytest.raises(TransferError) as caught:
        try_each(choices("a"), ask, {}, NOW, random.Random(1))
    assert caught.value.message == "a is down"


def test_a_refusal_is_told_even_if_another_server_is_just_down() -> None:
    def ask(server: str) -> str:
        raise TransferError("x", code="transfer.refused" if server == "a" else "transfer.timeout")

    with pytest.raises(TransferError) as caught:
        try_each(choices("a", "b"), ask, {}, NOW, random.Random(1))
    assert caught.value.code == "transfer.refused"


def test_q230242_a_server_that_refused_is_not_asked_again_before_its_time() -> None:
    asked: list[str] = []
    with pytest.raises(TransferError) as caught:
        try_each([Choice("a", False, "not asked")], asked.append, {}, NOW, random.Random(1))
    assert (asked, caught.value.code) == ([], "transfer.refused")


def test_a_trust_failure_never_falls_over_to_the_next_server() -> None:
    def ask(_: str) -> str:
        raise TrustError("forged", code="trust.unsigned")

    with pytest.raises(TrustError):
        try_each(choices("a", "b"), ask, {}, NOW, random.Random(1))


def test_no_server_at_all_is_said() -> None:
    with pytest.raises(TransferError, match="No server is configured"):
        try_each([], lambda _: None, {}, NOW, random.Random(1))


def test_a_share_refuses_the_account_that_reads_it() -> None:
    share = "smb://files.example.org/pcm/logon"
    refused = record_failure(Health(), "transfer.refused", NOW, random.Random(1))
    [choice] = order([share], [], {share: refused}, NOW, random.Random(1))
    assert "refused the account that reads it" in choice.reason
    assert not choice.usable


@pytest.mark.parametrize("code", sorted(ACCOUNT_REFUSALS | {"transfer.no_account", "transfer.kdc_unreachable"}))
def test_what_somebody_has_to_mend_is_told_before_what_another_server_may_do(code: str) -> None:
    health: dict[str, Health] = {}

    def ask(server: str) -> str:
        raise TransferError("no", code=code if server == "share" else "transfer.unreachable")

    with pytest.raises(TransferError) as caught:
        try_each(choices("share", "web"), ask, health, NOW, random.Random(1))
    assert caught.value.code == code
    # the account rests (`service.account`), not the server: once its file is mended, it is asked again at once
    assert order(["share"], [], health, NOW, random.Random(1))[0].usable
