"""What a transfer process that somebody has taken over tries, run in the confined child itself. Told on its standard output."""

import ctypes
import os
import signal
import sys
import time

from pcm.transport.hardening import harden

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def read_terminal(_arguments: list[str]) -> int:
    """Read what comes on standard error, as a terminal lets everybody who has it open."""
    _say("ready")
    try:
        _say(repr(os.read(2, 100)))
    except OSError as error:
        _say(str(error.strerror))
    return 0


def outlive(_arguments: list[str]) -> int:
    """Give up the promise to end with the parent, each way there is, then stay."""
    harden()
    libc = ctypes.CDLL(None, use_errno=True)
    results = [
        libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0),
        libc.unshare(_CLONE_NEWUSER),
    ]
    try:
        results.append(os.fork())
    except OSError:
        results.append(-1)
    _say(" ".join(map(str, results)))
    time.sleep(60)
    return 0


def strike(arguments: list[str]) -> int:
    """End another process of this account."""
    harden()
    try:
        os.kill(int(arguments[0]), signal.SIGKILL)
    except OSError:
        _say("refused")
    else:
        _say("struck")
    return 0


def stay(_arguments: list[str]) -> int:
    """Be somebody's neighbour."""
    harden()
    _say("ready")
    time.sleep(60)
    return 0
