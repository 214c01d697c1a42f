"""A line on the terminal of everybody who is logged on, as wall(1) writes it. Serves the announcement of a restart (step 11).

Sessions on a screen have no terminal: `pcmapp` shows it there. A terminal that takes nothing just now, or is gone, is skipped;
nobody is waited for.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

_SESSIONS = Path("/run/systemd/sessions")
_DEVICES = Path("/dev")
_TERMINAL = re.compile(r"(tty|pts/)[0-9]{1,9}")


def tell(text: str, sessions: Path = _SESSIONS, devices: Path = _DEVICES) -> int:
    """Write a line to each terminal; returns how many took it. What is no printable character is left out."""
    line = "".join(each for each in text if each.isprintable())
    data = f"\r\n\a*** {line}\r\n".encode()
    return sum(_write(devices / name, data) for name in sorted(set(_terminals(sessions))))


def _terminals(sessions: Path) -> Iterator[str]:
    try:
        files = sorted(sessions.iterdir())
    except OSError:
        return
    for path in files:
        if not path.is_file():
            continue  # beside each session stands a pipe, which would never end
        with contextlib.suppress(OSError):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            yield from (line[4:] for line in lines if line.startswith("TTY=") and _TERMINAL.fullmatch(line[4:]))


def _write(path: Path, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return stat.S_ISCHR(os.fstat(descriptor).st_mode) and os.write(descriptor, data) == len(data)
    except OSError:
        return False
    finally:
        os.close(descriptor)
