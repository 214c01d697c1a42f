"""What the planner takes and gives: a situation in, a plan with a reason for each line out. Values only.

Serves step 7. `pcm.service.planner` makes plans; the journal adopts their states, the runner takes their due lines, and
`pcmsvc why` shows them. Nothing here decides.
"""

from collections.abc import Mapping
from datetime import datetime, tzinfo
from enum import Enum

import msgspec

from pcm.model.assignment import State as Stage
from pcm.model.facts import Facts
from pcm.model.instruction import Instruction
from pcm.model.schedule import Window
from pcm.protocol.manifest import Manifest
from pcm.protocol.policy import SitePolicy
from pcm.service.records import InstalledRelease, InstructionRecord, UserRun

_UNTIL_LOGON = frozenset({"wait.presence", "wait.next_logon"})


class Action(Enum):
    """What is to be done about one instruction now."""

    RUN = "run"  # it is due: fetch, stage, run
    FETCH = "fetch"  # it waits, but its content may come already
    WAIT = "wait"  # for a time (`until`) or an event
    DONE = "done"  # nothing more in this generation
    REFUSE = "refuse"
    EXPIRE = "expire"
    WITHDRAW = "withdraw"
    NOT_APPLICABLE = "not_applicable"


class Finding(msgspec.Struct, frozen=True):
    """One rule's answer about one instruction: a line of the decision trace.

    `topic`: target, schedule, dependency, approval, brake, window, presence, detection, retry, request or hold. If it does not
    hold, the other fields say what becomes of the instruction; `until` None: an event decides, not a time.
    """

    topic: str
    holds: bool
    text: str
    code: str = ""
    action: Action = Action.WAIT
    state: Stage = Stage.WAITING
    until: datetime | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The decision about one instruction.

    Attributes:
        record: As the planner saw it.
        state: What the instruction's state is to be; for RUN and FETCH what it is until the runner says more.
        code: Stable name of the reason (`wait.window`, `trust.approval`); `reason` is for people.
        until: When this may change by itself (UTC).
        run_as: `system`, or the user as whom it is to run.
        announced: When the countdown before its start began or begins; None: there is none. `Journal.adopt` keeps it.
        begins: A recurring order's record begins anew with this occurrence (`record.occurrence`).
        deadline: When it becomes (or became) mandatory, UTC; None: never. `expires`: when it expires, so.
        next_occurrence: When the next time of a recurring order comes, UTC; None: it does not recur, or never again.
        trace: All findings, in the order of the rules, if the plan was asked to explain itself; else none.
    """

    record: InstructionRecord
    action: Action
    state: Stage
    code: str
    reason: str
    until: datetime | None = None
    run_as: str = "system"
    announced: datetime | None = None
    begins: bool = False
    deadline: datetime | None = None
    expires: datetime | None = None
    next_occurrence: datetime | None = None
    trace: tuple[Finding, ...] = ()

    @property
    def id(self) -> str:
        """The instruction's id."""
        return self.record.id

    @property
    def instruction(self) -> Instruction:
        """The instruction itself."""
        return self.record.instruction

    @property
    def speaks(self) -> bool:
        """Whether it gives the instruction another state, code or reason. What is to run keeps its own until it runs."""
        known = self.record
        return self.action is not Action.RUN and (self.state, self.code, self.reason) != (
            known.state,
            known.code,
            known.reason,
        )

    @property
    def changes(self) -> bool:
        """Whether the journal has anything to keep of it."""
        return self.begins or self.speaks or self.announced != self.record.announced_at


class Plan(msgspec.Struct, frozen=True):
    """One line per instruction, in the order of execution."""

    lines: tuple[Line, ...]

    def due(self) -> tuple[Line, ...]:
        """Lines to run now, in order."""
        return tuple(line for line in self.lines if line.action is Action.RUN)

    def to_fetch(self) -> tuple[Line, ...]:
        """Lines whose content may be brought early."""
        return tuple(line for line in self.lines if line.action is Action.FETCH)

    def line(self, instruction_id: str) -> Line | None:
        """The line of one instruction."""
        return next((line for line in self.lines if line.id == instruction_id), None)

    def next_change(self, now: datetime) -> datetime | None:
        """When to look again: now if something is due, else the earliest time that a line names; None: only an event helps.

        An expiry is no reason to wake up: it is noticed at the next look, else every client would speak at once (KB Q188042).
        """
        if any(line.action is Action.RUN for line in self.lines):
            return now
        return min((line.until for line in self.lines if line.until is not None and line.until > now), default=None)

    def awaits_logon(self) -> bool:
        """Whether something waits for somebody to log on or off."""
        return any(line.code in _UNTIL_LOGON for line in self.lines)


class Presence(msgspec.Struct, frozen=True):
    """Who is at this computer.

    Attributes:
        users: Everybody who is logged on.
        active: The user of the foreground session, if there is one.
        administrators: Those of them under whose name no user's program runs.
        busy: Why what may wait should wait: `full_screen`, `presentation`, `call`, `battery`, `metered`.
        locked: Somebody is logged on, and every screen is locked.
    """

    users: tuple[str, ...] = ()
    active: str | None = None
    administrators: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    locked: bool = False


class Approved(msgspec.Struct, frozen=True):
    """How many distinct approvers' signatures `trust.approvals` verified for one instruction on this client.

    `emergency`: as many of them as the site's policy asks for call it an emergency.
    """

    count: int = 0
    emergency: bool = False


class Hold(msgspec.Struct, frozen=True):
    """A reason why nothing new starts on this client at all: paused, or a clock that cannot be right.

    `until`: when it ends by itself, if it does.
    """

    code: str
    reason: str
    until: datetime | None = None


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything but the journal and the time that a decision depends on.

    Attributes:
        zone: The client's time zone.
        manifests: By SHA-256.
        releases: What ran here before, by package.
        approvals: By instruction id, verified by `trust`.
        policy: The site's brake and approvers; None: the site has none.
        blocking: By instruction id: names of programs that run now and that its program cannot run beside.
        user_runs: By instruction id: how far a program that runs once for each user has come.
        durations: By manifest (SHA-256) and program: how many seconds it took here lately, at most.
    """

    client_id: str
    facts: Facts
    zone: tzinfo
    presence: Presence = Presence()
    windows: tuple[Window, ...] = ()
    manifests: Mapping[str, Manifest] = msgspec.field(default_factory=dict)
    releases: Mapping[str, InstalledRelease] = msgspec.field(default_factory=dict)
    approvals: Mapping[str, Approved] = msgspec.field(default_factory=dict)
    policy: SitePolicy | None = None
    hold: Hold | None = None
    blocking: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    user_runs: Mapping[str, tuple[UserRun, ...]] = msgspec.field(default_factory=dict)
    durations: Mapping[tuple[str, str], int] = msgspec.field(default_factory=dict)
