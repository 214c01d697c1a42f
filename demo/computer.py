"""A throw-away client computer for the demonstration: this machine, seen through a private mount namespace.

As root, `/usr`, `/etc`, `/var` and `/opt` are overlays in memory and `/run` is empty: a real `dpkg --install` there changes what
the demonstration's client sees, and nothing on the machine itself. Without root the same happens in a user namespace, where
the machine's own folders cannot be written to; software then goes below a folder in memory. When the last process of the
namespace ends, everything in it is gone.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
NOBODY = 65534
_OVERLAID = ("usr", "etc", "var", "opt")

_COMMON = """set -e
mount -t tmpfs -o mode=0755 pcm-demo /mnt
mkdir -p /mnt/pcm/python /mnt/pcm/lib /mnt/pcm/src /mnt/pcm/venv/bin /mnt/pcm/venv/lib/{version}/site-packages
mount --bind "{python}" /mnt/pcm/python
mount --bind "{lib}" /mnt/pcm/lib
mount --bind "{src}" /mnt/pcm/src
ln -s /mnt/pcm/python/bin/{version} /mnt/pcm/venv/bin/python
echo "home = /mnt/pcm/python/bin" > /mnt/pcm/venv/pyvenv.cfg
printf '/mnt/pcm/src\n/mnt/pcm/lib\n' > /mnt/pcm/venv/lib/{version}/site-packages/installed.pth
"""
_AS_ROOT = """
mkdir /mnt/computer
for folder in {folders}; do
    mkdir /mnt/computer/$folder.new /mnt/computer/$folder.work
    mount -t overlay overlay -o lowerdir=/$folder,upperdir=/mnt/computer/$folder.new,workdir=/mnt/computer/$folder.work /$folder
done
mount -t tmpfs -o mode=0755 pcm-demo-run /run
"""
_AS_USER = """
mkdir -p /mnt/computer/var/lib/dpkg/info /mnt/computer/var/lib/dpkg/updates /mnt/client
cp /var/lib/dpkg/status /mnt/computer/var/lib/dpkg/status
"""


class Computer:
    """One namespace, held open by a sleeping process until `close`."""

    def __init__(self) -> None:
        self.is_root = os.geteuid() == 0
        script = _COMMON + (_AS_ROOT if self.is_root else _AS_USER) + "echo ready; exec sleep 900"
        # everything is bound to a place that any account may reach, as an installed service would be
        script = script.format(
            version=f"python{sys.version_info.major}.{sys.version_info.minor}",
            python=sys.base_prefix,
            lib=sysconfig.get_paths()["purelib"],
            src=REPOSITORY / "src",
            folders=" ".join(_OVERLAID),
        )
        enter = ["unshare", "--mount", "--propagation", "private"]
        if not self.is_root:
            enter += ["--user", "--map-root-user"]
        self._holder = subprocess.Popen(
            [*enter, "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != "ready":
            _, why = self._holder.communicate()
            raise RuntimeError(f"this machine does not allow a private mount namespace: {why.strip()}")

    def command(self, argv: list[str], user: int | None = None) -> list[str]:
        """The argument list that runs `argv` on this computer, as its administrator or as an ordinary user."""
        enter = ["nsenter", f"--target={self._holder.pid}", "--mount", "--wdns=/"]
        if not self.is_root:
            enter += ["--user", "--preserve-credentials"]
        drop = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        clean = ["env", "-i", f"PATH={path}", "LANG=C.UTF-8", "TERM=" + os.environ.get("TERM", "dumb"), "HOME=/"]
        return [*enter, *drop, *clean, *argv]

    def python(self, module: str, *arguments: str) -> list[str]:
        """The argument list of one of our programs, as it would be installed here."""
        return ["/mnt/pcm/venv/bin/python", "-m", module, *arguments]

    def run(
        self, argv: list[str], user: int | None = None, *, timeout: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command here and wait for it. Output is captured as text."""
        return subprocess.run(
            self.command(argv, user),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def start(self, argv: list[str]) -> "subprocess.Popen[str]":
        """Start a command here and let it run."""
        return subprocess.Popen(
            self.command(argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
        )

    def close(self) -> None:
        """End the namespace and everything in it."""
        self._holder.kill()
        self._holder.communicate()
