"""One connection to an HTTP server, every single read of which is watched by a `Pace`.

Serves steps 6, 8 and 12, inside the transfer process, below `web`. `http.client` alone gives each *read* a time-out, so
that one byte every few seconds lasts for ever; here the sockets that it gets are wrapped. Opens TCP connections, speaks to
a proxy and does TLS. It never follows anything, and knows nothing of what is fetched.
"""

import functools
import http.client
import os.path
import socket
import time
import urllib.parse
from typing import TYPE_CHECKING

from pcm.transport.framing import Settings, transfer_error
from pcm.transport.pace import Pace
from pcm.transport.watched import WatchedSocket

if TYPE_CHECKING:
    import ssl

CONNECT_S = 10.0
MAX_PROXY_ANSWER = 8 * 1024

# where distributions keep the authorities of https as one file: Debian, Fedora and its kin, SUSE, Alpine
AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class WatchedConnection(http.client.HTTPConnection):
    """An HTTP/1.1 connection to `host`:`port`, perhaps with TLS, perhaps through a proxy.

    Args:
        tls: None for plain HTTP.
        proxy: (host, port) of an HTTP proxy, or None. TLS goes through it by CONNECT, plain HTTP by absolute URLs.
    """

    def __init__(self, host: str, port: int, tls: "ssl.SSLContext | None", proxy: tuple[str, int] | None) -> None:
        super().__init__(host, port)
        self._tls = tls
        self._proxy = proxy
        self.watched: WatchedSocket | None = None
        self.pace: Pace | None = None
        self.default_port = 443 if tls else 80  # http.client leaves this port out of the Host header

    def connect(self) -> None:
        """Open the connection within `CONNECT_S` seconds and what is left of the exchange's time."""
        pace = self.pace
        if pace is None:
            raise transfer_error("transfer.protocol", "A connection was opened outside an exchange.")
        timeout = min(CONNECT_S, pace.timeout(time.monotonic()))
        sock = socket.create_connection(self._proxy or (self.host, self.port), timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                if self._proxy:
                    self._ask_proxy(sock, pace)
                from pcm.transport.tls import SecuredSocket  # noqa: PLC0415 - see `tls_context`

                self.watched = SecuredSocket(sock, pace, self._tls, self.host)
            else:
                self.watched = WatchedSocket(sock, pace)
        except BaseException:
            sock.close()
            raise
        self.sock = self.watched

    def _ask_proxy(self, sock: socket.socket, pace: Pace) -> None:
        """CONNECT (RFC 9110, section 9.3.6), reading the proxy's answer byte by byte so as not to read into TLS."""
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        watched = WatchedSocket(sock, pace)
        watched.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode("ascii"))
        pace.allow(MAX_PROXY_ANSWER)
        answer, one = bytearray(), memoryview(bytearray(1))
        while not answer.endswith(b"\r\n\r\n"):
            if not watched.receive_into(one):
                raise transfer_error("transfer.unreachable", "The proxy closed the connection.")
            answer += one
        status = answer.split(b"\r\n", 1)[0].split(b" ")
        if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or status[1] != b"200":
            said = answer[:100].split(b"\r\n")[0].decode("latin-1")
            raise transfer_error("transfer.unreachable", f"The proxy does not connect to {place}: {said}.")


@functools.lru_cache(maxsize=1)
def tls_context(ca_file: str | None) -> "ssl.SSLContext":
    """The TLS settings: system authorities or those in `ca_file`; TLS 1.2 or newer; host names checked.

    Raises:
        TransferError: `transfer.certificate`: the file cannot be read.
    """
    import ssl  # noqa: PLC0415 - 12 ms that plain HTTP and folders do not need

    try:
        context = ssl.create_default_context(cafile=ca_file or find_authorities(ssl.get_default_verify_paths()))
    except (OSError, ssl.SSLError) as error:
        raise transfer_error(
            "transfer.certificate", f"The file of certificate authorities {ca_file} cannot be read: {error}."
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def find_authorities(usual: "ssl.DefaultVerifyPaths", known: tuple[str, ...] = AUTHORITIES) -> str | None:
    """The system's file of authorities, where this OpenSSL looks for them in vain; None if it finds them by itself.

    An installed client brings an OpenSSL that was built for Debian's folders, and every distribution has others.
    """
    if usual.cafile or usual.capath:
        return None  # Python names only those that are there
    return next((path for path in known if os.path.isfile(path)), None)  # noqa: PTH113 - no pathlib in this process


def proxy_for(host: str, settings: Settings) -> tuple[str, int] | None:
    """The proxy to use for `host`: (host, port), or None.

    Raises:
        TransferError: `transfer.unreachable`: the configured proxy is not `http://host:port`.
    """
    if settings.proxy is None or any(
        host == name or (name.startswith(".") and host.endswith(name)) for name in settings.no_proxy
    ):
        return None
    parts = urllib.parse.urlsplit(settings.proxy)
    try:
        proxy = (parts.hostname, parts.port or 3128)
    except ValueError:
        proxy = (None, 0)
    if parts.scheme != "http" or not proxy[0]:
        raise transfer_error(
            "transfer.unreachable", f"The configured proxy {settings.proxy!r} is not of the form http://host:port."
        )
    return proxy[0], proxy[1]
