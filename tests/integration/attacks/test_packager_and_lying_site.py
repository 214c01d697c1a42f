"""A packager's machine against a site in wrong hands, with the online key of the package repository: it signs nothing that harms."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import pytest

from pcm.distribution.packager_memory import PackagerMemory
from pcm.distribution.publication import Packager, verify_team
from pcm.distribution.publish import Started
from pcm.model.errors import TrustError
from pcm.protocol.admin_packages import Publication, PublicationAnswer, TeamView
from pcm.trust import package_repository
from tests.unit.trust.simulated import SITE, Server, SimulatedSite, a_manifest, named, utc_now


class LyingSite:
    """Says of a team's list whatever it is told to."""

    def __init__(self, listed: bytes | None) -> None:
        self.listed = listed

    def team(self, team: str) -> TeamView:
        return TeamView(team, self.listed, 1, (), 1)

    def newest_release(self, package: str) -> int:
        return len(package)

    def publish(self, publication: Publication) -> PublicationAnswer:
        raise AssertionError(publication.team)

    def lacking(self, names: Collection[str]) -> set[str]:
        raise AssertionError(names)

    def started(self, sha256: str) -> Started:
        raise AssertionError(sha256)

    def upload(self, sha256: str, length: int, packed: Iterable[bytes], offset: int = 0) -> None:
        raise AssertionError(sha256)

    def upload_small(self, objects: Sequence[tuple[str, bytes]]) -> None:
        raise AssertionError(objects)


def packager(site: SimulatedSite, folder: Path, listed: bytes | None) -> Packager:
    return Packager(
        SITE,
        "apps",
        LyingSite(listed),
        site.package_roots[0],
        PackagerMemory(folder),
        Server(site.distribution),
        lambda _: (),
        utc_now().timestamp(),
    )


def without_the_team(site: SimulatedSite) -> None:
    """What the holder of the online key can sign: a newer snapshot that has never heard of the team."""
    others = {"targets": site.top, "games": site.team_files["games"]}
    site.distribution.update(
        package_repository.publish(others, None, None, site.online, utc_now().timestamp(), first_version=50)
    )


def test_a_team_that_has_published_is_not_told_to_begin_anew(tmp_path: Path) -> None:
    site = SimulatedSite()
    site.publish_manifest(a_manifest())
    assert verify_team(packager(site, tmp_path, site.team_files["apps"])).current == site.team_files["apps"]
    without_the_team(site)
    with pytest.raises(TrustError) as caught:
        verify_team(packager(site, tmp_path, None))
    assert caught.value.code == "trust.freeze"


def test_a_team_with_new_keys_and_nothing_published_begins(tmp_path: Path) -> None:
    site = SimulatedSite()
    verify_team(packager(site, tmp_path, site.team_files["apps"]))
    site.teams["apps"] = named("team-apps-2")
    site.change_targets(lambda staged: staged.set_team("apps", [site.teams["apps"].public_key]))
    without_the_team(site)
    assert verify_team(packager(site, tmp_path, None)).current is None


def test_an_older_list_of_the_team_is_refused(tmp_path: Path) -> None:
    site = SimulatedSite()
    site.publish_manifest(a_manifest())
    older = site.team_files["apps"]
    site.withdraw(a_manifest())
    verify_team(packager(site, tmp_path, site.team_files["apps"]))
    without_the_team(site)
    with pytest.raises(TrustError) as caught:
        verify_team(packager(site, tmp_path, older))
    assert caught.value.code == "trust.rollback"
