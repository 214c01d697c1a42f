"""A real transfer process for tests, started as the service starts it but under the account that runs the tests."""

import os
import subprocess
import sys

from pcm.transport.channel import PipeChannel


def open_process() -> PipeChannel:
    """Start `python -I -m pcm.transport.transfer` and return the way to it; closing it waits for the process."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "pcm.transport.transfer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env={"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"},  # must not matter
    )
    assert process.stdin is not None
    assert process.stdout is not None
    answers, asks = os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno())
    process.stdin.close()
    process.stdout.close()

    def reap() -> None:
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:  # it is in the middle of a transfer that nobody wants any more
            process.kill()
            process.wait()

    return PipeChannel(answers, asks, reap)
