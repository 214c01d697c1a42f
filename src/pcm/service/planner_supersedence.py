"""Which orders are superseded: another one puts on a newer release of the same package, or one that takes its place. Pure.

Serves step 7, before `pcm.service.planner_rules` is asked what becomes of each instruction. What may supersede must itself be
about to happen (ordered, valid, signed, made for this computer, offered, mandatory or asked for), so a failed, refused or
withdrawn one lets the older one open again. What has superseded goes on doing so once it is done, for the orders that were
here before: else the site's next file, which names only what is undone, would bring the old release back.
"""

from collections.abc import Iterable, Mapping

from pcm.model.assignment import State as Stage
from pcm.service.planner_case import AT_WORK, DONE_WELL, Case, Desk, installs
from pcm.service.planner_people import end_of_asking
from pcm.service.planner_rules import Rule, contradiction, expiry, history, offer, platform, release, request, verdict

_STANDING: tuple[Rule, ...] = (expiry, verdict, contradiction, platform, release, history, offer, request)
_OUT = frozenset({Stage.FAILED, Stage.REFUSED, Stage.EXPIRED, Stage.WITHDRAWN, Stage.CANCELLED, Stage.UNKNOWN})


def find_superseded(cases: Mapping[str, Case], desk: Desk) -> dict[str, Case]:
    """Find what is superseded, and by what: by instruction id.

    Of several that take the same place, the greatest release wins, then the newest signature, then the least id. Packages that
    say of each other that they take the other's place do not; of longer circles the newest signature stays.
    """
    above: dict[str, list[Case]] = {}
    for group, others in _groups(cases.values()):
        for case in group:
            found = [other for other in others if _supersedes(other, case, desk)]
            if found:
                above[case.record.id] = found
    return _settle(above, cases) if above else {}


def _groups(cases: Iterable[Case]) -> list[tuple[list[Case], list[Case]]]:
    """What installs one package, and what may take its place: greater releases, and what says so. Most clients have none."""
    by_package: dict[str, list[Case]] = {}
    replacing: list[Case] = []
    for case in cases:
        if installs(case.instruction.program):
            by_package.setdefault(case.instruction.package, []).append(case)
            if case.manifest is not None and case.manifest.supersedes:
                replacing.append(case)
    groups: list[tuple[list[Case], list[Case]]] = []
    for package, group in by_package.items():
        others = [each for each in replacing if each.manifest is not None and package in each.manifest.supersedes]
        if len(group) > 1:
            least = min(case.instruction.release for case in group)
            others += [case for case in group if case.instruction.release > least]
        if others:
            groups.append((group, others))
    return groups


def _supersedes(other: Case, case: Case, desk: Desk) -> bool:
    if not _takes_place(other, case) or _leads_to(case, other, desk):
        return False
    state = other.record.state
    if state in DONE_WELL:
        here = desk.situation.releases.get(other.instruction.package)
        stays = here is not None and here.installed is not None and here.installed >= other.instruction.release
        return stays and case.record.first_seen <= other.record.changed
    if state in AT_WORK:
        return True
    if state in _OUT and not other.requested:
        return False
    until = end_of_asking(other, case)
    if until is not None and desk.now >= until:
        return False
    return other.record.present and all(rule(other, desk).holds for rule in _STANDING)


def _takes_place(other: Case, case: Case) -> bool:
    wanted, instead = case.instruction, other.instruction
    if instead.package == wanted.package:
        return instead.release > wanted.release
    if other.manifest is None or wanted.package not in other.manifest.supersedes:
        return False
    return case.manifest is None or instead.package not in case.manifest.supersedes


def _leads_to(case: Case, other: Case, desk: Desk) -> bool:
    """Whether the other one needs this one first, so that it cannot take its place."""
    if other.manifest is not None and any(each.package == case.instruction.package for each in other.manifest.requires):
        return True
    seen: set[str] = set()
    ahead = [other]
    while ahead:
        for name in ahead.pop().instruction.after:
            found = desk.find(name)
            if found is case:
                return True
            if found is not None and found.record.id not in seen:
                seen.add(found.record.id)
                ahead.append(found)
    return False


def _rank(case: Case) -> tuple[float, int, str]:
    signed = 0.0 if case.manifest is None else -case.manifest.signed_at.timestamp()
    return signed, -case.instruction.release, case.record.id


def _settle(above: Mapping[str, list[Case]], cases: Mapping[str, Case]) -> dict[str, Case]:
    """Decide who stays: whoever nothing stands above that itself stays. What is superseded supersedes nothing."""
    stays: set[str] = {other.record.id for others in above.values() for other in others if other.record.id not in above}
    open_ones = dict(above)
    found: dict[str, Case] = {}
    while open_ones:
        progress = False
        for name in sorted(open_ones):
            staying = [other for other in open_ones[name] if other.record.id in stays]
            if staying:
                found[name] = min(staying, key=lambda case: (-case.instruction.release, *_rank(case)))
            elif all(other.record.id in found for other in open_ones[name]):
                stays.add(name)
            else:
                continue
            del open_ones[name]
            progress = True
        if not progress:  # a circle
            newest = min(open_ones, key=lambda name: _rank(cases[name]))
            stays.add(newest)
            del open_ones[newest]
    return found
