"""How a run hands over to the next one of the same plan: its end and the beginning of that one are one transaction.

Serves steps 10 and 11, between `steps/detect`, which knows how a run has ended, and `steps/run` of the next one. Each commit
waits for the disk, and so one is enough for both. Until then nobody is told of the end, the run counts as open, and the machine
keeps its result (`Processes.find_again`), so a worker that is killed meanwhile loses nothing. That moment is short: whatever may
take longer calls `settle` first. What the run has left behind is removed after its end is stored, never before; if it is little,
while the next program works.
"""

from collections.abc import Callable

from pcm.service.state import State


class Handover:
    """The end of one run that is not stored yet, if there is one."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._store: Callable[[], None] | None = None
        self._then: list[Callable[[], object]] = []
        self._meanwhile: list[Callable[[], object]] = []

    @property
    def waits(self) -> bool:
        """Whether an end is to be stored."""
        return self._store is not None

    def leave(self, store: Callable[[], None], then: Callable[[], object]) -> None:
        """Have the end of a run stored soon. `store`: within a transaction. `then`: once that is committed."""
        assert self._store is None, "a run ends while the end of the one before is not stored"
        self._store, self._then = store, [then]

    def afterwards(self, then: Callable[[], object], *, takes_a_moment: bool = False) -> None:
        """Have something else done once the end is stored. `takes_a_moment`: it may be done while the next program works."""
        (self._meanwhile if takes_a_moment else self._then).append(then)

    def store(self) -> None:
        """Store the end, if there is one, within the caller's transaction. Call `stored` when that is committed.

        Raises:
            StoreError: it cannot be recorded; it still waits.
        """
        if self._store is not None:
            self._store()

    def stored(self) -> None:
        """Do what was put off until the end is stored: it is."""
        then, self._store, self._then = self._then, None, []
        for each in then:
            each()

    def tidy(self) -> None:
        """Do what takes a moment, now that the next program works, or that there is none; once the end is stored."""
        if self._store is None:
            meanwhile, self._meanwhile = self._meanwhile, []
            for each in meanwhile:
                each()

    def settle(self) -> None:
        """Store the end now, if there is one, in a transaction of its own, and do all that was put off.

        Raises:
            StoreError: it cannot be recorded; recovery finds it.
        """
        if self._store is not None:
            with self._state.transaction():
                self.store()
            self.stored()
        self.tidy()
