"""A served site and clients of it: booted hosts on which the PCM service is a systemd unit, in its own places.

`Site` is a real `pcm site serve` that listens where hosts reach it. `Client` is a booted host with the service on it: its folders
are `/etc/pcm`, `/var/lib/pcm` and `/run/pcm`, it is enrolled with a one-time token. Packages are made on the spot; what their
programs leave in `/var/lib/proof` tells how often they ran.
"""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pcm.cli.main import run as run_pcm
from tests.e2e.booted_host import LENT, ROOT, BootedHost

T = TypeVar("T")
Answer = subprocess.CompletedProcess[str]
PATIENCE_S = 90.0  # nobody waits for this long unless something is wrong, or the machine has much else to do
PROOF = "/var/lib/proof"
KIT = "/etc/pcm-kit.json"
ALREADY_RUNNING = 6
SHIPPED = ROOT / "packaging" / "systemd" / "pcmsvc.service"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def shipped_unit() -> str:
    """The unit as it ships, for a service that lives elsewhere."""
    text = SHIPPED.read_text()
    assert text.count("\nExecStart=/opt/pcm/current/bin/pcmsvc run\n") == 1
    return text.replace("/opt/pcm/current/bin/pcmsvc run", "/usr/bin/python3 -m pcm.service.main run")


def wait_for(look: Callable[[], T], what: str, patience_s: float = PATIENCE_S, more: Callable[[], str] = str) -> T:
    """Look until there is something to see, and return it.

    Args:
        what: For the message if it does not come; `more`: what else to say then, as it is at that moment.
    """
    end = time.monotonic() + patience_s
    while not (seen := look()):
        assert time.monotonic() < end, f"{what}: not within {patience_s:.0f} s\n{more()}"
        time.sleep(0.05)
    return seen


class Site:
    """A site in a folder, served from a process of its own at an address of this machine.

    Args:
        more: further arguments of `pcm site init`, as for other servers.
    """

    def __init__(self, folder: Path, address: IPv4Address, more: tuple[str, ...] = ()) -> None:
        with socket.create_server((str(address), 0)) as free:
            self.url = f"http://{address}:{free.getsockname()[1]}"
        self.folder = folder / "site"
        self._keys = folder / "keys"
        self._packages = folder / "packages"
        self._passphrase = folder / "passphrase"
        self._passphrase.write_text("only for this test\n")
        self._secret = ["--keys", str(self._keys), "--passphrase-file", str(self._passphrase)]
        self._server: subprocess.Popen[bytes] | None = None
        listen = self.url.removeprefix("http://")
        self._run("site", "init", str(self.folder), "--name", "lab", "--url", self.url, "--listen", listen,
                  "--single-key", *more, *self._secret)  # fmt: skip

    def serve(self) -> None:
        """Start the server and wait until it is ready."""
        with (self.folder / "serve.log").open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "pcm.cli.main", "site", "serve", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._is_ready, f"the site at {self.url}")

    def stop(self) -> None:
        """Stop the server in good order."""
        if self._server is not None:
            self._server.send_signal(signal.SIGCONT)
            self._server.terminate()
            self._server.wait(30)
            self._server = None

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """The server takes connections and answers none, as a hung one does."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.send_signal(signal.SIGCONT)

    def pcm(self, *arguments: str) -> str:
        """Type a `pcm` command as the administrator; what it printed."""
        return self._run("--insecure-http", "--site", str(self.folder), *arguments)

    def publish(
        self,
        name: str,
        command: str,
        *,
        files: dict[str, str] | None = None,
        debs: tuple[Path, ...] = (),
        platform: str = "linux-any",
        timeout: str = "1m",
        detect: str = "",
    ) -> None:
        """Sign and publish a package with one program. `command`, `detect`: as `package.yaml` writes them."""
        lines = [f"name: {name}", 'version: "1.0"', f"platforms: [{platform}]", "programs:", "  install:"]
        lines += [f"    command: {command}", f"    timeout: {timeout}"]
        lines += [f"    detect: {detect}"] if detect else []
        self.publish_described("\n".join(lines) + "\n", name, files=files, debs=debs)

    def publish_described(
        self, description: str, folder: str, *, files: dict[str, str] | None = None, debs: tuple[Path, ...] = ()
    ) -> None:
        """Sign and publish a package with this `package.yaml`; `folder` names its directory, each its own."""
        directory = self._packages / folder
        directory.mkdir(parents=True)
        for file, text in (files or {}).items():
            (directory / file).write_text(text)
            (directory / file).chmod(0o755)
        for deb in debs:
            (directory / deb.name).write_bytes(deb.read_bytes())
        (directory / "package.yaml").write_text(description)
        self.pcm("package", "publish", str(directory), "--team", "main", *self._secret)

    def order(self, package: str, *more: str) -> str:
        """Order the package's `install`, or what more arguments of `pcm job create` say, on all clients; the job's id."""
        job = json.loads(self.pcm("job", "create", package, "--group", "all", "--json", *more))
        return str(job["id"])

    def token(self) -> str:
        """A one-time enrolment token."""
        return str(json.loads(self.pcm("client", "token", "--json"))["token"])

    def job(self, job: str) -> dict[str, Any]:
        """What the site knows about a job."""
        asking = urllib.request.Request(
            f"{self.url}/v1/jobs/{job}",
            headers={"Authorization": f"Bearer {(self.folder / 'admin.token').read_text().strip()}"},
        )
        with _DIRECT.open(asking, timeout=30) as answer:
            known: dict[str, Any] = json.load(answer)
        return known

    def states(self, job: str) -> dict[str, str]:
        """The state of each client of a job, by host name."""
        return {each["host_name"]: each["state"] for each in self.job(job)["assignments"]["items"]}

    def _is_ready(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, (self.folder / "serve.log").read_text()[-2000:]
        with contextlib.suppress(OSError), _DIRECT.open(f"{self.url}/readyz", timeout=1):
            return True
        return False

    def _run(self, *arguments: str) -> str:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            for name in [name for name in os.environ if name.startswith("PCM_")]:
                patch.delenv(name)
            patch.setenv("XDG_CONFIG_HOME", str(self.folder.parent / "config"))
            patch.setenv("XDG_STATE_HOME", str(self.folder.parent / "state"))
            code = run_pcm(list(arguments))
        assert code == 0, f"pcm {' '.join(arguments)} ended with {code}: {err.getvalue()}{out.getvalue()}"
        return out.getvalue()


def build_deb(folder: Path, name: str, version: str, files: dict[str, str], scripts: dict[str, str]) -> Path:
    """Build a Debian package: `files` by absolute path (below `/etc`: configuration), `scripts` by maintainer script."""
    tree = folder / name
    control = tree / "DEBIAN"
    control.mkdir(parents=True)
    for path, text in (
        *((tree / file.lstrip("/"), text) for file, text in files.items()),
        *((control / script, f"#!/bin/sh\nset -eu\n{text}") for script, text in scripts.items()),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644 if text[:2] != "#!" else 0o755)
    told = {"Package": name, "Version": version, "Architecture": "all", "Maintainer": "PCM <pcm@example.org>"}
    told["Description"] = "built by a test"
    (control / "control").write_text("".join(f"{field}: {value}\n" for field, value in told.items()))
    (control / "conffiles").write_text("".join(f"{file}\n" for file in files if file.startswith("/etc/")))
    for made in (tree, *tree.rglob("*")):
        if made.is_dir():
            made.chmod(0o755)
    deb = folder / f"{name}_{version}_all.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(deb)]
    subprocess.run(build, check=True, capture_output=True)
    return deb


@contextlib.contextmanager
def served_site(folder: Path, address: IPv4Address) -> Iterator[Site]:
    """Make a site and serve it."""
    site = Site(folder, address)
    try:
        site.serve()
        yield site
    finally:
        site.stop()


class Client:
    """A booted host with the service installed, not yet enrolled and not yet started.

    Args:
        properties: more settings of the service's unit; `Personality=x86` makes it a 32-bit computer.
    """

    def __init__(self, host: BootedHost, site: Site, properties: tuple[str, ...] = ()) -> None:
        self.host = host
        self._site = site
        self._properties = properties
        # as an installation would: administrators' own whoever owns the checkout, and found by `python3 -I` too
        library = host.path("/usr/local/lib/python3.11/dist-packages")
        copy = ["cp", "-r", "--preserve=timestamps", str(ROOT / "src" / "pcm"), str(library)]
        subprocess.run(copy, check=True, capture_output=True, umask=0o022)
        (library / "lent.pth").write_text("\n".join(LENT.values()) + "\n")
        unit = shipped_unit().replace("[Service]\n", "\n".join(["[Service]", *properties, ""]))
        host.path("/etc/systemd/system/pcmsvc.service").write_text(unit)
        site.pcm("client", "kit", "--out", str(host.path(KIT)))
        host.shell(f"useradd --create-home alice; mkdir --mode=755 {PROOF}")
        # another host's gateway, where the site may listen, is an address of this machine as well
        route = ["ip", "-n", host.name, "route", "add", "default", "via", str(host.gateway)]
        subprocess.run(route, check=True, capture_output=True)

    def enrol(self) -> None:
        """Enrol with a one-time token, read from standard input."""
        token = self._site.token()
        enroll = ("-m", "pcm.service.main", "enroll", "--kit", KIT, "--token", "-")
        self.host.run("/usr/bin/python3", *enroll, words=f"{token}\n", properties=self._properties)

    def start(self) -> None:
        """Enable the unit and start it; returns once the service says that it is ready."""
        self.host.shell("systemctl daemon-reload; systemctl enable --now --quiet pcmsvc")

    def pcmsvc(self, *arguments: str, check: bool = True) -> Answer:
        """Type a `pcmsvc` command as this computer's administrator."""
        return self.host.run("/usr/bin/python3", "-m", "pcm.service.main", *arguments, check=check)

    def check_soon(self) -> Answer:
        """Have the service check now, where that takes it or the host down: they may be on their way before this is typed.

        For the service hears by itself of new orders, of who comes and goes, and looks again at what it waits for.
        """
        return self.pcmsvc("sync", check=False)

    def as_alice(self, *command: str) -> Answer:
        """Run a command as an ordinary user."""
        return self.host.run(*command, user="alice", check=False)

    def pcmapp(self, *arguments: str) -> str:
        """Type a `pcmapp` command as an ordinary user."""
        return self.host.run("/usr/bin/python3", "-m", "pcm.app.main", *arguments, user="alice").stdout

    def items(self) -> dict[str, dict[str, Any]]:
        """Every instruction that this computer knows, by package."""
        known = json.loads(self.pcmsvc("list", "--json").stdout)
        return {item["package"]: item for item in known["items"]}

    def settle(self, job: str) -> dict[str, Any]:
        """Have the service ask now, wait until the site knows how the job ended here, and return all that it knows."""
        unsettled = {"offered", "waiting", "downloading", "ready", "running"}
        self._ask_until(lambda: self._site.states(job).get(self.host.name, "offered") not in unsettled, f"end of {job}")
        return self._site.job(job)

    def begin(self, job: str, path: str) -> None:
        """Have the service ask now, and wait until the job's program has made a file here."""
        self._ask_until(self.host.path(path).exists, f"{path}, made by job {job}")

    def _ask_until(self, look: Callable[[], bool], what: str) -> None:
        """Have the service ask now, and again: an order reaches its client's files a moment after it was given."""
        asked, said = 0.0, ""

        def seen() -> bool:
            nonlocal asked, said
            if look():
                return True
            if time.monotonic() > asked + 2:
                said = self.check_soon().stderr  # what it waits for may be a program that takes the host down
                asked = time.monotonic()
            return look()

        wait_for(seen, what, more=lambda: said + self.log())

    def proof(self, name: str) -> str:
        """What programs wrote into a file of `/var/lib/proof`; nothing if there is none."""
        path = self.host.path(f"{PROOF}/{name}")
        return path.read_text() if path.exists() else ""

    def process(self, lock: str) -> int:
        """The process that holds a lock of the service, as it is numbered on this computer."""
        return int(wait_for(lambda: self.host.shell(f"cat /run/pcm/{lock}.lock").strip(), f"who holds {lock}.lock"))

    def log(self) -> str:
        """What the service said since the boot, for messages of failed tests."""
        return self.host.look("journalctl", "--no-pager", "--unit=pcmsvc", "--lines=50")
