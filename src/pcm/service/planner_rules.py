"""The planner's rules, one function each, in one visible list: the first that does not hold decides. Pure; no clock.

Serves step 7: `pcm.service.planner` asks them about each instruction, in this order, and keeps their answers as the decision
trace. A rule never looks at another rule's answer, so that a trace can be read line by line.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from pcm.model.assignment import State as Stage
from pcm.model.brake import earliest_start, slot
from pcm.model.instruction import Instruction
from pcm.model.names import platform_fits
from pcm.service.plan import Action, Finding
from pcm.service.planner_case import DONE_WELL, Case, Desk

Rule = Callable[[Case, Desk], Finding]
_HOLDS = Finding("", True, "")
LONGEST_PAUSE = timedelta(hours=8)  # of `verdicts.back_off`, and a little more


def target(case: Case, desk: Desk) -> Finding:
    """It is still ordered, and not settled in this generation."""
    record = case.record
    if case.settled:
        text = record.reason or f"This generation of the job is {record.state.value.replace('_', ' ')} here."
        return _no("target", text, record.code, Action.DONE, record.state)
    if record.state is Stage.RUNNING:
        return _no("target", "It is running.", "wait.running", state=Stage.RUNNING)
    if record.state is Stage.RESTART_PENDING:
        text = record.reason or "It is done once this computer has restarted."
        return _no("target", text, record.code or "wait.restart", state=Stage.RESTART_PENDING)
    if not record.present:
        return _no(
            "target", "The newest instructions no longer name it.", "withdrawn", Action.WITHDRAW, Stage.WITHDRAWN
        )
    return _yes(desk, "target", "Generation {} of job {} is for this client.", record.generation, case.instruction.job)


def expiry(case: Case, desk: Desk) -> Finding:
    """It has not expired (KB Q225056, Q255284)."""
    if case.expires is not None and desk.now >= case.expires:
        return _no("schedule", f"It expired at {_at(case.expires)}.", "expired", Action.EXPIRE, Stage.EXPIRED)
    if case.expires is None:
        return _yes(desk, "schedule", "It does not expire.")
    return _yes(desk, "schedule", "It is valid until {}.", case.expires)


def verdict(case: Case, desk: Desk) -> Finding:
    """The trust checks let it pass, and its signed manifest and program are here."""
    record = case.record
    if record.verdict_code:
        return _refuse("target", record.verdict_reason or "It was refused.", record.verdict_code)
    if case.manifest is None:
        return _wait("source", "What its packager signed about it has not come yet.", "wait.source", None)
    if case.program is None:
        return _refuse("target", "Its signed manifest does not name this program.", "trust.unsigned_program")
    return _yes(desk, "target", "Its program is signed by its packager.")


def contradiction(case: Case, desk: Desk) -> Finding:
    """No other instruction says the opposite, and it does not wait for itself."""
    text = desk.contradictions.get(case.record.id)
    if text is not None:
        return _refuse("target", text, "request.contradiction")
    return _yes(desk, "target", "No other instruction contradicts it.")


def platform(case: Case, desk: Desk) -> Finding:
    """The package is made for this platform (KB Q156250)."""
    mine = desk.situation.facts.platform
    offered = () if case.manifest is None else case.manifest.platforms
    if mine in offered or any(platform_fits(each, mine) for each in offered):
        return _yes(desk, "target", "The package is made for {}.", mine)
    return _no(
        "target",
        f"The package is made for {', '.join(offered)}; this computer is {mine}.",
        "not_applicable.platform",
        Action.NOT_APPLICABLE,
        Stage.NOT_APPLICABLE,
    )


def release(case: Case, desk: Desk) -> Finding:
    """The release does not go back behind what was here, but as far as the installed one's signed `min_release`."""
    here = desk.situation.releases.get(case.instruction.package)
    offered = case.instruction.release
    if here is not None and offered < here.release and offered < here.min_release:
        return _refuse(
            "target",
            f"Release {offered} is older than release {here.release}, which was here and lets nothing before "
            f"{here.min_release} come back.",
            "trust.downgrade",
        )
    return _yes(desk, "target", "Release {} may be used here.", offered)


def approvals(case: Case, desk: Desk) -> Finding:
    """As many approvers have signed as the program demands."""
    needed = 0 if case.program is None else case.program.approvals
    found = desk.situation.approvals.get(case.record.id)
    count = 0 if found is None else found.count
    if count < needed:
        return _refuse("approval", f"It needs {needed} approvals; {count} could be verified.", "trust.approval")
    return _yes(desk, "approval", "{} of {} needed approvals are verified.", count, needed)


def history(case: Case, desk: Desk) -> Finding:
    """If this client lost its history, detection must be able to tell whether it ran (KB Q229809, Q122202)."""
    if case.record.history_lost and case.program is not None and case.program.detect is None:
        return _no(
            "detection",
            "This client lost its history, and the program has no detection to tell whether it ran. Order it anew to run it.",
            "store.history_lost",
            Action.DONE,
            Stage.UNKNOWN,
        )
    return _yes(desk, "detection", "Whether it is already done is looked up right before it runs.")


def offer(case: Case, desk: Desk) -> Finding:
    """It has been offered (KB Q163488: asked at every look, not when a file changes)."""
    if desk.now < case.offer:
        return _wait("schedule", f"It is offered from {_at(case.offer)}.", "wait.offer", case.offer)
    return _yes(desk, "schedule", "It is offered since {}.", case.offer)


def request(case: Case, desk: Desk) -> Finding:
    """An optional one runs when a user asks."""
    if case.instruction.purpose == "mandatory":
        return _yes(desk, "request", "It is mandatory; nobody needs to ask for it.")
    if case.requested:
        return _yes(desk, "request", "{} asked for it.", case.record.requested_by)
    return _wait("request", "It is optional: it waits until somebody asks for it.", "wait.request", None)


def hold(_case: Case, desk: Desk) -> Finding:
    """Nothing keeps this whole client from starting programs."""
    stop = desk.situation.hold
    if stop is not None:
        return _wait("hold", stop.reason, stop.code, stop.until)
    return _yes(desk, "hold", "This client may start programs.")


def dependency(case: Case, desk: Desk) -> Finding:
    """What it comes after is done."""
    for name in case.instruction.after:
        other = desk.find(name)
        if other is None:
            return _wait("dependency", f"It waits for {name}, which is not ordered here.", "wait.dependency", None)
        if other.record.state not in DONE_WELL:
            return _wait(
                "dependency", f"It waits for {other.name()}, {_which(other.record.state)}.", "wait.dependency", None
            )
    if not case.instruction.after:
        return _yes(desk, "dependency", "It comes after nothing.")
    return _yes(desk, "dependency", "What it comes after is done: {}.", ", ".join(case.instruction.after))


def requires(case: Case, desk: Desk) -> Finding:
    """The packages it requires are here, those it conflicts with are not."""
    if case.manifest is None:
        return _yes(desk, "dependency", "It requires no package.")
    installed = desk.situation.releases
    for reference in case.manifest.requires:
        here = installed.get(reference.package)
        if here is None or here.installed is None or here.installed < reference.min_release:
            text = f"It requires {reference.package} from release {reference.min_release} on, which is not installed."
            return _wait("dependency", text, "wait.requires", None)
    for reference in case.manifest.conflicts:
        here = installed.get(reference.package)
        if here is not None and here.installed is not None and here.installed >= reference.min_release:
            text = f"It conflicts with {reference.package} {here.version}, which is installed."
            return _wait("dependency", text, "wait.conflict", None)
    return _yes(desk, "dependency", "Every package it requires is here.")


def deadline(case: Case, desk: Desk) -> Finding:
    """A mandatory one starts at its deadline."""
    if case.deadline is None:
        return _yes(desk, "schedule", "It has no deadline.")
    if desk.now < case.deadline:
        return _wait("schedule", f"It becomes mandatory at {_at(case.deadline)}.", "wait.deadline", case.deadline)
    return _yes(desk, "schedule", "It is mandatory since {}.", case.deadline)


def deferral(case: Case, desk: Desk) -> Finding:
    """Nobody has postponed it, or the time is over. Never longer than the instruction's budget (KB Q122202)."""
    until = case.record.deferred_until
    if until is None or case.deadline is None:
        return _yes(desk, "request", "Nobody has postponed it.")
    until = min(until, case.deadline + timedelta(seconds=case.instruction.deferral.max_s))
    if desk.now < until:
        text = f"It was postponed until {_at(until)}."
        return _no("request", text, "wait.deferred", state=Stage.DEFERRED, until=until)
    return _yes(desk, "request", "It was postponed until {}; that time is over.", until)


def pause_of(case: Case, desk: Desk) -> datetime | None:
    """Until when it may not be tried again. No pause is longer than the longest: a later end was written by a wrong clock."""
    until = case.record.not_before
    return until if until is not None and desk.now < until <= desk.now + LONGEST_PAUSE else None


def retry(case: Case, desk: Desk) -> Finding:
    """The back-off after a failed try is over."""
    until = pause_of(case, desk)
    if until is not None:
        state = Stage.REFUSED if case.record.state is Stage.REFUSED else Stage.WAITING
        action = Action.REFUSE if state is Stage.REFUSED else Action.WAIT
        code, text = case.record.code, case.record.reason
        if not code or code.startswith("wait."):  # not what the last try ended with
            code, text = "wait.retry", f"It is tried again at {_at(until)}."
        return _no("retry", text, code, action, state, until)
    return _yes(desk, "retry", "Tries so far: {}.", case.record.attempts)


def brake(case: Case, desk: Desk) -> Finding:
    """The site's own brake lets mandatory work start here; what a user asks for is not braked."""
    policy, manifest = desk.situation.policy, case.manifest
    if policy is None or manifest is None or case.instruction.purpose != "mandatory":
        return _yes(desk, "brake", "No brake applies.")
    lifted = desk.situation.approvals.get(case.record.id)
    if lifted is not None and lifted.emergency:
        return _yes(desk, "brake", "Enough approvers call it an emergency: the brake is lifted.")
    start, rule = earliest_start(
        case.record.first_seen,
        manifest.signed_at,
        place_of(desk.situation.client_id, case.instruction),
        spread_s=policy.spread_s,
        pilot_share=policy.pilot_share,
        min_age_s=policy.min_age_s,
    )
    if desk.now < start:
        why = "its manifest is too young" if rule == "min_age" else "the fleet starts spread out"
        return _wait("brake", f"The site's brake lets it start at {_at(start)}: {why}.", "wait.brake", start)
    return _yes(desk, "brake", "The brake ({}) lets it start since {}.", rule, start)


def place_of(client_id: str, instruction: Instruction) -> float:
    """This client's place in the spread: by what runs, not by the job's name.

    Whoever could choose job names (a stolen policy key) could give each client one that puts it into the pilot share.
    """
    return slot(client_id, f"{instruction.package}/{instruction.release}/{instruction.program}")


def window(case: Case, desk: Desk) -> Finding:
    """Mandatory work runs in a maintenance window, and only if it can be done before the window ends."""
    if case.instruction.purpose != "mandatory":
        return _yes(desk, "window", "What a user asks for needs no window.")
    if case.instruction.window_policy == "ignore":
        return _yes(desk, "window", "The job ignores maintenance windows.")
    if not desk.situation.windows:
        return _yes(desk, "window", "This client has no maintenance windows.")
    if case.program is None:
        return _yes(desk, "window", "Its program is not known.")
    needed = timedelta(seconds=min(case.program.estimated_s or case.program.timeout_s, case.program.timeout_s))
    if needed > desk.longest_window:
        text = f"It may take {_minutes(needed)}, longer than any maintenance window of this client."
        return _wait("window", text, "wait.window_too_short", None)
    if desk.open_until is None:
        return _wait("window", f"The next window opens at {_at(desk.next_window)}.", "wait.window", desk.next_window)
    if desk.now + needed > desk.open_until:
        text = f"It may take {_minutes(needed)}, and this window ends at {_at(desk.open_until)}."
        return _wait("window", text, "wait.window", desk.next_window)
    return _yes(desk, "window", "A maintenance window is open until {}.", desk.open_until)


def presence(case: Case, desk: Desk) -> Finding:
    """Who is logged on fits what the program needs."""
    users = desk.situation.presence.users
    wanted = "any" if case.program is None else case.program.presence
    if wanted == "logged_off" and users:
        return _wait("presence", "It runs when nobody is logged on.", "wait.presence", None)
    if wanted == "logged_on" and not users:
        return _wait("presence", "It runs when somebody is logged on.", "wait.presence", None)
    if case.program is not None and case.program.run_as == "user" and user_of(case, desk) is None:
        return _wait("presence", _missing_user(case, desk), "wait.presence", None)
    return _yes(desk, "presence", "Logged on: {}.", ", ".join(users) or "nobody")


def user_of(case: Case, desk: Desk) -> str | None:
    """As whom a user's program runs (KB Q172872): who asked for it; else the one user who is logged on and meant by the order.

    If several are, the one in the foreground. None: it waits. Never an administrator, whose name would give it all rights.
    """
    candidates = _candidates(case, desk)
    if case.requested:
        return case.record.requested_by if case.record.requested_by in candidates else None
    active = desk.situation.presence.active
    if len(candidates) == 1:
        return candidates[0]
    return active if active in candidates else None


def _candidates(case: Case, desk: Desk) -> list[str]:
    presence, allowed = desk.situation.presence, case.instruction.allowed_users
    return [
        user for user in presence.users if user not in presence.administrators and (allowed is None or user in allowed)
    ]


def _missing_user(case: Case, desk: Desk) -> str:
    if case.requested:
        return f"It runs as {case.record.requested_by}, who asked for it: it is waiting for this user to log on."
    if len(_candidates(case, desk)) > 1:
        return "It runs as a user; several are logged on, and none of them is in the foreground."
    return "It runs as a user: it is waiting for a user to log on."


RULES: tuple[Rule, ...] = (
    target,
    expiry,
    verdict,
    contradiction,
    platform,
    release,
    approvals,
    history,
    offer,
    request,
    hold,
    dependency,
    requires,
    deadline,
    deferral,
    retry,
    brake,
    window,
    presence,
)
"""In the order in which they are asked."""

FETCH_MEANWHILE = frozenset({"wait.deadline", "wait.deferred", "wait.brake", "wait.window", "wait.presence"})
"""Reasons to wait during which content may already be brought."""


def _yes(desk: Desk, topic: str, text: str, *values: object) -> Finding:
    """It holds. Of a thousand lines nobody reads why, so the text is put together only for who asked for the trace."""
    if not desk.explain:
        return _HOLDS
    told = (_at(value) if isinstance(value, datetime) else value for value in values)
    return Finding(topic, True, text.format(*told))


def _no(
    topic: str,
    text: str,
    code: str,
    action: Action = Action.WAIT,
    state: Stage = Stage.WAITING,
    until: datetime | None = None,
) -> Finding:
    return Finding(topic, False, text, code, action, state, until)


def _wait(topic: str, text: str, code: str, until: datetime | None) -> Finding:
    return Finding(topic, False, text, code, Action.WAIT, Stage.WAITING, until)


def _refuse(topic: str, text: str, code: str) -> Finding:
    return Finding(topic, False, text, code, Action.REFUSE, Stage.REFUSED)


def _which(state: Stage) -> str:
    if state is Stage.RESTART_PENDING:
        return "which needs a restart first"
    if state in {Stage.FAILED, Stage.REFUSED, Stage.EXPIRED}:
        return {Stage.FAILED: "which failed", Stage.REFUSED: "which was refused"}.get(state, "which expired")
    return f"which is {state.value.replace('_', ' ')}"


def _minutes(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} minutes"


def _at(moment: datetime | None) -> str:
    # every time here is in UTC; strftime would cost a third of the whole plan
    return "an unknown time" if moment is None else f"{moment.isoformat(' ')[:19]} UTC"
