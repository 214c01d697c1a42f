"""A logon server as a process of its own, over a folder, somewhere on a network: `FOLDER ADDRESS PORT LOG DELAY_S MANNERS`.

It writes a line to the log for each request: method, path, status. With the manners of a liar it says that nothing is new whatever
there is, and wakes whoever waits as soon as he does.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from granian.constants import Interfaces
from granian.server.embed import Server

from pcm.logon.app import Answer, LogonApp, create_app
from pcm.logon.folder import LogonFolder
from pcm.logon.folder_keys import FolderKeys
from pcm.logon.wakes import Wakes
from pcm.protocol.report import MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, read_report
from pcm.trust import envelopes


class Logged:
    """Another application, with what it is asked written down."""

    def __init__(self, app: Any, log: Path, delay_s: float, *, lies: bool) -> None:
        self._app, self._log, self._delay_s, self._lies = app, log, delay_s, lies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(self._delay_s)

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                with self._log.open("a") as log:
                    log.write(f"{scope['method']} {scope['path'].rpartition('/')[2]} {message['status']}\n")
            await send(message)

        await (self._lie if self._lies else self._app)(scope, receive, sending)

    async def _lie(self, scope: Any, _receive: Any, send: Any) -> None:
        waiting = scope["path"].endswith("/wake")
        headers = [(b"etag", b'"1"'), (b"pcm-wake", b"14400")]
        await send({"type": "http.response.start", "status": 200 if waiting else 304, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": waiting})
        if waiting:
            await asyncio.sleep(0.3)
            await send({"type": "http.response.body", "body": b"\n", "more_body": False})


async def take_report(_client_id: str, envelope: bytes) -> Answer:
    payload, _ = envelopes.read(envelope, payload_type=PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
    return Answer(200, json.dumps({"acknowledged": read_report(payload).seq}).encode())


async def main() -> None:
    folder, address, port, log, delay_s, manners = sys.argv[1:]
    logon = LogonFolder(Path(folder))
    app = LogonApp(
        logon,
        f"http://{address}:{port}/logon",
        FolderKeys(logon),
        report_sink=take_report,
        wakes=Wakes(logon.root / "clients", look_s=0.2),
    )
    logged = Logged(create_app(app), Path(log), float(delay_s), lies=manners == "liar")
    await Server(logged, address=address, port=int(port), interface=Interfaces.ASGINL).serve()


if __name__ == "__main__":
    asyncio.run(main())
