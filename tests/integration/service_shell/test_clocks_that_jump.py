"""The resident process on a computer whose clocks do what clocks do: suspend, resume, be set. Its clocks can be moved by a file."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.integration.service_shell.static_site import Client, StaticSite

_CODE = """
import sys
from pcm.service.machine.resident import Clock
from pcm.service.supervisor import Supervisor

moves, runtime, home = sys.argv[1:]

class Moved(Clock):
    def moved(self, which):
        with open(moves) as file:
            return float(file.read().split()[which])
    def boot(self):
        return super().boot() + self.moved(0)
    def steady(self):
        return super().steady() + self.moved(1)
    def wall(self):
        return super().wall() + self.moved(2)

sys.exit(Supervisor(runtime, ("--home", home), Moved(), nap_s=0.2).run())
"""


class Sleeper:
    """A supervisor that has made its first checks and sleeps until the next poll, half an hour away."""

    def __init__(self, site: StaticSite, client: Client) -> None:
        site.order(client.client_id, [], poll_after_s=1800)
        self._moves = client.home / "moves"
        self._touched = client.places.state / "last-check"
        self.move(0, 0, 0)
        self._log = (client.home / "log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE, str(self._moves), str(client.places.runtime), str(client.home)],
            stderr=self._log,
        )
        self.await_check(0.0, 30)

    def move(self, boot: float, steady: float, wall: float) -> None:
        fresh = self._moves.with_suffix(".new")
        fresh.write_text(f"{boot} {steady} {wall}")
        fresh.rename(self._moves)

    def last(self) -> float:
        return self._touched.stat().st_mtime if self._touched.exists() else 0.0

    def await_check(self, before: float, seconds: float) -> float:
        began = time.monotonic()
        while self.last() <= before:
            assert time.monotonic() - began < seconds
            time.sleep(0.05)
        return time.monotonic() - began

    def close(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0
        self._log.close()


@pytest.fixture
def sleeper(site: StaticSite, client: Client) -> Iterator[Sleeper]:
    running = Sleeper(site, client)
    time.sleep(1)
    yield running
    running.close()


def test_while_nothing_happens_it_sleeps(sleeper: Sleeper) -> None:
    before = sleeper.last()
    time.sleep(4)
    assert sleeper.last() == before


def test_after_a_resume_it_checks_soon_but_not_at_once(sleeper: Sleeper) -> None:
    """The network has to come back first, and that of a whole building comes back for all at once."""
    before = sleeper.last()
    sleeper.move(600, 0, 600)
    assert 2 < sleeper.await_check(before, 20) < 18


def test_a_check_that_became_due_while_it_slept_is_made_at_once(sleeper: Sleeper) -> None:
    before = sleeper.last()
    sleeper.move(7200, 0, 7200)
    assert sleeper.await_check(before, 10) < 5


@pytest.mark.parametrize("by", [3600, -3600, 400 * 86_400])
def test_a_clock_that_is_set_is_followed_by_a_look_at_the_orders(sleeper: Sleeper, by: int) -> None:
    """Orders are by the wall clock: whatever the next check was reckoned from holds no longer."""
    before = sleeper.last()
    sleeper.move(0, 0, by)
    assert sleeper.await_check(before, 10) < 5


def test_a_clock_that_is_corrected_a_little_is_no_reason(sleeper: Sleeper) -> None:
    before = sleeper.last()
    sleeper.move(0, 0, 5)
    time.sleep(3)
    assert sleeper.last() == before


def test_a_clock_that_jumps_all_the_time_costs_a_check_a_minute_at_most(sleeper: Sleeper) -> None:
    before, checks, last = sleeper.last(), 0, sleeper.last()
    for step in range(40):
        sleeper.move(0, 0, 3600 * (step % 2))
        time.sleep(0.25)
        checks, last = checks + (sleeper.last() != last), sleeper.last()
    assert sleeper.last() > before
    assert checks == 1
