"""Step 10: serving one run until nothing of it is left. The clock, the output and the ending, over any kind of tree.

Before: `linux.tree` has started a program, or found one again. After: `service.runner` journals `Ended`. It never looks for
processes itself (a `Tree` does), and sleeps in the kernel: a descriptor of each process tells when it ends.

    phase     what it does                       leaves it when
    RUNNING   stores output                      the tree is gone | the time limit passes | `kill`
    ASKED     sent TERM once to every process    the tree is gone | the grace time passes
    KILLED    sends KILL again and again         the tree is gone | PATIENCE_S passes: what is left is stuck in the kernel
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from pcm.service.machine.interface import Ended, RunReference
from pcm.service.machine.linux.proctable import Process
from pcm.service.machine.linux.wish import Wish
from pcm.service.machine.posix.output import ProgramOutput

PATIENCE_S = 30.0
_WATCHED = 64  # more processes than this are noticed at the next look, not at once


class Tree(Protocol):
    """The processes of one run."""

    look_every_s: float

    def look(self) -> list[Process]:
        """Living processes whose end is worth waking for; empty when the whole tree is gone. Reaps what is ours to reap."""

    def strike(self, number: int) -> int:
        """Send a signal to every process of the tree; returns how many there were."""

    def result(self) -> tuple[int | None, int | None]:
        """Exit code and signal of the first process, as far as anybody saw its end. Call once, when nothing is left."""


class _Phase(Enum):
    RUNNING = "running"
    ASKED = "asked"
    KILLED = "killed"


class TreeRun:
    """A `RunningProgram` over a tree.

    Args:
        on_ended: called once with the result before `wait` returns it, so that it can be kept.
        first: a process of the tree that was just started and is not reaped yet: until it ends there is nothing to look for.
    """

    def __init__(
        self,
        reference: RunReference,
        tree: Tree,
        output: ProgramOutput,
        on_ended: Callable[[Ended], None],
        first: int | None = None,
    ) -> None:
        self._reference = reference
        self._tree = tree
        self._output = output
        self._on_ended = on_ended
        self._ended: Ended | None = None
        self._kill_wish = Wish()
        self._poller = select.poll()
        self._poller.register(output.reader, select.POLLIN)
        self._poller.register(self._kill_wish.descriptor, select.POLLIN)
        self._watched: dict[tuple[int, int], int] = {}
        self._phase = _Phase.RUNNING
        self._phase_ends_s = reference.started_s + reference.timeout_s
        self._timed_out = False
        self._survivors = 0
        self._looked_s = -tree.look_every_s
        if first is not None:
            self._watch_one((first, 0))
            self._looked_s = time.monotonic()

    @property
    def reference(self) -> RunReference:
        """Identity of the run, as journalled."""
        return self._reference

    def kill(self) -> None:
        """Ask for the end of the tree, from any thread; harmless once it has ended."""
        self._kill_wish.make()

    def wait(self) -> Ended:
        """Serve the run to its end; see the module's docstring."""
        if self._ended is None:
            left = self._serve()
            code, number = self._tree.result()
            self._ended = Ended(
                exit_code=code,
                signal=number,
                timed_out=self._timed_out,
                output_tail=self._output.finish(),
                output_bytes=self._output.total_bytes,
                duration_s=time.monotonic() - self._reference.started_s,
                survivors_killed=self._survivors,
                survivors_left=left,
            )
            self._close()
            self._on_ended(self._ended)
        return self._ended

    def _serve(self) -> int:
        """Return how many processes could not be ended."""
        while True:
            now = time.monotonic()
            if now - self._looked_s >= self._tree.look_every_s or self._phase is _Phase.KILLED:
                living = self._tree.look()
                if not living:
                    return 0
                self._watch(living)
                self._looked_s = now
                if self._phase is _Phase.KILLED and now >= self._phase_ends_s:
                    return len(living)
            if self._advance(now):
                continue
            if self._sleep(min(self._phase_ends_s, self._looked_s + self._look_every()) - now):
                self._looked_s = -self._tree.look_every_s  # a process ended: look at once

    def _advance(self, now: float) -> bool:
        """Go to the next phase if it is time; True if something was done."""
        if self._phase is _Phase.KILLED:
            self._tree.strike(signal.SIGKILL)
            return False
        limit_passed = now >= self._phase_ends_s
        if self._phase is _Phase.RUNNING and (limit_passed or self._kill_wish.made):
            self._timed_out = limit_passed
            self._survivors = self._tree.strike(signal.SIGTERM)
            self._phase, self._phase_ends_s = _Phase.ASKED, now + self._reference.grace_s
            return True
        if limit_passed:
            self._tree.strike(signal.SIGKILL)
            self._phase, self._phase_ends_s = _Phase.KILLED, now + PATIENCE_S
            return True
        return False

    def _look_every(self) -> float:
        return 0.01 if self._phase is _Phase.KILLED else self._tree.look_every_s

    def _sleep(self, seconds: float) -> bool:
        """Wait for output, an end or a wish; True if a process may have ended."""
        somebody_ended = False
        # rounded up: waking a moment too early would mean asking again and again
        for descriptor, _ in self._poller.poll(max(0, int(seconds * 1000) + 1)):
            if descriptor == self._output.reader:
                self._output.drain()
            elif descriptor == self._kill_wish.descriptor:
                self._kill_wish.noticed()
            else:
                somebody_ended = True
        return somebody_ended

    def _watch(self, living: list[Process]) -> None:
        wanted = {(process.id, process.started_ticks) for process in living[:_WATCHED]}
        for key in self._watched.keys() - wanted:
            descriptor = self._watched.pop(key)
            self._poller.unregister(descriptor)
            os.close(descriptor)
        for key in wanted - self._watched.keys():
            self._watch_one(key)

    def _watch_one(self, key: tuple[int, int]) -> None:
        with contextlib.suppress(OSError):  # it ended in between: the next look tells
            self._watched[key] = descriptor = os.pidfd_open(key[0])
            self._poller.register(descriptor, select.POLLIN)

    def _close(self) -> None:
        self._watch([])
        self._kill_wish.close()


class EndedRun:
    """A `RunningProgram` whose end another worker saw and kept."""

    def __init__(self, reference: RunReference, ended: Ended) -> None:
        self._reference = reference
        self._ended = ended

    @property
    def reference(self) -> RunReference:
        """Identity of the run, as journalled."""
        return self._reference

    def wait(self) -> Ended:
        """Return the kept result."""
        return self._ended

    def kill(self) -> None:
        """Do nothing: it has ended."""
