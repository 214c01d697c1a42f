"""Accounts by systemd-sysusers, services by systemctl. Serves `service.installation` (`pcmsvc install`, `repair`, `remove`).

Asks the system's own tools, with an environment from empty and bounded time, and repeats their words when they fail. In an image
that is only being built they work too, but nothing can be started there (sd_booted(3)).
"""

import os
import pwd
import re
import subprocess
from pathlib import Path

from pcm.model.errors import MachineError
from pcm.service.machine.commands import SEARCH_PATH
from pcm.service.machine.registration import ServiceState

_BOOTED = Path("/run/systemd/system")
_PROCESSES = Path("/proc")
_PATIENCE_S = 120
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


class SystemdRegistration:
    """Implements `Registration`."""

    def is_up(self) -> bool:
        """Whether systemd is PID 1 here."""
        return _BOOTED.is_dir()

    def has_account(self, name: str) -> bool:
        """Whether there is an account of that name."""
        try:
            pwd.getpwnam(name)
        except KeyError:
            return False
        return True

    def create_account(self, name: str, described: str) -> None:
        """Make an account of the system (sysusers.d(5)): its own group, no password, no home, no shell."""
        if _NAME.fullmatch(name) is None:
            raise MachineError(f"{name[:40]!r} is no name for an account.", code="machine.registration")
        if not self.has_account(name):
            _run("systemd-sysusers", "--inline", f'u {name} - "{described}" - -')

    def delete_account(self, name: str) -> None:
        """Remove the account, and its group with it."""
        if self.has_account(name):
            _run("userdel", name)

    def service(self, name: str) -> ServiceState:
        """How systemd knows a service."""
        enabled = _ask("systemctl", "is-enabled", "--quiet", name) == 0
        if not self.is_up():
            return ServiceState(None, enabled, active=False)
        shown = _run("systemctl", "show", "--property=FragmentPath,ActiveState,NRestarts", name)
        told = dict(line.partition("=")[::2] for line in shown.splitlines())
        path = told.get("FragmentPath", "")
        active = told.get("ActiveState") in {"active", "activating"}
        restarts = told.get("NRestarts", "")
        return ServiceState(Path(path) if path else None, enabled, active, int(restarts) if restarts.isdecimal() else 0)

    def reload(self) -> None:
        """Have systemd read its units again."""
        if self.is_up():
            _run("systemctl", "daemon-reload")

    def enable(self, name: str) -> None:
        """Enable the unit."""
        _run("systemctl", "enable", "--quiet", name)

    def disable(self, name: str) -> None:
        """Disable the unit; one that is not there is not enabled."""
        if _ask("systemctl", "is-enabled", "--quiet", name) == 0:
            _run("systemctl", "disable", "--quiet", name)

    def start(self, name: str) -> None:
        """Start the unit."""
        if self.is_up():
            _run("systemctl", "start", name)

    def restart(self, name: str) -> None:
        """Restart the unit if it runs."""
        if self.is_up():
            _run("systemctl", "try-restart", name)

    def stop(self, name: str) -> None:
        """Stop the unit if it runs."""
        if self.is_up() and self.service(name).active:
            _run("systemctl", "stop", name)

    def runs_from(self, lock: Path, tree: Path) -> bool:
        """By the number of the process that stands in the lock; one that has ended runs from nothing."""
        try:
            number = lock.read_text("ascii").strip()
            program = Path(os.readlink(_PROCESSES / str(int(number)) / "exe"))  # noqa: PTH115 - a deleted one keeps its name
        except (OSError, ValueError):
            return False
        return program.is_relative_to(tree)

    def trees_in_use(self, versions: Path) -> set[str]:
        """Names of folders directly below `versions` from which some process runs."""
        found = set()
        for process in _PROCESSES.iterdir():
            if process.name.isdigit():
                try:
                    program = Path(os.readlink(process / "exe"))  # noqa: PTH115 - a deleted one keeps its old name
                except OSError:
                    continue  # it ended, or is a thread of the kernel's
                if program.is_relative_to(versions) and program != versions:
                    found.add(program.relative_to(versions).parts[0])
        return found


def _run(*command: str) -> str:
    try:
        answer = subprocess.run(
            command,
            env={"PATH": ":".join(SEARCH_PATH), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"`{' '.join(command)}` could not be run: {error}.", code="machine.registration") from error
    if answer.returncode != 0:
        said = (answer.stderr.strip() or answer.stdout.strip() or f"exit code {answer.returncode}").replace("\n", " ")
        raise MachineError(f"`{' '.join(command)}` failed: {said[:500]}", code="machine.registration")
    return answer.stdout


def _ask(*command: str) -> int:
    try:
        return subprocess.run(
            command,
            env={"PATH": ":".join(SEARCH_PATH), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_PATIENCE_S,
        ).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"`{' '.join(command)}` could not be run: {error}.", code="machine.registration") from error
