"""Cancelling, expiring and joining, on both databases, with what clients are told of it."""

from datetime import timedelta
from typing import Any

import pytest

from pcm.model.assignment import State
from pcm.model.errors import RequestError
from pcm.protocol.report import Outcome
from pcm.site.db.tables import assignments, clients
from pcm.testing.small_site import SmallClient
from tests.contract.site.conftest import Office


def outcome(client: SmallClient, job: str, state: State, office: Office, **fields: Any) -> Outcome:
    return Outcome(f"{job}.{client.client_id[:12]}", job, 1, state, office.clock(), **fields)


def ids(office: Office, client: SmallClient) -> list[str]:
    return [instruction.job for instruction in office.instructions(client).instructions]


@pytest.fixture
def ready(office: Office) -> Office:
    office.package()
    return office


def test_a_client_that_enrols_later_joins(ready: Office) -> None:
    ready.enrolled("a")
    job = ready.order()
    late = ready.enrolled("b")
    ready.compile()
    assert ids(ready, late) == [job]


def test_nobody_joins_an_expired_or_cancelled_job(ready: Office) -> None:
    ready.enrolled("a")
    ready.cancel(ready.order())
    ready.order(expires_after=ready.clock.now + timedelta(hours=1))
    ready.clock.forward(hours=2)
    late = ready.enrolled("b")
    ready.compile()
    assert ids(ready, late) == []


def test_a_job_that_no_client_knows_is_cancelled_at_once(ready: Office) -> None:
    ready.enrolled()
    job = ready.order()
    ready.cancel(job)
    assert ready.job(job).counts == {"cancelled": 1}
    assert ready.job(job).state == "cancelled"


def test_q191338_cancelling_is_shown_until_the_client_confirms(ready: Office) -> None:
    client = ready.enrolled()
    job = ready.order()
    ready.compile()
    ready.report(client, serial=1, outcomes=(outcome(client, job, State.WAITING, ready),))
    ready.cancel(job)
    assert ready.job(job).counts == {"cancelling": 1}
    assert ready.job(job).state == "cancelling"
    ready.compile()
    assert ids(ready, client) == []
    assert ready.job(job).state == "cancelling"
    ready.report(client, serial=2, outcomes=(outcome(client, job, State.WITHDRAWN, ready),))
    assert ready.job(job).counts == {"cancelled": 1}
    assert ready.job(job).state == "cancelled"


def test_a_client_that_never_spoke_of_it_confirms_by_standing_on_a_later_file(ready: Office) -> None:
    client = ready.enrolled()
    job = ready.order()
    ready.compile()
    ready.cancel(job)
    ready.report(client, serial=1)
    assert ready.job(job).state == "cancelling"
    ready.compile()
    ready.report(client, serial=2)
    assert ready.job(job).state == "cancelled"


def test_what_ran_before_the_cancellation_arrived_is_the_truth(ready: Office) -> None:
    client = ready.enrolled()
    job = ready.order()
    ready.compile()
    ready.cancel(job)
    ready.compile()
    ready.report(client, serial=1, outcomes=(outcome(client, job, State.SUCCEEDED, ready),))
    assert ready.job(job).counts == {"succeeded": 1}
    assert ready.job(job).state == "cancelled"


def test_what_succeeded_stays_so_when_the_job_is_cancelled(ready: Office) -> None:
    client = ready.enrolled()
    job = ready.order()
    ready.compile()
    ready.report(client, serial=1, outcomes=(outcome(client, job, State.SUCCEEDED, ready),))
    ready.cancel(job)
    assert ready.job(job).counts == {"succeeded": 1}


def test_cancelling_twice_is_refused(ready: Office) -> None:
    ready.enrolled()
    job = ready.order()
    ready.cancel(job)
    with pytest.raises(RequestError) as raised:
        ready.cancel(job)
    assert raised.value.code == "job.state"
    with pytest.raises(RequestError) as raised:
        ready.cancel("j0000000000")
    assert raised.value.code == "not_found"


def test_q264945_only_clients_concerned_are_touched(ready: Office) -> None:
    concerned = ready.enrolled("a")
    job = ready.order()
    ready.compile()
    other = ready.enrolled("b", platform="windows-x86_64")
    ready.compile()
    ready.cancel(job)
    assert ready.client(concerned).dirty
    assert not ready.client(other).dirty


def test_q188042_the_site_expires_by_itself(ready: Office) -> None:
    client = ready.enrolled()
    job = ready.order(expires_after=ready.clock.now + timedelta(hours=1))
    ready.compile()
    assert ids(ready, client) == [job]
    ready.clock.forward(hours=2)
    ready.rounds.tick()
    assert ready.job(job).state == "expired"
    assert ready.job(job).counts == {"expired": 1}
    assert ids(ready, client) == []
    assert "job.expire" in ready.audited()


def test_q225056_a_running_program_is_not_expired_under_its_feet(ready: Office) -> None:
    client = ready.enrolled()
    job = ready.order(expires_after=ready.clock.now + timedelta(hours=1))
    ready.compile()
    ready.report(client, serial=1, outcomes=(outcome(client, job, State.RUNNING, ready),))
    ready.clock.forward(hours=2)
    ready.rounds.tick()
    assert ready.job(job).counts == {"running": 1}
    ready.report(client, serial=1, outcomes=(outcome(client, job, State.SUCCEEDED, ready),))
    assert ready.job(job).counts == {"succeeded": 1}


def test_client_time_expires_in_the_last_zone(ready: Office) -> None:
    ready.enrolled()
    job = ready.order(expires_after=ready.clock.now + timedelta(hours=1), clock="client")
    ready.clock.forward(hours=12)
    ready.rounds.expire_jobs()
    assert ready.job(job).state == "active"
    ready.clock.forward(hours=2)
    ready.rounds.expire_jobs()
    assert ready.job(job).state == "expired"


def test_an_expired_job_cannot_be_cancelled(ready: Office) -> None:
    ready.enrolled()
    job = ready.order(expires_after=ready.clock.now + timedelta(hours=1))
    ready.clock.forward(hours=2)
    ready.rounds.expire_jobs()
    with pytest.raises(RequestError):
        ready.cancel(job)


def test_a_job_is_done_when_nothing_more_is_expected(ready: Office) -> None:
    client = ready.enrolled()
    job = ready.order()
    ready.compile()
    assert ready.job(job).state == "active"
    ready.report(client, serial=1, outcomes=(outcome(client, job, State.SUCCEEDED, ready),))
    assert ready.job(job).state == "done"


def test_an_assignment_remembers_in_which_file_it_was(ready: Office) -> None:
    client = ready.enrolled()
    ready.compile()
    job = ready.order()
    ready.compile()
    ready.cancel(job)
    ready.compile()
    [row] = ready.rows(assignments)
    assert (row.offered_serial, row.withdrawn_serial) == (2, 3)
    assert ready.rows(clients)[0].client_id == client.client_id
