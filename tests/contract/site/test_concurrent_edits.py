"""Two people at once: an edit that did not see the other's is refused, and nothing is ever half saved."""

import threading

import pytest

from pcm.model.errors import PcmError, RequestError
from pcm.protocol.admin_jobs import GroupOrder
from pcm.protocol.admin_packages import Publication
from pcm.site import groups, packages, projection, repository
from pcm.site.db.tables_packages import package_versions
from pcm.testing.small_site import TEAM, make_package
from tests.contract.site.conftest import Office


def test_q122382_an_edit_that_did_not_see_the_last_one_overwrites_nothing(office: Office) -> None:
    one, two = office.enrolled("pc-1"), office.enrolled("pc-2")
    with office.site.database.write() as connection:
        groups.create(connection, GroupOrder("lab"), "ann", office.clock())
        seen = groups.show(connection, "lab")
    # both looked at the same group; ann is faster
    with office.site.database.write() as connection:
        groups.replace(
            connection,
            "lab",
            GroupOrder("lab", clients=(one.client_id,), revision=seen.revision),
            "ann",
            office.clock(),
        )
    with pytest.raises(RequestError) as raised, office.site.database.write() as connection:
        groups.replace(
            connection,
            "lab",
            GroupOrder("lab", clients=(two.client_id,), revision=seen.revision),
            "bob",
            office.clock(),
        )
    assert raised.value.code == "conflict"
    with office.site.database.read() as connection:
        now = groups.show(connection, "lab")
    assert now.clients == (one.client_id,)
    assert now.revision == seen.revision + 1
    with office.site.database.write() as connection:  # having looked again, bob's edit counts
        groups.replace(
            connection, "lab", GroupOrder("lab", clients=(two.client_id,), revision=now.revision), "bob", office.clock()
        )


def test_q256317_of_two_publications_at_once_one_is_whole_and_the_other_not_there_at_all(office: Office) -> None:
    offered = [office.small.sign_publication(office.site, make_package(name, contents={})) for name in ("ann", "bob")]
    outcomes: list[str] = []
    ready = threading.Barrier(2)

    def publish(publication: Publication) -> None:
        ready.wait(10)
        try:
            with office.site.database.write() as connection:
                packages.publish(
                    connection, publication, (office.site.home,), office.site.online, "tester", office.clock()
                )
            outcomes.append("published")
        except PcmError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=publish, args=(publication,)) for publication in offered]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert outcomes.count("published") == 1, outcomes
    [version] = office.rows(package_versions)
    projection.publish_unwritten(office.site)
    with office.site.database.read() as connection:
        listed = repository.require(connection, repository.PACKAGES, TEAM).body
    assert version.manifest_path.encode() in listed
    assert office.audited().count("package.publish") == 1
