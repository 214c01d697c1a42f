"""A private Samba file server for tests: standalone, on 127.0.0.1 only, as root, gone with the test process.

It knows one account, `nobody` (an account that every system has), and shares one folder read-only as `pcm`. It runs in a process
namespace of its own: smbd ends its process group when it is told to end, and its children when it is killed.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pcm.transport.smb_account import NTLM, Login, encode_login

USER, PASSWORD = "nobody", "A word for tests"
SHARE = "pcm"
_FOLDERS = ("private", "lock", "state", "cache", "ncalrpc", "pid", "log")


class SambaServer(NamedTuple):
    """A running server. `share`: the folder that it shares; `url`: of the share; `log`: of the server."""

    share: Path
    url: str
    log: Path

    @property
    def account(self) -> str:
        """What goes with a request."""
        return encode_login(Login(USER, "", NTLM, PASSWORD))


@contextlib.contextmanager
def samba_server(more: str = "") -> Iterator[SambaServer]:
    """Run a server.

    Args:
        more: further lines of its `[global]` section.
    """
    folder = Path(tempfile.mkdtemp(prefix="pcm-samba-"))
    folder.chmod(0o755)
    share = folder / "share"
    share.mkdir(mode=0o755)
    for name in _FOLDERS:
        (folder / name).mkdir(mode=0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = folder / "smb.conf"
    configuration.write_text(_configuration(folder, port, more))
    add = ["smbpasswd", "-c", str(configuration), "-L", "-s", "-a", USER]
    subprocess.run(add, input=f"{PASSWORD}\n{PASSWORD}\n", text=True, check=True, capture_output=True)
    apart = ["setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--fork", "--kill-child=KILL"]
    server = subprocess.Popen(
        [*apart, "smbd", "-s", str(configuration), "--foreground", "--no-process-group"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(port, server)
        yield SambaServer(share, f"smb://127.0.0.1:{port}/{SHARE}", folder / "log" / "log")
    finally:
        _end(server)
        shutil.rmtree(folder)


def _configuration(folder: Path, port: int, more: str) -> str:
    places = {
        "private dir": "private",
        "lock directory": "lock",
        "state directory": "state",
        "cache directory": "cache",
        "ncalrpc dir": "ncalrpc",
        "pid directory": "pid",
        "log file": "log/log",
    }
    lines = [f"{key} = {folder / place}" for key, place in places.items()]
    return "\n".join(
        (
            "[global]",
            "server role = standalone server",
            "interfaces = 127.0.0.1",
            "bind interfaces only = yes",
            f"smb ports = {port}",
            f"passdb backend = tdbsam:{folder}/private/passdb.tdb",
            "disable spoolss = yes",
            "load printers = no",
            *lines,
            more,
            f"[{SHARE}]",
            f"path = {folder}/share",
            "read only = yes",
            "",
        )
    )


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End all of it. The first process of its namespace goes last: until then the others still tidy up their folders."""
    first = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    if first and server.poll() is None:
        os.kill(int(first[0]), signal.SIGKILL)
    else:
        server.kill()
    server.wait()


def _wait(port: int, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 20
    while True:
        assert server.poll() is None, "smbd ended at once"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < end, "smbd does not listen"
        time.sleep(0.05)
