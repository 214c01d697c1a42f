"""Time, rate and volume limits, told the time by the test."""

import pytest

from pcm.model.errors import TransferError
from pcm.transport.framing import Request
from pcm.transport.pace import Pace

REQUEST = Request("http://h/", total_s=100, answer_s=20, min_rate=1000, rate_window_s=10)


def pace(request: Request = REQUEST) -> Pace:
    made = Pace(request, now=1000.0)
    made.allow(1_000_000)
    return made


def code_of(caught: pytest.ExceptionInfo[TransferError]) -> str:
    return caught.value.code


def test_the_first_byte_must_come_within_answer_s() -> None:
    p = pace()
    assert p.timeout(1000.0) == 20
    assert p.timeout(1015.0) == pytest.approx(5)
    with pytest.raises(TransferError) as caught:
        p.timeout(1020.0)
    assert code_of(caught) == "transfer.timeout"


def test_waiting_for_the_first_byte_is_not_slowness() -> None:
    p = pace()
    p.record(0, 19.0)
    p.record(100, 0.5)


def test_total_time_holds_whatever_comes() -> None:
    p = pace()
    p.record(500_000, 0.0)
    assert p.timeout(1099.0) == pytest.approx(1)
    with pytest.raises(TransferError) as caught:
        p.timeout(1100.0)
    assert code_of(caught) == "transfer.timeout"


def test_one_byte_now_and_then_is_too_slow_after_one_window() -> None:
    p = pace()
    for _ in range(9):
        p.record(1, 1.0)
    with pytest.raises(TransferError) as caught:
        p.record(1, 1.0)
    assert code_of(caught) == "transfer.too_slow"


def test_a_rate_above_the_minimum_goes_on_for_ever() -> None:
    p = pace()
    p.allow(1 << 40)
    for _ in range(1000):
        p.record(1100, 1.0)


def test_a_burst_does_not_excuse_the_next_window() -> None:
    p = pace()
    p.record(900_000, 10.0)
    with pytest.raises(TransferError) as caught:
        p.record(10, 10.0)
    assert code_of(caught) == "transfer.too_slow"


def test_our_own_slowness_is_not_the_servers() -> None:
    p = pace()
    for second in range(0, 90, 10):  # a byte a read, no waiting for the network, ten seconds of disk between
        p.timeout(1000.0 + second)
        p.record(1, 0.0)


def test_without_a_minimum_rate_only_the_total_counts() -> None:
    p = pace(REQUEST._replace(min_rate=0))
    p.record(1, 1.0)
    assert p.timeout(1001.0) == pytest.approx(99)
    p.record(0, 98.0)


def test_volume_is_limited_with_the_code_that_was_asked_for() -> None:
    p = pace()
    p.allow(10, "transfer.protocol")
    p.count(10)
    with pytest.raises(TransferError) as caught:
        p.count(1)
    assert code_of(caught) == "transfer.protocol"
    p.allow(5)
    p.count(5)
    with pytest.raises(TransferError) as caught:
        p.count(1)
    assert code_of(caught) == "transfer.too_long"


def test_what_tls_says_for_itself_is_no_answer() -> None:
    p = pace()
    for _ in range(3):
        p.record(2000, 6.0, answers=False)
    assert not p.answered
    assert p.timeout(1018.0) == pytest.approx(2)
    p.count(1)
    assert p.answered
