"""Unit tests touch no sockets, start no processes and do not sleep: any of these fails the test that does it.

An audit hook sees these calls wherever they are made, also below libraries. What it raises is no `Exception`, so no `except
Exception` swallows it.
"""

import sys
import time
from collections.abc import Iterator
from typing import SupportsIndex

import pytest

FORBIDDEN = {
    "os.exec": "replace this process",
    "os.fork": "start a process",
    "os.forkpty": "start a process",
    "os.posix_spawn": "start a process",
    "os.system": "start a process",
    "socket.bind": "open a socket",
    "socket.connect": "open a socket",
    "socket.getaddrinfo": "resolve a name",
    "socket.gethostbyname": "resolve a name",
    "socket.sendto": "use a socket",
    "subprocess.Popen": "start a process",
}


class Guard:
    """Whether the hook is awake; hooks cannot be removed."""

    awake = False


def refuse(event: str, _arguments: tuple[object, ...]) -> None:
    """Fail the running test if it does what unit tests do not do."""
    if Guard.awake and event in FORBIDDEN:
        Guard.awake = False
        pytest.fail(f"a unit test must not {FORBIDDEN[event]} ({event}); move it to tests/integration")


sys.addaudithook(refuse)


def sleep_outside_unit_tests(seconds: float | SupportsIndex, /) -> None:
    """Stand in for `time.sleep`, which tells no audit hook before Python 3.13.

    It stays for good: a module that a unit test loads first may keep it under a name of its own.
    """
    if not Guard.awake:
        _sleep(seconds)
        return
    pytest.fail("a unit test must not sleep; hand the clock in, or move it to tests/integration")


_sleep = time.sleep
time.sleep = sleep_outside_unit_tests


@pytest.fixture(autouse=True)
def _in_memory_only() -> Iterator[None]:
    Guard.awake = True
    yield
    Guard.awake = False
