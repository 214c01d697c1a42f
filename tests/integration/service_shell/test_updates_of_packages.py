"""A client that has one version of a package is ordered the next one: patches travel, `why` and the report tell so."""

import random
import time
from pathlib import Path
from typing import Any

from pcm.content.bundle_index import Listing
from pcm.distribution.improving import improve
from pcm.model.content_policy import ContentPolicy, RateHours
from pcm.model.program import Program
from pcm.protocol.manifest import Manifest
from pcm.service.content_records import read_held, read_records
from pcm.service.state import State
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.integration.service_shell.test_local_content import package
from tests.unit.trust.simulated import utc_now

LIBRARY = random.Random(4).randbytes(800_000)
NEWER = LIBRARY[:300_000] + b"mended" + LIBRARY[300_000:]


def publish(site: StaticSite, marker: Path, name: str, version: str, release: int, library: bytes) -> Manifest:
    made = package(
        site, marker, f"echo {version} >> {marker}", library=library, **{f"page{n}": b"%d" % n * 500 for n in range(9)}
    )
    programs = {"install": Program(argv=("setup.sh",), timeout_s=30)}
    return site.package(marker, name=name, version=version, release=release, files=made.files, programs=programs)


def why(client: Client, name: str = "viewer") -> Any:
    return client.answer("why", name)


def test_the_next_version_comes_as_patches_and_why_says_so(site: StaticSite, client: Client, marker: Path) -> None:
    older = publish(site, marker, "viewer", "1.0", 5, LIBRARY)
    first = client.mandatory(older)
    site.order(client.client_id, [first])
    said = client.run("once").stdout
    assert marker.exists(), said
    assert marker.read_text() == "1.0\n"
    newer = publish(site, marker, "viewer", "2.0", 6, NEWER)
    second = client.mandatory(newer, number=2)
    improve(
        site.distribution_folder,
        Listing(second.manifest.sha256, newer.files),
        [Listing(first.manifest.sha256, older.files)],
        level=None,
        thorough=False,
    )
    site.order(client.client_id, [second])
    told = client.run("once").stdout
    assert marker.read_text() == "1.0\n2.0\n"
    assert "by patch" in told
    content = why(client, second.id)["content"]
    assert {each["way"] for each in content["ways"]} == {"patch"}
    assert content["travelled"] < 20_000 < content["saved"]
    lines = " ".join(line["text"] for line in why(client, second.id)["lines"])
    assert "patches from 1.0 take fewer bytes" in lines
    assert str(site.distribution_folder) in lines
    with State.open(client.places.state, utc_now()) as state:
        assert read_held(state) == {"viewer": (second.manifest.sha256, first.manifest.sha256)}
        assert len(read_records(state)) == 2
        (row,) = state.rows("SELECT result FROM runs WHERE manifest_sha256 = ?", (second.manifest.sha256,))
        assert b'"way":"patch"' in row[0]
        kept = {sha256 for (sha256,) in state.rows("SELECT sha256 FROM manifests")}
        assert kept >= {first.manifest.sha256, second.manifest.sha256}


def test_content_comes_no_faster_than_the_site_allows(site: StaticSite, client: Client, marker: Path) -> None:
    made = publish(site, marker, "viewer", "1.0", 5, LIBRARY)
    day = RateHours(start="00:00", end="24:00", rate=400_000)
    site.order(client.client_id, [client.mandatory(made)], content=ContentPolicy(rate=10**9, hours=(day,)))
    began = time.monotonic()
    said = client.run("once").stdout
    assert time.monotonic() - began > 1.0  # 800 kB at 400 kB a second, of which the first may come at once
    assert marker.exists(), said
    assert marker.read_text() == "1.0\n"


def test_what_has_not_come_is_told_with_what_is_tried_first(site: StaticSite, client: Client, marker: Path) -> None:
    made = publish(site, marker, "viewer", "1.0", 5, LIBRARY)
    away = site.distribution_folder / "objects"
    away.rename(site.folder / "away")
    site.order(client.client_id, [client.mandatory(made)])
    client.once(code=None)
    answer = why(client)
    assert (answer["content"]["missing_files"], answer["state"]) == (11, "waiting")
    lines = " ".join(line["text"] for line in answer["lines"])
    assert "11 of 11 files" in lines
    assert "no other version is held here" in lines
    (site.folder / "away").rename(away)
    said = client.run("once").stdout
    assert marker.exists(), said
    assert marker.read_text() == "1.0\n"
