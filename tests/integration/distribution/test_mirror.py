"""Copies of a distribution server: folders, buckets, from the web; right at every moment, and checked."""

import functools
import hashlib
import http.server
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from pcm.content.objects import object_path
from pcm.distribution.bucket import BucketKey, BucketShelf
from pcm.distribution.mirror import mirror
from pcm.distribution.shelf import FolderShelf, Shelf
from pcm.distribution.web import WebSource
from pcm.model.errors import RequestError, StoreError, TransferError, TrustError
from pcm.site import content_views, delivery
from pcm.site.authority import Site
from pcm.site.distribution_servers import DistributionServer
from pcm.testing.small_site import SmallSite, make_package, make_small_site

CONTENTS = {f"file{number}": b"content %d " % number * 300 for number in range(60)}
OTHER = {"other": b"another package"}


@pytest.fixture
def small(tmp_path: Path) -> SmallSite:
    return make_small_site(tmp_path / "made")


@pytest.fixture
def site(small: SmallSite) -> Iterator[Site]:
    opened = small.open()
    small.publish(opened, make_package(contents=CONTENTS), CONTENTS)
    small.publish(opened, make_package("other", contents=OTHER), OTHER)
    yield opened
    opened.close()


@pytest.fixture
def source(site: Site) -> FolderShelf:
    return FolderShelf(site.home.root)


def files(shelf: Shelf) -> dict[str, int]:
    ours = ("objects/", "targets/", "metadata/", "bundles/")
    return {each.name: each.size for each in shelf.list("") if each.name.startswith(ours)}


def test_a_copy_has_what_clients_need_and_a_second_run_copies_nothing(source: FolderShelf, tmp_path: Path) -> None:
    target = FolderShelf(tmp_path / "stick")
    done = mirror(source, target)
    assert done.packages == 2
    needed = {name for name in files(source) if name.startswith(("objects/", "targets/"))}
    assert needed <= set(files(target))
    assert target.read("metadata/timestamp.json", 10**6) == source.read("metadata/timestamp.json", 10**6)
    again = mirror(source, target)
    assert again.copied == 0
    assert again.kept == len(files(target))


def test_one_package_alone_and_pruning(source: FolderShelf, tmp_path: Path) -> None:
    target = FolderShelf(tmp_path / "stick")
    assert mirror(source, target, packages=("other",)).packages == 1
    assert len(list(target.list("objects/"))) == 1
    mirror(source, target)
    target.write("notes.txt", (b"mine",))
    target.write("objects/ab/" + "ab" * 32 + ".zst", (b"nobody names it",))
    assert mirror(source, target, packages=("other",)).removed == 0  # nothing goes without being asked for
    assert mirror(source, target, packages=("other",), prune=True).removed == len(CONTENTS) + 2
    assert len(list(target.list("objects/"))) == 1
    assert target.read("notes.txt", 10) == b"mine"
    with pytest.raises(RequestError) as raised:
        mirror(source, target, packages=("nothing",))
    assert raised.value.code == "not_found"


def test_killed_at_any_moment_a_copy_is_right_and_goes_on(source: FolderShelf, tmp_path: Path) -> None:
    target = FolderShelf(tmp_path / "stick")
    for number in range(4):
        child = os.fork()
        if child == 0:
            mirror(source, target)
            os._exit(0)
        time.sleep(0.01 * number)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if target.size("metadata/timestamp.json") is not None:  # then everything that it names is there
            assert {name for name in files(source) if name.startswith("objects/")} <= set(files(target))
    mirror(source, target, check=True)
    assert {name for name in files(source) if name.startswith("objects/")} <= set(files(target))


def test_what_is_damaged_in_a_copy_is_found_and_brought_anew(source: FolderShelf, tmp_path: Path) -> None:
    target = FolderShelf(tmp_path / "stick")
    mirror(source, target)
    name = next(iter(target.list("objects/"))).name
    (target.root / name).write_bytes(b"damaged")
    assert mirror(source, target).copied == 0
    assert mirror(source, target, check=True).copied == 1
    assert files(target)[name] == files(source)[name]


def test_a_source_that_is_damaged_or_lies_spoils_no_copy(source: FolderShelf, tmp_path: Path) -> None:
    target = FolderShelf(tmp_path / "stick")
    mirror(source, target)
    newest = target.read("metadata/timestamp.json", 10**6)
    evil = FolderShelf(tmp_path / "evil")
    shutil.copytree(source.root, evil.root)
    [manifest] = evil.root.glob("targets/packages/*/other/*/*.manifest.json")
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(TrustError):
        mirror(evil, FolderShelf(tmp_path / "fresh"))
    shutil.rmtree(evil.root)
    shutil.copytree(source.root, evil.root)
    snapshot = max(evil.root.glob("metadata/*.snapshot.json"), key=lambda path: int(path.name.partition(".")[0]))
    snapshot.write_bytes(snapshot.read_bytes().replace(b'"base.json"', b'"../../base.json"'))
    with pytest.raises(TrustError):
        mirror(evil, target)
    name = next(iter(evil.list("objects/"))).name
    (evil.root / name).write_bytes(b"damaged")
    shutil.copy(
        max(source.root.glob("metadata/*.snapshot.json"), key=lambda path: int(path.name.partition(".")[0])), snapshot
    )
    with pytest.raises(TrustError):
        mirror(evil, FolderShelf(tmp_path / "another"))
    assert FolderShelf(tmp_path / "another").size("metadata/timestamp.json") is None
    assert target.read("metadata/timestamp.json", 10**6) == newest


class Endless(io.RawIOBase):
    """A file of a server that never stops, with a limit so that a test that fails ends."""

    def __init__(self, most: int = 64 * 2**20) -> None:
        super().__init__()
        self.left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.left)
        self.left -= count
        buffer[:count] = bytes(count)
        return count


@pytest.mark.parametrize("kind", ["objects/", "bundles/"])
def test_a_source_that_never_ends_a_file_fills_neither_memory_nor_the_copy(
    source: FolderShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    opened: list[Endless] = []
    told = source.open

    def give(name: str) -> BinaryIO:
        if not name.startswith(kind):
            return told(name)
        opened.append(Endless())
        return cast("BinaryIO", io.BufferedReader(opened[-1], 2**16))

    monkeypatch.setattr(source, "open", give)
    size = source.size
    monkeypatch.setattr(source, "size", lambda name: 100 if name.startswith("bundles/") else size(name))
    target = FolderShelf(tmp_path / "stick")
    with pytest.raises(TrustError) as raised:
        mirror(source, target)
    assert raised.value.code == "trust.endless_data"
    assert opened[0].left > 60 * 2**20
    assert not list(target.list(kind))
    assert target.size("metadata/timestamp.json") is None


def test_a_bundle_that_is_longer_than_all_its_files_is_not_begun(
    source: FolderShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = source.size
    monkeypatch.setattr(source, "size", lambda name: 2**50 if name.startswith("bundles/") else size(name))
    with pytest.raises(TrustError) as raised:
        mirror(source, FolderShelf(tmp_path / "stick"))
    assert raised.value.code == "trust.endless_data"


@pytest.mark.parametrize(
    "signed", ['{"meta": 7}', "{}", '{"meta": {"snapshot.json": {}}}', "[" * 100_000, '{"meta": {"snapshot.json": []}}']
)
def test_a_source_whose_metadata_is_none_is_refused_in_words(tmp_path: Path, signed: str) -> None:
    evil = FolderShelf(tmp_path / "evil")
    evil.write("metadata/timestamp.json", (f'{{"signed": {signed}}}'.encode(),))
    with pytest.raises(TrustError) as raised:
        mirror(evil, FolderShelf(tmp_path / "stick"))
    assert raised.value.code == "trust.malformed"


def test_an_older_source_replaces_no_newer_copy(
    small: SmallSite, site: Site, source: FolderShelf, tmp_path: Path
) -> None:
    older = FolderShelf(tmp_path / "older")
    mirror(source, older)
    small.publish(site, make_package(version="1.1", release=2, contents=CONTENTS), CONTENTS)
    target = FolderShelf(tmp_path / "stick")
    mirror(source, target)
    with pytest.raises(RequestError) as raised:
        mirror(older, target)
    assert raised.value.code == "conflict"
    assert mirror(source, older).timestamp == mirror(source, target).timestamp


def test_from_the_web(source: FolderShelf, tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(source.root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        target = FolderShelf(tmp_path / "stick")
        done = mirror(WebSource(f"http://127.0.0.1:{server.server_port}"), target)
    finally:
        server.shutdown()
        server.server_close()
    assert done.packages == 2
    assert {name for name in files(source) if name.startswith("objects/")} <= set(files(target))


# --- buckets, against a real S3 server ---------------------------------------------------------------------------------------

KEY = BucketKey("an-access-key", "a-secret-key-of-some-length")


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if rclone is None:
        pytest.skip("rclone is not here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tmp_path / "buckets"
    (place / "content").mkdir(parents=True)
    command = [rclone, "serve", "s3", f"--auth-key={KEY.id},{KEY.secret}", f"--addr=127.0.0.1:{port}", str(place)]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"HOME": str(tmp_path), "PATH": os.defpath}
    )
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def bucket(endpoint: str) -> BucketShelf:
    return BucketShelf("content", "pcm", endpoint=endpoint, key=KEY)


def test_a_bucket_is_a_shelf_like_others(bucket: BucketShelf) -> None:
    assert bucket.read("a/b", 10) is None
    assert bucket.size("a/b") is None
    bucket.write("a/b", (b"1", b"2"))
    bucket.write_many({f"many/{number}": b"x" * number for number in range(1, 50)})
    assert bucket.read("a/b", 10) == b"12"
    assert bucket.sizes([f"many/{number}" for number in range(60)]) == {
        f"many/{number}": number for number in range(1, 50)
    }
    large = (bytes([number]) * 2**20 for number in range(40))
    bucket.write("large", large)
    assert bucket.size("large") == 40 * 2**20
    with bucket.open("large") as file:
        assert file.read(2**20) == bytes(2**20)
    with pytest.raises(RequestError):
        bucket.open("nothing")
    assert bucket.delete("large")
    assert not bucket.delete("large")
    assert {each.name for each in bucket.list("a/")} == {"a/b"}


def test_copies_go_into_buckets_and_come_out_of_them(source: FolderShelf, bucket: BucketShelf, tmp_path: Path) -> None:
    assert mirror(source, bucket).packages == 2
    assert mirror(source, bucket).copied == 0
    target = FolderShelf(tmp_path / "back")
    mirror(bucket, target)
    assert files(target) == files(bucket)


def test_a_site_brings_its_content_into_a_bucket(
    site: Site, small: SmallSite, bucket: BucketShelf, endpoint: str
) -> None:
    server = DistributionServer("cloud", endpoint, own=False, home=False, shelf=bucket)
    site.servers = (*site.servers, server)
    delivery.deliver_all(site)
    names = {name for name in files(FolderShelf(site.home.root)) if name.startswith("objects/")}
    assert names <= set(files(bucket))
    assert bucket.read("metadata/timestamp.json", 10**6) == site.home.read("metadata/timestamp.json")
    more = {"more": b"more" * 100}
    small.publish(site, make_package(version="2.0", release=2, contents=more), more)
    [name] = [object_path(file) for file in _names(more)]
    assert bucket.size(name) is not None
    with site.database.read() as connection:
        assert [each.state for each in content_views.servers(connection, site)] == ["in_step", "in_step"]


def _names(contents: dict[str, bytes]) -> list[str]:
    return [hashlib.sha256(body).hexdigest() for body in contents.values()]


def test_a_bucket_that_cannot_be_reached_or_opened_is_said_so(endpoint: str) -> None:
    wrong = BucketShelf("content", endpoint=endpoint, key=BucketKey(KEY.id, "a-wrong-secret-of-some-length"))
    with pytest.raises(StoreError) as raised:
        wrong.write("a", (b"1",))
    assert raised.value.code == "store.not_writable"
    nobody = BucketShelf("content", endpoint="http://127.0.0.1:9", key=KEY)
    with pytest.raises(StoreError) as raised:
        nobody.size("a")
    assert raised.value.code == "store.away"


class BreaksOff:
    """A source whose objects break off some times, as one does that is packed again while it is read."""

    def __init__(self, source: FolderShelf, times: int) -> None:
        self._source, self._times = source, times
        self._left: dict[str, int] = {}
        self.title, self.read, self.size = source.title, source.read, source.size

    def open(self, name: str) -> BinaryIO:
        file = self._source.open(name)
        if not name.startswith("objects/") or self._left.setdefault(name, self._times) == 0:
            return file
        self._left[name] -= 1
        file.close()

        class Broken(io.RawIOBase):
            came = False

            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                if self.came:
                    raise TransferError("It broke off.", code="transfer.failed")
                self.came = True
                buffer[:4] = b"\x28\xb5\x2f\xfd"
                return 4

        return cast("BinaryIO", io.BufferedReader(Broken()))


def test_objects_that_break_off_are_asked_for_again_but_not_for_ever(source: FolderShelf, tmp_path: Path) -> None:
    mirror(BreaksOff(source, 2), FolderShelf(tmp_path / "copy"))
    objects = {name: size for name, size in files(source).items() if name.startswith("objects/")}
    assert objects.items() <= files(FolderShelf(tmp_path / "copy")).items()
    with pytest.raises(TransferError):
        mirror(BreaksOff(source, 3), FolderShelf(tmp_path / "other"))
