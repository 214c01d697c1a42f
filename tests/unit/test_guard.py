"""The guard that keeps unit tests in memory, and the rules for needs that a machine cannot give."""

import os
import socket
import subprocess
import time
from collections.abc import Callable

import pytest


def connect() -> None:
    with socket.socket() as plug:
        plug.connect(("127.0.0.1", 9))


def bind() -> None:
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))


BREACHES: dict[str, Callable[[], object]] = {
    "connect": connect,
    "bind": bind,
    "resolve": lambda: socket.getaddrinfo("localhost", 80),
    "process": lambda: subprocess.run(["true"], check=False),
    "shell": lambda: os.system("true"),
    "sleep": lambda: time.sleep(0),
}


@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES.keys())
def test_what_unit_tests_do_not_do_fails(breach: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="a unit test must not"):
        breach()


def test_no_except_clause_swallows_it() -> None:
    assert not issubclass(pytest.fail.Exception, Exception)
