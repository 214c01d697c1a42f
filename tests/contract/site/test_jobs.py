"""Jobs on both databases: what is refused at creation and why, plans, assignments, bulk."""

import time
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert

from pcm.model.errors import RequestError
from pcm.model.instruction import Notify
from pcm.model.job import JobOrder
from pcm.model.program import Parameter, Program
from pcm.protocol.admin_jobs import GroupOrder, JobPlan
from pcm.protocol.instructions import read_instructions
from pcm.site import groups, job_views, jobs, packages, projection
from pcm.site.db.tables import assignments, audit, clients
from pcm.site.db.tables import jobs as job_table
from pcm.site.pages import Slice
from pcm.testing.small_site import make_package
from tests.contract.site.conftest import Office


def plan(office: Office, **fields: Any) -> JobPlan:
    order = JobOrder(**{"package": "tool", "group": "all", **fields})
    with office.site.database.read() as connection:
        return jobs.plan(connection, order, office.clock())


def refused(office: Office, **fields: Any) -> RequestError:
    """Order; it must be refused, by the plan as well, and leave nothing."""
    before = len(office.rows(job_table)), len(office.rows(audit))
    with pytest.raises(RequestError) as raised:
        office.order(**fields)
    with pytest.raises(RequestError) as planned:
        plan(office, **fields)
    assert planned.value.code == raised.value.code
    assert (len(office.rows(job_table)), len(office.rows(audit))) == before
    return raised.value


@pytest.fixture
def ready(office: Office) -> Office:
    """A site with one package and one client."""
    office.package()
    office.enrolled()
    return office


def test_a_job_its_assignment_and_its_audit_row(ready: Office) -> None:
    job = ready.order()
    view = ready.job(job)
    assert (view.state, view.version, view.release, view.program) == ("active", "1.0", 1, "install")
    assert view.counts == {"offered": 1}
    assert ready.audited()[-1] == "job.create"
    assert [row.dirty for row in ready.rows(clients)] == [True]


def test_a_plan_changes_nothing(ready: Office) -> None:
    before = [len(ready.rows(table)) for table in (job_table, assignments, audit)]
    told = plan(ready)
    assert (told.included, told.excluded, told.argv) == (1, 0, ("/bin/true",))
    assert [len(ready.rows(table)) for table in (job_table, assignments, audit)] == before


def test_the_newest_release_is_chosen(ready: Office) -> None:
    ready.package(version="1.1", release=2)
    assert plan(ready).version == "1.1"
    assert plan(ready, version="1.0").version == "1.0"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"package": "nothing"}, "not_found"),
        ({"version": "9"}, "not_found"),
        ({"program": "repair"}, "not_found"),
        ({"group": "nobody"}, "not_found"),
        ({"after": ("j0123456789",)}, "not_found"),
        ({"parameters": {"X": "1"}}, "request.parameter"),
        ({"purpose": "optional", "program": "uninstall"}, "job.contradiction"),
    ],
)
def test_what_does_not_fit_is_refused(ready: Office, fields: dict[str, Any], code: str) -> None:
    assert refused(ready, **fields).code == code


def test_q174933_settings_that_contradict_are_refused_with_the_reason(ready: Office) -> None:
    now = ready.clock.now
    for fields in (
        {"expires_after": now - timedelta(hours=1)},
        {"expires_after": now + timedelta(hours=1), "mandatory_after": now + timedelta(hours=2)},
        {"purpose": "optional", "mandatory_after": now + timedelta(hours=2)},
        {"allowed_users": ("ann",)},
    ):
        error = refused(ready, **fields)
        assert error.code == "job.contradiction"
        assert "contradicts itself" in error.message


def test_q154931_every_setting_of_an_order_reaches_its_clients(ready: Office) -> None:
    set_to: dict[str, Any] = {
        "notify": Notify(show=True, countdown_s=60),
        "busy_policy": "ignore",
        "blocking_policy": "close",
        "restart_policy": "force",
        "recurrence": "FREQ=DAILY",
    }
    ready.order(offer_after=ready.clock.now, **set_to)
    ready.compile()
    [client] = ready.rows(clients)
    [wanted] = read_instructions(bytes(client.body)).instructions
    assert {name: getattr(wanted, name) for name in set_to} == set_to


def test_q154931_a_program_that_every_client_would_refuse_cannot_be_ordered(office: Office) -> None:
    office.package(programs={"install": Program(argv=("/bin/true",), interaction="allowed")})
    office.enrolled()
    error = refused(office)
    assert error.code == "job.unsupported"
    assert "interaction" in error.message


def test_q174933_nothing_can_come_after_what_is_never_done_for_all_users(office: Office) -> None:
    office.package(programs={"install": Program(argv=("/bin/true",), run_as="each_user")})
    office.package("other")
    office.enrolled()
    first = office.order()
    error = refused(office, package="other", after=(first,))
    assert error.code == "job.contradiction"
    assert "never done for all of them" in error.message


def test_q174462_a_job_with_nothing_to_run_is_refused(ready: Office) -> None:
    with ready.site.database.write() as connection:
        groups.create(connection, GroupOrder("empty"), "tester", ready.clock())
    assert refused(ready, group="empty").code == "job.nothing_to_run"


def test_q174462_only_clients_of_other_platforms_is_nothing_to_run(office: Office) -> None:
    office.package()
    office.enrolled(platform="windows-x86_64")
    error = refused(office)
    assert error.code == "job.nothing_to_run"
    assert "windows-x86_64" in error.message


def test_all_may_be_empty_because_it_grows(office: Office) -> None:
    office.package()
    job = office.order()
    assert office.job(job).counts == {}
    office.enrolled()
    assert office.job(job).counts == {"offered": 1}


def test_q156250_a_client_of_another_platform_is_not_applicable_and_says_why(ready: Office) -> None:
    ready.enrolled("win", "windows-x86_64")
    job = ready.order()
    assert ready.job(job).counts == {"offered": 1, "not_applicable": 1}
    with ready.site.database.read() as connection:
        detail = job_views.show_detail(connection, job, Slice())
    [other] = [each for each in detail.assignments.items if each.host_name == "win"]
    assert (other.state, other.code) == ("not_applicable", "job.platform")
    assert "linux-any" in other.reason


def test_a_withdrawn_version_cannot_be_ordered(ready: Office) -> None:
    publication = ready.small.sign_withdrawal(ready.site, "tool", "1.0")
    with ready.site.database.write() as connection:
        packages.publish(connection, publication, (ready.site.home,), ready.site.online, "t", ready.clock())
    projection.publish_unwritten(ready.site)
    assert refused(ready, version="1.0").code == "package.withdrawn"
    assert refused(ready).code == "not_found"


def test_q235837_a_publication_that_has_not_reached_its_servers_cannot_be_ordered(ready: Office) -> None:
    publication = ready.small.sign_publication(ready.site, make_package(version="2.0", release=2))
    with ready.site.database.write() as connection:
        packages.publish(connection, publication, (ready.site.home,), ready.site.online, "t", ready.clock())
    assert refused(ready).code == "package.not_ready"
    projection.publish_unwritten(ready.site)
    assert plan(ready).version == "2.0"


def test_parameters_must_fit_their_schema(office: Office) -> None:
    office.package(
        parameters={"MODE": Parameter(enum=("a", "b")), "KEY": Parameter(pattern=".*", secret=True, default="")},
        programs={"install": Program(argv=("/bin/echo", "{MODE}"))},
    )
    office.enrolled()
    assert refused(office).code == "request.parameter"
    assert refused(office, parameters={"MODE": "c"}).code == "request.parameter"
    assert refused(office, parameters={"MODE": "a", "KEY": "s3cret"}).code == "job.secret"
    assert plan(office, parameters={"MODE": "a"}).argv == ("/bin/echo", "a")


def test_a_program_that_needs_more_approvers_than_there_are_is_refused(office: Office) -> None:
    office.package(programs={"install": Program(argv=("/bin/true",), approvals=2)})
    office.enrolled()
    assert refused(office).code == "job.not_approvable"


def test_install_and_uninstall_of_one_package_need_an_order(ready: Office) -> None:
    first = ready.order()
    error = refused(ready, program="uninstall")
    assert error.code == "job.contradiction"
    assert first in error.message
    assert ready.order(program="uninstall", after=(first,))


def test_waiting_for_a_cancelled_job_is_refused(ready: Office) -> None:
    first = ready.order()
    ready.cancel(first)
    assert refused(ready, after=(first,)).code == "job.contradiction"


def test_jobs_are_independent(ready: Office) -> None:
    """KB Q186414: one job that goes nowhere does not block the next."""
    ready.order(version="1.0")
    ready.package(version="1.1", release=2)
    assert ready.job(ready.order()).counts == {"offered": 1}


def test_jobs_are_listed_newest_first_in_pages(ready: Office) -> None:
    made = [ready.order(note=str(number)) for number in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        with ready.site.database.read() as connection:
            page = job_views.list_jobs(connection, Slice(2, cursor))
        seen += [job.id for job in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert seen == made[::-1]


def test_q153087_a_job_for_many_clients_is_made_in_bulk(ready: Office) -> None:
    rows = [
        {
            "client_id": f"{number:032x}",
            "public_key": "-",
            "host_name": f"pc-{number}",
            "host_key": f"pc-{number}",
            "platform": "linux-x86_64",
            "os_name": "",
            "os_version": "",
            "agent_version": "",
            "state": "enrolled",
            "created": ready.clock(),
        }
        for number in range(20_000)
    ]
    with ready.site.database.write() as connection:
        connection.execute(insert(clients), rows)
    begun = time.monotonic()
    job = ready.order()
    # one second per client is what once happened; this bound is 500 times below it, and 10 times above what is usual
    assert time.monotonic() - begun < 40
    assert ready.job(job).counts == {"offered": 20_001}


def test_groups_give_their_jobs_to_new_members(ready: Office) -> None:
    first, second = ready.enrolled("a"), ready.enrolled("b")
    with ready.site.database.write() as connection:
        groups.create(connection, GroupOrder("pilot", clients=(first.client_id,)), "tester", ready.clock())
    job = ready.order(group="pilot")
    with ready.site.database.write() as connection:
        order = GroupOrder("pilot", clients=(second.client_id,))
        groups.replace(connection, "pilot", order, "tester", ready.clock())
    assert ready.job(job).counts == {"offered": 2}
    with ready.site.database.read() as connection:
        assert groups.show(connection, "pilot").clients == (second.client_id,)


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (GroupOrder("Bad Name"), "request.name"),
        (GroupOrder("x", kind="all"), "request.group"),
        (GroupOrder("all"), "conflict"),
        (GroupOrder("x", clients=("0" * 32,)), "not_found"),
        (GroupOrder("x", clients=("zz",)), "request.name"),
    ],
)
def test_wrong_groups_are_refused(office: Office, order: GroupOrder, code: str) -> None:
    with pytest.raises(RequestError) as raised, office.site.database.write() as connection:
        groups.create(connection, order, "tester", office.clock())
    assert raised.value.code == code


def test_a_group_with_an_active_job_stays(ready: Office) -> None:
    client = ready.enrolled("a")
    with ready.site.database.write() as connection:
        groups.create(connection, GroupOrder("pilot", clients=(client.client_id,)), "tester", ready.clock())
    job = ready.order(group="pilot")
    with pytest.raises(RequestError) as raised, ready.site.database.write() as connection:
        groups.remove(connection, "pilot", "tester", ready.clock())
    assert raised.value.code == "conflict"
    ready.cancel(job)
    with ready.site.database.write() as connection:
        groups.remove(connection, "pilot", "tester", ready.clock())
    with pytest.raises(RequestError), ready.site.database.write() as connection:
        groups.remove(connection, "all", "tester", ready.clock())


def test_the_order_is_kept_as_given(ready: Office) -> None:
    order = JobOrder(package="tool", group="all", note="for Ann", priority=7)
    with ready.site.database.write() as connection:
        job = jobs.create(connection, order, "tester", ready.clock())
    assert ready.job(job).order == msgspec.structs.replace(order)
