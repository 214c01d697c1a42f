"""How the planner's rules speak: it holds, it waits until then, it is refused; and how they write times. Pure.

Serves step 7, behind `pcm.service.planner_rules` and its siblings. Nothing here decides.
"""

from datetime import datetime, timedelta

from pcm.model.assignment import State as Stage
from pcm.service.plan import Action, Finding
from pcm.service.planner_case import Desk

_HOLDS = Finding("", True, "")


def yes(desk: Desk, topic: str, text: str, *values: object) -> Finding:
    """It holds. Of a thousand lines nobody reads why, so the text is put together only for who asked for the trace."""
    if not desk.explain:
        return _HOLDS
    told = (at(value) if isinstance(value, datetime) else value for value in values)
    return Finding(topic, True, text.format(*told))


def no(
    topic: str,
    text: str,
    code: str,
    action: Action = Action.WAIT,
    state: Stage = Stage.WAITING,
    until: datetime | None = None,
) -> Finding:
    """It does not hold, and this becomes of the instruction."""
    return Finding(topic, False, text, code, action, state, until)


def wait(topic: str, text: str, code: str, until: datetime | None) -> Finding:
    """It waits for a time, or (None) for an event."""
    return Finding(topic, False, text, code, Action.WAIT, Stage.WAITING, until)


def refuse(topic: str, text: str, code: str) -> Finding:
    """It never runs as it is."""
    return Finding(topic, False, text, code, Action.REFUSE, Stage.REFUSED)


def span(length: timedelta) -> str:
    """A span of time, for people."""
    seconds = int(length.total_seconds())
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} minutes"


def at(moment: datetime | None) -> str:
    """A time, for people."""
    # every time here is in UTC; strftime would cost a third of the whole plan
    return "an unknown time" if moment is None else f"{moment.isoformat(' ')[:19]} UTC"
