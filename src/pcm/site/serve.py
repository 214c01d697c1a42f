"""`pcm site serve`: one process with the admin API, the logon server, the distribution server, intake and clockwork.

Serves steps 2–6, 8 and 12 over HTTP with granian. It stops in order at SIGTERM: no new connections, open requests
to their end, then the writing threads, then the database. A fault in a thread ends the process, so that whoever
supervises it starts it anew.
"""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server.embed import Server
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pcm.distribution.app import DistributionApp
from pcm.logon.app import LogonApp
from pcm.logon.folder_keys import FolderKeys
from pcm.logon.wakes import Wakes
from pcm.model.errors import MachineError, PcmError
from pcm.site import authority, configuration
from pcm.site.api.calls import problem
from pcm.site.api.routes import create_api
from pcm.site.authority import Clock, Site, now_utc
from pcm.site.deliverer import Deliverer
from pcm.site.folder_lock import FolderLock
from pcm.site.improving import Improver
from pcm.site.intake import Intake
from pcm.site.rounds import Rounds

LOGON = "/logon"
DISTRIBUTION = "/distribution"
BACKLOG = 1024
MOST_CONNECTIONS = 1_000_000
_log = logging.getLogger(__name__)


class SiteApp:
    """Everything that one site answers, by the first part of the path. The two prefixes that clients hit come first."""

    def __init__(self, site: Site, intake: Intake) -> None:
        self._site = site
        self._prefixes: list[tuple[str, ASGIApp]] = []
        own = site.own_logon
        self.wakes: Wakes | None = None
        if own is not None:
            # whatever is published into this folder is published by this process, so nobody has to look for it
            self.wakes = Wakes(own.folder.root / "clients", look_s=None)
            own.leases.on_publish = self.wakes.changed
            server = next(each for each in site.configuration.logon if each.folder is None)
            logon = LogonApp(
                own.folder,
                server.location,
                FolderKeys(own.folder),
                leases=own.leases,
                report_sink=intake.take_report,
                enrolment_sink=intake.take_enrolment,
                wakes=self.wakes,
                now=site.clock,
            )
            self._prefixes.append((LOGON, logon))
        if site.own_distribution is not None:
            self._prefixes.append((DISTRIBUTION, DistributionApp(site.own_distribution.root)))
        self._api = create_api(site)
        self.ready = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"this application does not speak {scope['type']}")
        path: str = scope["path"]
        for prefix, app in self._prefixes:
            if path.startswith(prefix + "/"):
                await app({**scope, "root_path": prefix}, receive, send)
                return
        if path == "/healthz":
            await PlainTextResponse("ok")(scope, receive, send)
        elif path == "/readyz":
            await (await self._readiness())(scope, receive, send)
        else:
            await self._api(scope, receive, send)

    async def _readiness(self) -> Response:
        """Whether this process can do its work: database there, folders there, not stopping."""
        if not self.ready:
            return problem(503, "stopping", "The site is stopping.")
        try:
            await asyncio.to_thread(self._site.database.check)
            await asyncio.to_thread(authority.check_folders, self._site)
        except PcmError as error:
            return problem(503, error.code, error.message)
        return PlainTextResponse("ready")


class Serving:
    """A site that is being served, until it is stopped.

    Args:
        folder: The site's folder.
        listen: Another address than the one in `site.yaml`.

    Raises:
        RequestError: there is no site, or its configuration is wrong.
        StoreError: `store.in_use`: another process serves it; the database cannot be used.
    """

    def __init__(self, folder: Path, *, listen: tuple[str, int] | None = None, clock: Clock = now_utc) -> None:
        configuration.read(folder)  # there is a site at all
        self._lock = FolderLock(folder)
        try:
            self.site = authority.open_site(folder, clock=clock)
        except BaseException:
            self._lock.release()
            raise
        self.intake = Intake(self.site)
        self._faults: list[str] = []
        self.rounds = Rounds(self.site, self.intake, self._on_fault)
        self.deliverer = Deliverer(self.site, self._on_fault)
        self.improver = Improver(self.site, self._on_fault)
        self._listen = listen or self.site.configuration.address()
        self._stop: Callable[[], None] | None = None

    def run(self, *, signals: bool = True, on_ready: Callable[[], None] | None = None) -> None:
        """Serve until SIGTERM or SIGINT, or until `stop` is called.

        Args:
            signals: Take signals; only possible in the main thread.
            on_ready: Called once the server listens.

        Raises:
            StoreError: a folder or the database cannot be used.
            MachineError: `machine.address`: the address is taken; `machine.fault`: a thread has died.
        """
        try:
            self.rounds.prepare()
            self.intake.start()
            self.rounds.start()
            self.deliverer.start()
            self.improver.start()
            # what is loaded by now stays: looking through it for garbage, again and again, costs more than signing does
            gc.collect()
            gc.freeze()
            asyncio.run(self._serve(signals, on_ready))
        finally:
            self.improver.stop()
            self.deliverer.stop()
            self.rounds.stop()
            self.intake.stop()
            self.site.close()
            self._lock.release()
            gc.unfreeze()
        if self._faults:
            raise MachineError("A part of the site died of a fault; its log says more.", code="machine.fault")

    def stop(self) -> None:
        """End `run` from another thread."""
        if self._stop is not None:
            self._stop()

    async def _serve(self, signals: bool, on_ready: Callable[[], None] | None) -> None:
        host, port = self._listen
        check_free(host, port)
        files_at_most = allow_many_files()
        app = SiteApp(self.site, self.intake)
        tls = self.site.configuration.tls
        files: dict[str, Any] = {}
        if tls is not None:
            files = dict(zip(("ssl_cert", "ssl_key"), configuration.check_tls(self.site.folder, tls), strict=True))
        configuration.read_authority(self.site.folder, tls)
        server = Server(
            app,
            address=host,
            port=port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.auto,
            websockets=False,
            backlog=BACKLOG,
            backpressure=files_at_most,  # whoever waits for news is a request under way: they must not keep others out
            log_level=LogLevels.warning,
            log_enabled=False,
            **files,
        )
        loop = asyncio.get_running_loop()

        def stop() -> None:
            app.ready = False
            if app.wakes is not None:
                app.wakes.close()  # open requests are seen to their end
            loop.call_soon_threadsafe(server.stop)

        self._stop = stop
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
        waiting = asyncio.create_task(self._announce(host, port, on_ready))
        try:
            await server.serve()
        except (RuntimeError, OSError) as error:
            raise MachineError(f"The site cannot listen at {host}:{port}: {error}.", code="machine.address") from error
        finally:
            waiting.cancel()

    async def _announce(self, host: str, port: int, on_ready: Callable[[], None] | None) -> None:
        """Say that the site listens, once it does."""
        reachable = "localhost" if ipaddress.ip_address(host).is_unspecified else host
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(reachable, port)
                writer.close()
                break
            await asyncio.sleep(0.02)
        _log.info("site %s listens at %s:%d", self.site.name, host, port)
        if on_ready is not None:
            on_ready()

    def _on_fault(self) -> None:
        self._faults.append("rounds")
        self.stop()


def check_free(host: str, port: int) -> None:
    """Raise if somebody listens at an address already: granian would share the port in silence.

    Raises:
        MachineError: `machine.address`.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise MachineError(f"The site cannot listen at {host}:{port}: {error}.", code="machine.address") from error


def allow_many_files() -> int:
    """Open as many files as the system lets this process, and say how many: each client that waits for news is a connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], MOST_CONNECTIONS)


def serve(folder: Path, *, listen: tuple[str, int] | None = None, on_ready: Callable[[], None] | None = None) -> None:
    """Serve the site in a folder until SIGTERM or SIGINT. Raises as `Serving.run`."""
    Serving(folder, listen=listen).run(on_ready=on_ready)
