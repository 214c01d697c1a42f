"""An administrator's pause: nothing that has not begun begins, until its end or until somebody resumes. What runs goes on.

Serves step 7: `local_api` notes it, `outlook` makes the planner's hold of it, so `why`, `list` and reports say the same. A pause
stops nobody's clock: expiries and deadlines pass meanwhile. It is no matter of trust: nothing is refused because of it.
"""

from datetime import datetime
from typing import NamedTuple

from pcm.model.errors import StoreError
from pcm.service.records import to_text, to_time
from pcm.service.state import State

PAUSED = "paused"  # since, until ('-': without end), by whom
CODE = "wait.paused"
_MOST_NAME = 64


class Pause(NamedTuple):
    """Since when, until when (None: until somebody resumes), and who said so."""

    since: datetime
    until: datetime | None
    by: str

    def reason(self) -> str:
        """For people."""
        end = "until an administrator resumes" if self.until is None else f"until {self.until:%Y-%m-%d %H:%M} UTC"
        return f"{self.by or 'An administrator'} paused this client {end}."


def read_pause(state: State, now: datetime) -> Pause | None:
    """The pause of this moment; None if there is none, or its end has come."""
    since, _, rest = state.meta(PAUSED).partition(" ")
    until, _, by = rest.partition(" ")
    if not since:
        return None
    try:
        pause = Pause(to_time(since), None if until == "-" else to_time(until), by)
    except StoreError:
        return None  # a note that cannot be read must not hold everything up for ever
    return pause if pause.until is None or now < pause.until else None


def pause(state: State, by: str, until: datetime | None, now: datetime) -> None:
    """Hold what has not begun; a pause that goes on already is replaced."""
    end = "-" if until is None else to_text(until)
    state.set_meta(PAUSED, f"{to_text(now)} {end} {by[:_MOST_NAME]}")


def resume(state: State) -> None:
    """End the pause, if there is one."""
    state.delete_meta(PAUSED)
