"""The service restarts the computer, if it is time: the last thing that a check does.

Serves step 11, its last part: after `service.runner` has done what is due and `service.outbox` has told the site. It gathers what
`restart_rules` decides from, keeps the decision (`restart_record`), tells whoever is logged on, and asks the computer to restart:
recorded durably before, verified by boot id after (KB Q164329). It never ends a program of ours, and asks once for each record.
"""

from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import NamedTuple

from pcm.model.errors import MachineError
from pcm.model.schedule import Window, next_opening, open_span
from pcm.service import faults
from pcm.service.journal import Journal
from pcm.service.machine.interface import Machine
from pcm.service.pausing import read_pause
from pcm.service.records import InstructionRecord
from pcm.service.restart_record import (
    NOT_HAPPENED,
    Row,
    begin,
    end,
    find_restarting,
    keep,
    read_open,
    read_standing,
    read_wishes,
    take_back,
)
from pcm.service.restart_rules import PATIENCE, Around, Decision, Step, combine, decide
from pcm.service.state import State

LOOK_AGAIN = timedelta(minutes=5)
"""While somebody may still choose, or log off."""
INHIBITED = "machine.restart_inhibited"
UNANSWERED = "machine.restart_unanswered"
RETRY = timedelta(minutes=1)
ALLOWED = "may-restart"


class Desk(NamedTuple):
    """What is needed to restart. `barred`: why this service may not, empty if it may."""

    state: State
    machine: Machine
    windows: tuple[Window, ...]
    zone: tzinfo
    clock: Callable[[], datetime]
    say: Callable[[str], None]
    barred: str = ""


def why_barred(home: Path | None) -> str:
    """Why this service may not restart the computer: a trial (`--home`) leaves it alone unless its folder holds `ALLOWED`."""
    if home is None or (home / ALLOWED).exists():
        return ""
    return f"A service with --home restarts no computer, unless {home / ALLOWED} is there."


def restart_if_due(desk: Desk) -> datetime | None:
    """Decide, tell, and restart if it is time.

    Returns:
        When to look again; None: nothing asks for a restart.

    Raises:
        StoreError: it could not be recorded, so nothing was asked for.
    """
    boot_id, now = desk.machine.boot_id(), desk.clock()
    records = Journal(desk.state).records()
    first = read_wishes(records, boot_id)
    terms = combine(first and read_wishes(records, boot_id, find_restarting(desk.state, _asking(records, boot_id))))
    if terms is None:
        return None
    row = read_open(desk.state)
    around = _look_around(desk, now)
    decision = decide(terms, read_standing(desk.state, row, terms, boot_id), around, now)
    row = keep(desk.state, row, terms, decision, boot_id, now)
    faults.reach("restart.kept")
    if decision.tell:
        desk.machine.tell_users(f"{decision.reason} (Package Command Manager; see: pcmapp restart)")
    if decision.step is not Step.NOW:
        desk.say(f"restart: {decision.reason} [{decision.code}]")
        return min(decision.until or now + LOOK_AGAIN, now + LOOK_AGAIN)
    return _restart(desk, row, decision, now)


def _restart(desk: Desk, row: Row, decision: Decision, now: datetime) -> datetime:
    if desk.barred:
        desk.say(f"restart: {decision.reason} {desk.barred}")
        return now + LOOK_AGAIN
    waited = decision.due is not None and now >= decision.due + PATIENCE
    begin(desk.state, row, now)
    faults.reach("restart.recorded")
    try:
        desk.machine.restart(decision.reason, ignore_inhibitors=row.policy == "force" and waited)
    except MachineError as error:
        desk.say(f"restart: {error.message} [{error.code}]")
        if error.code == INHIBITED:
            take_back(desk.state, row, f"{decision.reason} {error.message}")
            return now + RETRY
        if error.code != UNANSWERED:  # else the boot tells, as always
            end(desk.state, row, NOT_HAPPENED, desk.clock(), error.message)
            return now + LOOK_AGAIN
    else:
        desk.say(f"restart: {decision.reason} This computer restarts now.")
    faults.reach("restart.asked")
    return now + PATIENCE


def _asking(records: list[InstructionRecord], boot_id: str) -> list[InstructionRecord]:
    return [record for record in records if record.restart_boot_id == boot_id]


def _look_around(desk: Desk, now: datetime) -> Around:
    open_runs = desk.state.rows("SELECT 1 FROM runs WHERE finished = 0 LIMIT 1")
    pause = read_pause(desk.state, now)
    return Around(
        users=tuple(session.user for session in desk.machine.sessions()),
        at_work=bool(open_runs),
        open=not desk.windows or open_span(desk.windows, now, desk.zone) is not None,
        next_opening=next_opening(desk.windows, now, desk.zone) if desk.windows else None,
        held="" if pause is None else pause.reason(),
        held_until=None if pause is None else pause.until,
    )
