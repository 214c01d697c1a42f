"""A client brings a package from a distribution server of each kind, with the real service; then the next version; then after a kill."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pcm.content.bundle_index import Listing
from pcm.content.objects import object_path, pack
from pcm.distribution.improving import improve
from pcm.model.package import PackageFile
from pcm.protocol.manifest import Manifest, write_manifest
from pcm.service.enrolment import install
from tests.integration.service_shell.static_site import Client, StaticSite, put, shared_folder
from tests.integration.sources.servers import KINDS, Server, nginx

MB = 1000 * 1000
NEEDS = {"share": ["samba"], "bucket": ["rclone"], "folder": [], "nginx": ["nginx"], "nginx with TLS": ["nginx"]}


class Place:
    """A site whose distribution folder a foreign server shows, and one client of it."""

    def __init__(self, site: StaticSite, server: Server, folder: Path) -> None:
        self.site, self.server, self.marker = site, server, folder / "installed"
        self.client = Client(site, folder / "client")
        changes: dict[str, Any] = {"distribution": (server.url,)}
        if server.authority is not None:
            changes["ca_file"] = str(server.authority)
        install(self.client.places, site.configuration(**changes))
        if server.account is not None:
            account, password = server.account
            secret = self.client.places.config / "secret"
            write_private(secret, f"{password}\n")
            write_private(self.client.places.account, json.dumps({**account, "password_file": str(secret)}))

    def publish(self, version: str, release: int, contents: dict[str, bytes]) -> Manifest:
        script = f"#!/bin/sh\necho {version} >> {self.marker}\n".encode()
        files = []
        for path, content in {**contents, "setup.sh": script}.items():
            sha256 = hashlib.sha256(content).hexdigest()
            put(self.site.distribution_folder / object_path(sha256), b"".join(pack(io.BytesIO(content), len(content))))
            files.append(PackageFile(path, len(content), sha256, executable=path == "setup.sh"))
        return self.site.package(self.marker, version=version, release=release, files=tuple(files))

    def order(self, manifest: Manifest, number: int) -> None:
        self.site.order(self.client.client_id, [self.client.mandatory(manifest, number=number)])

    def holds(self, manifest: Manifest) -> bool:
        store = self.client.places.store
        found = [store / file.sha256[:2] / file.sha256 for file in manifest.files if file.length]
        return all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in found)


def listing(manifest: Manifest) -> Listing:
    return Listing(hashlib.sha256(write_manifest(manifest)).hexdigest(), manifest.files)


def write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)


def contents() -> dict[str, bytes]:
    """Paths with blanks and accents, an empty file, small ones and a large one that nothing makes smaller."""
    small = {f"lib/module {number}.py": f"value = {number}\n".encode() * 50 for number in range(40)}
    return {**small, "leer": b"", "data/größe.bin": os.urandom(6 * MB), "text": b"the same line again\n" * 100_000}


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.needs(*NEEDS[kind])) for kind in KINDS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        root = stack.enter_context(shared_folder())
        (root / "distribution").mkdir()
        server = stack.enter_context(KINDS[request.param](root))
        yield Place(StaticSite(root), server, tmp_path)


def test_a_package_and_its_next_version_come_whole_from_any_kind_of_server(place: Place) -> None:
    first = contents()
    manifest = place.publish("1.0", 5, first)
    place.order(manifest, 1)
    said = place.client.run("once", code=None)
    assert place.marker.exists(), said.stdout + said.stderr
    assert place.holds(manifest)
    assert place.server.url in said.stdout  # where it came from is told
    edited = first["data/größe.bin"][: 3 * MB] + b"edited" + first["data/größe.bin"][3 * MB :]
    changed = {**first, "data/größe.bin": edited, "lib/module 7.py": b"value = 8\n", "data/new": os.urandom(70_000)}
    del changed["lib/module 8.py"]
    later = place.publish("2.0", 6, changed)
    improve(place.site.distribution_folder, listing(later), [listing(manifest)], level=None, thorough=False)
    place.order(later, 2)
    said = place.client.run("once", code=None)
    assert place.marker.read_text().splitlines() == ["1.0", "2.0"], said.stdout + said.stderr
    assert place.holds(later)
    assert re.search(r"content: [1-9][0-9]* files? by patch", said.stdout), said.stdout


def test_a_damaged_object_is_refused_and_the_server_named(place: Place) -> None:
    manifest = place.publish("1.0", 5, {"data": os.urandom(300_000)})
    [data] = [file for file in manifest.files if file.path == "data"]
    path = place.site.distribution_folder / object_path(data.sha256)
    other = os.urandom(300_000)
    path.write_bytes(b"".join(pack(io.BytesIO(other), len(other))))
    place.order(manifest, 1)
    said = place.client.run("once", code=None)
    assert not place.marker.exists()
    assert f"{place.server.url} gives other bytes" in said.stdout
    assert "[trust.content]" in said.stdout


@pytest.mark.needs("nginx")
@pytest.mark.timeout(120)
def test_after_a_kill_hardly_a_byte_travels_twice(tmp_path: Path) -> None:
    """kill -9 in the middle of a large file; the next check goes on where this one was."""
    with ExitStack() as stack:
        root = stack.enter_context(shared_folder())
        (root / "distribution").mkdir()
        server = stack.enter_context(nginx(root, more="limit_rate 6m;"))
        place = Place(StaticSite(root), server, tmp_path)
        manifest = place.publish("1.0", 5, {"data": os.urandom(24 * MB)})
        place.order(manifest, 1)
        command = [sys.executable, "-m", "pcm.service.main", "--home", str(place.client.home), "once"]
        check = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_bytes(place, 9 * MB)
        check.send_signal(signal.SIGKILL)
        check.wait()
        time.sleep(1)  # nginx notices, and writes down what it has sent
        place.client.run("once", code=None)
        assert place.marker.exists()
        assert server.log is not None
        sent = [int(line.split()[2]) for line in server.log.read_text().splitlines() if "/objects/" in line]
        sys.stdout.write(f"\nsent of {24 * MB}: {sum(sent)} in {sent}\n")
        assert len(sent) >= 2
        assert sum(sent) < 24 * MB + 2 * MB  # less than one MiB again, and what was on its way when it was killed


def wait_for_bytes(place: Place, count: int) -> None:
    end = time.monotonic() + 40
    while sum(path.stat().st_size for path in place.client.places.store.rglob("*") if path.is_file()) < count:
        assert time.monotonic() < end, "nothing comes"
        time.sleep(0.05)


def test_a_stick_that_appears_is_used_and_one_that_goes_is_passed_over(tmp_path: Path) -> None:
    with shared_folder() as root:
        site = StaticSite(root)
        stick = root / "media" / "STICK"
        place = Place(site, Server(f"file://{stick}/distribution", stick), tmp_path)
        manifest = place.publish("1.0", 5, {"data": os.urandom(200_000)})
        (root / "distribution").rename(root / "away")
        place.order(manifest, 1)  # writes metadata where the folder was: not to the stick
        (root / "distribution").rename(root / "newer")
        said = place.client.run("once", code=None)
        assert not place.marker.exists(), said.stdout
        stick.mkdir(parents=True)
        subprocess.run(["cp", "-r", str(root / "away"), str(stick / "distribution")], check=True)
        subprocess.run(["cp", "-rT", str(root / "newer"), str(stick / "distribution")], check=True)
        said = place.client.run("--json", "sync", code=None)
        said = place.client.run("once", code=None)
        assert place.marker.exists(), said.stdout
        assert place.holds(manifest)
