"""What the planner is asked with: this client's situation, gathered from its database and its computer.

Serves step 7, between `inbox` and `catalogue`, which stored what was verified, and `planner`, which is pure. Used by each
check, by `why` and by `list`, so that all three see the same. It changes nothing and asks no network.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pcm.model.assignment import State as Stage
from pcm.model.errors import TrustError
from pcm.model.facts import Facts
from pcm.model.schedule import resolve
from pcm.protocol.manifest import Manifest
from pcm.service.catalogue import count_approvals, read_kept_policy
from pcm.service.history import History
from pcm.service.inbox import INSTRUCTIONS, PACKAGES_DUE, VALID_UNTIL, read_header
from pcm.service.journal import Journal
from pcm.service.machine.interface import Engaged, Machine
from pcm.service.pausing import CODE as PAUSE_CODE
from pcm.service.pausing import read_pause
from pcm.service.plan import Hold, Plan, Presence, Situation
from pcm.service.planner import plan
from pcm.service.planner_case import DONE_WELL, SETTLED
from pcm.service.planner_rules import SUPERSEDED
from pcm.service.records import InstructionRecord, to_time
from pcm.service.state import State
from pcm.trust.clock import check_clock
from pcm.trust.floors import dated_floor_s

BLOCKED = "blocked"  # why nothing may start until a server's files hold again: code, space, reason
LOCAL_TIME = Path("/etc/localtime")


class Outlook:
    """The view of one moment.

    Args:
        state: Open.
        machine: Asked who is logged on.
        client_id: This client.
        facts: Of this computer.
        zone: Of this computer; found out if None.
    """

    def __init__(
        self, state: State, machine: Machine, client_id: str, facts: Facts, zone: tzinfo | None = None
    ) -> None:
        self._state = state
        self._machine = machine
        self._client_id = client_id
        self._facts = facts
        self._zone = zone or local_zone()

    def plan(self, now: datetime, *, explain: bool = False) -> Plan:
        """Plan from what is cached and verified (KB Q163488: at every look, not when a file changes)."""
        records = Journal(self._state).records()
        return plan(records, self.situation(records, now), now, explain=explain)

    def situation(self, records: Iterable[InstructionRecord], now: datetime) -> Situation:
        """Everything but the records that decisions depend on."""
        every = list(records)
        present = [record for record in every if record.present or record.state not in SETTLED]
        header = read_header(self._state)
        policy = read_kept_policy(self._state)
        history = History(self._state)
        manifests = history.manifests(record.manifest_sha256 for record in (*present, *_stand_in(every)))
        windows = header.windows if header else ()
        return Situation(
            client_id=self._client_id,
            facts=self._facts,
            zone=self._zone,
            presence=self._presence(present, now),
            windows=windows,
            manifests=manifests,
            releases=self._state.releases(),
            approvals=count_approvals((record.instruction for record in present), policy, self._client_id, now),
            policy=policy,
            hold=self.find_hold(now),
            blocking=self._find_blocking(present, manifests, now),
            user_runs=Journal(self._state).user_runs(),
            durations=history.durations() if windows else {},
        )

    def find_hold(self, now: datetime) -> Hold | None:
        """Why nothing may start at all: check 2 (clock), a pause, check 13 (expired signatures), or the last refresh."""
        problem = clock_problem(self._state, now)
        if problem is not None:
            return problem
        pause = read_pause(self._state, now)
        if pause is not None:
            return Hold(PAUSE_CODE, pause.reason(), pause.until)
        until = self._state.meta(VALID_UNTIL)
        if not until:
            return Hold("wait.source", "No verified instructions have come yet.")
        if to_time(until) <= now:
            return Hold(
                "trust.freeze",
                f"The signatures on the instructions here were valid until {to_time(until):%Y-%m-%d %H:%M} UTC, and no logon "
                "server has shown newer ones.",
            )
        code, _, reason = self._state.meta(BLOCKED).partition(" ")
        if code:
            return Hold(code, reason)
        if self._state.meta(PACKAGES_DUE):
            return Hold("wait.source", "No distribution server has shown yet what packagers say about these orders.")
        return None

    def _find_blocking(
        self, records: Iterable[InstructionRecord], manifests: Mapping[str, Manifest], now: datetime
    ) -> dict[str, tuple[str, ...]]:
        """What is in the way of what is due. Looking at every process costs milliseconds: only where a program asks for it."""
        wanted: dict[str, frozenset[str]] = {}
        for record in records:
            manifest = manifests.get(record.manifest_sha256)
            program = None if manifest is None else manifest.programs.get(record.instruction.program)
            if program is not None and program.blocking_processes and self._is_due(record, now):
                wanted[record.id] = frozenset(program.blocking_processes)
        if not wanted:
            return {}
        found = {each.name for each in self._machine.processes_named(frozenset().union(*wanted.values()))}
        return {name: tuple(sorted(names & found)) for name, names in wanted.items() if names & found}

    def _is_due(self, record: InstructionRecord, now: datetime) -> bool:
        """Whether its time has come, as far as one instruction by itself can tell."""
        wanted = record.instruction
        if record.state in SETTLED | {Stage.RUNNING, Stage.RESTART_PENDING}:
            return False
        if record.requested_at is not None or wanted.recurrence is not None:
            return True
        return wanted.mandatory_after is not None and resolve(wanted.mandatory_after, wanted.clock, self._zone) <= now

    def _may_wait(self, record: InstructionRecord, now: datetime) -> bool:
        """Whether it would make a difference for it now that somebody should not be disturbed."""
        wanted = record.instruction
        if wanted.busy_policy == "ignore" or record.state in SETTLED | {Stage.RUNNING, Stage.RESTART_PENDING}:
            return False
        return not record.fetched or (wanted.purpose == "mandatory" and self._is_due(record, now))

    def _presence(self, records: Iterable[InstructionRecord], now: datetime) -> Presence:
        sessions = self._machine.sessions()
        engaged = Engaged()
        if sessions and any(self._may_wait(record, now) for record in records):
            engaged = self._machine.engaged(sessions)
        # at the screen before far away; of several who are far away none is 'the' user
        active = {session.user for session in sessions if session.active and not session.remote}
        active = active or {session.user for session in sessions if session.active}
        return Presence(
            tuple(dict.fromkeys(session.user for session in sessions)),
            next(iter(active)) if len(active) == 1 else None,
            tuple(sorted({session.user for session in sessions if session.user_id == 0})),
            engaged.busy,
            engaged.locked,
        )


def _stand_in(records: list[InstructionRecord]) -> list[InstructionRecord]:
    """What is done and may have taken another's place for good, although no file names it any more."""
    if not any(record.present and record.code == SUPERSEDED for record in records):
        return []
    return [record for record in records if not record.present and record.state in DONE_WELL]


def clock_problem(state: State, now: datetime) -> Hold | None:
    """Check 2: this computer's clock is not behind what signed metadata has proven here."""
    try:
        check_clock(now, datetime.fromtimestamp(dated_floor_s(state.floors(INSTRUCTIONS)), UTC))
    except TrustError as error:
        return Hold(error.code, error.message)
    return None


def local_zone(path: Path = LOCAL_TIME) -> tzinfo:
    """This computer's time zone with its rules; UTC if it says none."""
    try:
        with path.open("rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return UTC
