"""Functions that tests run in children of the service: what the confined side can still do, told as JSON on stdout."""

import contextlib
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path


def _can(action: Callable[[], object]) -> bool:
    try:
        action()
    except (OSError, RuntimeError):
        return False
    return True


def _open_descriptors() -> list[int]:
    found = []
    for number in range(64):
        with contextlib.suppress(OSError):
            os.fstat(number)
            found.append(number)
    return found


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def tell(arguments: list[str]) -> int:
    """Say who and what this process is."""
    status = Path("/proc/self/status").read_text()
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    told = {
        "arguments": arguments,
        "ids": [*os.getresuid(), *os.getresgid()],
        "groups": os.getgroups(),
        "no_new_privileges": values["NoNewPrivs"],
        "capabilities": values["CapEff"],
        "descriptors": _open_descriptors(),
        "environment": sorted(os.environ),
        "directory": str(Path.cwd()),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "memory": resource.getrlimit(resource.RLIMIT_AS)[0],
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "can_become_root": _can(lambda: os.setresuid(0, 0, 0)),
        "can_write": _can(lambda: Path(f"/tmp/pcm-{os.getpid()}").write_bytes(b"x")),
        "can_read_shadow": _can(lambda: Path("/etc/shadow").read_bytes()),
        "can_use_sockets": _can(lambda: socket.socket().close()),
    }
    with contextlib.suppress(OSError):
        Path(f"/tmp/pcm-{os.getpid()}").unlink()
    _say(json.dumps(told))
    return 3


def echo(_: list[str]) -> int:
    """Give back what comes in, until it ends."""
    while line := sys.stdin.readline():
        _say(line.strip().upper())
    return 0


def hang(_: list[str]) -> int:
    """Stay."""
    _say("here")
    time.sleep(60)
    return 0


def eat(_: list[str]) -> int:
    """Take ever more memory."""
    hoard = []
    try:
        while True:
            hoard.append(bytes(50 << 20))
    except MemoryError:
        del hoard
        return 9
