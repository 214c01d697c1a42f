"""Threads that bring what is published to the distribution servers: one for each, so that one that hangs keeps no other waiting.

Serves step 2 in `pcm site serve`: `api.packages` and the clockwork wake them, `delivery` does the work. A share whose server is
gone may block its thread for minutes; nothing else of the site waits for it.
"""

import logging
import threading
import time
from collections.abc import Callable

from pcm.model.errors import PcmError
from pcm.site import delivery
from pcm.site.authority import Site
from pcm.site.distribution_servers import DistributionServer

_LOOK_S = 5.0
_STOP_S = 10.0
_log = logging.getLogger(__name__)


class Deliverer:
    """The threads of one site.

    Args:
        on_fault: Called, from a thread, if it dies of a fault of the program.
    """

    def __init__(self, site: Site, on_fault: Callable[[], None]) -> None:
        self._site = site
        self._on_fault = on_fault
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(server,), name=f"deliver-{server.name}", daemon=True)
            for server in site.servers
        ]

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End them after the file that each is at; one that hangs is left behind."""
        self._stopping.set()
        for server in self._site.servers:
            server.wake.set()
        deadline = time.monotonic() + _STOP_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, server: DistributionServer) -> None:
        finished = False
        try:
            while not self._stopping.is_set():
                server.wake.clear()
                try:
                    delivery.deliver(self._site, server)
                except PcmError as error:  # the database: it is asked again
                    _log.warning("%s: %s (%s)", server.name, error.message, error.code)
                server.wake.wait(_LOOK_S)
            finished = True
        finally:
            if not finished:
                self._on_fault()


def wait_for_all(site: Site, at_most_s: float) -> None:
    """Wait a little for servers that are quick, so that a small publication stands everywhere when it is answered."""
    for server in site.servers:
        server.wake.set()
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline:
        with site.database.read() as connection:
            if not delivery.is_under_way(connection):
                return
        time.sleep(0.05)
