"""Bringing the content of a package among peers: this computer's share from the servers, the rest from whoever has it.

Step 8 of 12, between `service.peer_fetching` and what brings files from servers. Each turn looks at what the peers have and want.
A group of files that is this computer's own (`sharing.owner`) is brought from the servers; what a peer has is taken from it; for
what another computer is bringing it waits, as long as that one gets on with it. Nothing is believed that a peer says but by what
comes of it: a peer that gives wrong bytes is dropped at once, one that promises and does not keep it is no longer waited for, and
what nobody gives comes from the servers in the end. It opens nothing itself; time, chance and peers are given.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from pcm.model.errors import PcmError, StoreError, TransferError, TrustError
from pcm.model.package import PackageFile
from pcm.peers.sharing import Group, owner, weight
from pcm.peers.wire import COMING, HERE, NOBODY, WANTED, Picture

LOOK_S = 1.0  # between two looks at the peers
STALL_S = 20.0  # a peer whose picture has not changed for so long is not waited for
MOST_OWED_S = 300.0  # seconds waited for one peer without any file from it, after which it is not waited for either
MOST_WAIT_S = 600.0  # without anything having come from anywhere
BROKEN_PROMISE_S = 30.0  # what it owes more for each file that it said it had, and had not


class Neighbourhood(Protocol):
    """The peers that can be asked now."""

    def look(self, keys: Sequence[str]) -> Mapping[str, Picture]:
        """What each peer that answers says of these hashes."""

    def fetch(self, peer: str, file: PackageFile) -> None:
        """Bring one file from a peer into the store.

        Raises:
            TransferError: `transfer.server_error`: not now; `transfer.not_found`; or something worse.
            TrustError: it sent other bytes. StoreError: they cannot be kept.
        """

    def drop(self, peer: str, error: PcmError) -> None:
        """A peer has done what none of ours does: ask it nothing more, and say so."""

    def tell(self, key: str, state: bytes, beat: int) -> None:
        """Have this computer's own server say this of a group from now on."""


class Gathered(NamedTuple):
    """Files and plain bytes that came from peers, and groups that this computer brought from the servers."""

    files: int
    bytes: int
    own_groups: int


class _Known:
    """What is remembered of one peer during a fetch."""

    def __init__(self, now: float) -> None:
        self.picture = Picture(NOBODY, ())
        self.changed = now
        self.owed_s = 0.0


class Rounds:
    """One fetch.

    Args:
        me: This fetch's own id, as this computer's server tells it (`wire.ID` random bytes).
        groups: What is missing.
        bring: Brings files from servers. Raises PcmError.
        now, sleep: Seconds on a monotonic clock.
    """

    def __init__(
        self,
        me: bytes,
        groups: Sequence[Group],
        hood: Neighbourhood,
        bring: Callable[[Group], None],
        *,
        now: Callable[[], float],
        sleep: Callable[[float], None],
        chance: random.Random,
    ) -> None:
        self._me, self._hood, self._bring = me, hood, bring
        self._now, self._sleep, self._chance = now, sleep, chance
        # those first that are likeliest to stay this computer's own when more peers come
        self._left = {group.key: group for group in sorted(groups, key=lambda each: weight(each.key, me), reverse=True)}
        self._known: dict[str, _Known] = {}
        self._answers: Mapping[str, Picture] = {}
        self._asked: dict[str, int] = {}
        self._looked = -LOOK_S
        self._gained = now()
        self._troubles: dict[str, PcmError] = {}
        self._files = self._bytes = self._own = 0

    def run(self, most_s: float = float("inf")) -> Gathered:
        """Bring everything, or as much as can be had; what is missing afterwards has to come by other ways.

        Raises:
            StoreError: this disk.
        """
        end = self._now() + most_s
        while self._left and (began := self._now()) < end:
            self._look()
            if self._bring_own() or self._collect():
                self._gained = self._now()
            elif self._is_over():
                break
            else:
                self._wait(began)
        return Gathered(self._files, self._bytes, self._own)

    # ---- looking

    def _look(self) -> None:
        now = self._now()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        keys = list(self._left)
        self._answers = {peer: picture for peer, picture in self._hood.look(keys).items() if picture.fetch != self._me}
        self._asked = {key: index for index, key in enumerate(keys)}
        for peer, picture in self._answers.items():
            known = self._known.setdefault(peer, _Known(now))
            if (picture.fetch, picture.states) != (known.picture.fetch, known.picture.states):
                known.picture, known.changed = picture, now

    def _state(self, picture: Picture, key: str) -> bytes:
        index = self._asked.get(key, 1 << 30)
        return picture.states[index][0] if index < len(picture.states) else b""

    def _who(self, key: str, *states: bytes) -> list[str]:
        return [peer for peer, picture in self._answers.items() if self._state(picture, key) in states]

    def _having(self, key: str) -> list[str]:
        return [peer for peer in self._who(key, HERE) if self._known[peer].owed_s < MOST_OWED_S]

    def _is_waited_for(self, peer: str) -> bool:
        known = self._known[peer]
        return self._now() - known.changed < STALL_S and known.owed_s < MOST_OWED_S

    # ---- bringing

    def _bring_own(self) -> bool:
        """Bring the next group that is this computer's own; False if there is none."""
        for key, group in self._left.items():
            if key in self._troubles or self._having(key) or self._others(key):
                continue
            self._hood.tell(key, COMING, 0)
            try:
                self._bring(group)
            except StoreError:
                raise
            except PcmError as error:  # no server gives it: a peer may, later
                self._troubles[key] = error
                self._hood.tell(key, WANTED, 0)
                return False
            del self._left[key]
            self._own += 1
            return True
        return False

    def _others(self, key: str) -> list[str]:
        """The peers that are to bring a group instead of this computer: one that does so already, or its owner."""
        coming = [peer for peer in self._who(key, COMING) if self._is_waited_for(peer)]
        if coming:
            return coming
        wanting = {
            self._answers[peer].fetch: peer for peer in self._who(key, WANTED, COMING) if self._is_waited_for(peer)
        }
        first = owner(key, (self._me, *wanting))
        return [wanting[first]] if first in wanting else []

    def _collect(self) -> bool:
        """Take one group from a peer that has it; False if none has any, or all are busy."""
        for key in list(self._left):
            having = self._having(key)
            self._chance.shuffle(having)
            for peer in having:
                if self._take(peer, self._left[key]):
                    del self._left[key]
                    return True
        return False

    def _take(self, peer: str, group: Group) -> bool:
        for file in group.files:
            try:
                self._hood.fetch(peer, file)
            except TrustError as error:
                self._drop(peer, error)
                return False
            except TransferError as error:
                if error.code == "transfer.server_error":
                    return False  # as many as it serves are with it now
                if error.code == "transfer.not_found":
                    self._known[peer].owed_s += BROKEN_PROMISE_S
                    self._forget(peer)
                    return False
                self._drop(peer, error)
                return False
            self._files += 1
            self._bytes += file.length
            self._known[peer].owed_s = 0.0
        return True

    def _forget(self, peer: str) -> None:
        """What it said is not so any more: it has removed the file, or it says what is not. Until the next look."""
        self._answers = {name: picture for name, picture in self._answers.items() if name != peer}

    def _drop(self, peer: str, error: PcmError) -> None:
        self._forget(peer)
        self._hood.drop(peer, error)

    # ---- waiting

    def _is_over(self) -> bool:
        """Whether there is nobody to wait for: what is left has to come by other ways, or cannot come."""
        if self._now() - self._gained > MOST_WAIT_S:
            return True
        return not any(self._others(key) or self._having(key) for key in self._left)

    def _wait(self, began: float) -> None:
        """Wait, and charge the turn that began then to those that are waited for."""
        owing = {peer for key in self._left for peer in (*self._others(key), *self._having(key))}
        self._sleep(LOOK_S * self._chance.uniform(0.8, 1.2))
        for peer in owing:
            self._known[peer].owed_s += self._now() - began
