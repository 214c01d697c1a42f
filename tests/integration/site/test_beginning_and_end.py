"""Making a site, starting it, stopping it, and starting it again: as a process of its own."""

import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from pcm.model.errors import MachineError, PcmError, RequestError, StoreError
from pcm.site import configuration, initialise
from pcm.site.configuration import Server, SiteConfiguration
from pcm.site.serve import Serving
from pcm.testing.small_site import SmallSite, make_small_site
from pcm.trust.keyring import Keyring
from tests.integration.site.served import free_port, serve_small_site

SERVE = "import sys; from pathlib import Path; from pcm.site.serve import serve; serve(Path(sys.argv[1]))"


@contextmanager
def process(small: SmallSite) -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen([sys.executable, "-c", SERVE, str(small.folder)], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert running.poll() is None, running.stderr and running.stderr.read().decode()
            try:
                if httpx.get(f"{small.configuration.url}/readyz", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()
        if running.stderr is not None:
            running.stderr.close()


@pytest.fixture
def small(tmp_path: Path) -> SmallSite:
    return make_small_site(tmp_path, url=f"http://127.0.0.1:{free_port()}")


def test_it_stops_in_order_when_told_to(small: SmallSite) -> None:
    with process(small) as running:
        assert httpx.get(f"{small.configuration.url}/healthz", trust_env=False).text == "ok"
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=15) == 0
    with sqlite3.connect(small.folder / "site.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def test_hundreds_of_connections_that_are_left_open_keep_nobody_out(small: SmallSite) -> None:
    """Clients that wait for news are such."""
    host, _, port = small.configuration.url.removeprefix("http://").partition(":")
    with process(small), ExitStack() as stack:
        for _ in range(400):
            connection = stack.enter_context(socket.create_connection((host, int(port)), 10))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert httpx.get(f"{small.configuration.url}/healthz", trust_env=False, timeout=10).text == "ok"


def test_killed_and_started_again_it_goes_on(small: SmallSite) -> None:
    headers = {"authorization": f"Bearer {small.admin_token}"}
    url = f"{small.configuration.url}/v1"
    with process(small) as running:
        made = httpx.post(f"{url}/groups", headers=headers, json={"name": "kept"}, trust_env=False)
        assert made.status_code == 201
        running.send_signal(signal.SIGKILL)
        running.wait()
    with process(small):
        assert httpx.get(f"{url}/groups/kept", headers=headers, trust_env=False).status_code == 200


def test_a_taken_address_is_named(tmp_path: Path) -> None:
    with serve_small_site(tmp_path / "one") as served:
        second = Serving(make_small_site(tmp_path / "two", url=served.url).folder)
        with pytest.raises(MachineError) as raised:
            second.run(signals=False)
        assert raised.value.code == "machine.address"


def test_a_folder_is_served_by_one_process_whatever_the_address(small: SmallSite) -> None:
    with process(small) as running:
        with pytest.raises(StoreError) as raised:
            Serving(small.folder, listen=("127.0.0.1", free_port()))
        assert raised.value.code == "store.in_use"
        assert str(running.pid) in raised.value.message
        running.kill()
        running.wait()
    with process(small):
        pass  # a killed one leaves no lock behind


def test_what_cannot_be_opened_is_not_locked_either(small: SmallSite) -> None:
    hidden = small.folder / "keys" / "policy.pem"
    kept = hidden.read_bytes()
    hidden.unlink()
    for _ in range(2):
        with pytest.raises(PcmError) as raised:
            Serving(small.folder)
        assert raised.value.code != "store.in_use"
    hidden.write_bytes(kept)
    hidden.chmod(0o600)
    with process(small):
        pass


def test_readiness_follows_the_folders(tmp_path: Path) -> None:
    with serve_small_site(tmp_path) as served:
        assert served.http.get(f"{served.url}/readyz").status_code == 200
        folder = served.site.own_distribution.root
        folder.rename(folder.with_name("away"))
        answer = served.http.get(f"{served.url}/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "store.not_writable")
        assert served.http.get(f"{served.url}/healthz").status_code == 200
        folder.with_name("away").rename(folder)


# --- pcm site init -----------------------------------------------------------------------------------------------------------


def begin(folder: Path, **changes: object) -> initialise.Made:
    servers = (Server("main", "http://127.0.0.1:1/x"),)
    fields: dict[str, object] = {"name": "s", "url": "http://127.0.0.1:1", "logon": servers, "distribution": servers}
    settings = SiteConfiguration(**{**fields, **changes})  # type: ignore[arg-type]
    beginning = initialise.Beginning(settings, ("base",))
    return initialise.initialise(folder / "site", beginning, Keyring(folder / "offline", rounds=2))


def test_a_new_site_has_everything_and_its_secrets_are_private(tmp_path: Path) -> None:
    made = begin(tmp_path)
    assert made.offline_keys == ("root-1", "root-2", "root-3", "targets", "team-base")
    secrets = [*(tmp_path / "site" / "keys").glob("*.pem"), made.token_file, tmp_path / "site" / "site.yaml"]
    assert {path.stem for path in secrets} >= {"policy", "lease-main", "online", "token", "admin"}
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((tmp_path / "site" / "site.db").stat().st_mode) & 0o077 == 0
    assert configuration.read(tmp_path / "site").name == "s"


def test_a_site_is_never_made_over_another(tmp_path: Path) -> None:
    begin(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "site").rglob("*") if path.is_file()}
    with pytest.raises(RequestError) as raised:
        begin(tmp_path)
    assert raised.value.code == "conflict"
    assert {path: path.read_bytes() for path in (tmp_path / "site").rglob("*") if path.is_file()} == before


def test_what_an_interrupted_attempt_left_is_not_overwritten(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / "site" / "site.yaml").unlink()
    with pytest.raises(RequestError) as raised:
        begin(tmp_path)
    assert "interrupted" in raised.value.message


def test_offline_keys_that_exist_are_kept(tmp_path: Path) -> None:
    key = Keyring(tmp_path / "offline", rounds=2).create("root-1")
    with pytest.raises(RequestError) as raised:
        begin(tmp_path)
    assert raised.value.code == "conflict"
    assert Keyring(tmp_path / "offline").public("root-1").keyid == key.keyid


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Bad Name"},
        {"url": "/folder"},
        {"listen": "nowhere"},
        {"listen": "127.0.0.1:99999"},
        {"database": "mysql://x"},
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(PcmError) as raised:
        begin(tmp_path, **changes)
    assert raised.value.code.startswith("request.")
    assert not (tmp_path / "site" / "site.yaml").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "name: 5",
        "a: &a [*a]",
        "x: !!python/object:os.system {}",
        "name: s\nurl: http://x\nlogon: []\ndistribution: []",
    ],
)
def test_a_broken_configuration_is_named(tmp_path: Path, text: str) -> None:
    begin(tmp_path)
    (tmp_path / "site" / "site.yaml").write_text(text)
    with pytest.raises(RequestError) as raised:
        Serving(tmp_path / "site")
    assert raised.value.code == "request.configuration"
    assert "site.yaml" in raised.value.message


def test_no_site_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as raised:
        Serving(tmp_path)
    assert raised.value.code == "not_found"


def test_a_missing_online_key_is_named(tmp_path: Path) -> None:
    begin(tmp_path)
    for suffix in ("pem", "json"):
        (tmp_path / "site" / "keys" / f"policy.{suffix}").unlink()
    with pytest.raises(RequestError) as raised:
        Serving(tmp_path / "site")
    assert (raised.value.code, "policy" in raised.value.message) == ("request.key", True)


def test_an_exposed_online_key_is_refused(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / "site" / "keys" / "policy.pem").chmod(0o644)
    with pytest.raises(RequestError) as raised:
        Serving(tmp_path / "site")
    assert raised.value.code == "request.key_exposed"


def test_a_share_needs_a_folder_that_the_site_writes_to(small: SmallSite) -> None:
    known = configuration.read(small.folder)
    share = Server("share", "smb://files.example.org/pcm/logon")
    with pytest.raises(RequestError, match="name the folder") as raised:
        configuration.check(msgspec.structs.replace(known, logon=(*known.logon, share)))
    assert raised.value.code == "request.configuration"
    named = msgspec.structs.replace(share, folder="/mnt/pcm/logon")
    assert configuration.check(msgspec.structs.replace(known, logon=(*known.logon, named)))
    with pytest.raises(RequestError, match="http"):
        configuration.check(msgspec.structs.replace(known, url="smb://files.example.org/pcm"))
