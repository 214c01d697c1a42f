"""Every way to fetch, over the same files: a real process and a thread, over HTTP, from a directory and from a Samba share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pcm.distribution.app import create_app
from pcm.transport.channel import Channel
from pcm.transport.client import TransferClient
from pcm.transport.framing import Request
from pcm.transport.in_process import open_thread
from pcm.transport.response import Response
from pcm.transport.source import ContentSource
from tests.asgi_server import served
from tests.samba_server import SambaServer, samba_server
from tests.transfer_process import open_process


class Fetching(NamedTuple):
    """A client, the address of a server, and the folder behind it."""

    client: ContentSource
    base: str
    root: Path


@pytest.fixture(scope="session")
def http_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    root = tmp_path_factory.mktemp("distribution")
    with served(create_app(root)) as url:
        yield f"{url}/distribution", root


@pytest.fixture(scope="session")
def samba() -> Iterator[SambaServer]:
    with samba_server() as server:
        yield server


class Reader(TransferClient):
    """Asks with an account, as the service does."""

    def __init__(self, open_channel: Callable[[], Channel], account: str) -> None:
        super().__init__(open_channel)
        self._account = account

    def exchange(self, request: Request) -> Response:
        """See `TransferClient.exchange`."""
        return super().exchange(request._replace(account=self._account if request.url.startswith("smb:") else None))


@pytest.fixture(
    params=[
        "process, http",
        "process, directory",
        pytest.param("process, share", marks=pytest.mark.needs("samba")),
        "thread, http",
        "thread, directory",
        pytest.param("thread, share", marks=pytest.mark.needs("samba")),
    ]
)
def fetching(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fetching]:
    where, how = request.param.split(", ")
    open_channel = open_process if where == "process" else open_thread
    client = TransferClient(open_channel)
    if how == "share":
        samba: SambaServer = request.getfixturevalue("samba")
        client = Reader(open_channel, samba.account)
        yield Fetching(client, samba.url, samba.share)
    else:
        base, root = request.getfixturevalue("http_root") if how == "http" else (tmp_path.as_uri(), tmp_path)
        yield Fetching(client, base, root)
    client.close()
