"""Time and boots as the kernel counts them. Serves every step that must not believe the wall clock."""

import time
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_BOOT_ID = "sys/kernel/random/boot_id"
_START_TIME = 19  # of /proc/PID/stat, counted after the program's name (proc(5): field 22)


@cache
def boot_id() -> str:
    """Identity of this boot: 32 hex digits (random(4)), then in which tick of the kernel the first process began.

    The kernel's digits alone are not enough in a container, which starts anew while its kernel runs on. Some containers are shown
    digits of their own; they are read as the first process sees them, because a service whose view of /proc/sys is protected is
    shown the kernel's again, and would then not agree with an administrator's shell.
    """
    return read_boot_id(_PROC)


def read_boot_id(proc: Path) -> str:
    """As `boot_id`, from any procfs. As far as the first process may not be looked at, this one's own view counts."""
    try:
        digits = (proc / "1/root/proc" / _BOOT_ID).read_text()
    except OSError:
        digits = (proc / _BOOT_ID).read_text()
    kernel = digits.strip().replace("-", "")
    try:
        began = (proc / "1/stat").read_text().rpartition(")")[2].split()[_START_TIME]
    except (OSError, IndexError):
        return kernel
    return f"{kernel}-{began}"


def boot_seconds() -> float:
    """Seconds since boot, suspended time included. No clock setting moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
