"""The base system of booted hosts: a small Debian with systemd and python3, built once by mmdebstrap and kept in a cache.

`python -m tests.e2e.base_system` builds it beforehand. The cache is `~/.cache/pcm-tests`, or `PCM_TEST_CACHE`; its name holds a
hash of the recipe, so that a changed recipe builds anew. Hosts never write to it: each lays a file system of its own over it.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

SUITE = "bookworm"
PACKAGES = (
    "ca-certificates",
    "dbus",
    "dbus-user-session",
    "iproute2",
    "libpam-systemd",
    "login",
    "make",
    "passwd",
    "python3",
    "systemd",
    "systemd-sysv",
)
# Nobody reads manuals in a test host; without them it is smaller and sooner built.
OPTIONS = (
    "--variant=minbase",
    "--mode=root",
    "--format=directory",
    "--quiet",
    '--aptopt=Acquire::Languages "none"',
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)


def base_system(name: str = "base", more: tuple[str, ...] = (), finish: str = "") -> Path:
    """Return the folder of a base system, building it (half a minute) if no earlier run has.

    Args:
        name: what the folder's name begins with.
        more: packages beside `PACKAGES`.
        finish: shell script that is run in the finished system, as root, without booting it.

    Raises:
        RuntimeError: mmdebstrap failed; its words are in the message.
    """
    recipe = repr((SUITE, PACKAGES, OPTIONS, "v1", *((more, finish) if more or finish else ())))
    cache = Path(os.environ.get("PCM_TEST_CACHE", "~/.cache/pcm-tests")).expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with (cache / "lock").open("w") as lock:  # two test processes want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            build(place, more, finish)
    return place


def build(place: Path, more: tuple[str, ...] = (), finish: str = "") -> None:
    """Build beside the place, then move there: a folder of that name is always complete."""
    unfinished = place.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    hooks = [f'--customize-hook=chroot "$1" /bin/sh -euc {shlex.quote(finish)}'] if finish else []
    command = ["mmdebstrap", *OPTIONS, *hooks, f"--include={','.join((*PACKAGES, *more))}", SUITE, str(unfinished)]
    answer = subprocess.run(
        command,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        message = f"the base system could not be built:\n{answer.stdout}"
        raise RuntimeError(message)
    (unfinished / "etc" / "hostname").unlink(missing_ok=True)
    (unfinished / "etc" / "machine-id").write_text("")  # each host makes its own at its first boot
    unfinished.rename(place)


def main() -> int:
    """Build it now and say where it is."""
    started = time.monotonic()
    sys.stdout.write(f"{base_system()} ({time.monotonic() - started:.0f} s)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
