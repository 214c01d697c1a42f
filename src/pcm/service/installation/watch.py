"""`pcmsvc watch-update`: the version before watches over the one on trial, and comes back if that one does not work.

Serves no step. Before: `trials.begin` started this as a unit of its own, from the tree of the version before, enabled for as
long as the trial lasts: a restart of the computer or a kill of this process changes nothing but the moment. It decides by what
the new version's service has confirmed, by how often the system had to start that service again, and by time: that in which this
computer was awake and no worker of the version before still ran a program, by a clock that nobody sets. Time alone is no verdict:
`again` tells a version that does not work from a network that was away.
"""

import enum
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from pcm.service.installation.again import (
    MOST_TRIES,
    MOST_UNTOLD_S,
    at_once_s,
    give_up,
    is_whole,
    try_again,
    turn_back,
)
from pcm.service.installation.layout import SERVICE, current_version
from pcm.service.installation.measures import Host
from pcm.service.installation.trials import end, go_back, remember
from pcm.service.trial import Returns, Trial, is_confirmed, last_contact, read_record

LOOK_S = 5.0
LATER_LOOK_S = 60.0
MOST_RESTARTS = 5
"""So often a service may fail and be started again before that is the answer."""


class Verdict(enum.Enum):
    """What has to be done about a trial."""

    WAIT = "wait"
    OVER = "over"
    RETURN = "return"
    TURN_BACK = "turn back"
    BAD = "bad"
    AGAIN = "again"
    GIVE_UP = "give up"


class Seen(NamedTuple):
    """What one look shows.

    Attributes:
        in_use: The version that is in use.
        confirmed: The new version has shown that it works.
        returning: A return of this trial has begun.
        restarts: How often the system has started the failed service again since the trial began.
        waited_s: Since the trial began, or since this process did; see `patience_left`. In the stage `untold`: since then.
        reached: The version before has reached the site since it came back.
        whole: The new version is still here.
    """

    in_use: str | None
    confirmed: bool
    returning: bool
    restarts: int
    waited_s: float
    reached: bool = False
    whole: bool = True


def decide(trial: Trial, seen: Seen, patience_s: float) -> tuple[Verdict, str]:
    """What to do, and why. Pure."""
    if seen.returning:
        return Verdict.RETURN, ""  # it is known already why
    if trial.stage == "untold":
        return _decide_untold(trial, seen)
    if trial.stage == "again":
        return Verdict.AGAIN, ""
    if trial.stage == "returning":
        return Verdict.TURN_BACK, trial.why
    if seen.confirmed:
        return Verdict.OVER, f"version {trial.new} works"
    late = seen.waited_s >= patience_s
    if seen.in_use != trial.new:
        # `install` has not switched yet, or died before it did, or somebody else has switched
        return (Verdict.OVER, f"version {trial.new} did not come into use") if late else (Verdict.WAIT, "")
    if seen.restarts >= MOST_RESTARTS:
        return Verdict.RETURN, f"Its service does not stay up: it was started again {seen.restarts} times."
    if late:
        minutes = max(round(patience_s / 60), 1)
        return Verdict.TURN_BACK, f"It did not reach the site and verify its instructions within {minutes} min."
    return Verdict.WAIT, ""


def _decide_untold(trial: Trial, seen: Seen) -> tuple[Verdict, str]:
    """The version before is in use again, and nobody knows yet whose fault that is. Pure."""
    if seen.in_use != trial.old:
        return Verdict.OVER, "somebody has switched"
    if seen.reached and seen.waited_s < at_once_s(trial) and not seen.confirmed:
        return Verdict.BAD, f"{trial.why} Version {trial.old} reached it at once."
    if not seen.reached and seen.waited_s < MOST_UNTOLD_S:
        return Verdict.WAIT, ""
    if not seen.reached or trial.tries >= MOST_TRIES or not seen.whole:
        return Verdict.GIVE_UP, f"There was no network in {trial.tries} of its trials."
    return Verdict.AGAIN, ""


def patience_left(trial: Trial, now: datetime) -> float:
    """Seconds that are left for a trial when this process begins: after a reboot less, but never so few that nothing can show.

    The wall clock may be wrong by then in both directions.
    """
    return min(max((trial.until - now).total_seconds(), trial.patience_s / 3), trial.patience_s)


def watch(
    host: Host,
    clock: Callable[[], datetime],
    steady: Callable[[], float],
    pause: Callable[[float], object],
    say: Callable[[str], None],
) -> None:
    """Watch until the trial is over.

    Args:
        steady: seconds, of a clock that nobody sets and that stands while this computer sleeps.

    Raises:
        MachineError, StoreError, RequestError: something could not be done; the system starts this process again.
    """
    watched, patience_s, waited_s, restarts_before = ("", ""), 0.0, 0.0, 0
    while True:
        trial = read_record(Trial, host.layout.trial)
        if trial is None:
            end(host)
            return
        if (trial.id, trial.stage) != watched:
            watched, patience_s, waited_s = (
                (trial.id, trial.stage),
                patience_left(trial, clock()),
                _untold_s(trial, clock()),
            )
            restarts_before = host.registration.service(SERVICE).restarts
            if trial.stage == "trial":
                say(f"version {trial.new} is on trial; version {trial.old} comes back unless it works")
        seen = look(host, trial, waited_s)
        restarts_before = min(restarts_before, seen.restarts)  # the system may begin to count anew, and may not
        seen = seen._replace(restarts=seen.restarts - restarts_before)
        verdict, why = decide(trial, seen, patience_s)
        if verdict is not Verdict.WAIT:
            if _act(host, trial, verdict, why, clock(), say):
                return
            continue
        before = steady()
        pause(LOOK_S if waited_s < max(patience_s, at_once_s(trial)) else LATER_LOOK_S)
        if not host.registration.runs_from(host.places.work_lock, host.layout.version(trial.old)):
            waited_s += steady() - before


def _act(host: Host, trial: Trial, verdict: Verdict, why: str, now: datetime, say: Callable[[str], None]) -> bool:
    """Do it. Returns whether the trial is over."""
    if verdict is Verdict.TURN_BACK:
        turn_back(host, trial, why, now, say)
        return False
    if verdict is Verdict.AGAIN:
        try_again(host, trial, now, say)
        return False
    if verdict is Verdict.RETURN:
        go_back(host, trial, why, now, say)
        return True
    if verdict is Verdict.BAD:
        remember(host, trial, why, now)
    if verdict is Verdict.GIVE_UP:
        give_up(host, trial, why, now)
        say(f"version {trial.old} stays instead of {trial.new}: {why}")
        return True
    if verdict is Verdict.BAD:
        say(f"version {trial.old} is in use again instead of {trial.new}: {why}")
    else:
        say(f"the trial is over: {why}")
    end(host)
    return True


def _untold_s(trial: Trial, now: datetime) -> float:
    return max((now - trial.since).total_seconds(), 0.0) if trial.since is not None else 0.0


def look(host: Host, trial: Trial, waited_s: float) -> Seen:
    """Look at everything that the decision needs.

    Raises:
        MachineError: the system does not answer.
    """
    returns = read_record(Returns, host.layout.returns) or Returns()
    return Seen(
        in_use=current_version(host.layout),
        confirmed=is_confirmed(trial, host.places),
        returning=any(each.id == trial.id for each in returns.returns),
        restarts=host.registration.service(SERVICE).restarts,
        waited_s=waited_s,
        reached=last_contact(host.places) not in {0, trial.contact},
        whole=is_whole(host, trial.new),
    )
