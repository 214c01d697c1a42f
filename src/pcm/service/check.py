"""One check: everything a client does between two sleeps, in one visible order.

Serves steps 6 to 12, inside `worker check` and `pcmsvc once`, with the work lock held. The numbers are the design's fourteen
checks. A server that does not answer, or whose files are refused, never ends it: work goes on from what is cached and verified,
as long as its signatures hold (KB Q191293), and what happened is told. Planning happens at every check (KB Q163488).
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from pcm.model.errors import MachineError, PcmError, TrustError
from pcm.model.instruction import Instruction
from pcm.model.program import Program
from pcm.protocol.enrolment import ClientConfiguration
from pcm.service import inbox, transfer_progress
from pcm.service.catalogue import Catalogue, read_kept_policy
from pcm.service.facts import AGENT_VERSION, read_facts
from pcm.service.identity import Identity
from pcm.service.inbox import Desk, Inbox, Refreshed
from pcm.service.journal import Journal
from pcm.service.machine.interface import Machine
from pcm.service.outbox import Outbox, Sent
from pcm.service.outlook import BLOCKED, Outlook, clock_problem, local_zone
from pcm.service.places import Places
from pcm.service.plan import Plan, Situation
from pcm.service.records import InstructionRecord
from pcm.service.share_client import ShareClient
from pcm.service.sources import Network, end_pauses
from pcm.service.state import State
from pcm.service.succession import take_over
from pcm.service.tables import count

if TYPE_CHECKING:
    from pcm.service.trial import Trial
    from pcm.service.work import Context

PENDING = "enrolment.pending"
LEAST_PAUSE_S = 5
FIRST_POLL_S = 60
PENDING_PAUSE_S = 60
TRIAL_PAUSE_S = 60
MOST_PAUSE_S = 7 * 86_400
_JITTER = 0.15


class Equipment(NamedTuple):
    """What a check works with. `say` tells a watching administrator what happens.

    `stopping`: whether the service was told to stop.
    """

    places: Places
    machine: Machine
    configuration: ClientConfiguration
    identity: Identity
    state: State
    network: Network
    clock: Callable[[], datetime]
    say: Callable[[str], None]
    stopping: Callable[[], bool] = lambda: False


class Checked(NamedTuple):
    """What came of a check. `problem`: what kept new instructions away, not told by `say`; for exit codes and people.

    `awaits_logon`: something waits for somebody to log on or off, so the next check is worth more then. `contact`: a server
    answered, and what it said holds. `news`: it had other instructions.
    """

    next_check_s: int
    problem: PcmError | None
    sent: Sent
    awaits_logon: bool = False
    contact: bool = False
    news: bool = False


class Check:
    """One check. See the module's docstring."""

    def __init__(self, equipment: Equipment, *, forced: bool = False) -> None:
        self._it = equipment
        self._facts = read_facts()
        self._forced = forced or bool(equipment.state.meta(inbox.SYNC))
        self._outlook = Outlook(equipment.state, equipment.machine, equipment.identity.client_id, self._facts)
        desk = Desk(
            equipment.state,
            equipment.network,
            equipment.configuration,
            equipment.places,
            equipment.identity.client_id,
            equipment.clock,
        )
        self._inbox = Inbox(desk, AGENT_VERSION)
        self._catalogue = Catalogue(desk, self._facts.platform)

    def perform(self) -> Checked:
        """Ask, verify, plan, run, report.

        Raises:
            StoreError: this computer cannot keep what it must keep.
        """
        it = self._it
        if self._forced:
            self._end_pauses()
        if it.state.meta(PENDING) and not self._is_approved():
            return Checked(PENDING_PAUSE_S, None, Sent(0, 0))
        going_down = self._settle_restart()
        if going_down is not None:
            it.say("This computer is restarting: nothing new begins.")
            return Checked(going_down, None, Sent(0, 0))
        transfer_progress.forget(it.places.runtime)
        trial = self._look_at_update()
        self._reconcile()  # check 1, its second half
        if take_over(it.state, it.identity.client_id):
            it.say("This computer has a new key: the orders and reports of the old one are forgotten.")
        now = it.clock()
        late = clock_problem(it.state, now)  # check 2
        if late is not None:
            it.state.refuse(late.code, now, late.reason[:1000], "this computer's clock")
        asked = self._inbox.refresh(forced=self._forced)  # checks 3 to 7
        self._tell(
            "instructions", asked.trace, asked.error if late is not None else None
        )  # else it is the check's problem
        if trial is not None and asked.contact:
            self._confirm(trial)
        plan = self._work()  # checks 8 to 13
        sent = self._report(asked)
        look_again = self._restart()
        it.state.touch(inbox.LAST_CHECK, it.clock())
        self._settle_peers()
        problem = asked.error if late is None else TrustError(late.reason, code=late.code)
        next_check_s = min(self._pause(plan, asked), look_again)
        if it.places.trial.exists():
            next_check_s = min(next_check_s, TRIAL_PAUSE_S)
        if problem is None:
            self._leave_rest(next_check_s)
        awaits = plan.awaits_logon() or look_again < MOST_PAUSE_S  # a restart that is wanted comes once nobody is there
        return Checked(next_check_s, problem, sent, awaits, asked.contact, asked.changed)

    def _leave_rest(self, next_check_s: int) -> None:
        """Note, for the next check, until when there is nothing to do here but to ask. Last of all: any change ends it.

        Not while a version is on trial, which has to show that it can do more than ask.
        """
        if self._it.places.trial.exists():
            return
        from pcm.service.rest_rules import leave_rest  # noqa: PLC0415 - not for a check that is asked nothing after this one

        with self._it.state.transaction(durable=False):
            leave_rest(self._it, self._outlook.plan(self._it.clock()), next_check_s)

    def _look_at_update(self) -> "Trial | None":
        """Tell what came of the last update of this service; the trial that this version is on, if it is on one."""
        it = self._it
        if not it.places.returns.exists() and not it.places.trial.exists():
            return None
        from pcm.service.trial import ask_in_full, own_trial, tell_returns  # noqa: PLC0415 - rarely needed

        for told in tell_returns(it.state, it.places):
            it.say(told)
        trial = own_trial(it.places)
        if trial is not None:
            ask_in_full(it.state)
        return trial

    def _confirm(self, trial: "Trial") -> None:
        """This version reached a logon server, verified what it sent, and can plan with it: so much it has to show."""
        from pcm.service.trial import confirm  # noqa: PLC0415 - rarely needed

        it = self._it
        self._outlook.plan(it.clock())
        confirm(trial, it.places, it.state.meta(inbox.LAST_SERVER), it.clock())
        it.say(f"Version {trial.new} works here: it reached its site and verified its instructions.")

    def _end_pauses(self) -> None:
        Journal(self._it.state).end_back_off()
        end_pauses(self._it.state)
        if isinstance(self._it.network.client, ShareClient):
            self._it.network.client.end_pauses()
        self._it.state.delete_meta(inbox.SYNC)

    def _is_approved(self) -> bool:
        from pcm.service.enrolment import ask_site  # noqa: PLC0415 - once in a client's life

        it = self._it
        try:
            answer, server = ask_site(it.network, it.configuration, it.identity, None)
        except PcmError as error:
            it.say(error.message)
            return False
        if answer.state == "pending":
            it.say(f"Waiting for an administrator to approve {it.identity.fingerprint()} at {server}.")
            return False
        it.state.delete_meta(PENDING)
        it.say(f"Approved by {server}.")
        return True

    def _reconcile(self) -> None:
        open_runs = self._it.state.rows("SELECT 1 FROM runs WHERE finished = 0 LIMIT 1")
        waiting = self._it.state.rows(
            "SELECT 1 FROM instructions WHERE state IN ('restart_pending', 'running') LIMIT 1"
        )
        if not open_runs and not waiting and not self._has_staged():
            return
        from pcm.service.recovery import reconcile  # noqa: PLC0415 - 40 ms that an idle poll does not need

        for changed in reconcile(self._context()):
            self._it.say(f"{changed}: what was left open is settled.")

    def _settle_peers(self) -> None:
        """A server for peers, or none, as the site wants it."""
        header = inbox.read_header(self._it.state)
        wanted = header is not None and header.content.peers
        if wanted or (self._it.places.runtime / "peers").exists():
            from pcm.service.peer_fetching import settle_server  # noqa: PLC0415 - where the site wants it

            settle_server(self._it, header.content if header else None)

    def _settle_restart(self) -> int | None:
        """Look what came of the restart that was wanted; seconds to wait if this computer is on its way down."""
        it = self._it
        if not it.state.rows("SELECT 1 FROM restarts WHERE ended IS NULL LIMIT 1"):
            return None
        from pcm.service.restart_record import seconds_down, settle  # noqa: PLC0415 - rarely needed

        outcome = settle(it.state, it.machine.boot_id(), it.clock())
        if outcome:
            it.say(f"The restart that was wanted: {outcome.replace('_', ' ')}.")
        return seconds_down(it.state, it.clock())

    def _restart(self) -> int:
        """Restart this computer if a program asked for it and it is time; seconds until it is to be looked at again."""
        it = self._it
        if not it.state.rows("SELECT 1 FROM instructions WHERE state = 'restart_pending' LIMIT 1"):
            return MOST_PAUSE_S
        from pcm.service.restart_start import Desk as RestartDesk  # noqa: PLC0415 - rarely needed
        from pcm.service.restart_start import restart_if_due, why_barred  # noqa: PLC0415

        header = inbox.read_header(it.state)
        windows = header.windows if header else ()
        barred = why_barred(it.places.home)
        look = restart_if_due(RestartDesk(it.state, it.machine, windows, local_zone(), it.clock, it.say, barred))
        seconds = MOST_PAUSE_S if look is None else (look - it.clock()).total_seconds() + 1
        return int(min(max(seconds, LEAST_PAUSE_S), MOST_PAUSE_S))

    def _has_staged(self) -> bool:
        """Whether a package directory lies about: killed after its result was recorded, a run left it behind."""
        try:
            return any(self._it.places.staging.iterdir())
        except FileNotFoundError:
            return False

    def _work(self) -> Plan:
        """Plan; before anything is fetched or runs, ask what packagers say now; then run until nothing is due."""
        it = self._it
        plan = self._outlook.plan(it.clock())
        if self._catalogue.is_due() or it.state.meta(BLOCKED) or plan.due() or plan.to_fetch():
            self._judge_again()
            plan = self._outlook.plan(it.clock())
        if plan.due() or plan.to_fetch():
            from pcm.service.runner import drain  # noqa: PLC0415 - only when there is something to do

            due = plan.due()
            for line in due:
                it.say(f"{line.instruction.package} {line.instruction.version}: {line.instruction.program} is due.")
            plan = drain(self._context(), self._look, it.stopping)
            for line in due:
                record = Journal(it.state).record(line.id)
                what = f"{record.instruction.package} {record.instruction.version}"
                it.say(
                    f"{what}: {record.state.value.replace('_', ' ')}. {record.reason}"
                    + (f" [{record.code}]" if record.code else "")
                )
            return plan
        Journal(it.state).adopt(plan, it.clock())
        return plan

    def _look(self, records: Iterable[InstructionRecord]) -> Situation:
        """The situation before each plan of a drain.

        Raises:
            MachineError: `service.stopping`: nothing new begins; the next check goes on.
        """
        if self._it.stopping():
            raise MachineError("The service was told to stop; the next check goes on.", code="service.stopping")
        return self._outlook.situation(records, self._it.clock())

    def _judge_again(self) -> None:
        """Checks 8 to 11. What trust refuses blocks everything new until a server's files hold; silence blocks nothing."""
        it = self._it
        if inbox.read_header(it.state) is None:
            return
        judged = self._catalogue.refresh()
        self._tell("packages", judged.trace, judged.error)
        for instruction, code, reason in self._catalogue.refused():
            it.say(f"{instruction}: refused. {reason} [{code}]")
        blocked = ""
        if judged.error is not None and judged.refused_by_trust:
            blocked = f"{judged.error.code} {judged.error.message}"
        elif judged.error is not None and self._catalogue.is_expired():
            blocked = f"trust.freeze What packagers have signed is cached only, and has expired: {judged.error.message}"
        if it.state.meta(BLOCKED) != blocked:
            it.state.set_meta(BLOCKED, blocked[:1500])

    def _context(self) -> "Context":
        from pcm.content.client_store import ClientStore  # noqa: PLC0415 - with the runner
        from pcm.service.content_bring import ContentBringing  # noqa: PLC0415
        from pcm.service.work import Context  # noqa: PLC0415

        it = self._it
        return Context(
            state=it.state,
            machine=it.machine,
            store=ClientStore(it.places.store),
            bring=ContentBringing(it, self._catalogue),
            agree=self._agree,
            clock=it.clock,
            zone=local_zone(),
            staging=it.places.staging,
            runs=it.places.runs,
        )

    def _agree(self, instruction: Instruction, program: Program, now: datetime) -> None:
        """Approvals once more, at the moment of the launch (check 13)."""
        if not program.approvals:
            return
        policy = read_kept_policy(self._it.state)
        if policy is None:
            raise TrustError("It needs approvals, and no site policy is here to verify them.", code="trust.approval")
        from pcm.trust.approvals import check_approvals  # noqa: PLC0415 - few programs need it

        check_approvals(instruction, program.approvals, policy, self._it.identity.client_id, now)

    def _report(self, asked: Refreshed) -> Sent:
        it = self._it
        header = inbox.read_header(it.state)
        outbox = Outbox(it.state, it.identity, it.configuration, it.machine.boot_id())
        if header is not None and header.acknowledged_seq:
            outbox.acknowledge(header.acknowledged_seq, it.clock())
        written = outbox.write(self._facts, header.serial if header else 0, it.clock())
        if not outbox.waiting():
            return Sent(0, 0)
        servers = inbox.logon_servers(it.state, header, it.configuration)
        sent = outbox.send(it.network, servers, it.clock)
        it.say(f"{count(written, 'report')} written, {sent.acknowledged} acknowledged, {sent.waiting} waiting.")
        if sent.error is not None and (asked.error is None or sent.error.code != asked.error.code):
            it.say(f"reports: {sent.error.message} [{sent.error.code}]")
        return sent

    def _tell(self, what: str, trace: Sequence[str], error: PcmError | None) -> None:
        for line in (*trace, *(() if error is None else (f"{error.message} [{error.code}]",))):
            self._it.say(f"{what}: {line}")

    def _pause(self, plan: Plan, asked: Refreshed) -> int:
        """Seconds until the next check: the site's interval with jitter, sooner if a plan or a server's rest ends before."""
        it = self._it
        now = it.clock()
        header = inbox.read_header(it.state)
        wanted = float(header.poll_after_s if header else FIRST_POLL_S)
        if not asked.contact:
            servers = inbox.logon_servers(it.state, header, it.configuration)
            rests = [health.due for health in servers.health.values() if health.due is not None and health.due > now]
            if rests:
                wanted = min(max(wanted, FIRST_POLL_S), max(LEAST_PAUSE_S, (min(rests) - now).total_seconds()))
        wanted *= 1 + it.network.chance.uniform(-_JITTER, _JITTER)
        change = plan.next_change(now)
        if change is not None:
            # a moment later, so that the time has surely come; what is due although nothing runs waits like the rest
            left = (change - now).total_seconds()
            wanted = min(wanted, left + 1) if left > 0 else wanted
        return int(min(max(wanted, LEAST_PAUSE_S), MOST_PAUSE_S))
