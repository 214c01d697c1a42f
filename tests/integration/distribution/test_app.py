"""The distribution server over real HTTP: immutable files, nothing beside them."""

import asyncio
import contextlib
import hashlib
import http.client
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pcm.content.objects import object_path
from pcm.distribution.app import DistributionApp, create_app
from tests.asgi_server import served

CONTENT = b"object" * 1000
NAME = object_path(hashlib.sha256(CONTENT).hexdigest())


class Server(NamedTuple):
    place: str
    root: Path

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.place, timeout=10)
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("outer") / "root"
    for name, content in {
        NAME: CONTENT,
        "metadata/timestamp.json": b"{}",
        "metadata/1.root.json": b"{}",
        "targets/packages/tools/hello/1.0+b~1/" + "a" * 64 + ".manifest.json": b"{}",
        "objects/.incoming-1": b"half",
        "secret.txt": b"secret",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root.parent / "outside.json").write_bytes(b"secret")
    link = root / object_path("f" * 64)
    link.parent.mkdir()
    link.symlink_to(root.parent / "outside.json")
    with served(create_app(root)) as url:
        yield Server(url.removeprefix("http://"), root)


def test_an_object_is_immutable_and_tagged_by_its_hash(server: Server) -> None:
    status, headers, body = server.ask(f"/distribution/{NAME}")
    assert (status, body) == (200, CONTENT)
    assert headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}-{len(CONTENT):x}"'
    assert "immutable" in headers["cache-control"]
    assert headers["content-type"] == "application/zstd"
    assert "content-encoding" not in headers
    status, headers, body = server.ask(f"/distribution/{NAME}", if_none_match=headers["etag"])
    assert (status, body) == (304, b"")


def test_the_timestamp_is_asked_for_again_each_time(server: Server) -> None:
    assert server.ask("/distribution/metadata/timestamp.json")[1]["cache-control"] == "no-cache"
    assert "immutable" in server.ask("/distribution/metadata/1.root.json")[1]["cache-control"]


def test_a_missing_root_is_not_remembered_by_caches(server: Server) -> None:
    status, headers, _ = server.ask("/distribution/metadata/2.root.json")
    assert (status, headers["cache-control"]) == (404, "no-store")


def test_ranges_and_head(server: Server) -> None:
    status, headers, body = server.ask(f"/distribution/{NAME}", range="bytes=5990-")
    assert (status, body, headers["content-range"]) == (206, CONTENT[5990:], "bytes 5990-5999/6000")
    status, _, body = server.ask(f"/distribution/{NAME}", range="bytes=0-2")
    assert (status, body) == (206, b"obj")
    assert server.ask(f"/distribution/{NAME}", range="bytes=6000-")[0] == 416
    status, headers, body = server.ask(f"/distribution/{NAME}", "HEAD")
    assert (status, headers["content-length"], body) == (200, "6000", b"")


def test_names_with_odd_but_allowed_characters_are_served(server: Server) -> None:
    path = "/distribution/targets/packages/tools/hello/1.0%2Bb~1/" + "a" * 64 + ".manifest.json"
    assert server.ask(path)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/distribution/secret.txt",
        "/distribution/objects/.incoming-1",
        "/distribution/../outside.json",
        "/distribution/metadata/../../../outside.json",
        "/distribution/metadata/..%2f..%2f..%2foutside.json",
        "/distribution/%2e%2e/outside.json",
        "/distribution//etc/passwd",
        "/distribution/metadata/1.root.json%00",
        "/distribution/metadata/1.root.json/",
        "/distribution/metadata",
        "/distribution/",
        "/distribution",
        "/" + NAME,
        f"/distribution/{object_path('f' * 64)}",
        f"/distribution/{NAME.upper()}",
        f"/distribution/objects/00/{'f' * 64}.zst",
    ],
)
def test_nothing_else_is_there(server: Server, path: str) -> None:
    status, _, body = server.ask(path)
    assert status in (404, 307)
    assert b"secret" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(server: Server, method: str) -> None:
    status, headers, _ = server.ask(f"/distribution/{NAME}", method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_it_says_that_it_lives(server: Server) -> None:
    assert server.ask("/healthz")[0] == 200


def ask_while(root: Path, meanwhile: Callable[[], None], *headers: tuple[bytes, bytes]) -> tuple[dict[str, str], bytes]:
    """Ask for the object; once the head is sent, something happens to it."""
    told: dict[str, str] = {}
    body = b""
    scope = {
        "type": "http", "method": "GET", "path": f"/{NAME}", "root_path": "", "headers": headers,
        "asgi": {"spec_version": "2.4"},
    }  # fmt: skip

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal body
        if message["type"] == "http.response.start":
            told.update({name.decode(): value.decode() for name, value in message["headers"]})
            meanwhile()
        body += message.get("body", b"")

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    asyncio.run(DistributionApp(root)(scope, receive, send))
    return told, body


def still_open(folder: Path) -> list[Path]:
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # other threads close theirs
            found.append(each.readlink())
    return [each for each in found if each.is_relative_to(folder)]


@pytest.mark.parametrize("happens", ["packed again", "removed"])
@pytest.mark.parametrize("first", [0, 1000])
def test_what_is_being_read_stays_as_the_head_said_whatever_takes_its_place(
    tmp_path: Path, happens: str, first: int
) -> None:
    path = tmp_path / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)

    def meanwhile() -> None:
        if happens == "removed":
            path.unlink()
            return
        smaller = tmp_path / "smaller"
        smaller.write_bytes(b"smaller")
        smaller.replace(path)

    headers, body = ask_while(tmp_path, meanwhile, *([(b"range", b"bytes=%d-" % first)] if first else []))
    assert body == CONTENT[first:]
    assert int(headers["content-length"]) == len(body)
    assert not still_open(tmp_path)
