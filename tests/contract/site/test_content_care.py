"""Clean-up and check of content: what anybody may still ask for stays, whatever happens at the same moment."""

import contextlib
import errno
import hashlib
import io
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pcm.content.objects import object_path
from pcm.distribution.shelf import FolderShelf
from pcm.model.errors import PcmError, RequestError
from pcm.model.package import Package
from pcm.protocol.admin import TargetFile
from pcm.protocol.admin_content import MIN_GRACE_S, Cleared
from pcm.protocol.admin_packages import Publication
from pcm.protocol.manifest import manifest_target
from pcm.site import catalogue, content_care, delivery, packages, projection, repository
from pcm.site.db.tables_packages import package_versions
from pcm.testing.small_site import TEAM, make_package, put_object
from pcm.trust import package_repository
from tests.contract.site.conftest import Office

OLD = 90_000.0


def told(_place: str, _done: int, _total: int) -> None:
    """Nobody looks."""


def clear(office: Office, *, dry_run: bool = False, grace_s: float = 86_400) -> Cleared:
    return content_care.clear(office.site, grace_s=grace_s, dry_run=dry_run, actor="ann", told=told)[0]


def age(root: Path, by: float = OLD) -> None:
    """Everything was written long ago; what goes at this moment is left alone."""
    for folder, _, names in os.walk(root):
        for path in (Path(folder) / name for name in names):
            with contextlib.suppress(FileNotFoundError):
                then = path.stat().st_mtime - by
                os.utime(path, (then, then))


def objects(office: Office) -> set[str]:
    return {each.name for each in FolderShelf(office.site.home.root).list("objects/")}


def publish(office: Office, version: str, release: int, contents: dict[str, bytes]) -> Package:
    package = make_package(version=version, release=release, contents=contents)
    office.small.publish(office.site, package, contents)
    return package


def withdraw(office: Office, version: str) -> None:
    publication = office.small.sign_withdrawal(office.site, "tool", version)
    with office.site.database.write() as connection:
        packages.publish(connection, publication, (office.site.home,), office.site.online, "ann", office.clock())
    projection.publish_unwritten(office.site)


def test_q168569_what_nothing_names_goes_and_the_report_says_what_went(office: Office) -> None:
    publish(office, "1.0", 1, {"kept": b"kept"})
    age(office.site.home.root)
    assert clear(office).removed > 0  # snapshots and lists that others have taken the place of
    left = put_object(office.site, b"left behind")
    age(office.site.home.root)
    would = clear(office, dry_run=True)
    assert object_path(left) in objects(office)
    done = clear(office)
    assert (would.removed, would.removed_bytes) == (done.removed, done.removed_bytes)
    assert done.removed == 1
    assert done.examples == (object_path(left),)
    assert objects(office) == {object_path(office.home_object(b"kept"))}
    assert "content.gc" in office.audited()
    assert clear(office).removed == 0


def test_q147616_a_withdrawn_version_leaves_no_residue_once_its_grace_is_over(office: Office) -> None:
    publish(office, "1.0", 1, {"shared": b"shared", "own": b"own"})
    publish(office, "1.1", 2, {"shared": b"shared"})
    [old] = [row for row in office.rows(package_versions) if row.version == "1.0"]
    bundle = office.site.home.root / "bundles" / old.manifest_sha256[:2] / old.manifest_sha256
    bundle.mkdir(parents=True)
    for name in ("whole.bundle", ".repacked"):
        (bundle / name).write_bytes(b"bundle")
    withdraw(office, "1.0")
    age(office.site.home.root)
    before = objects(office)
    clear(office)
    assert objects(office) == before  # clients may hold what named it
    assert (bundle / "whole.bundle").exists()
    office.clock.forward(days=31)
    done = clear(office)
    assert object_path(office.home_object(b"own")) not in objects(office)
    assert object_path(office.home_object(b"shared")) in objects(office)
    assert not bundle.exists()
    assert not list(office.site.home.root.glob("targets/packages/*/tool/1.0/*"))
    assert list(office.site.home.root.glob("targets/packages/*/tool/1.1/*"))
    assert done.removed == 4


def test_q188052_an_interrupted_upload_leaves_nothing_for_ever(office: Office) -> None:
    root = office.site.home.root
    (root / "objects" / "ab").mkdir(parents=True, exist_ok=True)
    (root / "objects" / "ab" / ".incoming-0123456789abcdef").write_bytes(b"half")
    uploads = root / "uploads"
    uploads.mkdir()
    (uploads / f"{'a' * 64}.part").write_bytes(b"half")
    clear(office)
    assert (root / "objects" / "ab" / ".incoming-0123456789abcdef").exists()  # it may be under way
    age(root, 4 * OLD)
    clear(office)
    assert not (root / "objects" / "ab").exists()
    assert not list(uploads.iterdir())


def test_q153231_what_is_not_ours_is_told_and_left_alone(office: Office) -> None:
    for name in ("readme.txt", "objects/notes", "targets/packages/mine.txt"):
        place = office.site.home.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("not ours")
    age(office.site.home.root)
    done = clear(office)
    assert (done.removed, done.foreign) == (0, 3)


def test_what_an_order_names_stays_though_its_version_was_withdrawn_long_ago(office: Office) -> None:
    office.enrolled()
    publish(office, "1.0", 1, {"own": b"own"})
    job = office.order(program="install")
    withdraw(office, "1.0")
    age(office.site.home.root)
    office.clock.forward(days=31)
    clear(office)
    assert object_path(office.home_object(b"own")) in objects(office)
    office.cancel(job)
    with office.site.database.read() as connection:
        wanted = content_care.wanted(connection, office.site)
    assert not wanted.lengths  # nobody was ever told: it may go


def test_what_somebody_has_just_asked_about_stays(office: Office) -> None:
    """A packager was told that the site has an object; until it is named, nobody may remove it."""
    old = put_object(office.site, b"from long ago")
    age(office.site.home.root)
    with office.site.content_turn:
        assert office.site.home.objects.touch(old)
    assert clear(office).young == 1
    assert object_path(old) in objects(office)


def test_a_grace_that_publications_could_not_meet_is_refused(office: Office) -> None:
    with pytest.raises(RequestError) as raised:
        clear(office, grace_s=MIN_GRACE_S - 1)
    assert raised.value.code == "request.grace"


def test_a_version_that_comes_back_after_its_content_went_needs_it_again(open_office: Callable[..., Office]) -> None:
    office = open_office(static=True)
    contents = {"own": b"own"}
    package = publish(office, "1.0", 1, contents)
    publication = office.small.sign_publication(office.site, package)
    withdraw(office, "1.0")
    office.clock.forward(days=31)
    age(office.site.home.root)
    shelf = office.site.servers[1].shelf
    assert isinstance(shelf, FolderShelf)
    age(shelf.root)
    content_care.clear(office.site, grace_s=86_400, dry_run=False, actor="ann", told=told)
    assert not objects(office)
    assert not list(shelf.list("objects/"))
    del publication
    with pytest.raises(RequestError) as raised:
        office.small.publish(office.site, package)
    assert raised.value.code == "package.objects_missing"
    office.clock.now = office.clock.now.replace(microsecond=0)
    put_object(office.site, b"own")
    assert objects(office)


def test_a_version_that_comes_back_has_its_manifest_again_wherever_it_was_cleared_away(
    open_office: Callable[..., Office],
) -> None:
    office = open_office(static=True)
    contents = {"own": b"own"}
    publish(office, "1.0", 1, contents)
    [path] = office.site.home.root.glob("targets/packages/*/tool/1.0/*")
    body = path.read_bytes()
    withdraw(office, "1.0")
    office.clock.forward(days=31)
    for server in office.site.servers:
        assert isinstance(server.shelf, FolderShelf)
        age(server.shelf.root)
    content_care.clear(office.site, grace_s=86_400, dry_run=False, actor="ann", told=told)
    assert not path.exists()
    put_object(office.site, b"own")
    with office.site.database.read() as connection:
        current = repository.require(connection, repository.PACKAGES, TEAM)
    target = manifest_target(TEAM, "tool", "1.0")
    signers, expires_s = office.small.team_signers(), office.small.expires_s()
    signed = package_repository.add_target(TEAM, current.body, target, body, signers, expires_s)
    with office.site.database.write() as connection:
        publication = Publication(TEAM, signed, (TargetFile(target, body),))
        packages.publish(connection, publication, (office.site.home,), office.site.online, "ann", office.clock())
    projection.publish_unwritten(office.site)
    delivery.deliver_all(office.site)
    for server in office.site.servers:
        assert server.shelf.read(path.relative_to(office.site.home.root).as_posix(), 10**6) == body


def test_a_server_that_is_behind_keeps_the_metadata_that_its_own_timestamp_names(
    open_office: Callable[..., Office],
) -> None:
    office = open_office(static=True)
    publish(office, "1.0", 1, {"one": b"one"})
    shelf = office.site.servers[1].shelf
    assert isinstance(shelf, FolderShelf)
    publish_at_home_only = {"two": b"two"}
    put_object(office.site, b"two")
    publication = office.small.sign_publication(
        office.site, make_package(version="1.1", release=2, contents=publish_at_home_only)
    )
    with office.site.database.write() as connection:
        packages.publish(connection, publication, (office.site.home,), office.site.online, "ann", office.clock())
    projection.publish_unwritten(office.site)
    before = {each.name for each in shelf.list("metadata/")}
    age(shelf.root)
    age(office.site.home.root)
    content_care.clear(office.site, grace_s=86_400, dry_run=False, actor="ann", told=told)
    assert {each.name for each in shelf.list("metadata/")} == before
    delivery.deliver_all(office.site)
    age(shelf.root)
    content_care.clear(office.site, grace_s=86_400, dry_run=False, actor="ann", told=told)
    after = {each.name for each in shelf.list("metadata/")}
    assert after == {each.name for each in FolderShelf(office.site.home.root).list("metadata/")}


def test_what_a_killed_delivery_left_beside_bundles_goes(office: Office) -> None:
    publish(office, "1.0", 1, {"one": b"one"})
    [row] = office.rows(package_versions)
    folder = office.site.home.root / "bundles" / row.manifest_sha256[:2] / row.manifest_sha256
    folder.mkdir(parents=True)
    (folder / ".incoming-0123456789abcdef").write_bytes(b"half")
    (folder / "whole.bundle").write_bytes(b"whole")
    age(office.site.home.root)
    clear(office)
    assert {each.name for each in folder.iterdir()} == {"whole.bundle"}


def test_what_is_published_again_while_a_check_looks_for_another_copy_stays(
    open_office: Callable[..., Office], monkeypatch: pytest.MonkeyPatch
) -> None:
    office = open_office(static=True)
    publish(office, "1.0", 1, {"one": b"one"})
    name = object_path(office.home_object(b"one"))
    home, other = (server.shelf for server in office.site.servers)
    assert isinstance(home, FolderShelf)
    assert isinstance(other, FolderShelf)
    (home.root / name).unlink()
    (other.root / name).unlink()

    opened: list[str] = []

    def slow(asked: str) -> BinaryIO:
        if not opened:
            put_object(office.site, b"one")
        opened.append(asked)
        raise RequestError(f"There is no {asked}.", code="not_found")

    monkeypatch.setattr(other, "open", slow)
    content_care.verify(office.site, repair=True, actor="ann", told=told)
    assert name in objects(office)


def test_a_check_finds_what_is_damaged_or_absent_and_mends_it_from_another_server(
    open_office: Callable[..., Office],
) -> None:
    office = open_office(static=True)
    contents = {"one": b"one" * 1000, "two": b"two" * 1000, "three": b"three" * 1000}
    publish(office, "1.0", 1, contents)
    home, other = (server.shelf for server in office.site.servers)
    assert isinstance(home, FolderShelf)
    assert isinstance(other, FolderShelf)
    one, two, three = (object_path(office.home_object(each)) for each in contents.values())
    (home.root / one).write_bytes(b"damaged")
    (other.root / two).unlink()
    for shelf in (home, other):
        (shelf.root / three).write_bytes(b"damaged")
    first, second = content_care.verify(office.site, repair=False, actor="ann", told=told)
    assert {damage.name for damage in first.damaged} == {one, three}
    assert {damage.name for damage in second.damaged} == {two, three}
    assert not any(damage.mended for damage in (*first.damaged, *second.damaged))
    first, second = content_care.verify(office.site, repair=True, actor="ann", told=told)
    assert {(damage.name, damage.mended) for damage in first.damaged} == {(one, True), (three, False)}
    assert three not in objects(office)
    assert one in objects(office)
    put_object(office.site, contents["three"])  # publishing it again brings it: the site says that it lacks it
    content_care.verify(office.site, repair=True, actor="ann", told=told)
    assert all(not each.damaged for each in content_care.verify(office.site, repair=False, actor="ann", told=told))


class BadSector(io.FileIO):
    """A file that opens, and whose bytes the disk cannot give."""

    def read(self, _count: int | None = -1, /) -> bytes:
        raise OSError(errno.EIO, "Input/output error")


def test_a_check_mends_what_the_disk_cannot_give_any_more(
    open_office: Callable[..., Office], monkeypatch: pytest.MonkeyPatch
) -> None:
    office = open_office(static=True)
    publish(office, "1.0", 1, {"one": b"one", "two": b"two"})
    bad = office.site.home.root / object_path(office.home_object(b"one"))
    inode = bad.stat().st_ino
    opening = FolderShelf.open

    def on_a_bad_disk(shelf: FolderShelf, name: str) -> BinaryIO:
        file = opening(shelf, name)
        if os.fstat(file.fileno()).st_ino != inode:
            return file
        file.close()
        return cast("BinaryIO", BadSector(shelf.root / name))

    monkeypatch.setattr(FolderShelf, "open", on_a_bad_disk)
    first, second = content_care.verify(office.site, repair=True, actor="ann", told=told)
    assert [(damage.name, damage.mended) for damage in first.damaged] == [(object_path(bad.name[:64]), True)]
    assert not second.damaged
    assert all(not each.damaged for each in content_care.verify(office.site, repair=False, actor="ann", told=told))


class Keeping(RuleBasedStateMachine):
    """Publishing, withdrawing, uploading, clean-ups and deaths in any order: whatever is in force is complete."""

    office: Office

    @initialize()
    def begin(self) -> None:
        self.release = len(self.office.rows(package_versions))
        self.uploaded: set[bytes] = set()

    @rule(contents=st.sets(st.integers(0, 12), min_size=1, max_size=5), old=st.booleans())
    def publish(self, contents: set[int], old: bool) -> None:
        self.release += 1
        files = {f"f{number}": b"content %d" % number for number in contents}
        if old:
            age(self.office.site.home.root)
        publish(self.office, f"1.{self.release}", self.release, files)

    @rule(number=st.integers(0, 12))
    def upload_only(self, number: int) -> None:
        put_object(self.office.site, b"content %d" % number)

    @rule(which=st.integers(0, 1000))
    def withdraw(self, which: int) -> None:
        open_rows = [row for row in self.office.rows(package_versions) if row.withdrawn is None]
        if open_rows:
            withdraw(self.office, open_rows[which % len(open_rows)].version)

    @rule(days=st.integers(1, 40))
    def time_passes(self, days: int) -> None:
        self.office.clock.forward(days=days)
        age(self.office.site.home.root)

    @rule()
    def clean_up(self) -> None:
        clear(self.office)

    @rule(after=st.integers(0, 5))
    def clean_up_and_die(self, after: int) -> None:
        """Killed after so many removals."""
        removed = 0

        def dying(_place: str, _done: int, _total: int) -> None:
            return

        sweep_remove = content_care._Sweep.remove

        def counted(sweep: content_care._Sweep, each: object, *, dry_run: bool) -> None:
            nonlocal removed
            if removed >= after:
                raise KeyboardInterrupt
            removed += 1
            sweep_remove(sweep, each, dry_run=dry_run)  # type: ignore[arg-type]

        content_care._Sweep.remove = counted  # type: ignore[method-assign,assignment]
        try:
            content_care.clear(self.office.site, grace_s=86_400, dry_run=False, actor="ann", told=dying)
        except KeyboardInterrupt:
            pass
        finally:
            content_care._Sweep.remove = sweep_remove  # type: ignore[method-assign]

    @invariant()
    def all_in_force_is_complete(self) -> None:
        assert _is_complete(self.office, objects(self.office))


def _is_complete(office: Office, there: set[str]) -> bool:
    with office.site.database.read() as connection:
        for row in office.rows(package_versions):
            if row.withdrawn is None:
                manifest = catalogue.load_manifest(connection, row.manifest_sha256)
                if any(object_path(file.sha256) not in there for file in manifest.files):
                    return False
    return True


def test_whatever_happens_in_whatever_order_what_is_in_force_is_complete(office: Office) -> None:
    class Here(Keeping):
        pass

    Here.office = office
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_publishing_and_cleaning_up_at_once_loses_nothing(office: Office) -> None:
    """Threads publish the same old contents again and again while others clean up: each publication is whole or refused."""
    contents = {f"f{number}": random.Random(number).randbytes(2000) for number in range(30)}
    for body in contents.values():
        put_object(office.site, body)
    age(office.site.home.root)
    stop = time.monotonic() + 4
    faults: list[str] = []
    release = 0
    names = {hashlib.sha256(body).hexdigest() for body in contents.values()}

    def clean() -> None:
        while time.monotonic() < stop:
            clear(office, grace_s=MIN_GRACE_S)

    threads = [threading.Thread(target=clean) for _ in range(2)]
    for thread in threads:
        thread.start()
    while time.monotonic() < stop and not faults:
        release += 1
        with office.site.content_turn:  # as `POST /v1/objects/missing` does
            lacking = [name for name in names if not office.site.home.objects.touch(name)]
        for body in contents.values():
            if hashlib.sha256(body).hexdigest() in lacking:
                put_object(office.site, body)
        package = make_package(version=f"1.{release}", release=release, contents=contents)
        publication = office.small.sign_publication(office.site, package)
        try:
            with office.site.content_turn, office.site.database.write() as connection:
                packages.publish(
                    connection, publication, (office.site.home,), office.site.online, "ann", office.clock()
                )
            projection.publish_unwritten(office.site)
        except PcmError as error:
            faults.append(error.code)
            continue
        there = objects(office)
        faults += [name for name in names if object_path(name) not in there]
        withdraw(office, f"1.{release}")
        office.clock.forward(days=31)
        age(office.site.home.root)
    for thread in threads:
        thread.join(30)
    assert release > 3
    assert faults == []
    delivery.deliver_all(office.site)
