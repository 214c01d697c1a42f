"""Computers on a network of their own: namespaces around a switch, with cables that can be cut and ports that swallow everything.

Everything is named after this process, and taken away at the end, whatever happens. Needs root.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

NET = "10.77.0"


def ip(*arguments: str) -> str:
    """Run ip(8); its output."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20).stdout


class Computer:
    """A namespace with one network card, `eth0`, at the switch."""

    def __init__(self, lan: "Lan", name: str, number: int) -> None:
        self.lan, self.name = lan, name
        self.namespace = f"{lan.prefix}-{name}"
        self.address = f"{NET}.{number}"

    def command(self, *command: str) -> list[str]:
        """The command line that runs something there."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *command]

    def run(self, *command: str) -> str:
        """Run something there; its output."""
        done = subprocess.run(self.command(*command), check=True, capture_output=True, text=True, timeout=30)
        return done.stdout

    def add_address(self, address: str | None = None) -> None:
        ip("-n", self.namespace, "address", "add", f"{address or self.address}/24", "dev", "eth0")

    def remove_address(self, address: str | None = None) -> None:
        ip("-n", self.namespace, "address", "delete", f"{address or self.address}/24", "dev", "eth0")

    def cut(self) -> None:
        """Pull the cable: the card notices."""
        ip("-n", self.lan.switch, "link", "set", self.name, "down")

    def plug_in(self) -> None:
        ip("-n", self.lan.switch, "link", "set", self.name, "up")

    def swallow(self) -> None:
        """Let everything vanish on the way; nobody notices but by waiting."""
        ip("-n", self.lan.switch, "link", "set", self.name, "nomaster")

    def deliver(self) -> None:
        ip("-n", self.lan.switch, "link", "set", self.name, "master", "bridge")


class Lan:
    """A switch and its computers. Made by `lan`."""

    def __init__(self, stack: ExitStack, number: int) -> None:
        self._stack = stack
        self.prefix = f"pcm-{os.getpid()}-{number}"
        self.switch = f"{self.prefix}-switch"
        self._add(self.switch)
        ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge", "up")
        self._count = 1

    def computer(self, name: str, *, addressed: bool = True) -> Computer:
        """Put a computer on the network."""
        self._count += 1
        made = Computer(self, name, self._count)
        self._add(made.namespace)
        ip("-n", self.switch, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", made.namespace)
        ip("-n", self.switch, "link", "set", name, "master", "bridge", "up")
        ip("-n", made.namespace, "link", "set", "lo", "up")
        ip("-n", made.namespace, "link", "set", "eth0", "up")
        if addressed:
            made.add_address()
        return made

    def _add(self, namespace: str) -> None:
        ip("netns", "add", namespace)
        self._stack.callback(ip, "netns", "delete", namespace)


_count = 0


@contextmanager
def lan() -> Iterator[Lan]:
    """A network, gone at the end with everything on it."""
    global _count  # noqa: PLW0603 - names must not repeat within this process
    _count += 1
    with ExitStack() as stack:
        yield Lan(stack, _count)


def connections(one: Computer, other: Computer) -> list[str]:
    """The connections that stand between two computers, as ss(8) shows them at one end: queues, addresses, timer."""
    return one.run("ss", "--no-header", "-tno", "state", "established", "dst", other.address).splitlines()
