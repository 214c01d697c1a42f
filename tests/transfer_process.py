"""A real transfer process for tests, started as the service starts it but under the account that runs the tests."""

import socket
import subprocess
import sys

from pcm.transport.channel import SocketChannel


def start_process() -> "tuple[subprocess.Popen[bytes], SocketChannel]":
    """Start `python -I -m pcm.transport.transfer`; closing the way to it waits for the process."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "pcm.transport.transfer"],
            stdin=theirs.fileno(),
            env={"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"},  # must not matter
        )

    def reap() -> None:
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:  # it is in the middle of a transfer that nobody wants any more
            process.kill()
            process.wait()

    return process, SocketChannel(ours, reap)


def open_process() -> SocketChannel:
    """The way to a fresh process."""
    return start_process()[1]
