"""Every way to fetch, over the same files: a real process and a thread, over HTTP and from a directory."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pcm.distribution.app import create_app
from pcm.transport.client import TransferClient
from pcm.transport.in_process import transfer_in_thread
from tests.asgi_server import served
from tests.transfer_process import open_process


class Fetching(NamedTuple):
    """A client, the address of a server, and the folder behind it."""

    client: TransferClient
    base: str
    root: Path


@pytest.fixture(scope="session")
def http_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    root = tmp_path_factory.mktemp("distribution")
    with served(create_app(root)) as url:
        yield f"{url}/distribution", root


@pytest.fixture(params=["process, http", "process, directory", "thread, http", "thread, directory"])
def fetching(request: pytest.FixtureRequest, http_root: tuple[str, Path], tmp_path: Path) -> Iterator[Fetching]:
    where, how = request.param.split(", ")
    base, root = http_root if how == "http" else (tmp_path.as_uri(), tmp_path)
    client = TransferClient(open_process) if where == "process" else transfer_in_thread()
    yield Fetching(client, base, root)
    client.close()
