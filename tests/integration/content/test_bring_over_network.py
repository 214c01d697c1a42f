"""Steps 2 and 8 in one: a package directory is published, and a client brings it over a real transfer process, hostile servers included."""

import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from pcm.content.assembly import Brought, Wanted, bring, missing_files
from pcm.content.client_store import ClientStore
from pcm.content.objects import object_path, pack
from pcm.content.package_directory import scan
from pcm.distribution.app import create_app
from pcm.distribution.folder import DistributionFolder
from pcm.distribution.publish import StoreUploader, upload_missing
from pcm.model.content_policy import ContentPolicy
from pcm.model.errors import PcmError, TransferError, TrustError
from pcm.model.package import PackageFile
from pcm.service.content_carrier import ContentCarrier
from pcm.service.content_limits import Limits
from pcm.testing.hostile_server import HostileServer
from pcm.transport.client import TransferClient
from tests.asgi_server import served
from tests.transfer_process import open_process


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("package")
    (directory / "bin").mkdir()
    (directory / "bin/setup").write_bytes(b"#!/bin/sh\nexit 0\n")
    (directory / "large").write_bytes(os.urandom(3_000_000) + bytes(3_000_000))
    (directory / "empty").write_bytes(b"")
    for number in range(50):
        (directory / f"small{number}").write_bytes(f"small file {number}\n".encode() * number)
    return directory


@pytest.fixture
def published(package: Path, tmp_path: Path) -> tuple[DistributionFolder, tuple[PackageFile, ...]]:
    folder = DistributionFolder(tmp_path / "distribution")
    files = scan(package)
    upload_missing(package, files, StoreUploader(folder.objects))
    return folder, files


@pytest.fixture(scope="module")
def client() -> Iterator[TransferClient]:
    made = TransferClient(open_process)
    yield made
    made.close()


def bring_from(
    files: Sequence[PackageFile], store: ClientStore, sources: Sequence[str], client: TransferClient
) -> Brought:
    limits = Limits(ContentPolicy(), lambda: datetime(2026, 1, 5, 12), lambda: False)
    with ContentCarrier(client, lambda: TransferClient(open_process), limits) as carrier:
        return bring(Wanted(files), store, sources, carrier)


Published = tuple[DistributionFolder, tuple[PackageFile, ...]]


def file_of(files: tuple[PackageFile, ...], path: str) -> PackageFile:
    return next(file for file in files if file.path == path)


def replace_object(folder: DistributionFolder, file: PackageFile, packed: bytes) -> None:
    (folder.root / object_path(file.sha256)).write_bytes(packed)


def packed(plain: bytes) -> bytes:
    return b"".join(pack(io.BytesIO(plain), len(plain)))


@pytest.mark.parametrize("how", ["http", "directory"])
def test_a_published_package_arrives_whole(
    published: Published, package: Path, client: TransferClient, tmp_path: Path, how: str
) -> None:
    folder, files = published
    store = ClientStore(tmp_path / "store")
    if how == "directory":
        brought = bring_from(files, store, [str(folder.root)], client)
    else:
        with served(create_app(folder.root)) as url:
            brought = bring_from(files, store, [f"{url}/distribution"], client)
    assert brought.complaints == ()
    for file in files:
        assert b"".join(store.read(file.sha256, file.length)) == (package / file.path).read_bytes()


def test_a_dead_server_and_a_lying_one_are_passed_over(
    published: Published, client: TransferClient, tmp_path: Path
) -> None:
    folder, files = published
    setup = file_of(files, "bin/setup")
    with HostileServer({object_path(setup.sha256): packed(b"#!/bin/sh\nexit 1\n")}) as lying:
        sources = ["http://127.0.0.1:1", lying.url, str(folder.root)]
        brought = bring_from([setup], ClientStore(tmp_path / "store"), sources, client)
    assert [(each.source, each.code) for each in brought.complaints] == [
        ("http://127.0.0.1:1", "transfer.unreachable"),
        (lying.url, "trust.content"),
    ]


@pytest.mark.parametrize(
    ("attack", "error", "code"),
    [
        ("changed", TrustError, "trust.content"),
        ("longer", TrustError, "trust.endless_data"),
        ("shorter", TrustError, "trust.content"),
        ("bit flipped", TrustError, "trust.content"),
        ("cut", TrustError, "trust.content"),
        ("another file", TrustError, "trust.content"),
        ("gone", TransferError, "transfer.not_found"),
        ("a page", TrustError, "trust.content"),
    ],
)
def test_a_stolen_server_changes_nothing(
    published: Published, client: TransferClient, tmp_path: Path, attack: str, error: type[PcmError], code: str
) -> None:
    folder, files = published
    setup = file_of(files, "bin/setup")
    right = (folder.root / object_path(setup.sha256)).read_bytes()
    contents = {
        "changed": packed(b"#!/bin/sh\nexit 1\n"),
        "longer": packed(b"#!/bin/sh\nexit 0\n# and more\n"),
        "shorter": packed(b"#!/bin/sh\n"),
        "bit flipped": right[:-3] + bytes([right[-3] ^ 1]) + right[-2:],
        "cut": right[:-4],
        "another file": packed(b"small file 1\n"),
        "a page": b"<html>Please log in to this hotel's network</html>",
    }
    if attack == "gone":
        folder.objects.delete(setup.sha256)
    else:
        replace_object(folder, setup, contents[attack])
    store = ClientStore(tmp_path / "store")
    with pytest.raises(error) as caught:
        bring_from([setup], store, [str(folder.root)], client)
    assert caught.value.code == code
    assert str(folder.root) in caught.value.message
    assert missing_files([setup], store) == [setup]
    assert not [path for path in store.root.rglob("*") if path.is_file() and path.stat().st_size]


def test_q140051_a_second_version_brings_only_what_changed(
    published: Published, package: Path, client: TransferClient, tmp_path: Path
) -> None:
    folder, files = published
    store = ClientStore(tmp_path / "store")
    bring_from(files, store, [str(folder.root)], client)
    second = tmp_path / "second"
    shutil.copytree(package, second)
    (second / "small3").write_bytes(b"changed")
    (second / "renamed").write_bytes((second / "large").read_bytes())
    (second / "large").unlink()
    newer = scan(second)
    assert upload_missing(second, newer, StoreUploader(folder.objects)) == 1
    brought = bring_from(newer, store, [str(folder.root)], client)
    assert (brought.files, brought.bytes) == (1, 7)
    assert hashlib.sha256(b"changed").hexdigest() in {held.sha256 for held in store.list()}
