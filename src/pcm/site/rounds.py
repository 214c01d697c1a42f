"""The site's own clockwork: one thread that compiles when woken and, every so often, does what falls due by itself.

Serves steps 2, 5 and 12: jobs expire, signatures are renewed, folders are brought up to date, dropped reports are
taken in, old reports are forgotten. Each round may be interrupted and done again. What fails for a reason that can
pass is logged and tried in the next round; a fault of the program ends the process instead of leaving a site that
looks alive.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import delete, select

from pcm.model.errors import PcmError
from pcm.site import delivery, job_life, projection, repository
from pcm.site.authority import Site
from pcm.site.compile import Compiler
from pcm.site.db.tables import enrolment_tokens, jobs, poison, reports
from pcm.site.intake import Intake

_log = logging.getLogger(__name__)


class Rounds:
    """The clockwork of one site.

    Args:
        on_fault: Called, from the thread, if it dies of a fault of the program.
    """

    def __init__(self, site: Site, intake: Intake, on_fault: Callable[[], None]) -> None:
        self._site = site
        self._intake = intake
        self._on_fault = on_fault
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)
        self.compiler = Compiler(site)

    def prepare(self) -> None:
        """What must be right before the first request: servers, roots, folders.

        Raises:
            StoreError: a folder or the database cannot be used.
        """
        site = self._site
        projection.take_up_servers(site)
        projection.write_roots(site)
        try:
            projection.fill_home(site)
            projection.publish_unwritten(site)
        except PcmError as error:
            if error.code not in ("conflict", "store.away"):
                raise
            # content is nowhere, or not to be had now: it can only be uploaded again to a site that serves
            _log.warning("home is not complete: %s (%s)", error.message, error.code)
        delivery.plan(site)
        projection.find_missing_clients(site)

    def start(self) -> None:
        """Start the thread."""
        self._site.wake.set()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it is doing."""
        self._stopping.set()
        self._site.wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=60)

    def tick(self) -> None:
        """One full round, for the thread and for tests; each part by itself."""
        for part in (
            self.expire_jobs,
            self.renew_repository,
            self.publish,
            self._collect_dropped,
            self.compiler.mark_expiring,
            self._renew_leases,
            self.forget,
            self._compile,
        ):
            self._attempt(part)

    def expire_jobs(self) -> None:
        """Expire what is due; nobody has to say so (KB Q188042)."""
        site = self._site
        now = site.clock()
        with site.database.read() as connection:
            due = connection.execute(
                select(jobs.c.id).where(jobs.c.state == "active", jobs.c.expires <= now).limit(1)
            ).first()
        if due is not None:
            with site.database.write() as connection:
                job_life.expire(connection, now)

    def renew_repository(self) -> None:
        """Keep the package repository's snapshot and timestamp fresh."""
        with self._site.database.write() as connection:
            repository.renew(connection, self._site.online, self._site.clock())

    def publish(self) -> None:
        """Write what is signed and not yet at home, and have it brought everywhere."""
        projection.publish_unwritten(self._site)
        delivery.plan(self._site)
        for server in self._site.servers:
            server.wake.set()

    def forget(self) -> None:
        """Remove raw reports and what was set aside, older than the site keeps them, and enrolment tokens long expired."""
        now = self._site.clock()
        oldest = now - timedelta(days=self._site.configuration.settings.report_retention_days)
        with self._site.database.write() as connection:
            connection.execute(delete(reports).where(reports.c.received < oldest))
            connection.execute(delete(poison).where(poison.c.received < oldest))
            connection.execute(delete(enrolment_tokens).where(enrolment_tokens.c.expires < now - timedelta(days=30)))
        self._site.uploads.sweep()

    def _collect_dropped(self) -> None:
        self._intake.collect_dropped()

    def _renew_leases(self) -> None:
        while self.compiler.renew_leases():
            pass

    def _compile(self) -> None:
        self.compiler.compile_now()

    def _attempt(self, part: Callable[[], None]) -> None:
        try:
            part()
        except PcmError as error:
            _log.warning("%s: %s (%s)", part.__name__, error.message, error.code)

    def _run(self) -> None:
        finished = False
        try:
            self._loop()
            finished = True
        finally:
            if not finished:
                self._on_fault()

    def _loop(self) -> None:
        every = self._site.configuration.settings.tick_s
        due = time.monotonic()
        while not self._stopping.is_set():
            self._site.wake.wait(max(0.0, due - time.monotonic()))
            self._site.wake.clear()
            if self._stopping.is_set():
                return
            if time.monotonic() >= due:
                self.tick()
                due = time.monotonic() + every
            else:
                self._attempt(self._compile)
