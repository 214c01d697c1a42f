"""A plain nginx over a folder, for measurements: nothing but static files, and a log that tells what each client fetched."""

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.wire import free_port

_CONFIGURATION = """
worker_processes 1; daemon off; pid {work}/pid; error_log {work}/error.log; user root;
events {{ worker_connections 512; }}
http {{
  log_format sizes '$bytes_sent $status $request_uri'; access_log {work}/access.log sizes;
  sendfile on; tcp_nopush on; keepalive_requests 1000000; types {{ }} default_type application/octet-stream;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  server {{ listen 127.0.0.1:{port}; {tls} root {root}; }}
}}
"""
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Fetched:
    """What went over the wire: bytes of answers with their heads, and requests."""

    bytes: int
    requests: int


class Nginx:
    """One that runs. `url` has no slash at its end."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log

    def forget(self) -> None:
        """Count anew from here."""
        with self._log.open("r+b") as log:
            log.truncate(0)

    def fetched(self) -> Fetched:
        """What was fetched since `forget`."""
        lines = [line for line in self._log.read_text(errors="replace").replace("\0", "").splitlines() if line]
        return Fetched(sum(int(line.split()[0]) for line in lines), len(lines))


def program() -> str | None:
    """Where nginx is, if it is here."""
    return shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin")


@contextmanager
def nginx(root: Path, work: Path, certificate: tuple[Path, Path] | None = None) -> Iterator[Nginx]:
    """Serve a folder on loopback.

    Args:
        work: A new folder for what it writes itself.
        certificate: Certificate and key, for TLS.
    """
    found = program()
    if found is None:
        raise RuntimeError("nginx is not installed")
    work.mkdir(parents=True)
    port = free_port()
    tls = "" if certificate is None else f"ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};"
    text = _CONFIGURATION.format(work=work, port=port, root=root, tls=tls)
    if certificate is not None:
        text = text.replace(f"127.0.0.1:{port};", f"127.0.0.1:{port} ssl;")
    (work / "nginx.conf").write_text(text)
    process = subprocess.Popen([found, "-c", str(work / "nginx.conf"), "-e", str(work / "error.log")])
    try:
        scheme = "http" if certificate is None else "https"
        _wait(port, process)
        yield Nginx(f"{scheme}://127.0.0.1:{port}", work / "access.log")
    finally:
        process.terminate()
        process.wait(10)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _PATIENCE_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            opener.open(f"http://127.0.0.1:{port}/", timeout=1).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("nginx did not start") from None
            time.sleep(0.02)
        else:
            return
