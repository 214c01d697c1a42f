"""The computer this process runs on, as a `Machine`. The only place that knows which systems there are."""

import sys
from pathlib import Path

from pcm.model.errors import MachineError, Retry
from pcm.service.machine.interface import Machine
from pcm.service.machine.registration import Registration


def this_machine() -> Machine:
    """Return the implementation for this operating system.

    Raises:
        MachineError: `machine.unsupported`.
    """
    if sys.platform == "linux":
        from pcm.service.machine.linux.computer import LinuxMachine  # noqa: PLC0415 - each system loads its own

        return LinuxMachine()
    raise MachineError(
        f"The service does not run on {sys.platform} yet; it needs Linux.",
        code="machine.unsupported",
        retry=Retry.NEVER,
    )


def this_registration() -> Registration:
    """Return this operating system's accounts and services, for whoever installs.

    Raises:
        MachineError: `machine.unsupported`.
    """
    if sys.platform == "linux":
        from pcm.service.machine.linux.registration import SystemdRegistration  # noqa: PLC0415 - each system loads its own

        return SystemdRegistration()
    raise MachineError(
        f"The client cannot be installed on {sys.platform} yet; it needs Linux.",
        code="machine.unsupported",
        retry=Retry.NEVER,
    )


def take_rights(runtime: Path) -> None:
    """Take the administrator's rights that the account of this process was given, where it has a name of its own.

    Raises:
        MachineError: `machine.rights`: it was given none.
    """
    if sys.platform != "linux":
        raise MachineError("The service runs as administrator.", code="machine.rights")
    from pcm.service.machine.linux import rights  # noqa: PLC0415 - each system loads its own

    rights.take_rights(runtime)


def missing_rights() -> tuple[str, ...]:
    """What an administrator's process needs and this one has not, by the system's names."""
    if sys.platform != "linux":
        return ()
    from pcm.service.machine.linux import rights  # noqa: PLC0415 - each system loads its own

    return rights.missing_rights()
