"""Updates over real HTTP and real transfer processes, by bundles that the site makes: few bytes, few requests, killed anywhere."""

import hashlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pcm.content.bundle_index import Listing
from pcm.content.client_store import ClientStore
from pcm.content.package_directory import scan
from pcm.distribution.folder import DistributionFolder
from pcm.distribution.improving import improve
from pcm.distribution.publish import StoreUploader, upload_missing
from pcm.model.package import PackageFile
from tests.integration.content.bringing import Case
from tests.range_server import RangeServer, range_server

ROOT = Path(__file__).parents[3]
MEBI = 1 << 20
_SCRIPT = "from tests.integration.content.bringing import main; main()"


class Update:
    """Two versions on a server's folder, and what a client has to know of them."""

    def __init__(self, root: Path) -> None:
        chance = random.Random(11)
        # packs badly, so that there is something to fetch; changed all over, so that patches are not nothing
        large, library = chance.randbytes(9_000_000), chance.randbytes(6_000_000)
        changed = bytearray(library)
        for _ in range(40):
            at = chance.randrange(len(changed) - 60_000)
            changed[at : at + 50_000] = chance.randbytes(50_000)
        small = {f"doc/page{number}": chance.randbytes(700) for number in range(120)}
        self.old = self._publish(root, "old", {"large": large, "library": library, **small})
        new = {
            "large": large,
            "library": bytes(changed),
            **small,
            "doc/page7": b"changed",
            "added": chance.randbytes(2_500_000),
        }
        self.new = self._publish(root, "new", new)
        improve(root / "server", self.new, [self.old], level=None, thorough=False)
        self.contents = {hashlib.sha256(data).hexdigest(): data for data in new.values()}
        self.case = root / "case.json"
        self.case.write_bytes(
            msgspec.json.encode(
                Case((self.new.sha256, tuple(self.new.files)), (self.old.sha256, tuple(self.old.files)))
            )
        )
        self.served = {
            f"/{path.relative_to(root / 'server')}": (path.read_bytes(), f'"{path.name}"')
            for path in (root / "server").rglob("*")
            if path.is_file()
        }

    def _publish(self, root: Path, name: str, contents: dict[str, bytes]) -> Listing:
        for path, data in contents.items():
            (root / name / path).parent.mkdir(parents=True, exist_ok=True)
            (root / name / path).write_bytes(data)
        files = scan(root / name)
        upload_missing(root / name, files, StoreUploader(DistributionFolder(root / "server").objects))
        return Listing(hashlib.sha256(name.encode()).hexdigest(), files)


@pytest.fixture(scope="module")
def update(tmp_path_factory: pytest.TempPathFactory) -> Update:
    return Update(tmp_path_factory.mktemp("update"))


@pytest.fixture
def server(update: Update) -> Iterator[RangeServer]:
    with range_server() as served:
        served.files = dict(update.served)
        yield served


def client_of(update: Update, root: Path, *, from_nothing: bool = False) -> ClientStore:
    store = ClientStore(root / "store")
    if not from_nothing:
        for file in update.old.files:
            data = (update.case.parent / "old" / file.path).read_bytes()
            store.add(file.sha256, file.length, (data,), "before")
    return store


def begin(update: Update, store: ClientStore, *servers: RangeServer) -> "subprocess.Popen[bytes]":
    arguments = [str(update.case), str(store.root), *(each.url for each in servers)]
    return subprocess.Popen([sys.executable, "-c", _SCRIPT, *arguments], cwd=ROOT, stdout=subprocess.PIPE)


def finish(process: "subprocess.Popen[bytes]") -> dict[str, int]:
    """Bytes that travelled, by way."""
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    ways: dict[str, int] = {}
    for each in json.loads(told):
        ways[each["way"]] = ways.get(each["way"], 0) + each["bytes"]
    return ways


def check(update: Update, store: ClientStore) -> None:
    files: dict[str, PackageFile] = {file.sha256: file for file in update.new.files}
    for file in files.values():
        assert b"".join(store.read(file.sha256, file.length)) == update.contents[file.sha256]


def test_an_update_takes_few_requests_and_few_bytes(update: Update, server: RangeServer, tmp_path: Path) -> None:
    store = client_of(update, tmp_path)
    ways = finish(begin(update, store, server))
    check(update, store)
    assert len(server.asked) <= 4
    assert set(ways) == {"patch", "whole"}  # what has nothing it could be made from
    assert server.sent < 5_500_000  # of the 8.5 MB of changed files
    assert sum(ways.values()) == server.sent


def test_from_nothing_small_files_come_together_and_large_ones_whole(
    update: Update, server: RangeServer, tmp_path: Path
) -> None:
    store = client_of(update, tmp_path, from_nothing=True)
    ways = finish(begin(update, store, server))
    check(update, store)
    assert len(server.asked) <= 8
    assert set(ways) >= {"small", "whole"}


@pytest.mark.parametrize("from_nothing", [False, True], ids=["update", "from nothing"])
def test_killed_again_and_again_each_byte_travels_about_once(
    update: Update, server: RangeServer, tmp_path: Path, from_nothing: bool
) -> None:
    once = client_of(update, tmp_path / "once", from_nothing=from_nothing)
    finish(begin(update, once, server))
    clean, kills, chance = server.sent, 5, random.Random(3)
    store = client_of(update, tmp_path / "killed", from_nothing=from_nothing)
    server.sent, server.rate = 0, 6_000_000
    for _ in range(kills):
        at = server.sent + chance.randrange(clean // 6, clean // 4)
        process = begin(update, store, server)
        server.on_sent = lambda sent, at=at, process=process: process.kill() if sent >= at else None  # type: ignore[misc]
        process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    server.on_sent = lambda _: None
    finish(begin(update, store, server))
    check(update, store)
    assert server.sent - clean < kills * MEBI
    assert not list(store.root.glob("parts/*"))


def test_a_server_that_goes_in_mid_bundle_is_followed_by_another(
    update: Update, server: RangeServer, tmp_path: Path
) -> None:
    store = client_of(update, tmp_path)
    with range_server() as other:
        other.files = dict(update.served)

        def fall_silent(sent: int) -> None:
            if sent >= 2_000_000:
                raise ConnectionAbortedError

        server.on_sent = fall_silent
        finish(begin(update, store, server, other))
    check(update, store)
    assert other.sent > 0
    assert server.sent + other.sent < 5_500_000 + MEBI


def test_a_bundle_with_a_wrong_bit_is_made_good_by_whole_files(
    update: Update, server: RangeServer, tmp_path: Path
) -> None:
    store = client_of(update, tmp_path)
    for path, (data, tag) in list(server.files.items()):
        if path.startswith("/bundles/"):
            server.files[path] = (data[:-9000] + bytes([data[-9000] ^ 1]) + data[-8999:], tag)
    ways = finish(begin(update, store, server))
    check(update, store)
    assert "whole" in ways


def test_without_bundles_an_update_comes_whole(update: Update, server: RangeServer, tmp_path: Path) -> None:
    server.files = {path: held for path, held in server.files.items() if path.startswith("/objects/")}
    store = client_of(update, tmp_path)
    assert set(finish(begin(update, store, server))) == {"whole"}
    check(update, store)
