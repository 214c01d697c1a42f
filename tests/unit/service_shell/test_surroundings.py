"""What may bring a check forward, and how seldom: arithmetic with invented clocks."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from pcm.service.machine.addresses import Changes, Known, question, read_messages
from pcm.service.surroundings import (
    ALARMS,
    APART_S,
    FREE_FALSE,
    LONGEST_PAUSE_S,
    WISHES,
    WISHES_APART_S,
    Alarms,
    Clocks,
    Occasions,
    Wishes,
)


def test_a_true_alarm_is_followed_at_once() -> None:
    alarms = Alarms()
    for number in range(int(ALARMS)):
        assert alarms.follow(1000.0 + number) == 1000.0 + number
        alarms.judge(news=True)


def test_a_server_that_cries_wolf_is_heard_more_and_more_seldom() -> None:
    alarms, now, checks = Alarms(), 1000.0, []
    while now < 1000.0 + 24 * 3600:
        now = alarms.follow(now)  # it cries again as soon as anybody waits there
        checks.append(now)
        alarms.judge(news=False)
    assert checks[FREE_FALSE - 1] - checks[0] == 0
    assert len(checks) < 35  # in a day
    assert checks[-1] - checks[-2] == LONGEST_PAUSE_S


def test_even_with_real_news_each_time_there_is_an_end() -> None:
    alarms, now, count = Alarms(), 1000.0, 0
    while now < 1000.0 + 3600:
        now = alarms.follow(now)
        count += 1
        alarms.judge(news=True)
    assert count <= 2 * ALARMS + 2


def test_whoever_asks_and_takes_back_all_day_gets_few_checks_for_it() -> None:
    wishes, now, checks = Wishes(), 1000.0, set()
    assert [wishes.take(now) for _ in range(int(WISHES))] == [now] * int(WISHES)
    while now < 1000.0 + 3600:
        at = wishes.take(now)
        assert at <= now + WISHES_APART_S
        checks.add(round(at, 3))
        now += 1.0
    assert len(checks) <= 2 * 3600 / WISHES_APART_S


def test_after_news_it_is_believed_again() -> None:
    alarms = Alarms()
    for _ in range(8):
        alarms.follow(1000.0)
        alarms.judge(news=False)
    alarms.follow(20_000.0)
    alarms.judge(news=True)
    assert alarms.follow(30_000.0) == 30_000.0


def test_a_check_without_an_alarm_is_no_evidence() -> None:
    alarms = Alarms()
    for _ in range(50):
        alarms.judge(news=False)
    assert alarms.follow(5.0) == 5.0


@given(st.lists(st.tuples(st.floats(0, 10_000), st.booleans()), max_size=60))
def test_no_history_makes_an_alarm_come_before_now_or_be_lost(history: list[tuple[float, bool]]) -> None:
    alarms, now = Alarms(), 0.0
    for passed, news in history:
        now += passed
        at = alarms.follow(now)
        assert now <= at <= now + LONGEST_PAUSE_S + 60 * 3600 / ALARMS
        alarms.judge(news=news)


def test_a_suspended_computer_is_noticed_once() -> None:
    clocks = Clocks(boot=100.0, steady=100.0, wall=5000.0)
    assert not clocks.slept(160.0, 160.0)
    assert clocks.slept(4000.0, 220.0)
    assert not clocks.jumped(4000.0, 8900.0)  # the wall clock went on meanwhile, as it should
    assert not clocks.slept(4060.0, 280.0)


def test_a_clock_that_is_set_is_noticed_once_in_either_direction() -> None:
    clocks = Clocks(boot=100.0, steady=100.0, wall=0.0)
    assert clocks.jumped(160.0, 1_700_000_000.0)
    assert not clocks.jumped(220.0, 1_700_000_060.0)
    assert clocks.jumped(280.0, 1_600_000_000.0)
    assert not clocks.jumped(340.0, 1_600_000_060.0)


def test_a_clock_that_is_slewed_is_noticed_when_it_adds_up() -> None:
    clocks = Clocks(boot=0.0, steady=0.0, wall=0.0)
    noticed = [clocks.jumped(60.0 * step, 60.0 * step + 5.0 * step) for step in range(1, 10)]
    assert noticed.count(True) == 1


def test_occasions_are_apart() -> None:
    occasions = Occasions()
    assert occasions.take(1000.0, 5.0) == 1005.0
    assert occasions.take(1001.0, 5.0) == 1005.0 + APART_S
    assert occasions.take(5000.0, 0.0) == 5000.0


# ---- addresses


def message(kind: int, address: bytes, *, index: int = 2, scope: int = 0, flags: int = 0, sequence: int = 0) -> bytes:
    attribute = (len(address) + 4).to_bytes(2, sys.byteorder) + (1).to_bytes(2, sys.byteorder) + address
    attribute += bytes(-len(attribute) % 4)
    body = bytes((2, 24, flags, scope)) + index.to_bytes(4, sys.byteorder) + attribute
    head = ((16 + len(body), 4), (kind, 2), (0, 2), (sequence, 4), (0, 4))
    return b"".join(value.to_bytes(size, sys.byteorder) for value, size in head) + body


HERE, THERE = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
NEW, GONE = 20, 21


def told(known: Known, *data: bytes) -> tuple[bool, set[bytes]]:
    changes = Changes()
    known.take_in(b"".join(data), changes)
    return changes.came, changes.lost


def test_what_was_there_before_is_no_change() -> None:
    known = Known()
    assert told(known, message(NEW, HERE, sequence=1), message(NEW, THERE, sequence=1)) == (False, set())
    assert told(known, message(NEW, HERE)) == (False, set())  # its lifetime was renewed
    assert told(known, message(GONE, HERE)) == (False, {HERE})
    assert told(known, message(GONE, HERE)) == (False, set())
    assert told(known, message(NEW, HERE)) == (True, set())


def test_several_changes_in_one_datagram_count() -> None:
    assert told(Known(), message(NEW, HERE), message(GONE, HERE)) == (True, {HERE})
    assert told(Known(), message(NEW, HERE), message(GONE, HERE), message(NEW, HERE)) == (True, set())


def test_addresses_that_reach_nobody_do_not_count() -> None:
    known = Known()
    assert told(known, message(NEW, bytes((127, 0, 0, 1)), scope=254)) == (False, set())
    assert told(known, message(NEW, bytes(16), scope=253)) == (False, set())
    assert told(known, message(NEW, HERE, flags=0x40)) == (False, set())  # not in use yet
    assert told(known, message(NEW, HERE)) == (True, set())


def test_addresses_without_end_do_not_fill_memory() -> None:
    known = Known()
    for number in range(5000):
        told(known, message(NEW, number.to_bytes(16, "big")))
    assert len(known._addresses) <= 1024


def test_the_question_is_one_message_for_all_addresses() -> None:
    asked = question()
    assert (len(asked), int.from_bytes(asked[:4], sys.byteorder)) == (20, 17)
    assert read_messages(asked) == []


@given(st.binary(max_size=400) | st.binary(max_size=60).map(lambda junk: message(NEW, HERE) + junk))
def test_any_datagram_is_read_to_its_end(data: bytes) -> None:
    assert len(read_messages(data)) <= len(data) // 16
    told(Known(), data)


@given(st.binary(min_size=8, max_size=60))
def test_any_body_is_read_to_its_end(body: bytes) -> None:
    head = ((16 + len(body), 4), (NEW, 2), (0, 2), (0, 4), (0, 4))
    read_messages(b"".join(value.to_bytes(size, sys.byteorder) for value, size in head) + body)
