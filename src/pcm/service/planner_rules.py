"""The planner's rules, one function each, in one visible list: the first that does not hold decides. Pure; no clock.

Serves step 7: `pcm.service.planner` asks them about each instruction, in this order, and keeps their answers as the decision
trace. A rule never looks at another rule's answer, so that a trace can be read line by line. Those about people stand in
`pcm.service.planner_people`; what takes the place of what is found by `pcm.service.planner_supersedence` beforehand.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from pcm.model.assignment import State as Stage
from pcm.model.brake import earliest_start, slot
from pcm.model.instruction import Instruction
from pcm.model.names import platform_fits
from pcm.model.schedule import next_opening, open_span
from pcm.protocol.policy import SitePolicy
from pcm.service.plan import Action, Finding
from pcm.service.planner_case import DONE_WELL, NEVER, Case, Desk
from pcm.service.planner_findings import at, no, refuse, span, wait, yes
from pcm.service.planner_occurrences import braked_until, end_for_users
from pcm.service.planner_people import (
    NEXT_LOGON,
    blocking,
    busy,
    countdown,
    deferral,
    end_of_asking,
    end_of_countdown,
    how_long,
    pause_of,
    presence,
    users_of,
)

Rule = Callable[[Case, Desk], Finding]
_A_MOMENT = timedelta(seconds=1)
SUPERSEDED = "superseded"


def target(case: Case, desk: Desk) -> Finding:
    """It is still ordered, and not settled in this generation."""
    record = case.record
    if case.settled:
        text = record.reason or f"This generation of the job is {record.state.value.replace('_', ' ')} here."
        return no("target", text, record.code, Action.DONE, record.state, case.again)
    if record.state is Stage.RUNNING:
        # unhealthy and about to return: recovery finds that by the code, which stays
        text, code = record.reason or "It is running.", record.code or "wait.running"
        return no("target", text, code, state=Stage.RUNNING, until=record.not_before)
    if record.state is Stage.RESTART_PENDING:
        text = record.reason or "It is done once this computer has restarted."
        return no("target", text, record.code or "wait.restart", state=Stage.RESTART_PENDING)
    if not record.present:
        return no("target", "The newest instructions no longer name it.", "withdrawn", Action.WITHDRAW, Stage.WITHDRAWN)
    return yes(desk, "target", "Generation {} of job {} is for this client.", record.generation, case.instruction.job)


def expiry(case: Case, desk: Desk) -> Finding:
    """It has not expired (KB Q225056, Q255284)."""
    if case.expires is not None and desk.now >= case.expires:
        end = end_for_users(users_of(case, desk))
        if end is not None:
            return no("schedule", end.reason, "", Action.DONE, end.state, case.again)
        return no("schedule", f"It expired at {at(case.expires)}.", "expired", Action.EXPIRE, Stage.EXPIRED)
    if case.expires is None:
        return yes(desk, "schedule", "It does not expire.")
    return yes(desk, "schedule", "It is valid until {}.", case.expires)


def verdict(case: Case, desk: Desk) -> Finding:
    """The trust checks let it pass, and its signed manifest and program are here."""
    record = case.record
    if record.verdict_code:
        return refuse("target", record.verdict_reason or "It was refused.", record.verdict_code)
    if case.manifest is None:
        return wait("source", "What its packager signed about it has not come yet.", "wait.source", None)
    if case.program is None:
        return refuse("target", "Its signed manifest does not name this program.", "trust.unsigned_program")
    return yes(desk, "target", "Its program is signed by its packager.")


def contradiction(case: Case, desk: Desk) -> Finding:
    """No other instruction says the opposite, and it does not wait for itself."""
    text = desk.contradictions.get(case.record.id)
    if text is not None:
        return refuse("target", text, "request.contradiction")
    return yes(desk, "target", "No other instruction contradicts it.")


def platform(case: Case, desk: Desk) -> Finding:
    """The package is made for this platform (KB Q156250)."""
    mine = desk.situation.facts.platform
    offered = () if case.manifest is None else case.manifest.platforms
    if mine in offered or any(platform_fits(each, mine) for each in offered):
        return yes(desk, "target", "The package is made for {}.", mine)
    return no(
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
        return refuse(
            "target",
            f"Release {offered} is older than release {here.release}, which was here and lets nothing before "
            f"{here.min_release} come back.",
            "trust.downgrade",
        )
    return yes(desk, "target", "Release {} may be used here.", offered)


def approvals(case: Case, desk: Desk) -> Finding:
    """As many approvers have signed as the program demands."""
    needed = 0 if case.program is None else case.program.approvals
    found = desk.situation.approvals.get(case.record.id)
    count = 0 if found is None else found.count
    if count < needed:
        return refuse("approval", f"It needs {needed} approvals; {count} could be verified.", "trust.approval")
    return yes(desk, "approval", "{} of {} needed approvals are verified.", count, needed)


def history(case: Case, desk: Desk) -> Finding:
    """If this client lost its history, detection must be able to tell whether it ran (KB Q229809, Q122202)."""
    if case.record.history_lost and case.program is not None and case.program.detect is None:
        return no(
            "detection",
            "This client lost its history, and the program has no detection to tell whether it ran. Order it anew to run it.",
            "store.history_lost",
            Action.DONE,
            Stage.UNKNOWN,
        )
    return yes(desk, "detection", "Whether it is already done is looked up right before it runs.")


def superseded(case: Case, desk: Desk) -> Finding:
    """Nothing that is ordered here too puts on a newer release, or a package that takes its place."""
    other = desk.superseded.get(case.record.id)
    if other is None:
        return yes(desk, "target", "Nothing takes its place.")
    return no(
        "target",
        f"{other.name()} takes its place.",
        SUPERSEDED,
        Action.NOT_APPLICABLE,
        Stage.NOT_APPLICABLE,
        None if other.record.state in DONE_WELL else end_of_asking(other, case),
    )


def offer(case: Case, desk: Desk) -> Finding:
    """It has been offered (KB Q163488: asked at every look, not when a file changes)."""
    if case.offer is NEVER:
        return wait("schedule", "Its rule gives no time any more.", "wait.offer", None)
    if desk.now < case.offer:
        return wait("schedule", f"It is offered from {at(case.offer)}.", "wait.offer", case.offer)
    return yes(desk, "schedule", "It is offered since {}.", case.offer)


def request(case: Case, desk: Desk) -> Finding:
    """An optional one runs when a user asks."""
    if case.instruction.purpose == "mandatory":
        return yes(desk, "request", "It is mandatory; nobody needs to ask for it.")
    if case.requested:
        return yes(desk, "request", "{} asked for it.", case.record.requested_by)
    return wait("request", "It is optional: it waits until somebody asks for it.", "wait.request", None)


def hold(_case: Case, desk: Desk) -> Finding:
    """Nothing keeps this whole client from starting programs."""
    stop = desk.situation.hold
    if stop is not None:
        return wait("hold", stop.reason, stop.code, stop.until)
    return yes(desk, "hold", "This client may start programs.")


def dependency(case: Case, desk: Desk) -> Finding:
    """What it comes after is done."""
    for name in case.instruction.after:
        other = desk.find(name)
        if other is None:
            return wait("dependency", f"It waits for {name}, which is not ordered here.", "wait.dependency", None)
        if not other.settled:  # what failed has failed, whatever takes its place
            other = desk.in_place_of(other)
        if other.record.state not in DONE_WELL:
            return wait(
                "dependency", f"It waits for {other.name()}, {_which(other.record.state)}.", "wait.dependency", None
            )
    if not case.instruction.after:
        return yes(desk, "dependency", "It comes after nothing.")
    return yes(desk, "dependency", "What it comes after is done: {}.", ", ".join(case.instruction.after))


def requires(case: Case, desk: Desk) -> Finding:
    """The packages it requires are here, those it conflicts with are not."""
    if case.manifest is None:
        return yes(desk, "dependency", "It requires no package.")
    installed = desk.situation.releases
    for reference in case.manifest.requires:
        here = installed.get(reference.package)
        if here is None or here.installed is None or here.installed < reference.min_release:
            text = f"It requires {reference.package} from release {reference.min_release} on, which is not installed."
            return wait("dependency", text, "wait.requires", None)
    for reference in case.manifest.conflicts:
        here = installed.get(reference.package)
        if here is not None and here.installed is not None and here.installed >= reference.min_release:
            text = f"It conflicts with {reference.package} {here.version}, which is installed."
            return wait("dependency", text, "wait.conflict", None)
    return yes(desk, "dependency", "Every package it requires is here.")


def deadline(case: Case, desk: Desk) -> Finding:
    """A mandatory one starts at its deadline."""
    if case.deadline is None:
        return yes(desk, "schedule", "It has no deadline.")
    if desk.now < case.deadline:
        return wait("schedule", f"It becomes mandatory at {at(case.deadline)}.", "wait.deadline", case.deadline)
    return yes(desk, "schedule", "It is mandatory since {}.", case.deadline)


def retry(case: Case, desk: Desk) -> Finding:
    """The back-off after a failed try is over."""
    until = pause_of(case.record.not_before, desk.now)
    if until is not None:
        state = Stage.REFUSED if case.record.state is Stage.REFUSED else Stage.WAITING
        action = Action.REFUSE if state is Stage.REFUSED else Action.WAIT
        code, text = case.record.code, case.record.reason
        if not code or code.startswith("wait."):  # not what the last try ended with
            code, text = "wait.retry", f"It is tried again at {at(until)}."
        return no("retry", text, code, action, state, until)
    return yes(desk, "retry", "Tries so far: {}.", case.record.attempts)


def brake(case: Case, desk: Desk) -> Finding:
    """The site's own brake lets mandatory work start here; what a user asks for is not braked."""
    policy, manifest = desk.situation.policy, case.manifest
    if policy is None or manifest is None or case.instruction.purpose != "mandatory" or not _is_on(policy):
        return yes(desk, "brake", "No brake applies.")
    lifted = desk.situation.approvals.get(case.record.id)
    if lifted is not None and lifted.emergency:
        return yes(desk, "brake", "Enough approvers call it an emergency: the brake is lifted.")
    place = place_of(desk.situation.client_id, case.instruction)
    start, rule = earliest_start(
        case.record.first_seen,
        manifest.signed_at,
        place,
        spread_s=policy.spread_s,
        pilot_share=policy.pilot_share,
        min_age_s=policy.min_age_s,
    )
    of_this_time = braked_until(case, desk, place, policy.spread_s, policy.pilot_share)
    if of_this_time is not None and of_this_time > start:
        start, rule = of_this_time, "spread"
    if desk.now < start:
        why = "its manifest is too young" if rule == "min_age" else "the fleet starts spread out"
        return wait("brake", f"The site's brake lets it start at {at(start)}: {why}.", "wait.brake", start)
    return yes(desk, "brake", "The brake ({}) lets it start since {}.", rule, start)


def _is_on(policy: SitePolicy) -> bool:
    return policy.spread_s > 0 or policy.min_age_s > 0


def place_of(client_id: str, instruction: Instruction) -> float:
    """This client's place in the spread: by what runs, not by the job's name.

    Whoever could choose job names (a stolen policy key) could give each client one that puts it into the pilot share.
    """
    return slot(client_id, f"{instruction.package}/{instruction.release}/{instruction.program}")


def window(case: Case, desk: Desk) -> Finding:
    """Mandatory work runs in a maintenance window, and only if it can be done before the window ends."""
    if case.instruction.purpose != "mandatory":
        return yes(desk, "window", "What a user asks for needs no window.")
    if case.instruction.window_policy == "ignore":
        return yes(desk, "window", "The job ignores maintenance windows.")
    if not desk.situation.windows:
        return yes(desk, "window", "This client has no maintenance windows.")
    if case.program is None:
        return yes(desk, "window", "Its program is not known.")
    needed = how_long(case, desk)
    if needed > desk.longest_window:
        text = f"It may take {span(needed)}, longer than any maintenance window of this client."
        return wait("window", text, "wait.window_too_short", None)
    begins = max(desk.now, end_of_countdown(case, desk) or desk.now)
    ends, opens = _window_at(begins, desk)
    # announced so much ahead that it starts when the window opens: a countdown never costs a window
    again = None if opens is None else max(opens - (begins - desk.now), desk.now + _A_MOMENT)
    if ends is None and opens is None:
        return wait("window", "No maintenance window opens here any more.", "wait.window", None)
    if ends is None:
        return wait("window", f"The next window opens at {at(opens)}.", "wait.window", again)
    if begins + needed > ends:
        told = f"It would start at {at(begins)}, after its countdown, and may" if begins > desk.now else "It may"
        return wait("window", f"{told} take {span(needed)}, and this window ends at {at(ends)}.", "wait.window", again)
    return yes(desk, "window", "A maintenance window is open until {}.", ends)


def _window_at(moment: datetime, desk: Desk) -> tuple[datetime | None, datetime | None]:
    """When the window ends that is open at a moment, if one is, and when the next one opens after it."""
    if moment == desk.now:
        return desk.open_until, desk.next_window
    windows, zone = desk.situation.windows, desk.situation.zone
    opened = open_span(windows, moment, zone)
    return None if opened is None else opened[1], next_opening(windows, moment, zone)


RULES: tuple[Rule, ...] = (
    target,
    expiry,
    verdict,
    contradiction,
    platform,
    release,
    approvals,
    history,
    superseded,
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
    busy,
    blocking,
    countdown,
)
"""In the order in which they are asked."""


def rules_for(desk: Desk) -> tuple[Rule, ...]:
    """Those of `RULES` that can say no in this situation: of a thousand instructions each asks no rule in vain."""
    it, policy = desk.situation, desk.situation.policy
    needless: dict[Rule, bool] = {
        contradiction: not desk.contradictions,
        superseded: not desk.superseded,
        hold: it.hold is None,
        brake: policy is None or not _is_on(policy),
        window: not it.windows,
        busy: not it.presence.busy,
        blocking: not it.blocking,
    }
    return tuple(rule for rule in RULES if not needless.get(rule))


FETCH_MEANWHILE = frozenset(
    {
        "wait.deadline",
        "wait.deferred",
        "wait.brake",
        "wait.window",
        "wait.presence",
        NEXT_LOGON,
        "wait.busy",
        "wait.blocking",
        "wait.countdown",
    }
)
"""Reasons to wait during which content may already be brought."""


def _which(state: Stage) -> str:
    if state is Stage.RESTART_PENDING:
        return "which needs a restart first"
    if state in {Stage.FAILED, Stage.REFUSED, Stage.EXPIRED}:
        return {Stage.FAILED: "which failed", Stage.REFUSED: "which was refused"}.get(state, "which expired")
    return f"which is {state.value.replace('_', ' ')}"
