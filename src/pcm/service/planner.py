"""The planner: instructions, what is known of each, and the time in; one decision for each out. Pure: no I/O, no clock.

Step 7 of 12: after `service.inbox`, which verified and journalled the instructions, before `service.runner`, which takes the due
lines. Asked again at every look (KB Q163488). It never changes anything, and a bad instruction never affects another
(KB Q168130): two that contradict each other are each refused by name, the rest goes on.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from pcm.model.errors import RequestError
from pcm.service.plan import Action, Finding, Line, Plan, Situation
from pcm.service.planner_case import AT_WORK, SETTLED, Case, Desk, make_case, make_desk, removes
from pcm.service.planner_people import begin_of_countdown, pause_of, spares_early, user_of
from pcm.service.planner_rules import FETCH_MEANWHILE, RULES, Rule, rules_for
from pcm.service.planner_supersedence import find_superseded
from pcm.service.records import InstructionRecord


def plan(records: Iterable[InstructionRecord], situation: Situation, now: datetime, *, explain: bool = False) -> Plan:
    """Decide what this client does next, without doing it.

    Args:
        records: What the journal knows of each instruction, in any order. Those that are no longer named and need nothing
            more are left out of the plan.
        situation: Everything else that matters.
        now: Aware, UTC. The planner reads no clock.
        explain: Ask every rule, for a decision trace in each line; the decision is the same.

    Returns:
        One line per instruction, in the order of execution (dependencies, deadline, priority, id; KB Q173388).

    Raises:
        RequestError: `request.duplicate`: two records have the same id.
    """
    cases: dict[str, Case] = {}
    for record in sorted(records, key=lambda each: each.id):  # so that no reason names another one in another order
        if record.id in cases:
            raise RequestError(f"Two instructions have the id {record.id}.", code="request.duplicate")
        cases[record.id] = make_case(record, situation, now)
    ordered, circular = _order(cases)
    desk = make_desk(cases, _contradictions(cases, circular), situation, now, explain=explain)
    superseded = find_superseded(cases, desk)
    if superseded:
        desk = desk._replace(superseded=superseded)
    rules = RULES if explain else rules_for(desk)
    return Plan(tuple(_decide(case, desk, rules) for case in ordered if not _is_history(case)))


def _is_history(case: Case) -> bool:
    return not case.record.present and case.record.state in SETTLED


def _decide(case: Case, desk: Desk, rules: Sequence[Rule]) -> Line:
    trace, decisive = _ask_all(case, desk) if desk.explain else ((), _ask(case, desk, rules))
    record = case.record
    if decisive is None:
        return Line(
            record=record,
            action=Action.RUN,
            state=record.state,
            code="due",
            reason="It is due.",
            run_as=_run_as(case, desk),
            announced=record.announced_at,
            begins=case.begins,
            deadline=case.deadline,
            expires=case.expires,
            next_occurrence=case.again,
            trace=trace,
        )
    until, again = decisive.until, case.again
    return Line(
        record=record,
        action=Action.FETCH if _may_fetch(case, desk, decisive) else decisive.action,
        state=decisive.state,
        code=decisive.code,
        reason=decisive.text,
        until=again if until is None or (again is not None and again < until) else until,
        announced=_announced(case, desk, decisive),
        begins=case.begins,
        deadline=case.deadline,
        expires=case.expires,
        next_occurrence=again,
        trace=trace,
    )


def _announced(case: Case, desk: Desk, decisive: Finding) -> datetime | None:
    """When its countdown began. What does not come to its start after all is announced anew, with a whole countdown."""
    if decisive.code == "wait.countdown":
        return begin_of_countdown(case, desk)
    return case.record.announced_at if decisive.action is Action.DONE or decisive.state in AT_WORK else None


def _ask(case: Case, desk: Desk, rules: Sequence[Rule]) -> Finding | None:
    """The first rule that does not hold; None if all do."""
    for rule in rules:
        finding = rule(case, desk)
        if not finding.holds:
            return finding
    return None


def _ask_all(case: Case, desk: Desk) -> tuple[tuple[Finding, ...], Finding | None]:
    """What every rule says, and the one that decides."""
    trace = tuple(rule(case, desk) for rule in RULES)
    return trace, next((finding for finding in trace if not finding.holds), None)


def _run_as(case: Case, desk: Desk) -> str:
    if case.program is None or case.program.run_as == "system":
        return "system"
    user = user_of(case, desk)
    assert user is not None, "the presence rule let a user's program pass without its user"
    return user


def _may_fetch(case: Case, desk: Desk, decisive: Finding) -> bool:
    """Tell whether content may come while the instruction waits: it is offered, not here yet, and no back-off runs."""
    return (
        decisive.code in FETCH_MEANWHILE
        and not case.record.fetched
        and case.manifest is not None
        and bool(case.manifest.files)
        and pause_of(case.record.not_before, desk.now) is None
        and not spares_early(case, desk)
    )


def _order(cases: Mapping[str, Case]) -> tuple[list[Case], dict[str, str]]:
    """Sort by dependency, then deadline, priority (greater first) and id; those that wait for themselves come last.

    Returns:
        The order, and for each case in a circle, or behind one, what to say about it.
    """
    by_job = {cases[name].instruction.job: name for name in sorted(cases)}
    before: dict[str, set[str]] = {}
    behind: dict[str, list[str]] = {name: [] for name in cases}
    for name, case in cases.items():
        known = (after if after in cases else by_job.get(after) for after in case.instruction.after)
        before[name] = {each for each in known if each is not None}
        for each in before[name]:
            behind[each].append(name)

    def rank(name: str) -> tuple[datetime, int, str]:
        return cases[name].due, -cases[name].instruction.priority, name

    ready = [rank(name) for name in cases if not before[name]]
    heapq.heapify(ready)
    ordered: list[Case] = []
    while ready:
        *_, name = heapq.heappop(ready)
        ordered.append(cases[name])
        for each in behind[name]:
            before[each].discard(name)
            if not before[each]:
                heapq.heappush(ready, rank(each))
    stuck = sorted((name for name in cases if before[name]), key=rank)
    circular = {
        name: f"It can never start: it comes after {', '.join(sorted(before[name]))}, which waits in a circle."
        for name in stuck
    }
    return ordered + [cases[name] for name in stuck], circular


def _contradictions(cases: Mapping[str, Case], circular: Mapping[str, str]) -> dict[str, str]:
    """Find mandatory instructions that put a package on and take it off with nothing saying which comes last.

    Deadline, priority and `after` say it; if all are equal, only chance would decide.
    """
    found = dict(circular)
    groups: dict[tuple[str, datetime, int], list[Case]] = {}
    taken_off = {case.instruction.package for case in cases.values() if removes(case.instruction.program)}
    for case in cases.values() if taken_off else ():
        wanted = case.instruction
        if wanted.package in taken_off and case.record.present and not case.settled and case.deadline is not None:
            groups.setdefault((wanted.package, case.deadline, wanted.priority), []).append(case)
    for (package, *_), group in groups.items():
        away = [case for case in group if removes(case.instruction.program)]
        on = [case for case in group if not removes(case.instruction.program)]
        for one in away:
            for other in on:
                if not (_comes_after(one, other) or _comes_after(other, one)):
                    for mine, theirs in ((one, other), (other, one)):
                        found[mine.record.id] = (
                            f"It contradicts {theirs.name()}: both are mandatory for {package} at the same time with the "
                            "same priority."
                        )
    return found


def _comes_after(one: Case, other: Case) -> bool:
    return bool({other.record.id, other.instruction.job} & set(one.instruction.after))
