"""When this computer restarts: programs that asked, people, windows and the time in, one decision with its reason out. Pure.

Serves step 11, its last part: after `service.runner` has done all that is due, before `service.restart_start` acts on it. One
restart serves every program that asked; the strictest policy decides (force, then ask, then never), within the smallest budget.
A request is single-use and belongs to one boot (KB Q153227); a restart that does not come is asked for `MOST_TRIES` times, so
that nothing loops (KB Q164329, Q135584, Q171070). It reads no clock and touches nothing.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import Enum
from typing import Literal, NamedTuple

Policy = Literal["never", "ask", "force"]

LEAST_NOTICE = timedelta(seconds=60)
"""Whoever is logged on has at least this long, whatever the job says."""
BY_ITSELF = timedelta(minutes=10)
"""How long a program that said it restarts the computer itself is waited for."""
PATIENCE = timedelta(minutes=10)
"""How long the computer may take to go down once it was asked to; also how long `force` waits for those who block it."""
MOST_TRIES = 3
PAUSES = (timedelta(minutes=5), timedelta(minutes=30))
"""After the first try that came to nothing, and after the second."""
_RANK: dict[Policy, int] = {"never": 0, "ask": 1, "force": 2}


class Wish(NamedTuple):
    """One program that asked for a restart, with what its job says about restarts.

    Attributes:
        name: Package and version, for people.
        asked: When its run ended.
        countdown_s, times, max_s: The job's notice and budget.
        any_time: The job ignores maintenance windows.
        by_itself: It said that it restarts the computer itself (exit class `restarting`).
    """

    name: str
    policy: Policy
    asked: datetime
    countdown_s: int = 0
    times: int = 0
    max_s: int = 0
    any_time: bool = False
    by_itself: bool = False


class Terms(NamedTuple):
    """What all wishes together come to. `by_itself`: until when a program is expected to restart the computer itself."""

    names: tuple[str, ...]
    policy: Policy
    asked: datetime
    notice: timedelta
    times: int
    budget: timedelta
    any_time: bool
    by_itself: datetime | None

    def who(self) -> str:
        """How messages begin: who needs it."""
        return f"{' and '.join(self.names)} {'needs' if len(self.names) == 1 else 'need'} a restart"


class Standing(NamedTuple):
    """What was already said about the restart that is wanted.

    Attributes:
        policy: Under which it was announced.
        announced: When people were first told; `due`: when it was said to come.
        told: Who was told.
        requested_by: Somebody here chose 'now'.
        tries: How often it was asked for since the last program asked, and did not come; `tried`: when the last one was given up.
        given_up: It is not tried any more unless somebody asks anew.
    """

    policy: Policy
    announced: datetime | None = None
    due: datetime | None = None
    deferred_until: datetime | None = None
    requested_by: str | None = None
    told: frozenset[str] = frozenset()
    tries: int = 0
    tried: datetime | None = None


class Around(NamedTuple):
    """The computer at this moment.

    `users`: logged on. `at_work`: a program of ours runs. `open`: a maintenance window is open, or there are none. `held`: why
    this client does nothing of itself just now, for people; `held_until` None: until an event.
    """

    users: Collection[str] = ()
    at_work: bool = False
    open: bool = True
    next_opening: datetime | None = None
    held: str = ""
    held_until: datetime | None = None


class Step(Enum):
    """What is to happen."""

    NONE = "none"  # nobody asked
    WAITING = "waiting"  # for `until`, or for an event
    ANNOUNCED = "announced"  # it comes at `until`
    NOW = "now"


class Decision(NamedTuple):
    """The answer. `code` is stable, `reason` for people, `until`: when to look again.

    `due`: when it is to come, as far as that is settled. `tell`: users who are to be told now, because they have not been.
    """

    step: Step
    code: str = ""
    reason: str = ""
    until: datetime | None = None
    due: datetime | None = None
    tell: frozenset[str] = frozenset()


def combine(wishes: Collection[Wish]) -> Terms | None:
    """One restart for all who asked; None if nobody did.

    Notice is the longest that any was promised; the budget the smallest, of those that let the service restart at all.
    """
    if not wishes:
        return None
    policy = max((wish.policy for wish in wishes), key=_RANK.__getitem__)
    counted = [wish for wish in wishes if wish.policy != "never"] or list(wishes)
    itself = [wish.asked + BY_ITSELF for wish in wishes if wish.by_itself]
    return Terms(
        names=tuple(sorted({wish.name for wish in wishes})),
        policy=policy,
        asked=max(wish.asked for wish in wishes),
        notice=max(LEAST_NOTICE, timedelta(seconds=max(wish.countdown_s for wish in counted))),
        times=min(wish.times for wish in counted),
        budget=timedelta(seconds=min(wish.max_s for wish in counted)),
        any_time=any(wish.any_time for wish in wishes if wish.policy == policy),
        by_itself=max(itself, default=None),
    )


def decide(terms: Terms | None, standing: Standing, around: Around, now: datetime) -> Decision:
    """Decide about the restart.

    Args:
        terms: From `combine`.
        standing: `Standing(terms.policy)` if nothing was said yet.
        now: Aware.
    """
    if terms is None:
        return Decision(Step.NONE)
    waiting = _not_yet(terms, standing, around, now)
    if waiting is not None:
        return waiting
    strangers = frozenset(around.users) - standing.told
    if standing.requested_by is not None:
        due = _sane(standing.due, now, LEAST_NOTICE)
        if due is not None and now < due:
            text = f"{standing.requested_by} chose to restart this computer; it restarts at {_at(due)}."
            return Decision(Step.ANNOUNCED, "restart.announced", text, due, due, strangers)
        return Decision(Step.NOW, "restart.now", f"{terms.who()}; {standing.requested_by} chose now.", due=due or now)
    if terms.policy == "never":
        text = f"{terms.who()}. The service does not do it: the job leaves it to the people here."
        return Decision(Step.WAITING, "restart.never", text)
    later = postponed_until(terms, standing, now)
    if later is not None:
        return Decision(
            Step.WAITING, "restart.postponed", f"{terms.who()}; it was postponed until {_at(later)}.", later, later
        )
    if not around.users:
        return _in_window(terms, standing, around, now)
    if terms.policy == "ask":
        text = f"{terms.who()}. Whoever is logged on may choose when; it is done once nobody is. It is never forced on a user."
        return Decision(Step.WAITING, "restart.asked", text, tell=strangers)
    return _count_down(terms, standing, around, now, strangers)


def postponed_until(terms: Terms, standing: Standing, now: datetime) -> datetime | None:
    """Until when it is postponed, if that lies ahead; never longer than the budget, counted from the announcement."""
    until, announced = standing.deferred_until, standing.announced
    if until is None or announced is None:
        return None
    # by the last one a clock that was set back gives nothing away
    until = min(until, announced + terms.budget, now + terms.budget)
    return until if now < until else None


def _not_yet(terms: Terms, standing: Standing, around: Around, now: datetime) -> Decision | None:
    """What keeps any restart away, also one that somebody chose."""
    if around.at_work:
        return Decision(Step.WAITING, "restart.at_work", f"{terms.who()}, once what runs and is due here is done.")
    if standing.requested_by is not None:
        return None
    if around.held:
        return Decision(Step.WAITING, "restart.held", f"{terms.who()}. {around.held}", around.held_until)
    if standing.tries >= MOST_TRIES:
        text = (
            f"{terms.who()}. It was asked for {standing.tries} times and did not come: restart this computer by hand."
        )
        return Decision(Step.WAITING, "restart.failed", text)
    if standing.tries and standing.tried is not None:
        pause = PAUSES[min(standing.tries, len(PAUSES)) - 1]
        again = _sane(standing.tried + pause, now, pause)
        if again is not None and now < again:
            text = f"{terms.who()}. It was asked for and did not come; it is asked for again at {_at(again)}."
            return Decision(Step.WAITING, "restart.retry", text, again)
    itself = _sane(terms.by_itself, now, BY_ITSELF)
    if itself is not None and now < itself:
        text = f"{terms.who()}; its program is restarting this computer by itself."
        return Decision(Step.WAITING, "restart.by_itself", text, itself)
    return None


def _count_down(terms: Terms, standing: Standing, around: Around, now: datetime, strangers: frozenset[str]) -> Decision:
    """Force, with people logged on: told, then counted down; whoever was not told yet has the least notice from now."""
    opens = around.next_opening
    due = _sane(standing.due, now, max(terms.notice, terms.budget, timedelta() if opens is None else opens - now))
    if standing.announced is None or due is None or standing.policy != "force":
        due = now + terms.notice
    elif strangers:
        due = max(due, now + LEAST_NOTICE)
    if now < due:
        text = f"{terms.who()}. It restarts at {_at(due)}; save your work."
        return Decision(Step.ANNOUNCED, "restart.announced", text, due, due, strangers)
    return _in_window(terms, standing, around, now)


def _in_window(terms: Terms, standing: Standing, around: Around, now: datetime) -> Decision:
    if around.open or terms.any_time:
        since = standing.due if standing.due is not None and standing.due <= now else now
        return Decision(Step.NOW, "restart.now", f"{terms.who()}.", due=since)
    opens = around.next_opening
    when = "no maintenance window will open" if opens is None else f"the next maintenance window opens at {_at(opens)}"
    return Decision(Step.WAITING, "restart.window", f"{terms.who()}; {when}.", opens, opens)


def _sane(moment: datetime | None, now: datetime, longest: timedelta) -> datetime | None:
    """A time that was written down, unless it lies further ahead than it ever could: then a clock was set back since."""
    return None if moment is None or moment > now + longest else moment


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
