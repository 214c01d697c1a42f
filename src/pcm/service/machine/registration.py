"""What an installation asks of the operating system: an account without rights, and a service that starts with the computer.

Serves no step; `service.installation` uses it, before there is a client. `here.this_registration` gives the one of this system.
Its functions do what they say or raise, and doing any of them again does nothing.
"""

from pathlib import Path
from typing import NamedTuple, Protocol


class ServiceState(NamedTuple):
    """How the system knows the service: `defined_by` is the file that counts (None: not known at all).

    `restarts`: how often it failed and was started again by the system, since some time.
    """

    defined_by: Path | None
    enabled: bool
    active: bool
    restarts: int = 0


class Registration(Protocol):
    """Accounts and services of one computer. Each method may raise MachineError `machine.registration`."""

    def is_up(self) -> bool:
        """Whether services can be started now: not in an image that is only being built."""

    def has_account(self, name: str) -> bool:
        """Whether there is an account of that name."""

    def create_account(self, name: str, described: str) -> None:
        """Make an account of the system, without password, home and shell."""

    def delete_account(self, name: str) -> None:
        """Remove the account."""

    def service(self, name: str) -> ServiceState:
        """How a service is known."""

    def reload(self) -> None:
        """Have the system read the definitions of services again."""

    def enable(self, name: str) -> None:
        """Have the service start with the computer."""

    def disable(self, name: str) -> None:
        """Have it not start with the computer."""

    def start(self, name: str) -> None:
        """Start it, if it does not run; returns when it says that it is ready."""

    def restart(self, name: str) -> None:
        """Stop it in good order and start it, if it runs; else nothing."""

    def stop(self, name: str) -> None:
        """Stop it in good order, if it runs."""

    def runs_from(self, lock: Path, tree: Path) -> bool:
        """Whether the process that last took this lock lives, and runs from that tree."""

    def trees_in_use(self, versions: Path) -> set[str]:
        """Names of folders directly below `versions` from which some process runs."""
