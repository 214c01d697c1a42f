"""Time and boots as the kernel counts them. Serves every step that must not believe the wall clock."""

import time
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Identity of this boot, 32 hex digits. Source: random(4), `/proc/sys/kernel/random/boot_id`."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def boot_seconds() -> float:
    """Seconds since boot, suspended time included. No clock setting moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
