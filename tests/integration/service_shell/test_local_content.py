"""Everything a program needs lies on this computer, verified, before its first byte runs: whatever then becomes of the network."""

import hashlib
import io
import os
from pathlib import Path

from pcm.content.objects import object_path, pack
from pcm.model.package import PackageFile
from pcm.model.program import Program
from pcm.protocol.manifest import Manifest
from tests.integration.service_shell.static_site import Client, StaticSite, put


def package(site: StaticSite, marker: Path, script: str, **others: bytes) -> Manifest:
    """Publish a package of a script and other files."""
    files = []
    for name, body in {"setup.sh": f"#!/bin/sh\nset -e\n{script}\n".encode(), **others}.items():
        sha256 = hashlib.sha256(body).hexdigest()
        put(site.distribution_folder / object_path(sha256), b"".join(pack(io.BytesIO(body), len(body))))
        files.append(PackageFile(name.replace("__", "/"), len(body), sha256, executable=name == "setup.sh"))
    return site.package(marker, files=tuple(files), programs={"install": Program(argv=("setup.sh",), timeout_s=30)})


def test_q136932_the_network_may_drop_when_the_first_byte_runs(site: StaticSite, client: Client, marker: Path) -> None:
    away = site.folder / "away"
    script = f"mkdir {away}; mv {site.logon_folder} {site.distribution_folder} {away}; cat first deep/second > {marker}"
    manifest = package(site, marker, script, first=b"one\n", deep__second=b"x" * 300_000 + b"\n")
    site.order(client.client_id, [client.mandatory(manifest)])
    client.once(code=None)
    assert marker.read_bytes() == b"one\n" + b"x" * 300_000 + b"\n"
    assert client.items()["viewer"]["state"] == "succeeded"
    waiting = client.answer("status")["unreported"]
    assert waiting >= 1  # the result is kept until a server is there again
    for folder in (site.logon_folder, site.distribution_folder):
        (away / folder.name).rename(folder)
    client.once(code=None)
    assert len(list((site.logon_folder / "reports").glob("*.json"))) >= waiting


def test_q136932_one_missing_file_and_not_a_byte_runs(site: StaticSite, client: Client, marker: Path) -> None:
    last = b"the last file of the package"
    manifest = package(site, marker, f"echo ran > {marker}", first=b"one", zz=last)
    place = site.distribution_folder / object_path(hashlib.sha256(last).hexdigest())
    kept = place.read_bytes()
    place.unlink()
    site.order(client.client_id, [client.mandatory(manifest)])
    client.once(code=None)
    assert not marker.exists()
    assert client.items()["viewer"]["state"] == "waiting"
    assert list(client.places.runs.iterdir()) == list(client.places.staging.iterdir()) == []
    place.write_bytes(kept)
    client.once()  # an administrator asks: no back-off
    assert marker.read_text() == "ran\n"


def test_q185347_it_runs_from_a_local_folder_of_its_own_and_nothing_is_mounted_for_it(
    site: StaticSite, client: Client, marker: Path
) -> None:
    script = f"""
{{ pwd; stat -c %d .; readlink -f first; grep -c "$PWD" /proc/self/mountinfo || true; }} > {marker}
env | grep -F -e "{site.distribution_folder}" -e "file://" -e "http" >> {marker} || true"""
    manifest = package(site, marker, script, first=b"one")
    site.order(client.client_id, [client.mandatory(manifest)])
    assert client.once()["problem"] is None
    folder, device, first, mounts, *leaks = marker.read_text().splitlines()
    assert Path(folder).parent == client.places.staging
    assert int(device) == client.places.state.stat().st_dev
    assert first == f"{folder}/first"
    assert (mounts, leaks) == ("0", [])
    assert not os.path.lexists(folder)  # gone with the run: nothing is left mounted, mapped or lying about
