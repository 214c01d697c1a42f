"""A throw-away client computer for the demonstration: this machine, seen through a private mount namespace.

As root, `/usr`, `/etc`, `/var` and `/opt` are overlays in memory, `/run` is empty, and the host name is its own: a real
`dpkg --install` there changes what the demonstration's client sees, and nothing on the machine itself. When the namespace ends,
everything in it is gone.

Without root there is no second account and no overlay: the service then runs as this user below a temporary folder, and the
software goes there too, by a real dpkg that is root in a user namespace only. What this cannot show is named.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
NOBODY = 65534
_OVERLAID = ("usr", "etc", "var", "opt")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PREPARE = """set -e
mount -t tmpfs -o mode=0755 pcm-demo /mnt
mkdir -p /mnt/pcm/python /mnt/pcm/lib /mnt/pcm/src /mnt/pcm/venv/bin /mnt/pcm/venv/lib/{version}/site-packages
mount --bind "{python}" /mnt/pcm/python
mount --bind "{lib}" /mnt/pcm/lib
mount --bind "{src}" /mnt/pcm/src
ln -s /mnt/pcm/python/bin/{version} /mnt/pcm/venv/bin/python
echo "home = /mnt/pcm/python/bin" > /mnt/pcm/venv/pyvenv.cfg
printf '/mnt/pcm/src\\n/mnt/pcm/lib\\n' > /mnt/pcm/venv/lib/{version}/site-packages/installed.pth
mkdir /mnt/computer
for folder in {folders}; do
    mkdir /mnt/computer/$folder.new /mnt/computer/$folder.work
    mount -t overlay overlay -o lowerdir=/$folder,upperdir=/mnt/computer/$folder.new,workdir=/mnt/computer/$folder.work /$folder
done
mount -t tmpfs -o mode=0755 pcm-demo-run /run
hostname workstation
echo ready
exec sleep 900
"""


class Computer:
    """A client computer, until `close`.

    Args:
        folder: Where everything goes if this is not root.

    Attributes:
        is_root: Whether it has accounts and secured folders of its own.
        root: Below which software is installed: nothing, or a folder.
        home: Options that tell our programs where the client lives.
        elevate: What a setup program needs in front of it to be root at all.
    """

    def __init__(self, folder: Path) -> None:
        self.is_root = os.geteuid() == 0
        self.root = "" if self.is_root else str(folder / "computer")
        self.home = [] if self.is_root else ["--home", str(folder / "client")]
        self.elevate = [] if self.is_root else ["unshare", "--map-root-user"]
        self._holder: subprocess.Popen[str] | None = None
        if self.is_root:
            self._hold_namespace()
        else:
            records = folder / "computer" / "var" / "lib" / "dpkg"
            for name in ("info", "updates"):
                (records / name).mkdir(parents=True)
            shutil.copy("/var/lib/dpkg/status", records / "status")

    def _hold_namespace(self) -> None:
        # everything is bound to a place that any account may reach, as an installed service would be
        script = _PREPARE.format(
            version=f"python{sys.version_info.major}.{sys.version_info.minor}",
            python=sys.base_prefix,
            lib=sysconfig.get_paths()["purelib"],
            src=REPOSITORY / "src",
            folders=" ".join(_OVERLAID),
        )
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != "ready":
            _, why = self._holder.communicate()
            raise RuntimeError(f"this machine does not allow a private mount namespace with overlays: {why.strip()}")

    def command(self, argv: list[str], user: int | None = None) -> list[str]:
        """The argument list that runs `argv` on this computer, as its administrator or as an ordinary user."""
        clean = ["env", "-i", f"PATH={_PATH}", "LANG=C.UTF-8", "TERM=" + os.environ.get("TERM", "dumb"), "HOME=/"]
        if self._holder is None:
            return [*clean, *argv]
        drop = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--uts", "--wdns=/", *drop, *clean, *argv]

    def python(self, module: str, *arguments: str) -> list[str]:
        """The argument list of one of our programs, as it would be installed here."""
        interpreter = "/mnt/pcm/venv/bin/python" if self.is_root else sys.executable
        return [interpreter, "-m", module, *self.home, *arguments]

    def run(
        self, argv: list[str], user: int | None = None, *, timeout: float = 120, together: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command here and wait for it. Output is captured as text; `together`: errors stand among it, as on a screen."""
        return subprocess.run(
            self.command(argv, user),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if together else subprocess.PIPE,
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
        if self._holder is not None:
            self._holder.kill()
            self._holder.communicate()
