"""A client and its logon servers, each a computer on one network."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pcm.service.enrolment import install
from pcm.service.identity import load_identity
from tests.integration.network.namespaces import Computer, lan
from tests.integration.service_shell.static_site import Client, StaticSite, put, shared_folder

PORT = 8080
ROOT = Path(__file__).resolve().parents[3]


class LogonServer:
    """A logon server on a computer of its own. All have the same folder."""

    def __init__(self, stack: ExitStack, site: StaticSite, computer: Computer, delay_s: float, manners: str) -> None:
        self.computer = computer
        self.url = f"http://{computer.address}:{PORT}/logon"
        self._log = site.folder / f"{computer.name}.log"
        command = (sys.executable, "-m", "tests.integration.network.logon_server")
        arguments = (str(site.logon_folder), computer.address, str(PORT), str(self._log), str(delay_s), manners)
        self._process = subprocess.Popen(
            computer.command(*command, *arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(self._end)

    def asked(self) -> list[str]:
        """What it was asked so far: method, last part of the path, status."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def polls(self) -> int:
        return sum(" timestamp.json " in line for line in self.asked())

    def waits(self) -> int:
        return sum(" wake 200" in line for line in self.asked())

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


class Office:
    """The network of one test."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self.site = StaticSite(stack.enter_context(shared_folder()))
        self.lan = stack.enter_context(lan())
        self.client = Client(self.site, folder / "client")
        self.servers: list[LogonServer] = []
        self.marker = folder / "installed"
        self.log = folder / "service.log"
        self._service: subprocess.Popen[bytes] | None = None
        pem = load_identity(self.client.places.identity).public_pem()
        put(self.site.logon_folder / "clients" / self.client.client_id / "client.pub", pem.encode())

    def serve(self, count: int = 1, *, delays: tuple[float, ...] = (), manners: str = "honest") -> list[LogonServer]:
        """Set logon servers up."""
        for number in range(count):
            computer = self.lan.computer(f"server{len(self.servers)}")
            delay = delays[number] if delays else 0.0
            self.servers.append(LogonServer(self._stack, self.site, computer, delay, manners))
        for server in self.servers:
            self._await_listening(server)
        self.configure(*self.servers)
        return self.servers

    def configure(self, *servers: LogonServer) -> None:
        install(self.client.places, self.site.configuration(logon=tuple(server.url for server in servers)))

    def start(self, computer: Computer) -> None:
        """Start the resident service on a computer."""
        with self.log.open("ab") as log:
            self._service = subprocess.Popen(
                computer.command(sys.executable, "-m", "pcm.service.main", "--home", str(self.client.home), "run"),
                stdout=log,
                stderr=log,
            )
        self._stack.callback(self.stop)
        self.wait_until(self.client.places.socket.exists)

    def stop(self) -> int:
        assert self._service is not None
        if self._service.poll() is None:
            self._service.send_signal(signal.SIGTERM)
        try:
            return self._service.wait(20)
        except subprocess.TimeoutExpired:
            self._service.kill()
            raise

    def check(self, computer: Computer) -> None:
        """One check on a computer, as the service does it by itself."""
        code = "import sys; from pcm.service.quick_check import main; sys.exit(main())"
        command = computer.command(sys.executable, "-I", "-c", code, "check", "--home", str(self.client.home))
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=100)

    def wait_until(self, holds: Callable[[], object], seconds: float = 20.0) -> float:
        """Wait; returns for how long."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < seconds, (self.log.read_text(), [each.asked() for each in self.servers])
            assert self._service is None or self._service.poll() is None, self.log.read_text()
            time.sleep(0.02)
        return time.monotonic() - began

    def is_idle(self) -> bool:
        """Whether the service has no check under way."""
        assert self._service is not None
        return not Path(f"/proc/{self._service.pid}/task/{self._service.pid}/children").read_text().strip()

    def _await_listening(self, server: LogonServer) -> None:
        code = f"import socket; socket.create_connection(('{server.computer.address}', {PORT}), 1)"
        for _ in range(100):
            if (
                subprocess.run(
                    server.computer.command(sys.executable, "-c", code), check=False, capture_output=True
                ).returncode
                == 0
            ):
                return
            time.sleep(0.05)
        raise AssertionError(f"{server.url} does not listen")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with ExitStack() as stack:
        yield Office(stack, tmp_path)
