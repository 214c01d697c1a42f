"""The state table of assignments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.assignment import FINAL, MOVES, State, can_move, move
from pcm.model.errors import RequestError


def test_every_state_has_its_row() -> None:
    assert set(MOVES) == set(State)


def test_q152229_a_later_event_never_overwrites_success() -> None:
    for state in State:
        if state is not State.SUCCEEDED:
            with pytest.raises(RequestError) as caught:
                move(State.SUCCEEDED, state)
            assert caught.value.code == "assignment.illegal_move"


def test_q150026_a_running_program_only_ends_by_its_own_end() -> None:
    for state in (State.EXPIRED, State.WITHDRAWN, State.NOT_APPLICABLE, State.OFFERED, State.DEFERRED):
        assert not can_move(State.RUNNING, state)


def test_repeating_a_state_is_no_move() -> None:
    for state in State:
        assert move(state, state) is state


def test_q164877_a_result_that_arrives_after_cancelling_is_kept() -> None:
    assert can_move(State.CANCELLED, State.SUCCEEDED)
    assert can_move(State.WITHDRAWN, State.FAILED)


@given(st.lists(st.sampled_from(list(State)), max_size=12))
def test_a_chain_of_legal_moves_never_leaves_success_and_never_returns_to_offered(steps: list[State]) -> None:
    state = State.OFFERED
    for step in steps:
        if can_move(state, step):
            assert not (state is State.SUCCEEDED and step is not State.SUCCEEDED)
            assert not (step is State.OFFERED and state is not State.OFFERED)
            state = step


def test_final_states_only_move_to_late_results_or_each_other() -> None:
    late = {State.SUCCEEDED, State.FAILED, State.RESTART_PENDING, State.UNKNOWN}
    for state in FINAL:
        assert MOVES[state] <= late | FINAL
