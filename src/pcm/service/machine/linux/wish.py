"""A wish that one thread makes and another, asleep in poll, notices: 'end this run'. Serves `linux.run` and `linux.systemd`."""

import os
import threading


class Wish:
    """Made at most once that matters; its descriptor polls readable from then until `noticed`."""

    def __init__(self) -> None:
        self.made = False
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()

    def make(self) -> None:
        """Make it, from any thread; harmless after `close`."""
        self.made = True
        # without the lock the number could meanwhile be closed, and belong to another file
        with self._lock:
            if self.descriptor >= 0:
                os.eventfd_write(self.descriptor, 1)

    def noticed(self) -> None:
        """Let the descriptor sleep again."""
        os.eventfd_read(self.descriptor)

    def close(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            os.close(self.descriptor)
            self.descriptor = -1
