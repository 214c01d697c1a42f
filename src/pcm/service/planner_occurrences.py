"""How one time of a recurring order stands: when it may begin here, and what became of it for its users. Pure; no clock.

Serves step 7: `planner_rules.brake` asks when, `planner_rules.expiry` and `journal` ask what it came to. A program that runs once
for each user has no end of its own, for somebody may always log on for the first time: its time ends it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pcm.model.assignment import State as Stage
from pcm.model.brake import spread_over
from pcm.model.schedule import next_opening, open_span
from pcm.service.planner_case import DONE_WELL, Case, Desk
from pcm.service.planner_people import how_long
from pcm.service.records import UserRun

_DONE = DONE_WELL | {Stage.RESTART_PENDING}


class End(NamedTuple):
    """What a time came to: `succeeded` if it is done for everybody for whom it ran, else `failed`."""

    state: Stage
    reason: str


def braked_until(case: Case, desk: Desk, place: float, spread_s: int, pilot_share: float) -> datetime | None:
    """When this time of an order may begin here: the fleet begins each time spread out, as it began the first time.

    The spread never costs a client the time itself: it takes half of what is left when what it needs is taken away, until it
    expires, until the next time comes, or until its window ends. It comes beside the whole brake of the order, never instead.

    Returns:
        UTC; None: it does not recur, or is not due at a time of its own.
    """
    if case.instruction.recurrence is None or case.deadline is None:
        return None
    begins, ends = case.deadline, [each for each in (case.expires, case.again) if each is not None]
    windows = desk.situation.windows
    if windows and case.instruction.window_policy != "ignore":
        zone = desk.situation.zone
        opening = begins if open_span(windows, begins, zone) is not None else next_opening(windows, begins, zone)
        span = None if opening is None else open_span(windows, opening, zone)
        if opening is not None and span is not None:
            begins, ends = opening, [*ends, span[1]]
    room = None if not ends else (min(ends) - begins - how_long(case, desk)) / 2
    return spread_over(begins, place, spread_s=spread_s, pilot_share=pilot_share, room=room)


def end_for_users(runs: Sequence[UserRun]) -> End | None:
    """What a program that runs once for each user came to; None: it ran for nobody."""
    if not runs:
        return None
    good = sorted(run.user for run in runs if run.state in _DONE)
    bad = sorted((run.user, run.state.value.replace("_", " ")) for run in runs if run.state not in _DONE)
    parts = [f"done for {', '.join(good)}"] if good else []
    parts += [f"{'not done' if state == 'waiting' else state} for {user}" for user, state in bad]
    text = "; ".join(parts)
    return End(Stage.FAILED if bad else Stage.SUCCEEDED, f"Its time is over: {text}.")
