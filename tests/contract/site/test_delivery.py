"""Each distribution server by itself: content before its manifest, attempts that are rows, and nobody waits for who is away."""

import errno
import io
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.content.objects import object_path, pack
from pcm.distribution.shelf import FolderShelf
from pcm.model.errors import RequestError
from pcm.protocol.manifest import manifest_target
from pcm.site import content_views, delivery, repository
from pcm.site.authority import open_site
from pcm.site.db.tables import AnyRow
from pcm.site.db.tables_content import deliveries, distribution_states
from pcm.site.db.tables_packages import package_versions
from pcm.site.intake import Intake
from pcm.site.rounds import Rounds
from pcm.testing.small_site import TEAM, make_package, put_object
from tests.contract.site.conftest import Office
from tests.contract.site.test_packages import look

CONTENTS = {"setup.sh": b"#!/bin/sh\n", "data": b"x" * 5000}


@pytest.fixture
def office(open_office: Callable[..., Office]) -> Office:
    return open_office(static=True)


def share(office: Office) -> Path:
    shelf = office.site.servers[1].shelf
    assert isinstance(shelf, FolderShelf)
    return shelf.root


def take_away(office: Office) -> Path:
    """The share is gone: something else stands where it was."""
    root = share(office)
    moved = root.with_name("moved")
    root.rename(moved)
    root.write_text("in the way")
    return moved


def bring_back(office: Office, moved: Path) -> None:
    share(office).unlink()
    moved.rename(share(office))


def state(office: Office) -> AnyRow:
    [row] = office.rows(distribution_states, distribution_states.c.server == "share")
    return row


def publish(office: Office, version: str = "1.0", release: int = 1) -> None:
    office.small.publish(office.site, make_package(version=version, release=release, contents=CONTENTS), CONTENTS)


def test_q191360_a_server_that_is_away_holds_up_no_other(office: Office, tmp_path: Path) -> None:
    moved = take_away(office)
    publish(office)
    seen = look(office, office.site.home.root, tmp_path / "client")
    assert seen.find(manifest_target(TEAM, "tool", "1.0"))
    office.enrolled()
    assert office.order(program="install")  # the order does not wait for it either
    with office.site.database.read() as connection:
        main, away = content_views.servers(connection, office.site)
    assert (main.state, away.state) == ("in_step", "away")
    assert away.error
    bring_back(office, moved)
    office.clock.forward(hours=2)
    delivery.deliver_all(office.site)
    assert look(office, share(office), tmp_path / "later").find(manifest_target(TEAM, "tool", "1.0"))
    with office.site.database.read() as connection:
        assert [each.state for each in content_views.servers(connection, office.site)] == ["in_step", "in_step"]


def test_q195936_a_restart_forgets_no_retry_and_begins_none_anew(office: Office) -> None:
    moved = take_away(office)
    publish(office)
    for _ in range(3):
        office.clock.forward(hours=2)
        delivery.deliver_all(office.site)
    before = state(office)
    assert before.attempts == 4
    bring_back(office, moved)
    again = open_site(office.small.folder, clock=office.clock)  # the process ended, and another one goes on
    try:
        delivery.deliver_all(again)
        assert state(office) == before  # its time has not come, and nothing of it is forgotten
        assert not (share(office) / object_path(office.home_object(CONTENTS["data"]))).exists()
        office.clock.forward(seconds=delivery.wait_s(4) + 1)
        delivery.deliver_all(again)
    finally:
        again.close()
    after = state(office)
    assert (after.attempts, after.error, after.away_since) == (0, "", None)
    assert (share(office) / object_path(office.home_object(CONTENTS["data"]))).exists()


def test_q140374_attempts_are_counted_up_and_each_waits_longer_to_a_cap(office: Office) -> None:
    take_away(office)
    publish(office)
    waits: list[float] = []
    for attempts in range(1, 14):
        row = state(office)
        assert row.attempts == attempts
        waits.append(delivery.wait_s(attempts))
        office.clock.now = row.next_try + timedelta(seconds=1)
        delivery.deliver_all(office.site)
    assert waits == sorted(waits)
    assert waits[0] < waits[-1] == 3600


def test_q185179_two_that_deliver_at_once_make_one_attempt(office: Office) -> None:
    take_away(office)
    publish(office)
    office.clock.forward(hours=2)
    before = state(office).attempts
    server = office.site.servers[1]
    ready = threading.Barrier(4)

    def attempt() -> None:
        ready.wait(10)
        delivery.deliver(office.site, server)

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert state(office).attempts == before + 1


def test_q184489_what_is_read_at_this_moment_keeps_nothing_from_being_replaced(office: Office) -> None:
    """A file that somebody has open blocks no refresh, and there is no moment at which the folder is emptier than before."""
    publish(office)
    timestamp = share(office) / "metadata" / "timestamp.json"
    names = {path.relative_to(share(office)) for path in share(office).rglob("*") if path.is_file()}
    with timestamp.open("rb") as held:
        before = held.read()
        publish(office, "1.1", 2)
        held.seek(0)
        assert held.read() == before  # whoever reads it reads it to its end
    assert timestamp.read_bytes() != before
    after = {path.relative_to(share(office)) for path in share(office).rglob("*") if path.is_file()}
    assert names <= after


def test_no_manifest_stands_anywhere_before_its_content(office: Office) -> None:
    """Whatever file cannot be written: metadata that names it is not there either."""
    blocked = share(office) / object_path(office.home_object(CONTENTS["data"]))
    blocked.mkdir(parents=True)  # nothing can be written under this name
    (blocked / "file").write_text("in the way")
    before = (share(office) / "metadata" / "timestamp.json").read_bytes()
    publish(office)
    assert (share(office) / "metadata" / "timestamp.json").read_bytes() == before
    assert not list((share(office) / "targets").rglob("*.manifest.json"))
    [row] = office.rows(deliveries, deliveries.c.server == "share")
    assert row.complete is None
    assert row.attempts == 1
    assert row.error_code == "store.not_writable"
    with office.site.database.read() as connection:
        [main, waiting] = content_views.of_version(connection, look_up(office))
    assert (main.state, waiting.state) == ("complete", "retrying")
    (blocked / "file").unlink()
    blocked.rmdir()
    with office.site.database.write() as connection:
        assert content_views.retry_now(connection, office.site, "share", "ann") == 1
    delivery.deliver_all(office.site)
    assert (share(office) / "metadata" / "timestamp.json").read_bytes() != before


def look_up(office: Office) -> str:
    [row] = office.rows(package_versions)
    return str(row.manifest_sha256)


def test_an_emptied_server_is_filled_again(office: Office, tmp_path: Path) -> None:
    publish(office)
    share(office).rename(tmp_path / "lost")
    delivery.deliver_all(office.site)
    assert look(office, share(office), tmp_path / "client").find(manifest_target(TEAM, "tool", "1.0"))
    for content in CONTENTS.values():
        assert (share(office) / object_path(office.home_object(content))).exists()


def test_what_is_damaged_at_home_goes_nowhere(office: Office) -> None:
    moved = take_away(office)
    publish(office)
    damaged = office.site.home.root / object_path(office.home_object(CONTENTS["data"]))
    damaged.write_bytes(damaged.read_bytes()[:-3] + b"xyz")
    bring_back(office, moved)
    office.clock.forward(hours=2)
    delivery.deliver_all(office.site)
    [row] = office.rows(deliveries, deliveries.c.server == "share")
    assert row.error_code == "trust.content"
    assert not (share(office) / object_path(office.home_object(CONTENTS["data"]))).exists()


def test_what_the_disk_at_home_cannot_give_is_a_row_and_ends_no_thread(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(office)
    bring = FolderShelf.open

    class Broken(io.BytesIO):
        def read(self, _count: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(
        FolderShelf,
        "open",
        lambda shelf, name: Broken() if name.startswith("objects/") else bring(shelf, name),
    )
    put = {name: b"y" * 7000 + name.encode() for name in CONTENTS}
    office.small.publish(office.site, make_package(version="1.1", release=2, contents=put), put)
    [row] = office.rows(deliveries, deliveries.c.server == "share", deliveries.c.pending)
    assert (row.attempts, row.error_code) == (1, "store.damaged")


def test_what_became_smaller_at_home_replaces_what_stands_elsewhere(office: Office) -> None:
    publish(office)
    name = object_path(office.home_object(CONTENTS["data"]))
    home = office.site.home.root / name
    smaller = b"".join(pack(io.BytesIO(CONTENTS["data"]), len(CONTENTS["data"]), 19))
    (share(office) / name).write_bytes(smaller + b"longer")
    home.write_bytes(smaller)
    with office.site.database.write() as connection:
        delivery.ask_again(connection, 1, office.clock())
    delivery.deliver_all(office.site)
    assert (share(office) / name).read_bytes() == smaller


def test_a_mounted_folder_that_is_not_mounted_is_away_rather_than_empty(
    office: Office, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("place")  # on the root file system: `tmp_path` is in memory here, which is a mount
    if any(parent.is_mount() for parent in (place, *place.parents) if parent != Path("/")):
        pytest.skip("everything here lies on a mount")
    office.site.servers[1].shelf = FolderShelf(place / "mount" / "pcm", mounted=True)
    publish(office)
    assert state(office).error_code == "store.away"
    assert not (place / "mount").exists()


def test_rows_of_a_server_that_is_no_more_go(office: Office) -> None:
    publish(office)
    office.site.servers = office.site.servers[:1]
    delivery.plan(office.site)
    assert {row.server for row in office.rows(deliveries)} == {"main"}
    with office.site.database.read() as connection, pytest.raises(RequestError):
        content_views.server(connection, office.site, "share")
    with office.site.database.read() as connection:
        assert not repository.has_unwritten(connection)


def test_a_home_that_was_lost_with_content_that_is_nowhere_lets_the_site_begin_and_be_given_it(office: Office) -> None:
    publish(office)
    shutil.rmtree(office.site.home.root)
    bad, *_ = [each.name for each in office.site.servers[1].shelf.list("objects/")]
    (share(office) / bad).write_bytes(b"damaged")
    rounds = Rounds(office.site, Intake(office.site), lambda: None)
    rounds.prepare()
    assert office.site.home.read("metadata/timestamp.json") is None  # nothing is named that is not there
    rounds.tick()
    assert office.site.home.read("metadata/timestamp.json") is None
    for content in CONTENTS.values():
        put_object(office.site, content)
    rounds.tick()
    assert office.site.home.read("metadata/timestamp.json") is not None
    assert len(list(office.site.home.root.glob("targets/packages/*/tool/1.0/*"))) == 1
