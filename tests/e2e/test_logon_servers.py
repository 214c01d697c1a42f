"""Several servers of each kind, each logon server with a lease key of its own: embedded, a folder that clients reach as files, and
files that any web server gives out. Clients change between them in mid-life.
"""

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from pcm.site import configuration
from tests.e2e.fleet import Client, Site, eventually, shared_folder
from tests.e2e.front import Front

TOMORROW = timedelta(days=-1)  # ago


class Plain(http.server.SimpleHTTPRequestHandler):
    """Any web server: it gives out files."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[Path, str]]:
    with shared_folder() as folder:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Plain, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def site(web: tuple[Path, str]) -> Iterator[Site]:
    plain, url = web
    with shared_folder() as folder, Front() as front:
        share = folder / "share"
        made = Site(
            folder,
            front,
            init_arguments=(
                "--logon", f"share=file://{share}/logon,{share}/logon",
                "--logon", f"plain={url}/logon,{plain}/logon",
                "--distribution", f"share=file://{share}/packages,{share}/packages",
                "--distribution", f"plain={url}/packages,{plain}/packages",
            ),
        )  # fmt: skip
        made.initialise()
        made.configure(tick_s=0.5)  # how soon it looks for reports that were left in a folder
        for place in (share, share / "logon", share / "packages", plain / "logon", plain / "packages"):
            place.chmod(0o755)
        made.serve()
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def client(site: Site, request: pytest.FixtureRequest) -> Client:
    made = site.enrol(request.node.name.replace("_", "-")[:60])
    made.once()
    return made


def lease(folder: Path, client: Client) -> tuple[str, int]:
    """Whose key signed a logon server's lease for a client, and its version."""
    found = json.loads((folder / "clients" / client.client_id / "timestamp.json").read_bytes())
    return found["signatures"][0]["keyid"], found["signed"]["version"]


def test_a_client_changes_servers_in_mid_life(site: Site, web: tuple[Path, str], client: Client) -> None:
    share, plain = site.folder / "share", web[0]
    site.make_package("tool")
    assert client.pcmsvc_json("status")["logon_server"] == f"{site.front.url}/logon"
    signers = {lease(folder, client)[0] for folder in (site.root / "logon", share / "logon", plain / "logon")}
    assert len(signers) == 3, "each has a lease key of its own"

    job = site.order("tool", group=client.home.name)
    told = share / "logon" / "clients" / client.client_id
    eventually(lambda: any(job in path.read_text() for path in told.glob("*.instructions.json")))
    site.stop()
    answered = client.once()
    assert answered["problem"] is None, answered
    assert site.ran() == ["tool 1.0 install quick"], "instructions and files came from the share"
    assert client.pcmsvc_json("status")["logon_server"] == f"file://{share}/logon"

    # the share goes as well: a plain web server has the same files, under its own lease
    (share / "logon").rename(share / "gone")
    try:
        assert client.once()["problem"] is None
        assert client.pcmsvc_json("status")["logon_server"] == f"{web[1]}/logon"
    finally:
        (share / "gone").rename(share / "logon")

    site.serve()
    client.once()
    eventually(lambda: site.job_states(job) == {client.client_id: "succeeded"})
    again = site.order("tool", group=client.home.name)
    assert client.once()["problem"] is None
    assert site.ran() == ["tool 1.0 install quick"] * 2
    eventually(lambda: site.job_states(again) == {client.client_id: "succeeded"})
    assert client.shown_refusals() == []


def test_leases_are_renewed_where_nobody_asks(site: Site, client: Client) -> None:
    share = site.folder / "share" / "logon"
    before = lease(share, client)
    site.stop()
    site.serve(TOMORROW)
    try:
        eventually(lambda: lease(share, client)[1] > before[1])
        after = lease(share, client)
    finally:
        site.stop()
    assert after[0] == before[0], "by the same key"
    assert after[1] >= before[1] + 86_000_000, "as of tomorrow"
    assert client.once(ago=TOMORROW)["problem"] is None
    assert client.pcmsvc_json("status")["logon_server"] == f"file://{share}"
    site.serve()


def test_q199994_a_removed_server_disappears_from_instructions(site: Site, client: Client) -> None:
    share = f"file://{site.folder}/share/logon"
    assert share in client.newest()["servers"]["logon"]
    before = configuration.read(site.root)
    kept = tuple(server for server in before.logon if server.name != "share")
    site.stop()
    configuration.write(site.root, msgspec.structs.replace(before, logon=kept))
    site.serve()
    eventually(lambda: share not in client.newest()["servers"]["logon"])
    client.once()
    job = site.order("tool", group=client.home.name) if "tool" in site.pcm("package", "list").out else ""
    assert client.once()["problem"] is None
    eventually(lambda: not job or site.job_states(job) == {client.client_id: "succeeded"})
    listed = site.json("status")["servers"]
    assert [each["name"] for each in listed if each["kind"] == "logon"] == ["site", "plain"]
    site.stop()
    configuration.write(site.root, before)
    site.serve()
    eventually(lambda: share in client.newest()["servers"]["logon"])
