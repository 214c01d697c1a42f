"""A real Debian host with systemd, booted in under two seconds by systemd-nspawn: what clients are tested on.

    with BootedHost(base_system()) as host:
        host.boot()
        host.run("systemctl", "is-system-running")
        host.kill_power()          # nothing is told, nothing is flushed
        host.boot()                # with the disk as it was
        host.wait_for_restart()    # something inside restarts it

Each host has a network namespace with one cable to the machine that runs the tests (`host.address`, `host.gateway`: servers that
it shall reach listen there), control groups of its own (without, hosts would share them), and a writable layer over the base
system that lasts until `close`. `host.path` shows its disk from outside. This project's code is lent to it read-only:
`host.python("-m", "pcm.service.main", "check")` runs it with Debian's own python3. No limits on memory or tasks are enforced
inside (MemoryMax, TasksMax); other unit hardening is.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from tests.capabilities import control_groups

ROOT = Path(__file__).resolve().parents[2]
LENT = {ROOT / "src": "/opt/pcm/src", Path(sysconfig.get_path("platlib")): "/opt/pcm/site-packages"}
PYTHONPATH = ":".join(LENT.values())
PLACE = Path("/run/pcm-tests")  # root's own, and gone after a restart of this machine, as mounts are
NETWORK = IPv4Network("10.231.0.0/16")
BOOT_SECONDS = 120  # alone it takes two; the machine may have much else to do
RESTARTED = 133  # with --keep-unit, systemd-nspawn leaves the loop around a restart to whoever started it


class BootError(Exception):
    """The host did not come up; what it said on its console is in the message."""


class BootedHost:
    """One host. Make it, `boot` it, and `close` it at the end; in between, power may fail as often as wanted.

    Args:
        base: folder of the base system; never written to.
        lent: further folders of this machine, each with its path inside, read-only.
        bare: this project's code is not lent: the host has what is brought to it.
    """

    def __init__(self, base: Path, lent: Mapping[Path, str] | None = None, *, bare: bool = False) -> None:
        self._lent = {**({} if bare else LENT), **(lent or {})}
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.leader = 0
        self.boots = 0
        number, self._lease = take_number()
        self.name = f"pcm-{number}"
        self.gateway, self.address = addresses(number)
        remove_traces(self.name)  # of tests that were killed
        self._disk = PLACE / self.name / "disk"
        self._console = PLACE / self.name / "console"
        try:
            self._mount(base)
            self._plug_in()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def boot(self) -> None:
        """Switch the host on and return when systemd says that it is up (degraded counts).

        Raises:
            BootError: it was not up within `BOOT_SECONDS`.
        """
        if self._nspawn is not None:
            message = f"{self.name} is running already"
            raise BootError(message)
        groups = [hierarchy / self.name for hierarchy in control_groups()]
        for group in groups:
            group.mkdir(exist_ok=True)
        enter = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
        nspawn = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            f"--machine={self.name}",
            f"--hostname={self.name}",
            "--keep-unit",
        ]
        nspawn += [f"--directory={self._disk}", "--register=no", f"--network-namespace-path=/run/netns/{self.name}"]
        nspawn += ["--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no"]
        nspawn += [f"--bind-ro={outside}:{inside}" for outside, inside in self._lent.items()]
        with self._console.open("ab") as console:
            # nspawn's death alone would leave the host running. As the first process of a namespace of its own it takes all along,
            # so that the kernel ends the host if pytest itself is killed.
            fate = "setpriv --pdeathsig=KILL unshare --pid --fork --kill-child=KILL --mount-proc"
            self._nspawn = subprocess.Popen(
                ["sh", "-c", f'{enter}exec {fate} "$@"', "sh", *nspawn],
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        deadline = time.monotonic() + BOOT_SECONDS
        while not self.is_up():
            if self._nspawn.poll() is not None or time.monotonic() > deadline:
                self.kill_power()
                message = f"{self.name} did not boot:\n{self._console.read_text(errors='replace')[-4000:]}"
                raise BootError(message)
            time.sleep(0.05)
        self.boots += 1

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout: float = BOOT_SECONDS,
        environment: Mapping[str, str] | None = None,
        properties: Sequence[str] = (),
        user: str = "root",
        words: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as a transient service, to its end.

        Args:
            environment: all that it has beside systemd's few.
            properties: of the service unit, as in `NoNewPrivileges=yes`.
            user: an account of the host (systemd refuses a number without one).
            words: for its standard input.

        Raises:
            AssertionError: `check` is set and it did not return 0; both outputs are in the message.
        """
        service = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--uid={user}"]
        service += [f"--setenv={name}={value}" for name, value in (environment or {}).items()]
        service += [f"--property={entry}" for entry in properties]
        answer = self._inside([*service, "--", *command], timeout=timeout, words=words)
        if check and answer.returncode != 0:
            message = f"{command} returned {answer.returncode} on {self.name}:\n{answer.stdout}{answer.stderr}"
            raise AssertionError(message)
        return answer

    def shell(self, script: str, *, check: bool = True, timeout: float = BOOT_SECONDS) -> str:
        """Run a shell script inside as root; return what it printed."""
        return self.run("/bin/sh", "-euc", script, check=check, timeout=timeout).stdout

    def python(
        self, *arguments: str, check: bool = True, timeout: float = BOOT_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run Debian's python3 inside, with this project and what it depends on."""
        environment = {"PYTHONPATH": PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"}
        return self.run("/usr/bin/python3", *arguments, check=check, timeout=timeout, environment=environment)

    def look(self, *command: str) -> str:
        """Run a harmless command outside of every unit, also while the host goes down; what it printed, or nothing."""
        return self._inside(list(command), timeout=30).stdout if self.leader else ""

    def path(self, inside: str) -> Path:
        """Where a file of the host's disk is, seen from outside. Not for /run, /tmp and /dev: those are not on its disk."""
        return self._disk / inside.lstrip("/")

    def reboot(self) -> None:
        """Restart in good order."""
        self._leave("systemctl", "--no-block", "reboot")
        self.boot()

    def shut_down(self) -> None:
        """Switch off in good order."""
        self._leave("systemctl", "--no-block", "poweroff")

    def wait_for_restart(self, patience_s: float = BOOT_SECONDS) -> None:
        """Wait until something inside restarts the host, as a button or a program does, and let it come up again.

        Raises:
            AssertionError: it did not go down in that time, or switched itself off.
        """
        assert self._nspawn is not None, f"{self.name} is not running"
        try:
            how = self._nspawn.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            message = f"{self.name} did not restart within {patience_s:.0f} s"
            raise AssertionError(message) from None
        assert how == RESTARTED, f"{self.name} ended with {how} and did not restart"
        self._nspawn, self.leader = None, 0
        self.boot()

    def is_on(self) -> bool:
        """Whether it runs: False once something inside has switched it off or restarts it."""
        return self._nspawn is not None and self._nspawn.poll() is None

    def is_up(self) -> bool:
        """Whether systemd inside has finished starting, and is not on its way down."""
        if self._nspawn is None or not self._find_leader(self._nspawn.pid):
            return False
        answer = self._inside(["systemctl", "is-system-running"], timeout=BOOT_SECONDS)
        return answer.stdout.strip() in {"running", "degraded"}

    def kill_power(self) -> None:
        """Switch off as a power failure does: every process ends at once and is told nothing."""
        if self._nspawn is None:
            return
        if self.leader and self._nspawn.poll() is None:  # else the number may be somebody else's by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader, signal.SIGKILL)  # the kernel ends all of its process namespace with it
        try:
            self._nspawn.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._nspawn, self.leader = None, 0

    def close(self) -> None:
        """Remove every trace of the host from this machine."""
        self.kill_power()
        remove_traces(self.name)
        self._lease.close()

    def _mount(self, base: Path) -> None:
        """Lay a writable layer over the base; in memory, because the machine's own disk may be such a layer itself."""
        layer = PLACE / self.name / "layer"
        for folder in (layer, self._disk):
            folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,size=4g", "pcm-tests", layer], check=True)
        for folder in (layer / "upper", layer / "work"):
            folder.mkdir()
        options = f"lowerdir={base},upperdir={layer}/upper,workdir={layer}/work"
        subprocess.run(["mount", "-t", "overlay", "pcm-tests", "-o", options, self._disk], check=True)

    def _plug_in(self) -> None:
        """Make the network namespace and its cable to this machine."""
        cable = cable_of(self.name)
        inside = ["ip", "-n", self.name]
        for command in (
            ["ip", "netns", "add", self.name],
            ["ip", "link", "add", cable, "type", "veth", "peer", "name", "host0", "netns", self.name],
            ["ip", "address", "add", f"{self.gateway}/30", "dev", cable],
            ["ip", "link", "set", cable, "up"],
            [*inside, "address", "add", f"{self.address}/30", "dev", "host0"],
            [*inside, "link", "set", "lo", "up"],
            [*inside, "link", "set", "host0", "up"],
        ):
            subprocess.run(command, check=True, capture_output=True)

    def _find_leader(self, process: int) -> bool:
        """Find the host's first process: the descendant of ours that has become systemd."""
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    self.leader = int(child)
                    return True
                if self._find_leader(int(child)):
                    return True
        return False

    def _inside(
        self, command: list[str], *, timeout: float, words: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in all of the host's namespaces, outside of its units."""
        if not self.leader:
            message = f"{self.name} is not running"
            raise BootError(message)
        return subprocess.run(
            ["nsenter", f"--target={self.leader}", "--all", "--", *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            input=words if words is not None else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def _leave(self, *command: str) -> None:
        """Have the host end itself; nspawn then ends too."""
        self._inside(list(command), timeout=30)
        if self._nspawn is not None:
            self._nspawn.wait(timeout=BOOT_SECONDS)
        self._nspawn, self.leader = None, 0


def take_number() -> tuple[int, TextIO]:
    """Reserve a number that no other host on this machine has, for as long as the returned file is open."""
    PLACE.mkdir(mode=0o700, exist_ok=True)
    for number in range(1, NETWORK.num_addresses // 4):
        file = (PLACE / f"{number}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return number, file
    message = "every test host's number is taken"
    raise BootError(message)


def cable_of(name: str) -> str:
    """The name of this machine's end of a host's cable."""
    return name.replace("-", "")


def remove_traces(name: str) -> None:
    """Remove a host's cable, network namespace, mounts, control groups and folder, so far as they are there."""
    folder = PLACE / name
    for command in (
        ["ip", "link", "delete", cable_of(name)],
        ["ip", "netns", "delete", name],
        ["umount", "--lazy", str(folder / "disk")],
        ["umount", "--lazy", str(folder / "layer")],
    ):
        subprocess.run(command, check=False, capture_output=True)
    for hierarchy in control_groups():
        for group, _, _ in os.walk(hierarchy / name, topdown=False):  # the kernel wants the innermost first
            with contextlib.suppress(OSError):
                Path(group).rmdir()
    shutil.rmtree(folder, ignore_errors=True)


def addresses(number: int) -> tuple[IPv4Address, IPv4Address]:
    """The two ends of a host's cable: on this machine, and inside."""
    first = NETWORK.network_address + 4 * number
    return first + 1, first + 2
