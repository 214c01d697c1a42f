"""Recurring jobs on both databases: they stay in instruction files, and each time of them has its own result."""

from datetime import datetime, timedelta

import pytest

from pcm.model.assignment import State
from pcm.protocol.report import Outcome
from pcm.site import packages
from pcm.site.db.tables import assignments, clients, jobs, refusals
from pcm.testing.small_site import SmallClient
from tests.contract.site.conftest import Office

DAY = timedelta(days=1)


@pytest.fixture
def daily(office: Office) -> tuple[Office, SmallClient, str]:
    """A client with a job that recurs daily, in its instruction file."""
    office.package()
    client = office.enrolled()
    job = office.order(recurrence="FREQ=DAILY", offer_after=office.clock.now)
    office.compile()
    return office, client, job


def say(
    office: Office, client: SmallClient, job: str, state: State, occurrence: datetime | None, code: str = ""
) -> None:
    name = f"{job}.{client.client_id[:12]}"
    office.report(client, outcomes=(Outcome(name, job, 1, state, office.clock(), code, occurrence=occurrence),))


def standing(office: Office, job: str) -> tuple[str, datetime | None]:
    [row] = office.rows(assignments, assignments.c.job == job)
    return row.state, row.occurrence


def test_what_is_done_for_this_time_stays_in_the_file_and_is_not_done_for_good(
    daily: tuple[Office, SmallClient, str],
) -> None:
    office, client, job = daily
    for state in (State.SUCCEEDED, State.EXPIRED, State.CANCELLED):
        say(office, client, job, state, office.clock.now)
        with office.site.database.write() as connection:
            connection.execute(clients.update().values(dirty=True))
        office.compile()
        assert [each.job for each in office.instructions(client).instructions] == [job]
        assert office.job(job).state == "active"


def test_q141192_a_later_time_begins_anew_and_an_earlier_one_changes_nothing(
    daily: tuple[Office, SmallClient, str],
) -> None:
    office, client, job = daily
    first = office.clock.now
    say(office, client, job, State.WAITING, None, "wait.offer")
    assert standing(office, job) == ("waiting", None)
    say(office, client, job, State.SUCCEEDED, first)
    assert standing(office, job) == ("succeeded", first)
    say(office, client, job, State.WAITING, first + DAY, "wait.window")
    assert standing(office, job) == ("waiting", first + DAY)
    say(office, client, job, State.FAILED, first)  # from a clock that went back
    assert standing(office, job) == ("waiting", first + DAY)
    say(office, client, job, State.FAILED, first + DAY)
    say(office, client, job, State.SUCCEEDED, first + 2 * DAY)
    assert standing(office, job) == ("succeeded", first + 2 * DAY)
    assert [row.code for row in office.rows(refusals)] == ["report.other_occurrence"]


def test_q166833_within_one_time_of_it_states_move_only_as_the_table_allows(
    daily: tuple[Office, SmallClient, str],
) -> None:
    office, client, job = daily
    first = office.clock.now
    say(office, client, job, State.SUCCEEDED, first)
    say(office, client, job, State.WAITING, first)
    assert standing(office, job) == ("succeeded", first)
    assert [row.code for row in office.rows(refusals)] == ["report.illegal_move"]


def test_a_job_that_does_not_recur_begins_anew_by_no_report(office: Office) -> None:
    office.package()
    client = office.enrolled()
    job = office.order()
    office.compile()
    say(office, client, job, State.SUCCEEDED, None)
    say(office, client, job, State.WAITING, office.clock.now)
    assert standing(office, job) == ("succeeded", None)


def test_a_cancelled_one_leaves_the_file_and_waits_for_nobody_who_is_done(
    daily: tuple[Office, SmallClient, str],
) -> None:
    office, client, job = daily
    say(office, client, job, State.SUCCEEDED, office.clock.now)
    office.cancel(job)
    office.compile()
    assert office.instructions(client).instructions == ()
    assert office.job(job).state == "cancelled"


def test_a_withdrawn_package_takes_it_out_of_files_although_it_is_done_for_this_time(
    daily: tuple[Office, SmallClient, str],
) -> None:
    office, client, job = daily
    say(office, client, job, State.SUCCEEDED, office.clock.now)
    office.compile()
    publication = office.small.sign_withdrawal(office.site, "tool", "1.0")
    with office.site.database.write() as connection:
        packages.publish(connection, publication, (office.site.home,), office.site.online, "t", office.clock())
    office.compile()
    assert office.instructions(client).instructions == ()


def test_the_site_expires_it_with_its_last_time_only(office: Office) -> None:
    office.package()
    office.enrolled()
    now = office.clock.now
    for_ever = office.order(recurrence="FREQ=DAILY", offer_after=now, expires_after=now + DAY / 2)
    thrice = office.order(recurrence="FREQ=DAILY;COUNT=3", offer_after=now, expires_after=now + DAY / 2)
    ends = {row.id: row.expires for row in office.rows(jobs)}
    assert ends == {for_ever: None, thrice: now + 2 * DAY + DAY / 2}
    office.clock.forward(days=2)
    office.rounds.expire_jobs()
    assert office.job(thrice).state == "active"
    office.clock.forward(days=1)
    office.rounds.expire_jobs()
    assert (office.job(thrice).state, office.job(for_ever).state) == ("expired", "active")
