"""The planner's rules about the people at the computer: who is there, who is busy, what is in the way, who must be told. Pure.

Serves step 7, behind `pcm.service.planner_rules`, which lists them last. They delay what may be delayed, each for a span that is
known beforehand, so no user interface and nobody's absence from it can hold mandatory work up for ever (KB Q160853). Asking and
closing are the runner's.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from pcm.model.assignment import State as Stage
from pcm.service.plan import Finding
from pcm.service.planner_case import DONE_WELL, Case, Desk
from pcm.service.planner_findings import at, no, wait, yes
from pcm.service.records import UserRun

LONGEST_PAUSE = timedelta(hours=8)  # of `verdicts.back_off`, and a little more
LONGEST_ASKING = timedelta(days=1)
LOOK_AGAIN = timedelta(minutes=5)
"""Nobody tells the service that a person is not busy any more, or has closed a program."""
SPARING = frozenset({"battery", "metered"})
"""While this is so, nothing is brought early."""
NEXT_LOGON = "wait.next_logon"
_DONE = DONE_WELL | {Stage.RESTART_PENDING}
_BUSY = {
    "full_screen": "a full-screen program",
    "presentation": "a presentation",
    "call": "a call",
    "battery": "the computer runs on battery",
    "metered": "the network is metered",
}


def deferral(case: Case, desk: Desk) -> Finding:
    """Nobody has postponed it, or the time is over. Never longer than the instruction's budget (KB Q122202)."""
    until = case.record.deferred_until
    if until is None or case.deadline is None:
        return yes(desk, "request", "Nobody has postponed it.")
    until = min(until, end_of_delay(case))
    if desk.now < until:
        text = f"It was postponed until {at(until)}."
        return no("request", text, "wait.deferred", state=Stage.DEFERRED, until=until)
    return yes(desk, "request", "It was postponed until {}; that time is over.", until)


def end_of_delay(case: Case) -> datetime:
    """Until when people may delay mandatory work: its deadline, and as much longer as its deferral budget is."""
    assert case.deadline is not None, "what is not mandatory has no end of its delay"
    return case.deadline + timedelta(seconds=case.instruction.deferral.max_s)


def end_of_asking(other: Case, case: Case) -> datetime | None:
    """Until when one that a user merely asked for takes the place of a mandatory one; None: no such end.

    A user could let nothing come of it, by running what it waits for, and so keep the mandatory one away for good.
    """
    if other.deadline is not None or case.deadline is None:
        return None
    return end_of_delay(case) + LONGEST_ASKING


def presence(case: Case, desk: Desk) -> Finding:
    """Who is logged on fits what the program needs."""
    users = desk.situation.presence.users
    program = case.program
    wanted = "any" if program is None else program.presence
    if wanted == "logged_off" and users:
        return wait("presence", "It runs when nobody is logged on.", "wait.presence", None)
    if wanted == "logged_on" and not users:
        return wait("presence", "It runs when somebody is logged on.", "wait.presence", None)
    if program is not None and program.run_as == "user" and user_of(case, desk) is None:
        return wait("presence", _missing_user(case, desk), "wait.presence", None)
    if program is not None and program.run_as == "each_user" and user_of(case, desk) is None:
        return _nobody_left(case, desk)
    return yes(desk, "presence", "Logged on: {}.", ", ".join(users) or "nobody")


def user_of(case: Case, desk: Desk) -> str | None:
    """As whom a user's program runs (KB Q172872): who asked for it; else the one user who is logged on and meant by the order.

    If several are, the one in the foreground; a program for each user takes the next of them for whom it is not done. None: it
    waits. Never an administrator, whose name would give it all rights.
    """
    candidates = _candidates(case, desk)
    if case.requested:
        candidates = [user for user in candidates if user == case.record.requested_by]
    if case.program is not None and case.program.run_as == "each_user":
        return next((user for user in candidates if not _has_had(user, case, desk)), None)
    active = desk.situation.presence.active
    if len(candidates) == 1:
        return candidates[0]
    return active if active in candidates else None


def busy(case: Case, desk: Desk) -> Finding:
    """Nobody is busy, or the work may not wait for that any longer."""
    reasons = desk.situation.presence.busy
    if not reasons or case.deadline is None or case.instruction.busy_policy == "ignore":
        return yes(desk, "presence", "Nobody's being busy delays it.")
    end = end_of_delay(case)
    if desk.now >= end:
        return yes(desk, "presence", "It waits for nobody who is busy since {}.", end)
    text = f"It waits while somebody is busy ({busy_with(reasons)}), but not longer than until {at(end)}."
    return wait("presence", text, "wait.busy", min(end, desk.now + LOOK_AGAIN))


def busy_with(reasons: Sequence[str]) -> str:
    """What keeps a person busy, for people."""
    return ", ".join(_BUSY.get(each, each.replace("_", " ")) for each in reasons)


def spares_early(case: Case, desk: Desk) -> bool:
    """Tell whether nothing is brought early now: the battery or the network shall be spared, and there is time left."""
    if case.instruction.busy_policy == "ignore" or not SPARING.intersection(desk.situation.presence.busy):
        return False
    return case.deadline is None or desk.now < end_of_delay(case)


def blocking(case: Case, desk: Desk) -> Finding:
    """No program runs that it cannot run beside; or the job lets the runner close it."""
    names = desk.situation.blocking.get(case.record.id, ())
    if not names:
        return yes(desk, "presence", "No program is in its way.")
    shown = ", ".join(names)
    if case.instruction.blocking_policy == "close":
        return yes(
            desk, "presence", "In its way: {}. Their users are asked to close them, then they are closed.", shown
        )
    text = f"It waits until nobody runs {shown} any more."
    if case.deadline is not None and desk.now >= (end := end_of_delay(case)):
        text = (
            f"It is overdue since {at(end)}, and waits until nobody runs {shown} any more: the job closes no programs."
        )
    return wait("presence", text, "wait.blocking", desk.now + LOOK_AGAIN)


def countdown(case: Case, desk: Desk) -> Finding:
    """Who is logged on was told, and the time to finish is over (KB Q187287, Q185805)."""
    end = end_of_countdown(case, desk)
    if end is None:
        return yes(desk, "request", "Nobody needs to be told before it starts.")
    if desk.now < end:
        text = f"It starts at {at(end)}; whoever is logged on was told."
        return no("request", text, "wait.countdown", state=Stage.ASKED, until=end)
    return yes(desk, "request", "Its countdown ended at {}.", end)


def end_of_countdown(case: Case, desk: Desk) -> datetime | None:
    """When its countdown ends, or would if it began now; None: nobody is to be told.

    Once announced it is never shortened: not by a restart, and not by who logs off.
    """
    notify = case.instruction.notify
    if case.deadline is None or not notify.show or not notify.countdown_s:
        return None
    announced = case.record.announced_at
    if announced is None and not desk.situation.presence.users:
        return None
    return begin_of_countdown(case, desk) + timedelta(seconds=notify.countdown_s)


def begin_of_countdown(case: Case, desk: Desk) -> datetime:
    """When its countdown was announced; now, if it was not, or by a clock that went ahead: a future one would never end."""
    announced = case.record.announced_at
    return desk.now if announced is None or announced > desk.now else announced


def pause_of(not_before: datetime | None, now: datetime) -> datetime | None:
    """Until when it may not be tried again. No pause is longer than the longest: a later end was written by a wrong clock."""
    return not_before if not_before is not None and now < not_before <= now + LONGEST_PAUSE else None


def _candidates(case: Case, desk: Desk) -> list[str]:
    here, allowed = desk.situation.presence, case.instruction.allowed_users
    meant = [user for user in here.users if user not in here.administrators and (allowed is None or user in allowed)]
    return sorted(meant, key=lambda user: user != here.active)


def _missing_user(case: Case, desk: Desk) -> str:
    if case.requested:
        return f"It runs as {case.record.requested_by}, who asked for it: it is waiting for this user to log on."
    if len(_candidates(case, desk)) > 1:
        return "It runs as a user; several are logged on, and none of them is in the foreground."
    return "It runs as a user: it is waiting for a user to log on."


# -- programs that run once for each user ---------------------------------------------------------------------------------


def users_of(case: Case, desk: Desk) -> tuple[UserRun, ...]:
    """For whom a program that runs once for each user has run this time, and what came of it."""
    return () if case.begins else desk.situation.user_runs.get(case.record.id, ())


def _has_had(user: str, case: Case, desk: Desk) -> bool:
    """Whether it does not run as this user now: it has, or is to be tried again later."""
    return any(
        run.user == user and (run.settled or pause_of(run.not_before, desk.now) is not None)
        for run in users_of(case, desk)
    )


def _nobody_left(case: Case, desk: Desk) -> Finding:
    runs = users_of(case, desk)
    here = set(_candidates(case, desk))
    if case.requested:
        asked = case.record.requested_by
        if any(run.user == asked and run.settled for run in runs):
            return wait("presence", f"It has run for {asked}; another user may ask for it.", "wait.request", None)
        if asked not in here:
            return wait("presence", _missing_user(case, desk), "wait.presence", None)
    pauses = [until for run in runs if run.user in here and (until := pause_of(run.not_before, desk.now)) is not None]
    told = _told(runs)
    if pauses:
        until = min(pauses)
        return wait(
            "retry",
            f"{told} it is tried again at {at(until)}." if told else f"It is tried again at {at(until)}.",
            "wait.retry",
            until,
        )
    if not runs:
        return wait("presence", "It runs for each user at their next logon.", NEXT_LOGON, None)
    return wait("presence", f"{told} it runs for each other user at their next logon.", NEXT_LOGON, None)


def _told(runs: Sequence[UserRun]) -> str:
    done = sorted(run.user for run in runs if run.state in _DONE)
    other = sorted(
        (run.user, run.state.value.replace("_", " ")) for run in runs if run.settled and run.state not in _DONE
    )
    parts = [f"done for {', '.join(done)}"] if done else []
    parts += [f"{state} for {user}" for user, state in other]
    if not parts:
        return ""
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]};"


def how_long(case: Case, desk: Desk) -> timedelta:
    """How long it may take: as estimated, or as long as it took here lately if that is more; at most its time limit."""
    program = case.program
    if program is None:
        return timedelta()
    seen = desk.situation.durations.get((case.record.manifest_sha256, case.instruction.program), 0)
    return timedelta(seconds=min(max(program.estimated_s or program.timeout_s, seen), program.timeout_s))
