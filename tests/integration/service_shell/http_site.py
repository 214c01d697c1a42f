"""The static site's logon folder served over real HTTP, with a wire in between that counts what passes."""

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pcm.logon.app import Answer, LogonApp, create_app
from pcm.logon.folder import LogonFolder
from pcm.logon.folder_keys import FolderKeys
from pcm.protocol.enrolment import EnrolmentRequest
from pcm.protocol.report import MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, Report, read_report
from pcm.trust import envelopes
from tests.asgi_server import free_port, served
from tests.integration.service_shell.static_site import StaticSite


@dataclass
class Wire:
    """Bytes in both directions, and requests, since `reset`."""

    size: int = 0
    requests: int = 0
    seen: bytes = b""

    def reset(self) -> None:
        self.size, self.requests, self.seen = 0, 0, b""


@dataclass
class HttpSite:
    """A logon server. `taken` keeps every report's envelope as it came; `before_answer` may fail after one was taken."""

    url: str
    wire: Wire
    folder: LogonFolder
    taken: list[bytes] = field(default_factory=list)
    enrolments: list[tuple[EnrolmentRequest, str]] = field(default_factory=list)
    before_answer: Callable[[], None] = lambda: None
    answer_enrolment: Callable[[EnrolmentRequest, str], Answer] | None = None

    async def take_report(self, _client_id: str, envelope: bytes) -> Answer:
        self.taken.append(envelope)
        self.before_answer()
        return Answer(200, json.dumps({"acknowledged": report_of(envelope).seq}).encode())

    async def take_enrolment(self, request: EnrolmentRequest, client_id: str, _address: str) -> Answer:
        self.enrolments.append((request, client_id))
        if self.answer_enrolment is not None:
            return self.answer_enrolment(request, client_id)
        self.folder.write_key(client_id, request.public_key.encode())
        return Answer(200, json.dumps({"client_id": client_id, "state": "enrolled", "fingerprint": ""}).encode())


def report_of(envelope: bytes) -> Report:
    payload, _ = envelopes.read(envelope, payload_type=PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
    return read_report(payload)


@contextmanager
def logon_over_http(site: StaticSite) -> Iterator[HttpSite]:
    folder = LogonFolder(site.logon_folder)
    port, public = free_port(), free_port()
    http = HttpSite(f"http://127.0.0.1:{public}/logon", Wire(), folder)
    app = LogonApp(
        folder,
        http.url,
        FolderKeys(folder),
        report_sink=http.take_report,
        enrolment_sink=http.take_enrolment,
    )
    with served(create_app(app), port), counting(public, port, http.wire):
        yield http


@contextmanager
def counting(public: int, port: int, wire: Wire) -> Iterator[None]:
    """Listen on `public`, pass everything on to `port` and count it."""
    threads: list[threading.Thread] = []
    over = threading.Event()

    def pass_on(near: socket.socket) -> None:
        # whoever has left a connection may close it at any moment
        with near, socket.create_connection(("127.0.0.1", port)) as far, suppress(ConnectionError):
            while not over.is_set():
                for source in select.select([near, far], [], [], 0.05)[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    wire.size += len(data)
                    wire.seen += data
                    wire.requests += data.count(b" HTTP/1.1\r\n") if source is near else 0
                    (far if source is near else near).sendall(data)

    def accept() -> None:
        while not over.is_set():
            if select.select([listener], [], [], 0.05)[0]:
                near, _ = listener.accept()
                threads.append(threading.Thread(target=pass_on, args=(near,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", public)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield
        finally:
            over.set()
            for thread in (accepting, *threads):
                thread.join()
