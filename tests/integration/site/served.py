"""A small site served for real on loopback, and clients that speak to it as the service does."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from pcm.protocol import codec
from pcm.site.serve import Serving
from pcm.testing.small_site import SmallClient, SmallSite, make_small_site
from pcm.transport.signing import sign_request


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Served:
    small: SmallSite
    serving: Serving
    url: str
    http: httpx.Client

    @property
    def site(self) -> Any:
        return self.serving.site

    def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **query: Any
    ) -> httpx.Response:
        """One call of the admin API, as the first administrator unless another token is given."""
        content = body if isinstance(body, bytes | Iterator) else None if body is None else codec.encode(body)
        headers = {"authorization": f"Bearer {self.small.admin_token if token is None else token}"}
        return self.http.request(method, f"{self.url}/v1{path}", content=content, headers=headers, params=query)

    def ask(self, method: str, path: str, shape: Any, body: Any = None, **query: Any) -> Any:
        """A call that must succeed; its answer."""
        answer = self.call(method, path, body, **query)
        assert answer.is_success, answer.text
        return msgspec.json.decode(answer.content, type=shape)

    def as_client(
        self, client: SmallClient, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> httpx.Response:
        """A request to the logon server, signed by a client."""
        url = f"{self.url}/logon/{path}"
        signed = sign_request(method, url, body, client.key, client.client_id, self.site.clock())
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.request(method, url, content=body, headers={**signed, **named})

    def enrol(self, client: SmallClient, token: str | None = None) -> httpx.Response:
        return self.as_client(client, "POST", "enroll", codec.encode(client.wish(self.site.name, token)))

    def enrolled(self, host_name: str = "pc-1", platform: str = "linux-x86_64") -> SmallClient:
        """A new client, enrolled with a token."""
        client = SmallClient(host_name, platform)
        token = self.call("POST", "/enrolment-tokens", {}).json()["token"]
        answer = self.enrol(client, token)
        assert answer.status_code == 200, answer.text
        return client

    def compile(self) -> int:
        return self.serving.rounds.compiler.compile_now()


@contextmanager
def serve_small_site(folder: Path, **options: Any) -> Iterator[Served]:
    """Make a site and serve it from a thread of this process."""
    port = free_port()
    small = make_small_site(folder, url=f"http://127.0.0.1:{port}", **options)
    serving = Serving(small.folder, clock=small.clock)
    ready = threading.Event()
    thread = threading.Thread(target=serving.run, kwargs={"signals": False, "on_ready": ready.set})
    thread.start()
    try:
        assert ready.wait(20), "the site did not come up"
        with httpx.Client(timeout=20, trust_env=False) as client:
            yield Served(small, serving, f"http://127.0.0.1:{port}", client)
    finally:
        serving.stop()
        thread.join(30)
        assert not thread.is_alive(), "the site did not stop"
