"""`pcmsvc log`: what happened on this computer, and what a run wrote. For administrators; it reads, and changes nothing.

Serves steps 10 to 12 afterwards: outcomes, refusals and run output as the journal keeps them.
"""

import json
import os
from datetime import datetime
from typing import NamedTuple

from pcm.model.errors import MachineError, RequestError
from pcm.service.history import History
from pcm.service.journal import Journal
from pcm.service.naming import Named, choose
from pcm.service.places import Places
from pcm.service.records import InstructionRecord, to_time
from pcm.service.state import State

MOST_EVENTS = 200
MOST_OUTPUT = 1 << 20


class Event(NamedTuple):
    """One line of the log."""

    at: datetime
    what: str
    code: str
    text: str


class Output(NamedTuple):
    """What a run wrote. `text` may be cut at its beginning: the end tells more."""

    run: str
    instruction: str
    text: str


def read_events(places: Places, now: datetime) -> list[Event]:
    """The newest outcomes and refusals, oldest first.

    Raises:
        RequestError, MachineError: as `open_state`.
    """
    with open_state(places, now) as state:
        events = [
            Event(
                to_time(outcome["at"].replace("Z", "+00:00")),
                outcome["instruction"],
                _code(outcome),
                outcome.get("reason", ""),
            )
            for (body,) in state.rows("SELECT body FROM outcomes ORDER BY seq DESC LIMIT ?", (MOST_EVENTS,))
            if (outcome := json.loads(body))
        ]
        events += [
            Event(each.at, each.source or "this computer", each.code, each.reason)
            for each in state.refusals(limit=MOST_EVENTS)
        ]
    return sorted(events)[-MOST_EVENTS:]


def read_output(places: Places, wanted: str, now: datetime) -> Output:
    """The output of a run, or of the last run of an instruction, job or package.

    Raises:
        RequestError: `not_found`; `request.ambiguous`, with the candidates.
    """
    with open_state(places, now) as state:
        run = _find_run(state, wanted)
        rows = state.rows("SELECT instruction, reference FROM runs WHERE run = ?", (run,))
    instruction, reference = rows[0]
    path = str(json.loads(reference).get("output_path", ""))
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the machine's own name of it
            file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_OUTPUT))
            text = file.read(MOST_OUTPUT).decode("utf-8", "replace")
    except OSError as error:
        raise RequestError(
            f"The output of run {run} is not kept any more: {error.strerror}.", code="not_found"
        ) from None
    return Output(run, instruction, text)


def open_state(places: Places, now: datetime) -> State:
    """The database, for reading.

    Raises:
        RequestError: `not_enrolled`. MachineError: `machine.rights`.
    """
    try:
        present = places.database.exists()
    except PermissionError:
        present = True  # somebody else's, then
    if present and not os.access(places.database, os.R_OK | os.W_OK):
        raise MachineError("Only administrators may read this; use sudo.", code="machine.rights")
    if not present:
        raise RequestError("Nothing has happened here yet: this computer is not enrolled.", code="not_enrolled")
    return State.open(places.state, now, repair=False)


def _find_run(state: State, wanted: str) -> str:
    if state.rows("SELECT 1 FROM runs WHERE run = ?", (wanted,)):
        return wanted
    records, ran = Journal(state).records(), {row[0] for row in state.rows("SELECT DISTINCT instruction FROM runs")}
    named = [_named(record, record.id in ran) for record in records]
    wanted = choose(wanted, named) or wanted
    for record in records:
        if wanted in (record.id, record.instruction.job):
            runs = History(state).runs(record.id, record.generation)
            if runs:
                return runs[-1].run
            raise RequestError(f"{record.id} has not run here.", code="not_found")
    raise RequestError(
        f"There is no instruction, job, package or run {wanted[:64]!r} here. `pcmsvc list` and `pcmsvc why` show them.",
        code="not_found",
    )


def _named(record: InstructionRecord, ran: bool) -> Named:
    wanted = record.instruction
    told = f"{wanted.package} {wanted.version}, {wanted.program}, {record.state.value.replace('_', ' ')}"
    return Named(record.id, wanted.job, wanted.package, told, ran)


def _code(outcome: dict[str, str]) -> str:
    return outcome.get("code") or outcome.get("state", "")
