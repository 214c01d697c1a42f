"""What is made smaller in the background: a row for each version, a process of its own, and results on every server."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from pcm.distribution.shelf import FolderShelf
from pcm.model.errors import StoreError
from pcm.site import content_views, delivery, improving
from pcm.site.authority import Site, open_site
from pcm.site.db.tables_content import improvements
from pcm.testing.small_site import SmallSite, make_package, make_small_site


@pytest.fixture
def small(tmp_path: Path) -> SmallSite:
    return make_small_site(tmp_path / "made", static=True)


@pytest.fixture
def site(small: SmallSite) -> Iterator[Site]:
    opened = small.open()
    yield opened
    opened.close()


def words(seed: int, count: int) -> bytes:
    drawn = random.Random(seed)
    return b" ".join(b"word%d" % drawn.randrange(3000) for _ in range(count))


def publish(small: SmallSite, site: Site, release: int, changed: int) -> None:
    contents = {f"small{number}": words(number, 200) for number in range(10)}
    contents["large"] = words(1, 60_000)[: 400_000 - changed] + words(changed, 20_000)
    small.publish(site, make_package(version=f"1.{release}", release=release, contents=contents), contents)


def rows(site: Site) -> dict[int, str]:
    with site.database.read() as connection:
        return {row.package_version: row.state for row in connection.execute(select(improvements)).all()}


def carry_out_all(site: Site) -> None:
    improver = improving.Improver(site, lambda: None)
    improving.plan(site)
    while (row := improving.next_one(site)) is not None:
        improver.carry_out(row)


def test_what_is_made_smaller_stands_on_every_server(small: SmallSite, site: Site) -> None:
    publish(small, site, 1, 10)
    publish(small, site, 2, 20)
    carry_out_all(site)
    assert set(rows(site).values()) == {"done"}
    with site.database.read() as connection:
        told = content_views.stats(connection, site)
    assert told.saved > 0
    assert told.bundles == 3  # small files of each, and one from the first to the second
    newest = told.improvements[0]
    assert newest.bundles == 2
    assert 0 < newest.patches < newest.objects_after
    delivery.deliver_all(site)
    home, share = (server.shelf for server in site.servers)
    for prefix in ("objects/", "bundles/"):
        mine = {each.name: each.size for each in home.list(prefix) if not each.name.endswith(".repacked")}
        assert {each.name: each.size for each in share.list(prefix)} == mine


def test_a_process_that_is_killed_is_a_row_that_is_tried_again(small: SmallSite, site: Site) -> None:
    publish(small, site, 1, 10)
    improving.plan(site)
    row = improving.next_one(site)
    assert row is not None
    improver = improving.Improver(site, lambda: None)
    died = threading.Thread(target=improver.carry_out, args=(row,))
    died.start()
    _kill_child()
    died.join(60)
    assert rows(site) == {1: "failed"}
    assert improving.next_one(site) is None  # not before its time
    with site.database.write() as connection:
        connection.execute(update(improvements).values(next_try=None))
    again = open_site(small.folder)  # and a site that died while it was at it goes on, too
    try:
        with again.database.write() as connection:
            connection.execute(update(improvements).values(state="running"))
        improving.take_up(again)
        carry_out_all(again)
        assert rows(again) == {1: "done"}
    finally:
        again.close()


def test_a_machine_that_gives_no_process_costs_an_attempt_and_not_the_site(
    small: SmallSite, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(small, site, 1, 10)
    improving.plan(site)
    row = improving.next_one(site)
    assert row is not None

    def refused(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("pcm.site.improving.subprocess.Popen", refused)
    improving.Improver(site, lambda: None).carry_out(row)
    assert rows(site) == {1: "failed"}


def test_an_end_that_the_database_did_not_take_is_no_row_for_ever(
    small: SmallSite, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(small, site, 1, 10)
    finish = improving.finish
    failures = [StoreError("The database is away.", code="store.busy")]

    def finish_later(*told: Any) -> None:
        if failures:
            raise failures.pop()
        finish(*told)

    monkeypatch.setattr(improving, "finish", finish_later)
    monkeypatch.setattr(improving, "_LOOK_S", 0.1)
    improver = improving.Improver(site, lambda: None)
    improver.start()
    deadline = time.monotonic() + 60
    while rows(site) != {1: "done"} and time.monotonic() < deadline:
        time.sleep(0.1)
    improver.stop()
    assert rows(site) == {1: "done"}


def _kill_child() -> None:
    """End the improving process of this very process, once there is one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if b"pcm.site.improving_order" in command and parent == os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)
                return
        time.sleep(0.005)
    pytest.fail("no process was started")


def test_what_fails_again_and_again_is_given_up_and_said_so(small: SmallSite, site: Site) -> None:
    publish(small, site, 1, 10)
    [damaged] = [each for each in site.home.root.glob("objects/*/*.zst") if each.stat().st_size > 50_000]
    damaged.write_bytes(b"damaged")
    improver = improving.Improver(site, lambda: None)
    for attempt in range(1, improving.MOST_ATTEMPTS + 1):
        with site.database.write() as connection:
            connection.execute(update(improvements).values(next_try=None))
        improving.plan(site)
        row = improving.next_one(site)
        assert row is not None, attempt
        improver.carry_out(row)
    assert rows(site) == {1: "given_up"}
    with site.database.read() as connection:
        [told] = content_views.stats(connection, site).improvements
    assert told.error
    assert told.attempts == improving.MOST_ATTEMPTS


def test_it_stops_with_the_site_and_is_taken_up_at_the_next_start(small: SmallSite, site: Site) -> None:
    publish(small, site, 1, 10)
    improver = improving.Improver(site, lambda: None)
    improver.start()
    deadline = time.monotonic() + 30
    while rows(site).get(1) not in ("running", "done") and time.monotonic() < deadline:
        time.sleep(0.01)
    improver.stop()
    assert rows(site)[1] in ("waiting", "done")


def test_the_process_gives_way_to_everything_else(tmp_path: Path) -> None:
    """It is niced, bounded, and the first to go where memory is short."""
    script = "import os, resource; from pcm.site import improving_order as o; o._give_way(); print(os.nice(0), resource.getrlimit(resource.RLIMIT_AS)[0], open('/proc/self/oom_score_adj').read().strip())"
    told = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["19", str(4 * 2**30), "800"]


def test_shelves_agree(tmp_path: Path) -> None:
    shelf = FolderShelf(tmp_path / "shelf")
    assert list(shelf.list("")) == []
    shelf.write("a/b", (b"1", b"2"))
    shelf.write_many({"a/c": b"3", "d": b"4"})
    assert {each.name: each.size for each in shelf.list("a/")} == {"a/b": 2, "a/c": 1}
    assert shelf.sizes(["a/b", "a/x"]) == {"a/b": 2}
    assert shelf.delete("a/b")
    assert not shelf.delete("a/b")
    assert shelf.delete("a/c")
    assert not (tmp_path / "shelf" / "a").exists()
