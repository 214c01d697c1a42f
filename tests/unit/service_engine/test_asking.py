"""Who may ask for what, what is heard between plan and start, and what an administrator's pause does. On a real database."""

from datetime import timedelta
from typing import Any

import pytest

from pcm.model.assignment import State as Stage
from pcm.model.errors import RequestError
from pcm.model.instruction import Deferral, Instruction
from pcm.model.program import Program
from pcm.protocol.local import Accepted, LocalRequest
from pcm.protocol.manifest import write_manifest
from pcm.service import asking, local_acts, pausing
from pcm.service.asking import Asker
from pcm.service.journal import Change, Journal, Verified
from pcm.service.local_acts import Response
from pcm.service.machine.here import this_machine
from pcm.service.meanwhile import heard_meanwhile
from pcm.service.outlook import Outlook
from pcm.service.plan import Action, Hold
from pcm.service.planner import plan
from pcm.service.state import State
from tests.unit.service_engine.making import CLIENT, NOON, instruction, manifest, record, situation

ROOT, ANNA, BEN, NAMELESS = Asker(0, "root"), Asker(1000, "anna"), Asker(1001, "ben"), Asker(4711, "")
HOUR = timedelta(hours=1)
FREE = Program(argv=("./setup",), user_requestable=True)


def taken_in(state: State, *orders: Instruction) -> None:
    Journal(state).take_in([Verified(each) for each in orders], NOON)
    with state.transaction() as connection:
        for order in orders:
            body = write_manifest(manifest(order, {"install": FREE}))
            connection.execute("INSERT OR REPLACE INTO manifests VALUES (?, ?)", (order.manifest.sha256, body))


def optional(number: int = 1, **fields: Any) -> Instruction:
    return instruction(number, purpose="optional", **fields)


def act(state: State, asker: Asker, verb: str, wanted: Instruction, **more: Any) -> Response:
    outlook = Outlook(state, this_machine(), CLIENT, situation().facts)
    return local_acts.act_on_one(LocalRequest(verb, wanted.id, **more), asker, state, outlook, NOON)  # type: ignore[arg-type]


def refused(state: State, asker: Asker, verb: str, wanted: Instruction, **more: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        act(state, asker, verb, wanted, **more)
    return caught.value


def test_whoever_asked_may_take_it_back_and_administrators_may(state: State) -> None:
    order = optional()
    taken_in(state, order)
    for who in (ANNA, NAMELESS):
        assert act(state, who, "run", order).check_now
        assert refused(state, BEN, "cancel", order).code == "not_allowed"
        assert act(state, who, "cancel", order).check_now
        assert Journal(state).record(order.id).requested_by is None
    act(state, ANNA, "run", order)
    act(state, ROOT, "cancel", order)
    assert refused(state, ANNA, "cancel", order).message == "There is nothing to take back: nobody has asked for it."


def test_what_was_asked_for_stays_whoever_asked_first(state: State) -> None:
    order = optional()
    taken_in(state, order)
    act(state, ANNA, "run", order)
    for who in (BEN, ROOT, ANNA):
        act(state, who, "run", order)
    assert Journal(state).record(order.id).requested_by == "anna"


def test_after_a_failure_anybody_may_ask_again(state: State) -> None:
    order = optional()
    taken_in(state, order)
    act(state, ANNA, "run", order)
    Journal(state).change(order.id, Change(state=Stage.RUNNING), NOON + HOUR)
    assert refused(state, ANNA, "cancel", order).message.endswith("it has begun, and is seen to its end.")
    Journal(state).change(order.id, Change(state=Stage.FAILED), NOON + HOUR)
    assert not asking.is_asked_for(Journal(state).record(order.id))
    act(state, BEN, "run", order)
    assert Journal(state).record(order.id).requested_by == "ben"


@pytest.mark.parametrize(
    "stage", [Stage.SUCCEEDED, Stage.EXPIRED, Stage.WITHDRAWN, Stage.CANCELLED, Stage.ALREADY_INSTALLED]
)
def test_nothing_that_is_over_is_asked_for(stage: Stage) -> None:
    asked = record(optional(), state=stage, requested_at=NOON, requested_by="anna")
    assert not asking.is_asked_for(asked)
    assert asking.why_not_cancel(asked, ANNA)


def test_mandatory_work_is_no_request(state: State) -> None:
    order = instruction()
    taken_in(state, order)
    for verb in ("run", "cancel"):
        assert refused(state, ANNA, verb, order).code == "not_allowed"


def test_what_is_for_others_is_not_there(state: State) -> None:
    order = optional(allowed_users=("ben",))
    taken_in(state, order)
    for verb in ("run", "cancel", "defer"):
        assert refused(state, ANNA, verb, order).code == "not_found"
        assert refused(state, NAMELESS, verb, order).code == "not_found"
    act(state, BEN, "run", order)


def test_postponing_stays_within_the_budget_however_far_one_asks(state: State) -> None:
    order = instruction(mandatory_after=NOON + HOUR, deferral=Deferral(1, 3600))
    taken_in(state, order)
    granted = act(state, ANNA, "defer", order, until=NOON + timedelta(days=900)).answer
    assert isinstance(granted, Accepted)
    assert granted.until == NOON + 2 * HOUR
    assert granted.message.endswith(" UTC: longer is not allowed.")
    assert refused(state, BEN, "defer", order, until=NOON + HOUR).code == "not_allowed"
    assert refused(state, ANNA, "defer", optional(2)).code == "not_found"


# ---- between plan and start


def test_a_request_that_was_taken_back_does_not_begin(state: State) -> None:
    order = optional()
    taken_in(state, order)
    act(state, ANNA, "run", order)
    planned = Journal(state).record(order.id)
    assert heard_meanwhile(state, planned, NOON) is None
    act(state, ANNA, "cancel", order)
    change = heard_meanwhile(state, planned, NOON)
    assert change is not None
    assert (change.state, change.code) == (Stage.WAITING, "wait.request")
    Journal(state).change(order.id, change, NOON)


def test_what_somebody_else_asked_for_meanwhile_does_not_begin_as_whoever_took_it_back(state: State) -> None:
    order = instruction(purpose="optional", mandatory_after=None)
    taken_in(state, order)
    act(state, ANNA, "run", order)
    planned = Journal(state).record(order.id)
    act(state, ANNA, "cancel", order)
    act(state, BEN, "run", order)
    change = heard_meanwhile(state, planned, NOON)
    assert change is not None
    assert (change.state, change.code) == (Stage.WAITING, "wait.request")
    assert heard_meanwhile(state, Journal(state).record(order.id), NOON) is None


def test_what_was_put_off_meanwhile_waits_and_what_was_put_off_before_does_not(state: State) -> None:
    order = instruction(mandatory_after=NOON - HOUR, deferral=Deferral(2, 7200))
    taken_in(state, order)
    planned = Journal(state).record(order.id)
    Journal(state).defer(order.id, NOON + timedelta(minutes=30), NOON - HOUR, NOON)
    change = heard_meanwhile(state, planned, NOON)
    assert change is not None
    assert (change.state, change.code) == (Stage.DEFERRED, "wait.deferred")
    assert heard_meanwhile(state, planned, NOON + HOUR) is None
    assert heard_meanwhile(state, Journal(state).record(order.id), NOON) is None


def test_a_pause_is_heard_too_and_keeps_what_is_known_of_tries(state: State) -> None:
    order = instruction()
    taken_in(state, order)
    Journal(state).change(order.id, Change(state=Stage.WAITING, attempts=3, not_before=NOON + HOUR), NOON)
    pausing.pause(state, "root", None, NOON)
    change = heard_meanwhile(state, Journal(state).record(order.id), NOON)
    assert change is not None
    assert (change.code, change.attempts, change.not_before) == ("wait.paused", 3, NOON + HOUR)


# ---- a pause


def test_a_pause_lasts_until_its_end_or_until_somebody_resumes(state: State) -> None:
    assert pausing.read_pause(state, NOON) is None
    pausing.pause(state, "anna of the desk", NOON + HOUR, NOON)
    pause = pausing.read_pause(state, NOON)
    assert pause == pausing.Pause(NOON, NOON + HOUR, "anna of the desk")
    assert pausing.read_pause(state, NOON + HOUR) is None
    pausing.pause(state, "root", None, NOON)
    assert pausing.read_pause(state, NOON + timedelta(days=900)) is not None
    pausing.resume(state)
    pausing.resume(state)
    assert pausing.read_pause(state, NOON) is None


@pytest.mark.parametrize("note", ["", "nonsense", "2026-01-01", "x - root", " - "])
def test_a_note_that_nobody_wrote_holds_nothing_up(state: State, note: str) -> None:
    state.set_meta(pausing.PAUSED, note)
    assert pausing.read_pause(state, NOON) is None


def test_while_paused_everything_waits_until_the_end_that_was_said() -> None:
    order = instruction()
    hold = Hold(pausing.CODE, "Paused.", NOON + HOUR)
    made = plan([record(order)], situation(order, hold=hold), NOON)
    [line] = made.lines
    assert (line.action, line.code, line.until) == (Action.WAIT, "wait.paused", NOON + HOUR)
    assert made.next_change(NOON) == NOON + HOUR


def test_the_outlook_names_the_pause(state: State) -> None:
    outlook = Outlook(state, this_machine(), CLIENT, situation().facts)
    assert outlook.find_hold(NOON) is not None, "nothing verified has come yet"
    pausing.pause(state, "root", NOON + HOUR, NOON)
    hold = outlook.find_hold(NOON)
    assert hold is not None
    assert (hold.code, hold.until) == ("wait.paused", NOON + HOUR)
    assert "root paused this client until 2026-03-04 13:00 UTC" in hold.reason


def test_a_number_without_a_name_is_nobody_else_s_name() -> None:
    assert NAMELESS.shown() != Asker(1002, "4711").shown()
