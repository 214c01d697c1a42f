"""Time and boots as the kernel counts them. Serves every step that must not believe the wall clock."""

import time
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_START_TIME = 19  # of /proc/PID/stat, counted after the program's name (proc(5): field 22)


@cache
def boot_id() -> str:
    """Identity of this boot: the kernel's 32 hex digits (random(4)), then in which tick of it the first process began.

    The kernel's alone is not enough in a container, which starts anew while its kernel runs on: there, what the container's own
    manager shows in its place is hidden from a service whose view of /proc/sys is protected.
    """
    return read_boot_id(_PROC)


def read_boot_id(proc: Path) -> str:
    """As `boot_id`, from any procfs. Without a first process to look at, the kernel's digits alone."""
    kernel = (proc / "sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    try:
        began = (proc / "1/stat").read_text().rpartition(")")[2].split()[_START_TIME]
    except (OSError, IndexError):
        return kernel
    return f"{kernel}-{began}"


def boot_seconds() -> float:
    """Seconds since boot, suspended time included. No clock setting moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
