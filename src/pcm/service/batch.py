"""How far one plan reaches: whether its due lines may run one after the other, or each needs a plan of its own. Pure.

Serves steps 7 and 8, between `service.planner` and `service.runner`. A new plan after every program is the rule that is always
right, and of a hundred orders it costs a hundred times a hundred decisions. So the runner goes on through one plan as long as
the next one would surely say the same: while nothing waits for, or is shut out by, what has just run, no window can close, and
everything runs as the system, and then only for a moment (`FRESH`). What the launch itself looks at again (expiry,
floors, approvals, what people said meanwhile) needs no new plan. It never decides what is due.
"""

from datetime import datetime, timedelta

from pcm.model.assignment import State as Stage
from pcm.service.journal import Change
from pcm.service.machine.interface import SYSTEM
from pcm.service.plan import Action, Line, Plan, Situation
from pcm.service.planner_rules import SUPERSEDED

FRESH = timedelta(seconds=1)
_OF_OTHERS = frozenset(
    {"wait.dependency", "wait.requires", "wait.conflict", SUPERSEDED, "request.contradiction", "trust.downgrade"}
)


def stands(plan: Plan, situation: Situation) -> bool:
    """Whether the due lines stay due, in this order and no others before them, when those before them succeed."""
    return not situation.windows and all(_is_by_itself(line, situation) for line in plan.lines)


def _is_by_itself(line: Line, situation: Situation) -> bool:
    """Whether no other line's success changes this one."""
    if line.action is not Action.RUN:
        return line.code not in _OF_OTHERS
    manifest = situation.manifests.get(line.record.manifest_sha256)
    return line.run_as == SYSTEM and manifest is not None and not manifest.requires and not manifest.conflicts


def is_plain(change: Change) -> bool:
    """Whether a run ended so that nothing else has to be looked at: anything but success may hold up or open other lines."""
    return change.state in (Stage.SUCCEEDED, Stage.ALREADY_INSTALLED)


def is_fresh(planned: datetime, now: datetime) -> bool:
    """Whether a plan made then is still to be believed; a clock that was set back says no."""
    return timedelta() <= now - planned < FRESH
