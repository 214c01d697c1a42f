"""A small fleet for end-to-end tests: a real site process, its administrator's and packager's `pcm`, clients with `pcmsvc --home`.

Everything goes through the real programs. Packages are trivial: their programs append one line to a counter file, so that what
ran, and that nothing ran, can be counted. A site may also be served, and its clients may check, in the past (`Site.serve(ago=)`,
`Client.once(ago=)`): attacks with yesterday's files need files that yesterday's site signed.
"""

import contextlib
import fcntl
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec

from pcm.cli.main import run as run_pcm
from pcm.site import configuration, tokens
from pcm.site.authority import now_utc, open_site
from tests.e2e.front import Front

BIN = Path(sys.executable).parent
PASSPHRASE = "correct horse battery"
NOW = timedelta(0)

# the product's programs with another clock, by the seams that they have for it
_SERVE_IN_THE_PAST = """
import sys; from datetime import UTC, datetime, timedelta; from pathlib import Path; from pcm.site.serve import Serving
ago = timedelta(seconds=float(sys.argv[1]))
Serving(Path(sys.argv[2]), clock=lambda: datetime.now(UTC) - ago).run()
"""
_PCMSVC_IN_THE_PAST = """
import sys; from datetime import UTC, datetime, timedelta; from pcm.service import worker
ago = timedelta(seconds=float(sys.argv.pop(1)))
worker.utc_now = lambda: datetime.now(UTC) - ago
from pcm.service.main import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Answer:
    """What one call of a program gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its answer with --json: one document, the first that it wrote."""
        return json.JSONDecoder().raw_decode(self.out)[0]

    @property
    def text(self) -> str:
        """Everything that it wrote."""
        return self.out + self.err


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that every account may look into: transfer processes run under one of their own."""
    folder = Path(tempfile.mkdtemp(prefix="pcm-fleet-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens at right now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def call(
    command: list[object],
    *,
    environment: Mapping[str, str] | None = None,
    given: str | None = None,
    limit_s: float = 90,
) -> Answer:
    """Run a program to its end. A trace, whatever came before it, fails the test."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
        env={**os.environ, **(environment or {})},
        **({"stdin": subprocess.DEVNULL} if given is None else {"input": given}),
    )
    answer = Answer(done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in answer.text, answer.text
    return answer


@dataclass
class Site:
    """A site, behind a front at its public address. `folder` holds `site`, `keys` (offline), `packages` and the clients."""

    folder: Path
    front: Front
    database: str | None = None
    init_arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    clients: list["Client"] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The site's own folder."""
        return self.folder / "site"

    @property
    def keys(self) -> Path:
        """The offline keyring."""
        return self.folder / "keys"

    @property
    def counter(self) -> Path:
        """Where programs write that they ran."""
        return self.folder / "counter"

    def ran(self) -> list[str]:
        """What programs wrote, in order."""
        return self.counter.read_text().splitlines() if self.counter.exists() else []

    def pcm(self, *arguments: object, code: int | None = 0, process: bool = False, **environment: str) -> Answer:
        """The administrator's program: in this process (fast), or as a process of its own."""
        given = [str(argument) for argument in arguments]
        own = {
            "HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "PCM_KEY_PASSPHRASE": PASSPHRASE,
            "PCM_KEYS": str(self.keys),
            "PCM_SITE": str(self.root),
            "COLUMNS": "200",
            "NO_COLOR": "1",
            **environment,
        }
        answer = call([BIN / "pcm", *given], environment=own) if process else _call_here(given, own)
        assert code is None or answer.code == code, (given, answer)
        return answer

    def json(self, *arguments: object) -> Any:
        """What `pcm … --json` answers."""
        return self.pcm(*arguments, "--json").json

    def initialise(self, *, process: bool = False) -> None:
        """`pcm site init`."""
        port = free_port()
        self.front.upstream = ("127.0.0.1", port)
        database = () if self.database is None else ("--database", self.database)
        self.pcm(
            "site", "init", self.root, "--name", "lab", "--url", self.front.url, "--listen", f"127.0.0.1:{port}",
            "--keys", self.keys, "--single-key", "--approver", "ada", "--approver", "bob", *database,
            *self.init_arguments, process=process,
        )  # fmt: skip
        for path in (self.root, self.root / "logon", self.root / "distribution"):
            path.chmod(0o755)

    def configure(self, **changes: Any) -> None:
        """Change settings in site.yaml."""
        now = configuration.read(self.root)
        settings = msgspec.structs.replace(now.settings, **changes)
        configuration.write(self.root, msgspec.structs.replace(now, settings=settings))

    def serve(self, ago: timedelta = NOW) -> None:
        """`pcm site serve`, now or in the past; returns when it is ready."""
        assert self.front.upstream is not None
        host, port = self.front.upstream
        command = [str(BIN / "pcm"), "site", "serve", str(self.root)]
        if ago:
            command = [sys.executable, "-c", _SERVE_IN_THE_PAST, str(ago.total_seconds()), str(self.root)]
        log = self.folder / "serve.log"
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError), urlopen(f"http://{host}:{port}/readyz", timeout=5):
                return
            time.sleep(0.02)
        raise AssertionError(f"the site did not come up: {log.read_text()[-3000:]}")

    def stop(self) -> None:
        """Stop it as a supervisor would; it must end well and have left no trace in its log."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            ended = self.process.wait(30)
        finally:
            self.process.kill()
            self.process = None
        log = (self.folder / "serve.log").read_text()
        assert ended == 0, log[-3000:]
        assert "Traceback" not in log, log[-3000:]

    def token_of(self, ago: timedelta) -> Path:
        """A token file of the administrator's that counts in the past."""
        path = self.folder / "past.token"
        site = open_site(self.root)
        try:
            with site.database.write() as connection:
                made = tokens.issue(
                    connection, site.token_key, site.name, "past", "admin", now_utc() - ago, 90 * 86_400
                )
        finally:
            site.close()
        path.write_text(made.token)
        path.chmod(0o600)
        return path

    def write_package(self, name: str, version: str = "1.0", *, more: str = "", program: str = "") -> Path:
        """A package directory: each program writes one line to the counter: package, version, program, argument."""
        directory = self.folder / "packages" / f"{name}-{version}"
        directory.mkdir(parents=True)
        script = directory / "setup"
        script.write_text(f'#!/bin/sh\necho "{name} {version} $*" >> {self.counter}\necho "{name} {version} done"\n')
        script.chmod(0o755)
        (directory / "package.yaml").write_text(
            f"name: {name}\nversion: '{version}'\nsummary: Counts\nplatforms: [linux-any]\n"
            "parameters: {MODE: {enum: [quick, slow], default: quick}}\n" + more + "programs:\n"
            "  install: {command: [./setup, install, '{MODE}'], user_requestable: true" + program + "}\n"
            "  again: {command: [./setup, again]}\n"
            "  uninstall: {command: [./setup, uninstall]}\n"
        )
        return directory

    def publish(self, directory: Path, *arguments: object, **options: Any) -> Answer:
        """`pcm package publish`."""
        return self.pcm("package", "publish", directory, *arguments, **options)

    def make_package(self, name: str, version: str = "1.0", **options: Any) -> None:
        """Write and publish one."""
        self.publish(self.write_package(name, version, **options))

    def order(self, package: str, *arguments: object, group: str = "all") -> str:
        """`pcm job create`; the job's id, once every client's instruction file names it."""
        job: str = self.json("job", "create", package, "--group", group, *arguments)["id"]
        targeted = self.job_states(job)
        for client in self.clients:
            if client.client_id in targeted:
                client.wait_for(job)
        return job

    def job_states(self, job: str) -> dict[str, str]:
        """Client id → state of its assignment."""
        return {row["client_id"]: row["state"] for row in self.json("job", "show", job)["assignments"]["items"]}

    def kit(self) -> Path:
        """The enrolment kit."""
        path = self.folder / "kit.json"
        if not path.exists():
            self.pcm("client", "kit", "--out", path)
        return path

    def enrol(self, name: str, *, ago: timedelta = NOW) -> "Client":
        """A new client with a one-time token, and a group of its own name."""
        token = self.json("client", "token")["token"]
        client = Client(self, self.folder / name)
        client.pcmsvc("enroll", "--kit", self.kit(), "--token", token, ago=ago)
        client.wait_for("")
        self.pcm("group", "create", name, client.client_id)
        self.clients.append(client)
        return client


def _call_here(given: list[str], environment: Mapping[str, str]) -> Answer:
    before = dict(os.environ)
    out, err = io.StringIO(), io.StringIO()
    os.environ.update(environment)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_pcm(given)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return Answer(code, out.getvalue(), err.getvalue())


@dataclass
class Client:
    """A computer with the PCM service, in a folder of its own."""

    site: Site
    home: Path

    @cached_property
    def client_id(self) -> str:
        """Its id."""
        found: str = self.pcmsvc_json("status")["client_id"]
        return found

    @property
    def folder(self) -> Path:
        """Its files on the site's own logon server."""
        return self.site.root / "logon" / "clients" / self.client_id

    def pcmsvc(
        self,
        *arguments: object,
        code: int | None = 0,
        ago: timedelta = NOW,
        wrapped: tuple[object, ...] = (),
        given: str | None = None,
        **environment: str,
    ) -> Answer:
        """The service's program. `wrapped`: what starts it."""
        program: tuple[object, ...] = (BIN / "pcmsvc",)
        if ago:
            program = (sys.executable, "-c", _PCMSVC_IN_THE_PAST, ago.total_seconds())
        answer = call([*wrapped, *program, "--home", self.home, *arguments], environment=environment, given=given)
        assert code is None or answer.code == code, (arguments, answer)
        return answer

    def pcmsvc_json(self, *arguments: object, **options: Any) -> Any:
        """What `pcmsvc … --json` answers."""
        return self.pcmsvc(*arguments, "--json", **options).json

    def pcmapp(self, *arguments: object, code: int | None = 0) -> Answer:
        """The user's program."""
        answer = call([BIN / "pcmapp", "--home", self.home, *arguments])
        assert code is None or answer.code == code, (arguments, answer)
        return answer

    def once(self, code: int | None = 0, **options: Any) -> Any:
        """One check."""
        return self.pcmsvc_json("once", code=code, **options)

    def refusals(self) -> list[str]:
        """Codes of what was refused as a whole, the newest first."""
        return [each["code"] for each in self.pcmsvc_json("status").get("refusals", ())]

    def item(self, job: str) -> dict[str, Any]:
        """What the client says about a job."""
        found: dict[str, Any] = next(each for each in self.pcmsvc_json("list")["items"] if each["job"] == job)
        return found

    def why(self, job: str) -> str:
        """Every code in the client's decision trace."""
        return " ".join(f"{line.get('code', '')}: {line['text']}" for line in self.pcmsvc_json("why", job)["lines"])

    def shown_refusals(self) -> list[str]:
        """Codes that the site shows for this client."""
        return [each["code"] for each in self.site.json("client", "show", self.client_id)["refusals"]]

    def newest(self) -> dict[str, Any]:
        """The newest instruction file on the site's own logon server, whatever it contains; {} if there is none."""
        versions = sorted(self.folder.glob("*.targets.json"), key=lambda path: int(path.name.partition(".")[0]))
        if not versions:
            return {}
        signed = json.loads(versions[-1].read_bytes())["signed"]
        (target,) = signed["targets"].values()
        found: dict[str, Any] = json.loads(
            (self.folder / f"{target['hashes']['sha256']}.instructions.json").read_bytes()
        )
        return found

    def wait_for(self, job: str, *, gone: bool = False) -> None:
        """Wait until the site has compiled a file for this client that names a job ('': any file), or names it no more."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                newest = self.newest()
                jobs = {each["job"] for each in newest.get("instructions", ())}
                if newest and (not job or (job in jobs) != gone):
                    return
            time.sleep(0.02)
        raise AssertionError(f"job {job} did not {'leave' if gone else 'come'}: {self.newest()}")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """`pcmsvc run`, until it listens; then stopped in order, its last worker included."""
        log = self.home / "run.log"
        with log.open("ab") as file:
            service = subprocess.Popen(
                [BIN / "pcmsvc", "--home", self.home, "run"], stdout=file, stderr=file, stdin=subprocess.DEVNULL
            )
        try:
            end = time.monotonic() + 20
            while not (self.home / "run" / "pcmsvc.sock").exists():
                assert service.poll() is None, log.read_text()
                assert time.monotonic() < end, "the service does not listen"
                time.sleep(0.02)
            yield
        finally:
            service.terminate()
            ended = service.wait(30)
            with (self.home / "run" / "pcmsvc.lock").open() as lock:  # a worker may outlive the service by a little
                fcntl.flock(lock, fcntl.LOCK_EX)
        assert ended == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()


@contextlib.contextmanager
def served_site(database: str | None = None, *arguments: str, ago: timedelta = NOW) -> Iterator[Site]:
    """A new site that is being served; gone afterwards."""
    with shared_folder() as folder, Front() as front:
        site = Site(folder, front, database, arguments)
        site.initialise()
        site.serve(ago)
        try:
            yield site
        finally:
            site.stop()


def eventually(claim: Any, *, limit_s: float = 15) -> Any:
    """Ask until the answer is true; the answer."""
    end = time.monotonic() + limit_s
    while True:
        found = claim()
        if found or time.monotonic() > end:
            assert found
            return found
        time.sleep(0.05)
