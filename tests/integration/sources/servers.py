"""Distribution servers of every kind over one folder, none of them ours: nginx from Debian, Samba, a bucket, a folder."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.integration.cli.test_private_authority import write_certificate
from tests.samba_server import PASSWORD, USER, samba_server

NGINX = """
daemon off; worker_processes 1; pid {work}/pid; error_log {work}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format sizes '$request_uri $status $body_bytes_sent'; access_log {work}/access.log sizes;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    server {{
        listen 127.0.0.1:{port}{tls};
        root {root};
        {more}
    }}
}}
"""


class Server(NamedTuple):
    """One that runs. `url`: address of the distribution server; `root`: the folder to publish to; `log`: of requests, if it has one.

    `account`: what `account.json` says for it, and the password.
    """

    url: str
    root: Path
    log: Path | None = None
    authority: Path | None = None
    account: tuple[dict[str, object], str] | None = None


@contextmanager
def nginx(root: Path, *, tls: bool = False, more: str = "", port: int = 0) -> Iterator[Server]:
    """Plain nginx over a folder that shall be found below `/distribution`, as docs/sources.md says."""
    work = Path(tempfile.mkdtemp(prefix="pcm-nginx-"))
    work.chmod(0o755)
    port = port or free_port()
    certificate = ""
    if tls:
        write_certificate(work)
        certificate = f"ssl_certificate {work}/tls.pem; ssl_certificate_key {work}/tls.key;"
    text = NGINX.format(work=work, port=port, tls=" ssl" if tls else "", root=root, more=certificate + more)
    (work / "nginx.conf").write_text(text)
    process = subprocess.Popen(["nginx", "-c", str(work / "nginx.conf"), "-e", str(work / "error.log")])
    try:
        await_port(port)
        scheme = "https" if tls else "http"
        url = f"{scheme}://127.0.0.1:{port}/distribution"
        yield Server(url, root / "distribution", work / "access.log", work / "tls.pem" if tls else None)
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(work)


@contextmanager
def share(root: Path) -> Iterator[Server]:
    """A Samba share; what is published goes there by a link of the folder's name."""
    with samba_server() as samba:
        (samba.share / "distribution").mkdir()
        (root / "distribution").rmdir()
        (root / "distribution").symlink_to(samba.share / "distribution")
        host = samba.url.removeprefix("smb://").partition("/")[0]
        account: dict[str, object] = {"user": USER, "protocol": "ntlm", "servers": [host]}
        yield Server(f"{samba.url}/distribution", samba.share / "distribution", account=(account, PASSWORD))


@contextmanager
def bucket(root: Path) -> Iterator[Server]:
    """A bucket that anybody may read, by its path-style URL. The bucket is the folder."""
    port = free_port()
    log = Path(tempfile.mkdtemp(prefix="pcm-s3-")) / "log"
    program = shutil.which("rclone") or str(Path(__import__("sys").executable).with_name("rclone"))
    command = [
        program,
        "serve",
        "s3",
        str(root),
        "--addr",
        f"127.0.0.1:{port}",
        "--log-file",
        str(log),
        "--vfs-cache-mode",
        "off",
    ]
    command += ["--dir-cache-time", "0s", "--config", str(log.with_name("none"))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await_port(port)
        yield Server(f"http://127.0.0.1:{port}/distribution", root / "distribution", log)
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(log.parent)


@contextmanager
def folder(root: Path) -> Iterator[Server]:
    """A copy of a distribution folder: a mounted share, a stick."""
    yield Server(f"file://{root}/distribution", root / "distribution")


KINDS = {
    "nginx": nginx,
    "nginx with TLS": lambda root: nginx(root, tls=True),
    "share": share,
    "bucket": bucket,
    "folder": folder,
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def await_port(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < end, f"nobody listens on port {port}"
        time.sleep(0.05)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())
