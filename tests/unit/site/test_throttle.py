"""Counting by source: windows, bounds, and what counts as one source."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.site.throttle import Acquaintances, Throttle, source_of


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(most: int = 3, window_s: float = 60, max_sources: int = 10) -> tuple[Throttle, Clock]:
    clock = Clock()
    return Throttle(most, window_s, max_sources=max_sources, clock=clock), clock


def test_so_many_and_no_more_until_the_window_is_over() -> None:
    throttle, clock = make()
    for _ in range(3):
        assert throttle.wait_s("a") == 0
        throttle.count("a")
    assert throttle.wait_s("a") in {60, 61}
    assert throttle.wait_s("b") == 0
    clock.now += 59.5
    assert throttle.wait_s("a") == 1
    clock.now += 1
    assert throttle.wait_s("a") == 0
    throttle.count("a")
    assert throttle.wait_s("a") == 0


def test_counting_on_does_not_lengthen_the_wait() -> None:
    throttle, clock = make()
    for _ in range(100):
        throttle.count("a")
    clock.now += 61
    assert throttle.wait_s("a") == 0


@given(st.lists(st.text(max_size=8), max_size=60))
def test_memory_is_bounded_whoever_asks(sources: list[str]) -> None:
    throttle, _ = make(max_sources=10)
    for source in sources:
        throttle.count(source)
        assert len(throttle) <= 10


def test_who_goes_on_is_not_forgotten_for_others() -> None:
    throttle, _ = make(most=3, max_sources=10)
    for number in range(30):
        throttle.count(f"other {number}")
        throttle.count("busy")
    assert throttle.wait_s("busy") > 0


def test_acquaintances_are_bounded_too() -> None:
    known = Acquaintances(2)
    for name in (b"a", b"b", b"a", b"c"):
        known.add(name)
    assert b"a" in known
    assert b"c" in known
    assert b"b" not in known


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("", "unix:", False),
    ],
)
def test_what_one_source_is(one: str, other: str, same: bool) -> None:
    assert (source_of(one) == source_of(other)) is same
