"""Publications on both databases: each refusal, withdrawing, and that nothing is visible before it is whole."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from pcm.distribution.folder import DistributionFolder
from pcm.distribution.shelf import FolderShelf
from pcm.model.errors import RequestError, StoreError, TransferError
from pcm.model.package import Package
from pcm.protocol.admin import TargetFile
from pcm.protocol.admin_packages import Publication, PublicationAnswer
from pcm.protocol.manifest import manifest_target, write_manifest
from pcm.site import catalogue, delivery, packages, projection, repository
from pcm.site.db.tables_packages import package_versions, repository_files
from pcm.site.distribution_servers import DistributionServer
from pcm.site.pages import Slice
from pcm.testing.small_site import TEAM, as_manifest, make_package, put_object
from pcm.trust import metadata, package_repository
from pcm.trust.floors import Floors
from pcm.trust.packages import Packages, verify_packages
from tests.contract.site.conftest import Office


def take(office: Office, publication: Publication) -> PublicationAnswer:
    with office.site.database.write() as connection:
        answer = packages.publish(
            connection, publication, (office.site.home,), office.site.online, "tester", office.clock()
        )
    projection.publish_unwritten(office.site)
    delivery.deliver_all(office.site)
    return answer


def folders(office: Office) -> list[Path]:
    return [server.shelf.root for server in office.site.servers if isinstance(server.shelf, FolderShelf)]


def refused(office: Office, publication: Publication) -> str:
    """The publication must be refused and leave no trace."""
    before = [(row.role, row.version) for row in office.rows(repository_files)]
    versions = len(office.rows(package_versions))
    with pytest.raises(RequestError) as raised:
        take(office, publication)
    assert [(row.role, row.version) for row in office.rows(repository_files)] == before
    assert len(office.rows(package_versions)) == versions
    return raised.value.code


def sign(office: Office, targets: dict[str, bytes], *, version: int | None = None, team: str = TEAM) -> bytes:
    """Team metadata with these targets, whatever they are."""
    with office.site.database.read() as connection:
        current = repository.require(connection, repository.PACKAGES, TEAM)
    signed = metadata.header("targets", version or current.version + 1, office.small.expires_s())
    signed["targets"] = {
        **package_repository.list_targets(current.body),
        **{path: metadata.target(body) for path, body in targets.items()},
    }
    return metadata.sign(signed, [office.small.offline.signer(f"team-{team}")])


def manifest_of(office: Office, package: Package) -> tuple[str, bytes]:
    return manifest_target(TEAM, package.package, package.version), write_manifest(as_manifest(package, office.clock()))


def look(office: Office, folder: Path, following: Path) -> Packages:
    """Refresh the package repository as a client does, from one distribution folder."""
    with office.site.database.read() as connection:
        root = repository.require(connection, repository.PACKAGES, "root").body
        least = repository.floor(connection)

    def fetch(name: str, _most: int) -> list[bytes]:
        try:
            return [(folder / name).read_bytes()]
        except FileNotFoundError:
            raise TransferError(name, code="transfer.not_found") from None

    return verify_packages(
        office.site.name,
        root,
        None,
        following,
        stored=Floors(),
        least=msgspec.to_builtins(least),
        fetch=fetch,
    )


def test_a_publication_is_seen_by_clients_on_every_folder(open_office: Callable[..., Office], tmp_path: Path) -> None:
    office = open_office(static=True)
    contents = {"setup.sh": b"#!/bin/sh\n"}
    office.small.publish(office.site, make_package(contents=contents), contents)
    path = manifest_target(TEAM, "tool", "1.0")
    for number, folder in enumerate(folders(office)):
        seen = look(office, folder, tmp_path / f"client-{number}")
        [row] = office.rows(package_versions)
        assert seen.find(path).hashes["sha256"] == row.manifest_sha256


def test_rows_tell_what_was_published(office: Office) -> None:
    office.package(summary="A tool", publisher="Ann")
    office.package(version="1.1", release=2, summary="Better", publisher="Ann")
    with office.site.database.read() as connection:
        detail = catalogue.show_package(connection, "tool")
        one = catalogue.show_version(connection, "tool", "1.0")
        listed = catalogue.list_packages(connection, Slice())
    assert (detail.package.newest, detail.package.versions, detail.package.summary) == ("1.1", 2, "Better")
    assert [version.release for version in detail.versions] == [2, 1]
    assert {program.name for program in one.version.programs} == {"install", "uninstall"}
    assert one.version.platforms == ("linux-any",)
    assert listed.items == (detail.package,)
    assert office.audited().count("package.publish") == 2


def test_the_same_publication_again_is_answered_again(office: Office) -> None:
    publication = office.small.sign_publication(office.site, make_package())
    first = take(office, publication)
    assert take(office, publication).version == first.version
    assert len(office.rows(package_versions)) == 1


def test_q235837_content_must_be_there_first(office: Office) -> None:
    contents = {"setup.sh": b"#!/bin/sh\n", "data": b"x"}
    publication = office.small.sign_publication(office.site, make_package(contents=contents))
    put_object(office.site, contents["data"])
    assert refused(office, publication) == "package.objects_missing"
    put_object(office.site, contents["setup.sh"])
    assert take(office, publication).published


def test_a_strangers_signature_is_refused(office: Office) -> None:
    path, body = manifest_of(office, make_package())
    office.small.offline.create("team-rogue")
    forged = sign(office, {path: body}, team="rogue")
    assert refused(office, Publication(TEAM, forged, (TargetFile(path, body),))) == "not_allowed"


def test_an_unknown_team_is_refused(office: Office) -> None:
    path, body = manifest_of(office, make_package())
    assert refused(office, Publication("nobody", sign(office, {path: body}), ())) == "not_allowed"


@pytest.mark.parametrize("version", [1, 3, 100])
def test_only_the_next_version_of_metadata_is_taken(office: Office, version: int) -> None:
    path, body = manifest_of(office, make_package())
    signed = sign(office, {path: body}, version=version)
    assert refused(office, Publication(TEAM, signed, (TargetFile(path, body),))) == "conflict"


def test_a_manifest_must_be_given_and_be_the_signed_one(office: Office) -> None:
    path, body = manifest_of(office, make_package())
    signed = sign(office, {path: body})
    assert refused(office, Publication(TEAM, signed, ())) == "request.publication"
    other = body.replace(b"linux-any", b"linux-all")
    assert refused(office, Publication(TEAM, signed, (TargetFile(path, other),))) == "request.publication"
    extra = TargetFile(manifest_target(TEAM, "more", "1"), body)
    assert refused(office, Publication(TEAM, signed, (TargetFile(path, body), extra))) == "request.publication"


def test_a_manifest_belongs_at_its_own_path(office: Office) -> None:
    _, body = manifest_of(office, make_package())
    wrong = manifest_target(TEAM, "tool", "2.0")
    signed = sign(office, {wrong: body})
    assert refused(office, Publication(TEAM, signed, (TargetFile(wrong, body),))) == "request.publication"


@pytest.mark.parametrize(
    "path",
    ["packages/other/tool/1.0/manifest.json", "policy/site.json", "packages/base/../x/1/manifest.json", "a"],
)
def test_paths_outside_the_teams_own_are_refused(office: Office, path: str) -> None:
    _, body = manifest_of(office, make_package())
    signed = sign(office, {path: body})
    assert refused(office, Publication(TEAM, signed, (TargetFile(path, body),))) == "request.publication"


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"\x00", b'{"type":"pcm.manifest","spec":"9.0"}'])
def test_what_is_no_manifest_is_refused(office: Office, body: bytes) -> None:
    path = manifest_target(TEAM, "tool", "1.0")
    signed = sign(office, {path: body})
    assert refused(office, Publication(TEAM, signed, (TargetFile(path, body),))).startswith("protocol.")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"{" * 50, b"\xff"])
def test_what_is_no_metadata_is_refused(office: Office, body: bytes) -> None:
    assert refused(office, Publication(TEAM, body, ())) == "request.metadata"


def test_metadata_that_has_expired_is_refused(office: Office) -> None:
    path, body = manifest_of(office, make_package())
    signed = sign(office, {path: body})
    office.clock.forward(days=366)
    assert refused(office, Publication(TEAM, signed, (TargetFile(path, body),))) == "request.metadata"


def test_q128458_a_version_never_changes(office: Office) -> None:
    office.package()
    path, body = manifest_of(office, msgspec.structs.replace(make_package(), summary="changed"))
    signed = sign(office, {path: body})
    assert refused(office, Publication(TEAM, signed, (TargetFile(path, body),))) == "package.immutable"


def test_a_withdrawn_version_comes_back_only_unchanged(office: Office) -> None:
    publication = office.small.sign_publication(office.site, make_package())
    take(office, publication)
    take(office, office.small.sign_withdrawal(office.site, "tool", "1.0"))
    assert office.rows(package_versions)[0].withdrawn is not None
    path, other = manifest_of(office, msgspec.structs.replace(make_package(), summary="changed"))
    changed = Publication(TEAM, sign(office, {path: other}), (TargetFile(path, other),))
    assert refused(office, changed) == "package.immutable"
    body = publication.manifests[0].body
    take(office, Publication(TEAM, sign(office, {path: body}), (TargetFile(path, body),)))
    assert office.rows(package_versions)[0].withdrawn is None


@pytest.mark.parametrize("release", [1, 2])
def test_releases_only_go_up(office: Office, release: int) -> None:
    office.package(version="1.0", release=2)
    publication = office.small.sign_publication(office.site, make_package(version="1.1", release=release))
    assert refused(office, publication) == "package.release"


def test_q269768_withdrawing_takes_it_from_the_clients_that_had_it_to_run(office: Office) -> None:
    office.package()
    client = office.enrolled()
    office.order()
    office.compile()
    assert len(office.instructions(client).instructions) == 1
    answer = take(office, office.small.sign_withdrawal(office.site, "tool", "1.0"))
    assert answer.withdrawn == (manifest_target(TEAM, "tool", "1.0"),)
    office.compile()
    assert office.instructions(client).instructions == ()
    assert "package.withdraw" in office.audited()


def test_several_versions_in_one_publication(office: Office) -> None:
    both = dict(manifest_of(office, make_package(version=f"1.{number}", release=number)) for number in (2, 1))
    files = tuple(TargetFile(path, body) for path, body in both.items())
    assert len(take(office, Publication(TEAM, sign(office, both), files)).published) == 2


def test_a_crash_before_the_files_leaves_the_old_state_and_is_made_good(office: Office, tmp_path: Path) -> None:
    office.package()
    folder = office.site.home.root
    publication = office.small.sign_publication(office.site, make_package(version="1.1", release=2))
    with office.site.database.write() as connection:  # committed, and then the process dies
        packages.publish(connection, publication, (office.site.home,), office.site.online, "tester", office.clock())
    look(office, folder, tmp_path / "before")
    again = office.small.open()
    try:
        assert projection.publish_unwritten(again)
        assert not projection.publish_unwritten(again)
    finally:
        again.close()
    seen = look(office, folder, tmp_path / "after")
    assert seen.find(manifest_target(TEAM, "tool", "1.1"))


def test_a_crash_between_two_files_leaves_a_valid_repository(office: Office, tmp_path: Path) -> None:
    """Every prefix of the files in their writing order is a state that clients accept."""
    office.package()
    folder = office.site.home
    publication = office.small.sign_publication(office.site, make_package(version="1.1", release=2))
    with office.site.database.write() as connection:
        packages.publish(connection, publication, (folder,), office.site.online, "tester", office.clock())
    with office.site.database.read() as connection:
        files, _ = repository.files_to_write(connection)
    order = sorted(files, key=lambda name: (not name.startswith("targets/"), "timestamp" in name, "snapshot" in name))
    for count, name in enumerate(order):
        look(office, folder.root, tmp_path / f"state-{count}")
        folder.publish({name: files[name]})
    seen = look(office, folder.root, tmp_path / "whole")
    assert seen.find(manifest_target(TEAM, "tool", "1.1"))


def test_snapshot_and_timestamp_are_renewed_in_time(office: Office, tmp_path: Path) -> None:
    def versions() -> dict[str, int]:
        return {row.role: row.version for row in office.rows(repository_files) if row.repository == "packages"}

    before = versions()
    office.rounds.tick()
    assert versions() == before
    office.clock.forward(days=2)
    office.rounds.tick()
    assert versions()["timestamp"] == before["timestamp"] + 1
    assert versions()["snapshot"] == before["snapshot"]
    office.clock.forward(days=25)
    office.rounds.tick()
    assert versions()["snapshot"] == before["snapshot"] + 1
    look(office, office.site.home.root, tmp_path / "client")


def test_a_folder_that_cannot_be_written_is_tried_again(office: Office) -> None:
    folder = office.site.home.root
    moved = folder.with_name("moved")
    publication = office.small.sign_publication(office.site, make_package())
    folder.rename(moved)
    folder.write_text("in the way")
    with pytest.raises((StoreError, NotADirectoryError, RequestError)):
        take(office, publication)
    folder.unlink()
    moved.rename(folder)
    office.rounds.tick()
    with office.site.database.read() as connection:
        assert not repository.has_unwritten(connection)


def test_a_new_distribution_folder_gets_everything(office: Office, tmp_path: Path) -> None:
    contents = {"setup.sh": b"#!/bin/sh\n"}
    office.small.publish(office.site, make_package(contents=contents), contents)
    added = DistributionFolder(tmp_path / "added")
    server = DistributionServer(
        "added", "https://files.example.org", own=False, home=False, shelf=FolderShelf(added.root)
    )
    office.site.servers = (*office.site.servers, server)
    delivery.deliver_all(office.site)
    assert look(office, added.root, tmp_path / "client").find(manifest_target(TEAM, "tool", "1.0"))
    assert not added.missing_objects(as_manifest(make_package(contents=contents), office.clock()))


def test_expired_team_metadata_can_be_signed_again_without_change(office: Office) -> None:
    office.package()
    with office.site.database.read() as connection:
        current = repository.require(connection, repository.PACKAGES, TEAM)
    later = (office.clock.now + timedelta(days=300)).timestamp()
    again = package_repository.sign_team_again(TEAM, current.body, office.small.team_signers(), later)
    answer = take(office, Publication(TEAM, again))
    assert (answer.published, answer.withdrawn) == ((), ())
