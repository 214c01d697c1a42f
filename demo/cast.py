"""The two who act in the demonstration: the administrator's side (a site, `pcm`) and the client's side (`pcmsvc`, `pcmapp`)."""

import contextlib
import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from demo import debian
from demo.computer import NOBODY, Computer
from demo.telling import shown, typed

_BIN = Path(sys.executable).parent
_YAML = """\
name: {name}
version: "{version}"
publisher: Debian
summary: Debian's {name}, installed by dpkg
platforms: [linux-any]
programs:
  install:
    command: [{dpkg}, --install, {deb}]
    timeout: 2m
    detect: {{file: {root}/usr/bin/{name}}}
"""


class Site:
    """An administrator, a packager and a site server in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site"
        self.offline_keys = folder / "offline-keys"
        self.packages = folder / "packages"
        self._home = folder / "admin"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._passphrase = secrets.token_hex(8)
        self._server: subprocess.Popen[bytes] | None = None

    def pcm(self, *arguments: str, quiet: bool = False, expect: int | None = 0) -> str:
        """Type a `pcm` command as the administrator; returns what it printed."""
        if not quiet:
            typed("pcm " + shlex.join(self._as_typed(arguments)))
        environment = {
            **{name: os.environ[name] for name in ("PATH", "TERM", "LANG") if name in os.environ},
            "HOME": str(self._home),
            "PCM_SITE": self.url,
            "PCM_TOKEN_FILE": str(self.folder / "admin.token"),
            "COLUMNS": "110",
            "NO_COLOR": "1",
            "PCM_KEY_PASSPHRASE": self._passphrase,
        }
        done = subprocess.run(
            [_BIN / "pcm", *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        if not quiet:
            shown(self._without_folder(done.stdout))
        if expect is not None and done.returncode != expect:
            raise RuntimeError(
                f"pcm {shlex.join(arguments)} ended with {done.returncode}: {done.stderr or done.stdout}"
            )
        return done.stdout

    def _as_typed(self, arguments: tuple[str, ...]) -> list[str]:
        return [self._without_folder(argument) for argument in arguments]

    def _without_folder(self, text: str) -> str:
        return text.replace(f"{self.folder.parent}/", "")

    def initialise(self) -> None:
        """Make keys, roots, database and folders."""
        self._home.mkdir()
        self.pcm(
            "site", "init", str(self.folder), "--name", "demo", "--url", self.url, "--keys", str(self.offline_keys),
            "--single-key", "--team", "base",
        )  # fmt: skip

    def serve(self) -> None:
        """Start the site server and wait until it is ready."""
        typed("pcm site serve site &")
        log = (self.folder / "serve.log").open("wb")
        self._server = subprocess.Popen(
            [_BIN / "pcm", "site", "serve", str(self.folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError, urllib.error.URLError),
                urllib.request.urlopen(self.url + "/readyz", timeout=1),
            ):
                return
            time.sleep(0.05)
        raise RuntimeError("the site did not become ready: " + (self.folder / "serve.log").read_text()[-2000:])

    def stop(self) -> None:
        """Stop the site server."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait(20)

    def package_directory(self, name: str, deb: Path, computer: Computer) -> Path:
        """Make a package directory around one `.deb`."""
        directory = self.packages / name
        directory.mkdir(parents=True)
        (directory / deb.name).write_bytes(deb.read_bytes())
        below = computer.root
        elsewhere = [f'"--instdir={below}/"', f'"--admindir={below}/var/lib/dpkg"'] if below else []
        dpkg = ", ".join([*computer.elevate, "dpkg", *elsewhere])
        text = _YAML.format(name=name, version=debian.version_of(deb), deb=deb.name, dpkg=dpkg, root=computer.root)
        (directory / "package.yaml").write_text(text)
        return directory

    def publish(self, directory: Path) -> None:
        """Sign and publish a package directory."""
        self.pcm("package", "publish", str(directory), "--keys", str(self.offline_keys), "--team", "base")

    def group(self, name: str, client_id: str) -> None:
        """Make a group of one client."""
        self.pcm("group", "create", name, client_id)

    def order(self, package: str, group: str = "all") -> str:
        """Order an installation on a group; returns the job's id."""
        text = self.pcm("job", "create", package, "--group", group)
        found = re.search(r"\bj[0-9a-z]{10}\b", text)
        assert found is not None, text
        return found.group()

    def token(self) -> str:
        """A one-time enrolment token."""
        token: str = json.loads(self.pcm("client", "token", "--json", quiet=True))["token"]
        return token

    def kit(self) -> Path:
        """The enrolment kit: servers and both pinned roots."""
        path = self.folder.parent / "kit.json"
        if not path.exists():
            self.pcm("client", "kit", "--out", str(path))
        return path

    def enrol_another(self) -> str:
        """Enrol a second computer of the same site, whose files the thief will misuse; returns its id."""
        home = self.folder.parent / "another"
        command = [str(_BIN / "pcmsvc"), "--home", str(home), "enroll", "--kit", str(self.kit())]
        if os.geteuid() == 0:  # it is called otherwise than the first one, wherever names may be chosen
            command = ["unshare", "--uts", "sh", "-c", 'hostname laptop && exec "$@"', "sh", *command]
        command += ["--token", self.token(), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        client_id: str = json.loads(done.stdout)["client_id"]
        return client_id


class Client:
    """The throw-away computer with the service on it."""

    def __init__(self, computer: Computer, site: Site) -> None:
        self.computer = computer
        self._site = site
        self.client_id = ""

    def installed_file(self, path: str) -> str:
        """Where a file of an installed package is on this computer."""
        return f"{self.computer.root}/{path}"

    def pcmsvc(self, *arguments: str, quiet: bool = False, expect: int | None = 0) -> str:
        """Type a `pcmsvc` command as this computer's administrator."""
        if not quiet:
            typed("pcmsvc " + shlex.join(arguments).replace(str(self._site.folder.parent) + "/", ""))
        done = self.computer.run(self.computer.python("pcm.service.main", *arguments), together=True)
        if not quiet:
            shown(done.stdout)
        if expect is not None and done.returncode != expect:
            raise RuntimeError(f"pcmsvc {shlex.join(arguments)} ended with {done.returncode}: {done.stdout}")
        return done.stdout

    def pcmapp(self, *arguments: str) -> str:
        """Type a `pcmapp` command as an ordinary user (or, without root, as the only one there is)."""
        typed("pcmapp " + shlex.join(arguments))
        user = NOBODY if self.computer.is_root else None
        done = self.computer.run(self.computer.python("pcm.app.main", *arguments), user)
        shown(done.stdout + done.stderr)
        return done.stdout + done.stderr

    def enrol(self) -> None:
        """Enrol with a one-time token."""
        kit, token = self._site.kit(), self._site.token()
        typed("pcmsvc enroll --kit kit.json --token ●●●●●●●●")
        answer = self.pcmsvc("enroll", "--kit", str(kit), "--token", token, "--json", quiet=True)
        self.client_id = json.loads(answer)["client_id"]
        shown(f"enrolled as {self.client_id}")

    def check(self, expect: int | None = 0) -> str:
        """One check: fetch, verify, plan, run, report."""
        return self.pcmsvc("once", expect=expect)

    @contextlib.contextmanager
    def service_running(self) -> Iterator[None]:
        """Run the resident service for a while."""
        typed("pcmsvc run &")
        service = self.computer.start(self.computer.python("pcm.service.main", "run"))
        try:
            deadline = time.monotonic() + 10
            while self.pcmsvc("status", "--json", quiet=True, expect=None) == "" and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(0.5)
            yield
        finally:
            service.terminate()
            service.communicate(timeout=20)
