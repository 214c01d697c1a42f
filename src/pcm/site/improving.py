"""The queue of what the site makes smaller: a row for each version, carried out one at a time by a process of its own.

Serves step 2, in the background of `pcm site serve`, after a version is published. The process is as unimportant as a process
can be, has a limit of time and memory, and may be killed at any point: what it has made is there, the rest is a row. What came
of it goes to all servers by `delivery`'s rows.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta

import msgspec
from sqlalchemy import Connection, Update, insert, select, update

from pcm.content.objects import object_path
from pcm.distribution.shelf import FolderShelf
from pcm.model.errors import PcmError
from pcm.site import catalogue, delivery, repository
from pcm.site.authority import Site
from pcm.site.db.tables import AnyRow
from pcm.site.db.tables_content import improvements
from pcm.site.db.tables_packages import package_versions
from pcm.site.improving_order import ImprovingOrder, ImprovingResult

MOST_ATTEMPTS = 5
_FIRST_WAIT = timedelta(minutes=10)
_LOOK_S = 5.0
_STOP_S = 5.0
_log = logging.getLogger(__name__)


def plan(site: Site) -> None:
    """Make a row for each version in force that has none."""
    with site.database.write() as connection:
        known = select(improvements.c.package_version)
        fresh = connection.execute(
            select(package_versions.c.id).where(
                package_versions.c.withdrawn.is_(None),
                package_versions.c.files > 0,
                package_versions.c.id.not_in(known),
            )
        ).scalars()
        rows = [{"package_version": version, "state": "waiting"} for version in fresh]
        if rows:
            connection.execute(insert(improvements), rows)


def take_up(site: Site) -> None:
    """What a process was at when the site ended is to be gone on with."""
    with site.database.write() as connection:
        connection.execute(update(improvements).where(improvements.c.state == "running").values(state="waiting"))


def next_one(site: Site) -> AnyRow | None:
    """The row to carry out now: the newest version first."""
    with site.database.read() as connection:
        return connection.execute(
            select(improvements, package_versions.c.package, package_versions.c.release, package_versions.c.bytes)
            .join(package_versions, package_versions.c.id == improvements.c.package_version)
            .where(improvements.c.state.in_(("waiting", "failed")), package_versions.c.withdrawn.is_(None))
            .where(improvements.c.next_try.is_(None) | (improvements.c.next_try <= site.clock()))
            .order_by(improvements.c.package_version.desc())
            .limit(1)
        ).first()


def order_of(connection: Connection, site: Site, row: AnyRow) -> ImprovingOrder:
    """What the process is told."""
    settings = site.configuration.content.improve
    olds = connection.execute(
        select(package_versions.c.id)
        .where(package_versions.c.package == row.package, package_versions.c.release < row.release)
        .where(package_versions.c.withdrawn.is_(None))
        .order_by(package_versions.c.release.desc())
        .limit(settings.releases)
    ).scalars()
    names = [_manifest_name(connection, version) for version in (row.package_version, *olds)]
    again = settings.recompress and row.bytes <= settings.recompress_at_most
    return ImprovingOrder(str(site.home.root), names[0], tuple(names[1:]), settings.level if again else None)


def begin(site: Site, row: AnyRow) -> ImprovingOrder:
    """Note that a row is being carried out, and what it began with."""
    with site.database.write() as connection:
        order = order_of(connection, site, row)
        values: dict[str, object] = {"state": "running", "started": site.clock(), "ended": None}
        if not row.objects_before:
            values["objects_before"] = _packed_bytes(connection, site, row.package_version)
        connection.execute(_mine(row).values(**values))
    return order


def finish(site: Site, row: AnyRow, result: ImprovingResult) -> None:
    """Note what came of it, and have it brought to all servers."""
    now = site.clock()
    with site.database.write() as connection:
        connection.execute(
            _mine(row).values(
                state="done",
                ended=now,
                attempts=0,
                next_try=None,
                error="",
                error_code="",
                objects_after=_packed_bytes(connection, site, row.package_version),
                whole=result.whole,
                patches=sum(result.patches.values()),
                bundles=len(result.patches) + (result.whole > 0),
            )
        )
        delivery.ask_again(connection, row.package_version, now)
    for server in site.servers:
        server.wake.set()


def fail(site: Site, row: AnyRow, code: str, message: str) -> None:
    """Note that it failed; after `MOST_ATTEMPTS` it is given up: the version travels as it is."""
    _log.warning("improving version %d: %s (%s)", row.package_version, message, code)
    attempts = row.attempts + 1
    given_up = attempts >= MOST_ATTEMPTS
    now = site.clock()
    with site.database.write() as connection:
        connection.execute(
            _mine(row).values(
                state="given_up" if given_up else "failed",
                ended=now,
                attempts=attempts,
                next_try=None if given_up else now + _FIRST_WAIT * 2**attempts,
                error_code=code,
                error=message[-1000:],
            )
        )
        delivery.ask_again(connection, row.package_version, now)  # what was made until then is worth having


class Improver:
    """The thread of one site that has rows carried out.

    Args:
        on_fault: Called, from the thread, if it dies of a fault of the program.
    """

    def __init__(self, site: Site, on_fault: Callable[[], None]) -> None:
        self._site = site
        self._on_fault = on_fault
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="improver", daemon=True)

    def start(self) -> None:
        """Start the thread, unless improving is paused."""
        if self._site.configuration.content.improve.enabled:
            self._thread.start()

    def stop(self) -> None:
        """End the thread and its process; what the process was at stays a row."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * _STOP_S)

    def carry_out(self, row: AnyRow) -> None:
        """Have one row carried out, and wait for the end."""
        order = begin(self._site, row)
        try:
            self._have_made(row, order)
        except OSError as error:  # no process can be had now: no reason for the site to end
            fail(self._site, row, "machine.failed", f"Its process cannot be started: {error.strerror}.")

    def _have_made(self, row: AnyRow, order: ImprovingOrder) -> None:
        hours = self._site.configuration.content.improve.hours_at_most
        with subprocess.Popen(
            [sys.executable, "-I", "-m", "pcm.site.improving_order"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            cwd="/",
        ) as child:
            watch = threading.Thread(target=self._watch, args=(child, hours * 3600), daemon=True)
            watch.start()
            out, err = child.communicate(msgspec.json.encode(order))
            watch.join()
        if self._stopping.is_set() and child.returncode != 0:
            take_up(self._site)
        elif child.returncode == 0:
            finish(self._site, row, msgspec.json.decode(out, type=ImprovingResult))
        elif child.returncode < 0:
            fail(self._site, row, "machine.killed", f"Its process was ended by signal {-child.returncode}.")
        else:
            code, _, message = err.decode(errors="replace").strip().rpartition("\n")[2].partition(" ")
            fail(self._site, row, code[:80] or "machine.failed", message)

    def _watch(self, child: "subprocess.Popen[bytes]", at_most_s: float) -> None:
        left = at_most_s
        while child.poll() is None:
            if self._stopping.wait(min(0.5, left)) or left <= 0:
                child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_STOP_S)
                child.kill()
                return
            left -= 0.5

    def _run(self) -> None:
        finished = False
        try:
            while not self._stopping.is_set():
                try:
                    take_up(self._site)  # also what the database did not take the end of
                    plan(self._site)
                    row = next_one(self._site)
                    if row is not None:
                        self.carry_out(row)
                        continue
                except PcmError as error:  # the database: it is asked again
                    _log.warning("improving: %s (%s)", error.message, error.code)
                self._stopping.wait(_LOOK_S)
            finished = True
        finally:
            if not finished:
                self._on_fault()


def _mine(row: AnyRow) -> Update:
    return update(improvements).where(improvements.c.package_version == row.package_version)


def _manifest_name(connection: Connection, version: int) -> str:
    row = connection.execute(
        select(package_versions.c.manifest_path, package_versions.c.manifest_sha256).where(
            package_versions.c.id == version
        )
    ).one()
    return repository.target_name_of(row.manifest_path, row.manifest_sha256)


def _packed_bytes(connection: Connection, site: Site, version: int) -> int:
    sha256 = connection.execute(
        select(package_versions.c.manifest_sha256).where(package_versions.c.id == version)
    ).scalar_one()
    manifest = catalogue.load_manifest(connection, sha256)
    names = {object_path(file.sha256) for file in manifest.files}
    return sum(FolderShelf(site.home.root).sizes(names).values())
