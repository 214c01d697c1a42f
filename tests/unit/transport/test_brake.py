"""Keeping to a rate, told the time by the test."""

from hypothesis import given
from hypothesis import strategies as st

from pcm.transport.brake import GRACE_S, STRIDE_S, Brake
from pcm.transport.framing import Request
from pcm.transport.pace import Pace


class Clock:
    """Time that passes by sleeping, and as the test wants."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def braked(rate: int) -> tuple[Brake, Clock]:
    clock = Clock()
    brake = Brake(clock, clock.sleep)
    brake.begin(rate)
    return brake, clock


@given(
    rate=st.integers(1_000, 1 << 33),
    reads=st.lists(st.tuples(st.integers(1, 1 << 18), st.floats(0, 0.3)), min_size=1, max_size=300),
)
def test_no_line_is_quicker_than_the_rate(rate: int, reads: list[tuple[int, float]]) -> None:
    brake, clock = braked(rate)
    began, came = clock.now, 0
    for most, waits in reads:
        clock.now += waits  # the network, or this computer, is slow
        count = brake.hold(most)
        assert 0 < count <= most
        brake.spend(count)
        came += count
        stride = max(rate * STRIDE_S, 512)
        assert came <= rate * (clock.now - began + GRACE_S) * 1.000001 + stride


@given(rate=st.integers(10_000, 1 << 33), sleeps_longer=st.floats(0, GRACE_S / 2))
def test_a_line_that_could_be_quicker_has_the_rate(rate: int, sleeps_longer: float) -> None:
    """Within 5% over three seconds, though no system wakes anybody in time."""
    brake, clock = braked(rate)
    began, came = clock.now, 0

    def sleep(seconds: float) -> None:
        clock.now += seconds + sleeps_longer

    brake = Brake(clock, sleep)
    brake.begin(rate)
    while clock.now - began < 3:
        count = brake.hold(1 << 40)
        brake.spend(count)
        came += count
    assert abs(came / (clock.now - began) / rate - 1) < 0.05


def test_without_a_rate_it_never_waits() -> None:
    brake, clock = braked(0)
    for _ in range(100):
        assert brake.hold(1 << 30) == 1 << 30
        brake.spend(1 << 30)
    assert clock.now == 1000.0


def test_many_small_requests_keep_to_the_rate_together() -> None:
    clock = Clock()
    brake = Brake(clock, clock.sleep)
    for _ in range(100):
        pace = Pace(Request("http://h/", max_rate=10_000), clock(), brake)
        pace.spend(pace.hold(500))
    assert clock.now - 1000.0 >= 4.8


def test_a_line_that_is_held_back_is_not_called_slow() -> None:
    clock = Clock()
    request = Request("http://h/", max_rate=1000, min_rate=2000, rate_window_s=1, total_s=100)
    pace = Pace(request, clock(), Brake(clock, clock.sleep))
    pace.allow(1 << 30)
    for _ in range(10):
        pace.record(600, 1.0)
