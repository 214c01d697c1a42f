"""A site that is not there, not a site, or means harm: each time one clear message, the right exit code, and no token given away."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from pcm.cli import api as api_module
from pcm.cli.api import Api
from pcm.cli.main import run
from pcm.model.errors import PcmError, RequestError, TransferError
from pcm.protocol.admin import SiteStatus
from pcm.testing.hostile_server import HostileServer

TOKEN = "very.secret.token"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


@pytest.fixture
def status(token_file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`pcm status` of some address: exit code, and what it said."""

    def call(url: str, *more: str) -> tuple[int, str]:
        code = run(["status", "--site", url, "--token-file", str(token_file), *more])
        told = capsys.readouterr()
        assert told.out == ""
        assert "Traceback" not in told.err
        assert TOKEN not in told.err
        return code, told.err

    return call


def answering(head: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def test_nobody_listens(status: Callable[..., tuple[int, str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    code, told = status(f"http://127.0.0.1:{port}")
    assert code == 5
    assert "cannot be reached" in told
    assert "transfer.unreachable" in told


def test_no_such_host(status: Callable[..., tuple[int, str]]) -> None:
    code, _ = status("https://no-such-host.invalid")
    assert code == 5


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (answering("302 Found\r\nLocation: http://evil.example/"), 1, "request.redirect"),
        (answering("401 Unauthorized"), 4, "unauthenticated"),
        (answering("403 Forbidden"), 4, "not_allowed"),
        (answering("404 Not Found", b"<h1>nginx</h1>"), 3, "is this a site's address?"),
        (answering("500 Internal Server Error", b"oh"), 5, "transfer.server"),
        (answering("200 OK", b"<html>"), 1, "protocol.malformed"),
        (answering("200 OK", b"[" * 100_000), 1, "protocol.too_deep"),
        (answering("200 OK", b'{"name": 1}'), 1, "protocol.malformed"),
        (answering("400 Bad", b'{"title":"x","status":400,"detail":"No \\u001b[31mway","code":"job.contradiction"}'), 1, r"No \x1b[31mway"),
        (answering("400 Bad", b"x" * 100_000), 5, "transfer.too_long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nshort", 5, "cannot be reached"),
        (b"this is not HTTP\r\n\r\n", 5, "transfer."),
        (b"", 5, "transfer.unreachable"),
    ],
)  # fmt: skip
def test_a_server_that_is_no_site(status: Callable[..., tuple[int, str]], answer: bytes, code: int, says: str) -> None:
    with HostileServer() as server:
        server.answers["v1/site"] = answer
        got, told = status(server.url)
    assert got == code, told
    assert says in told
    assert "\x1b" not in told


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "_TIMEOUT", httpx.Timeout(0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with Api(f"http://127.0.0.1:{silent.getsockname()[1]}", TOKEN) as api, pytest.raises(TransferError) as caught:
            api.get("/site", SiteStatus)
    assert caught.value.code == "transfer.too_slow"
    assert time.monotonic() - started < 5


def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "MAX_ANSWER", 100_000)
    with HostileServer({"v1/site": b" " * 1_000_000}) as server, Api(server.url, TOKEN) as api:
        with pytest.raises(TransferError) as caught:
            api.get("/site", SiteStatus)
        assert caught.value.code == "transfer.too_long"


def test_public_files_are_asked_for_without_the_token() -> None:
    with HostileServer({"distribution/metadata/timestamp.json": b"{}"}) as server, Api(server.url, TOKEN) as api:
        url = f"{server.url}/distribution/metadata/timestamp.json"
        assert b"".join(api.fetch(url, 100)) == b"{}"
        with pytest.raises(TransferError, match="longer than 1 bytes"):
            list(api.fetch(url, 1))
        with pytest.raises(TransferError) as caught:
            list(api.fetch(f"{server.url}/nothing", 100))
        assert caught.value.code == "transfer.not_found"
        assert server.requests
        assert not any(TOKEN.encode() in request for request in server.requests)


def test_the_token_goes_to_the_site_only() -> None:
    with HostileServer() as server, Api(server.url, TOKEN) as api:
        with pytest.raises(PcmError):
            api.get("/redirect", SiteStatus)
        assert TOKEN.encode() in server.requests[0]
        assert len(server.requests) == 1, "no redirect is followed"


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "example.org", "127.0.0.1.example.org", "0.0.0.0", "[fe80::1]", "localhost.example.org"]
)
def test_plain_http_is_for_this_machine_only(host: str) -> None:
    with pytest.raises(RequestError) as caught:
        Api(f"http://{host}:8440", TOKEN)
    assert caught.value.code == "request.insecure"
    Api(f"http://{host}:8440", TOKEN, insecure_http=True)
    Api(f"https://{host}:8440", TOKEN)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "http://127.9.9.9:1"])
def test_this_machine_is_not_asked_through_a_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with HostileServer() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        with Api(url, TOKEN) as api, pytest.raises(TransferError):
            api.get("/site", SiteStatus)
        assert proxy.requests == []
