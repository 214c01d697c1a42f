"""A branch office: clients on one switch, and between them and their servers a router with a slow line.

The logon server is our own; the distribution server is a plain nginx over a folder. What comes through the line is counted by the
kernel, headers and all.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pcm.content.objects import object_path, pack
from pcm.model.content_policy import ContentPolicy
from pcm.model.package import PackageFile
from pcm.peers.sharing import make_groups
from pcm.protocol.manifest import Manifest
from pcm.service.enrolment import install
from pcm.service.identity import load_identity
from pcm.service.state import State
from tests.integration.network.namespaces import Computer, ip, lan
from tests.integration.service_shell.static_site import Client, StaticSite, put, shared_folder
from tests.unit.trust.simulated import utc_now

ROOT = Path(__file__).resolve().parents[3]
SERVER = "10.78.0.2"
NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log {folder}/access.log; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen {address}:80; root {root}; }}
}}
"""


class Branch:
    """See the module. Everything ends with `stack`."""

    def __init__(self, stack: ExitStack, folder: Path, rate: str) -> None:
        self._stack = stack
        self.folder = folder
        self.site = StaticSite(stack.enter_context(shared_folder()))
        self.lan = stack.enter_context(lan())
        self.marker = folder / "installed"
        self._connect(rate)
        self._serve()
        self.clients: list[Client] = []
        self.computers: list[Computer] = []
        self.services: list[subprocess.Popen[bytes]] = []

    def _connect(self, rate: str) -> None:
        self.router = self.lan.computer("router")
        server = f"{self.lan.prefix}-far"
        ip("netns", "add", server)
        self._stack.callback(ip, "netns", "delete", server)
        ip("-n", server, "link", "add", "eth0", "type", "veth", "peer", "name", "line", "netns", self.router.namespace)
        ip("-n", server, "address", "add", f"{SERVER}/24", "dev", "eth0")
        ip("-n", server, "link", "set", "eth0", "up")
        ip("-n", server, "link", "set", "lo", "up")
        ip("-n", self.router.namespace, "address", "add", "10.78.0.1/24", "dev", "line")
        ip("-n", self.router.namespace, "link", "set", "line", "up")
        self.router.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        ip("-n", server, "route", "add", "default", "via", "10.78.0.1")
        self._server = ["nsenter", f"--net=/run/netns/{server}"]
        shape = ["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "128kb", "latency", "50ms"]
        subprocess.run([*self._server, *shape], check=True)

    def _serve(self) -> None:
        place = Path(tempfile.mkdtemp(prefix="pcm-nginx-"))
        self._stack.callback(shutil.rmtree, place)
        configuration = place / "nginx.conf"
        configuration.write_text(NGINX.format(folder=place, address=SERVER, root=self.site.folder))
        self.access = place / "access.log"
        log, manners = self.folder / "logon.log", "honest"
        arguments = (str(self.site.logon_folder), SERVER, "8080", str(log), "0", manners)
        self._run([*self._server, "nginx", "-c", str(configuration), "-e", str(place / "error.log")])
        self._run([*self._server, sys.executable, "-m", "tests.integration.network.logon_server", *arguments])

    def _run(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return process

    def package(self, lengths: Sequence[int], **changes: Any) -> Manifest:
        """Publish a package of files of random bytes, which nothing makes smaller."""
        files = []
        for number, length in enumerate(lengths):
            content = os.urandom(length)
            sha256 = hashlib.sha256(content).hexdigest()
            put(self.site.distribution_folder / object_path(sha256), b"".join(pack(io.BytesIO(content), len(content))))
            files.append(PackageFile(f"data/{number:05}.bin", length, sha256))
        script = f"#!/bin/sh\necho installed >> {self.marker}\n".encode()
        sha256 = hashlib.sha256(script).hexdigest()
        put(self.site.distribution_folder / object_path(sha256), b"".join(pack(io.BytesIO(script), len(script))))
        files.append(PackageFile("setup.sh", len(script), sha256, executable=True))
        return self.site.package(self.marker, files=tuple(files), **changes)

    def client(self) -> Client:
        """One more client, on a computer of its own; its service is not started yet."""
        number = len(self.clients)
        computer = self.lan.computer(f"client{number}")
        ip("-n", computer.namespace, "route", "add", "default", "via", self.router.address)
        client = Client(self.site, self.folder / f"client{number}")
        pem = load_identity(client.places.identity).public_pem()
        put(self.site.logon_folder / "clients" / client.client_id / "client.pub", pem.encode())
        servers = {"logon": (f"http://{SERVER}:8080/logon",), "distribution": (f"http://{SERVER}/distribution",)}
        install(client.places, self.site.configuration(**servers))
        self.clients.append(client)
        self.computers.append(computer)
        return client

    def start(self, number: int) -> None:
        """Start a client's resident service."""
        client, computer = self.clients[number], self.computers[number]
        with (self.folder / f"service{number}.log").open("ab") as log:
            command = (sys.executable, "-m", "pcm.service.main", "--home", str(client.home), "run")
            service = subprocess.Popen(computer.command(*command), stdout=log, stderr=log)
        self.services.append(service)
        self._stack.callback(service.wait)
        self._stack.callback(service.send_signal, signal.SIGTERM)

    def kill(self, number: int) -> None:
        """End everything on a client's computer at once, as a power cut does."""
        for process in ip("netns", "pids", self.computers[number].namespace).split():
            os.kill(int(process), signal.SIGKILL)

    def lie(self, number: int, manners: str, manifest: Manifest) -> None:
        """Have something else listen where a client would serve its peers, that says it has a package's data.

        Not the group with the script, which is shorter than what it gives: that is too long, whatever else is wrong with it.
        """
        groups = make_groups(manifest.files)
        keys = [group.key for group in groups if all(file.path.startswith("data/") for file in group.files)]
        command = (sys.executable, "-m", "tests.integration.network.lying_peer", manners, *keys)
        self._run(self.computers[number].command(*command))

    def refusals(self, client: Client) -> list[tuple[str, str]]:
        """Code and source of what a client has refused."""
        with State.open(client.places.state, utc_now()) as state:
            return [(refusal.code, refusal.source) for refusal in state.refusals()]

    def order(self, manifest: Manifest | None, *, peers: bool = True, port: int = 8441) -> None:
        """Order a package of all clients, or nothing yet; peers as the policy says."""
        policy = ContentPolicy(peers=peers, peer_port=port)
        for number, client in enumerate(self.clients):
            orders = [client.mandatory(manifest, number=number + 1)] if manifest is not None else []
            self.site.order(client.client_id, orders, content=policy, poll_after_s=1800)

    def through_the_line(self) -> int:
        """Bytes that have come through the line to the branch."""
        shown = json.loads(self.router.run("ip", "-s", "-j", "link", "show", "line"))
        return int(shown[0]["stats64"]["rx"]["bytes"])

    def installed(self) -> int:
        return len(self.marker.read_text().splitlines()) if self.marker.exists() else 0

    def wait_until(self, holds: Callable[[], object], seconds: float) -> float:
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < seconds, self.logs()
            time.sleep(0.1)
        return time.monotonic() - began

    def logs(self) -> str:
        return "\n".join(
            f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.folder.glob("service*.log"))
        )

    def holds(self, client: Client, manifest: Manifest) -> bool:
        """Whether a client's store has every file of a package, right by its hash."""
        for file in manifest.files:
            path = client.places.store / file.sha256[:2] / file.sha256
            if hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
                return False
        return True
