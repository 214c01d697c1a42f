"""Asking the computer's other services about themselves, over the system's message bus. Serves step 7 (`linux.engaged`).

Reads properties and nothing else, and starts no service by asking it. What does not run, or does not answer at once, is None:
a computer without a message bus is an ordinary one. Source: D-Bus specification ("Message Bus Specification").
"""

from typing import Any

from pcm.model.errors import MachineError
from pcm.service.machine.linux.bus import Bus

SOCKET = "/run/dbus/system_bus_socket"
_BUS = "org.freedesktop.DBus"
_PATIENCE_S = 2.0


class SystemBus(Bus):
    """One connection to the message bus.

    Raises:
        MachineError: `machine.systemd`: there is none.
    """

    _flags = 2  # NO_AUTO_START

    def __init__(self, path: str = SOCKET) -> None:
        super().__init__(path, _PATIENCE_S)
        try:
            self.ask(_BUS, "/org/freedesktop/DBus", _BUS, "Hello")
        except MachineError:
            self.close()
            raise

    def read(self, service: str, path: str, interface: str, name: str) -> Any:
        """A property of an object of a service; None if it cannot be had."""
        try:
            ((_, value),) = self.ask(service, path, f"{_BUS}.Properties", "Get", "ss", interface, name)
        except MachineError:
            return None
        return value
