"""A fleet in one process, on a clock that is only a number: what each byte costs the servers, whoever dies or lies."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm.model.errors import PcmError, StoreError, TransferError, TrustError
from pcm.model.package import PackageFile
from pcm.peers.rounds import Gathered, Rounds
from pcm.peers.sharing import Group, make_groups
from pcm.peers.wire import ABSENT, COMING, HERE, NOBODY, WANTED, Picture

MB = 1000 * 1000


def files(lengths: Sequence[int]) -> list[PackageFile]:
    return [PackageFile(f"f{number}", length, f"{number + 1:064x}") for number, length in enumerate(lengths)]


class Host:
    """One computer of the fleet. What it does takes its own time; `time` is how far it is."""

    def __init__(self, fleet: "Fleet", number: int, start: float) -> None:
        self.fleet, self.name, self.time = fleet, f"peer{number}", start
        self.id = bytes([number + 1]) * 16
        self.store: dict[str, float] = {}
        self.said: dict[str, bytes] = {}
        self.events: list[tuple[float, str, bytes]] = []
        self.wanted: set[str] = set()
        self.begun = self.dead_from = float("inf")
        self.ended = float("inf")
        self.dropped: list[tuple[str, str]] = []
        self.gathered: Gathered | None = None

    def picture(self, keys: Sequence[str], at: float) -> Picture | None:
        if at >= self.dead_from or at < self.begun:
            return None
        fetching = self.begun <= at < self.ended
        states = []
        for key in keys:
            if self.store.get(key, float("inf")) <= at:
                states.append((HERE, 0))
            elif fetching and key in self.wanted:
                told = [state for moment, name, state in self.events if name == key and moment <= at]
                state = told[-1] if told else WANTED
                states.append((state, int(at) % 256 if state == COMING else 0))
            else:
                states.append((ABSENT, 0))
        return Picture(self.id if fetching else NOBODY, tuple(states))


class Fleet:
    """Computers in turn: the one that is least far does its next step. Steps are threads of control, one at a time."""

    def __init__(self, groups: list[Group], starts: Sequence[float], rate: float = 10 * MB) -> None:
        self.groups, self.rate = groups, rate
        self.hosts = [Host(self, number, start) for number, start in enumerate(starts)]
        self.through: dict[str, int] = {}
        self.liars: dict[str, Callable[[Sequence[str], float], Picture]] = {}
        self.busy: Callable[[str], bool] = lambda _: False
        self.wrong: set[str] = set()

    def run(self) -> None:
        """Whoever is behind goes first: each host is a generator-like thread that hands over at every step."""
        import threading  # noqa: PLC0415

        turn = threading.Condition()
        active = {host.name: host for host in self.hosts}

        def is_first(host: Host) -> bool:
            return min(active.values(), key=lambda each: (each.time, each.name)) is host

        def step(host: Host, seconds: float) -> None:
            with turn:
                host.time += seconds
                turn.notify_all()
                turn.wait_for(lambda: is_first(host))

        errors: list[BaseException] = []

        def live(host: Host) -> None:
            try:
                step(host, 0)
                self._fetch(host, lambda seconds: step(host, seconds))
            except BaseException as error:  # noqa: BLE001 - shown by the test
                errors.append(error)
            finally:
                with turn:
                    del active[host.name]
                    turn.notify_all()

        threads = [threading.Thread(target=live, args=(host,), daemon=True) for host in self.hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "it never ends"
        if errors:
            raise errors[0]

    def _fetch(self, host: Host, step: Callable[[float], None]) -> None:
        host.begun = host.time
        host.wanted = {group.key for group in self.groups}
        fleet = self

        class Killed(Exception):  # noqa: N818 - what happens to it
            pass

        def check() -> None:
            if host.time >= host.dead_from:
                raise Killed

        class Hood:
            def look(self, keys: Sequence[str]) -> Mapping[str, Picture]:
                step(0.01)
                check()
                found: dict[str, Picture] = {}
                for other in fleet.hosts:
                    if other is host or other.name in [name for name, _ in host.dropped]:
                        continue
                    picture = other.picture(keys, host.time)
                    if picture is not None:
                        found[other.name] = picture
                for name, lie in fleet.liars.items():
                    if name not in [each for each, _ in host.dropped]:
                        found[name] = lie(keys, host.time)
                return found

            def fetch(self, peer: str, file: PackageFile) -> None:
                step(file.length / (100 * MB))
                check()
                if peer in fleet.wrong:
                    raise TrustError("other bytes", code="trust.content")
                if fleet.busy(peer):
                    raise TransferError("busy", code="transfer.server_error")
                other = next((each for each in fleet.hosts if each.name == peer), None)
                if other is None or other.store.get(file.sha256, float("inf")) > host.time:
                    raise TransferError("not here", code="transfer.not_found")
                if host.time >= other.dead_from:
                    raise TransferError("gone", code="transfer.unreachable")
                host.store[file.sha256] = host.time

            def drop(self, peer: str, error: PcmError) -> None:
                host.dropped.append((peer, error.code))

            def tell(self, key: str, state: bytes, beat: int) -> None:
                del beat
                host.events.append((host.time, key, state))

        def bring(group: Group) -> None:
            for file in group.files:
                if file.sha256 in host.store:
                    continue
                fleet.through[file.sha256] = fleet.through.get(file.sha256, 0) + 1
                step(file.length / fleet.rate)
                check()
                host.store[file.sha256] = host.time

        chance = random.Random(host.name)
        rounds = Rounds(host.id, self.groups, Hood(), bring, now=lambda: host.time, sleep=step, chance=chance)
        try:
            host.gathered = rounds.run()
        except Killed:
            return
        host.ended = host.time
        for group in self.groups:  # what is left comes from the servers, as the service does it
            bring(group)

    def bytes_through(self) -> int:
        lengths = {file.sha256: file.length for group in self.groups for file in group.files}
        return sum(lengths[sha256] * times for sha256, times in self.through.items())

    def total(self) -> int:
        return sum(group.length for group in self.groups)


def test_a_fleet_that_begins_at_once_takes_each_byte_once() -> None:
    fleet = Fleet(make_groups(files([8 * MB] * 20 + [100_000] * 100)), [0.0] * 12)
    fleet.run()
    assert fleet.bytes_through() == fleet.total()
    assert all(len(host.store) == 120 for host in fleet.hosts)
    own = [host.gathered.own_groups for host in fleet.hosts if host.gathered]
    assert max(own) <= 6  # of 22, by 12: nobody has to bring most of it


def test_one_large_file_is_brought_by_one_and_spreads_from_there() -> None:
    fleet = Fleet(make_groups(files([200 * MB])), [number * 0.5 for number in range(12)])
    fleet.run()
    assert fleet.through == {f"{1:064x}": 1}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 30 * MB), min_size=1, max_size=30),
    st.lists(st.floats(0, 20), min_size=1, max_size=8),
)
def test_whenever_they_begin_everybody_has_everything_and_hardly_a_byte_twice(
    lengths: list[int], starts: list[float]
) -> None:
    fleet = Fleet(make_groups(files(lengths)), starts)
    fleet.run()
    assert all(len(host.store) == len(lengths) for host in fleet.hosts)
    # who comes later may have to do again what somebody was at just then, a group for each at most
    largest = max(group.length for group in fleet.groups)
    assert fleet.bytes_through() <= fleet.total() + largest * (len(starts) - 1)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 15), st.integers(0, 5))
def test_one_that_is_killed_costs_what_it_was_bringing_and_no_more(moment: float, victim: int) -> None:
    fleet = Fleet(make_groups(files([8 * MB] * 24)), [0.0] * 6)
    fleet.hosts[victim].dead_from = moment
    fleet.run()
    living = [host for number, host in enumerate(fleet.hosts) if number != victim]
    assert all(len(host.store) == 24 for host in living)
    # what only the dead one had comes again
    assert fleet.bytes_through() <= fleet.total() * 1.35


def test_wrong_bytes_cost_the_peer_its_place_at_once() -> None:
    fleet = Fleet(make_groups(files([8 * MB] * 6)), [0.0] * 3)
    fleet.liars["liar"] = lambda keys, _: Picture(b"L" * 16, tuple((HERE, 0) for _ in keys))
    fleet.wrong.add("liar")
    fleet.run()
    for host in fleet.hosts:
        assert host.dropped == [("liar", "trust.content")]
        assert len(host.store) == 6
    assert fleet.bytes_through() <= fleet.total() * 1.5


@pytest.mark.parametrize("promise", [HERE, WANTED, COMING])
@pytest.mark.parametrize("lively", [False, True])
def test_one_that_promises_and_never_gives_holds_nobody_up_for_long(promise: bytes, lively: bool) -> None:
    """It has the highest claim to everything, and may even seem to get on with it."""
    fleet = Fleet(make_groups(files([8 * MB] * 6)), [0.0] * 3)
    fleet.busy = lambda peer: peer == "liar"
    fleet.liars["liar"] = lambda keys, at: Picture(
        b"\xff" * 16, tuple((promise, int(at) % 256 if lively else 0) for _ in keys)
    )
    fleet.run()
    assert all(len(host.store) == 6 for host in fleet.hosts)
    assert max(host.time for host in fleet.hosts) < 400
    if promise != HERE and not lively:
        assert max(host.time for host in fleet.hosts) < 60


def test_many_liars_together_hold_nobody_up_longer_than_one() -> None:
    fleet = Fleet(make_groups(files([8 * MB] * 6)), [0.0] * 2)

    def lie(seed: int) -> Callable[[Sequence[str], float], Picture]:
        return lambda keys, at: Picture(bytes([seed]) * 16, tuple((COMING, int(at) % 256) for _ in keys))

    fleet.liars = {f"liar{seed}": lie(seed) for seed in range(100, 160)}
    fleet.run()
    assert max(host.time for host in fleet.hosts) < 700
    assert all(len(host.store) == 6 for host in fleet.hosts)


def test_without_any_server_it_takes_what_peers_have_and_leaves_the_rest() -> None:
    groups = make_groups(files([8 * MB] * 3))
    asked: list[str] = []
    told: list[tuple[str, bytes]] = []
    clock = [0.0]

    class Hood:
        def look(self, keys: Sequence[str]) -> Mapping[str, Picture]:
            return {"one": Picture(NOBODY, tuple((HERE if key == groups[1].key else ABSENT, 0) for key in keys))}

        def fetch(self, peer: str, file: PackageFile) -> None:
            asked.append(f"{peer} {file.path}")

        def drop(self, *_: Any) -> None:
            raise AssertionError

        def tell(self, key: str, state: bytes, beat: int) -> None:
            del beat
            told.append((key, state))

    def bring(group: Group) -> None:
        raise TransferError(f"no server gives {group.key}", code="transfer.unreachable")

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    rounds = Rounds(b"m" * 16, groups, Hood(), bring, now=lambda: clock[0], sleep=sleep, chance=random.Random(1))
    assert rounds.run() == Gathered(1, 8 * MB, 0)
    assert asked == ["one f1"]
    assert [state for _, state in told] == [COMING, WANTED] * 2


def test_a_full_disk_ends_it_at_once() -> None:
    fleet = Fleet(make_groups(files([8 * MB])), [0.0])

    def bring(_: Group) -> None:
        raise StoreError("full", code="store.disk_full")

    class Alone:
        def look(self, _: Sequence[str]) -> Mapping[str, Picture]:
            return {}

        def fetch(self, *_: Any) -> None: ...

        def drop(self, *_: Any) -> None: ...

        def tell(self, *_: Any) -> None: ...

    rounds = Rounds(
        b"m" * 16, fleet.groups, Alone(), bring, now=lambda: 0.0, sleep=lambda _: None, chance=random.Random()
    )
    with pytest.raises(StoreError):
        rounds.run()
