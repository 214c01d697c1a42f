"""The operating system as the service sees it: one interface, so that another system is another implementation, not a redesign.

Serves steps 8 (`stage`), 10 (`run`) and 11 (`detect`), and the supervisor's own needs (lock, peer, children). Before it stands
`service.runner`, which journals; below it the operating system. It never decides what runs, reads no instructions, and keeps
no state but the folder of each run. Values are named tuples: `dataclasses` alone would cost each start of a worker 15 ms.

A run in the order of calls, and what a `kill -9` of the worker at each point leaves behind:

    reference = machine.reference_of(launch)    nothing has happened; the caller journals the reference
    running = machine.start(launch, reference)  the tree exists and carries the run's id
    ended = running.wait()                      the whole tree is gone, the output is stored; the caller journals `ended`
    machine.forget(reference)                   what only served recovery is taken away

    After a restart: `machine.find_again(reference)` answers with the same `RunningProgram` (the tree still works, or ended with
    its result kept), or None (nothing is left and nobody saw the end: the caller reports 'unknown' and detects again).
"""

import _socket
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Protocol, Self

from pcm.model.errors import MachineError, Retry
from pcm.service.machine.package_directory import PackageDirectory
from pcm.service.machine.people import Engaged as Engaged  # noqa: PLC0414 - part of this interface
from pcm.service.machine.people import Session as Session  # noqa: PLC0414

SYSTEM = "system"
TAIL_BYTES = 8192
_NOTHING: Mapping[str, str] = MappingProxyType({})


class TreeLimits(NamedTuple):
    """What a program's whole tree may use at most; None: as much as there is.

    Attributes:
        memory_bytes: of all its processes together, swapped ones too.
        cpu_percent: of one core (200: two cores).
        processes: processes and threads at one time.
    """

    memory_bytes: int | None = None
    cpu_percent: int | None = None
    processes: int | None = None


class Launch(NamedTuple):
    """One program to start.

    Attributes:
        run_id: 8 to 64 lower-case hex digits, never used twice. Marks every process of the run (`PCM_RUN_ID`).
        argv: `argv[0]` is an absolute path (`commands.resolve_program`); never a shell string (KB Q166245).
        working_directory: absolute, existing (KB Q138245).
        output_path: a new file in the run's own folder; stdout and stderr together. The folder is made if it is missing.
        timeout_s: time limit for the whole tree, in seconds of a running computer (suspended time does not count).
        run_as: `system`, or the name (or number) of a user.
        environment: the program's signed variables; checked by `commands.compose_environment`.
        context: the run's own variables, all named `PCM_...`.
        output_limit_bytes: bytes of output kept from the start; the last `TAIL_BYTES` are kept besides.
        grace_s: seconds between asking the tree to end and killing it.
        on_screen: a user's program may show windows: it learns where the user's session shows them.
        limits: kept by the operating system for the whole tree; a back end that cannot keep one does not start the program.
    """

    run_id: str
    argv: tuple[str, ...]
    working_directory: Path
    output_path: Path
    timeout_s: float
    run_as: str = SYSTEM
    environment: Mapping[str, str] = _NOTHING
    context: Mapping[str, str] = _NOTHING
    output_limit_bytes: int = 1 << 20
    grace_s: float = 10.0
    limits: TreeLimits = TreeLimits()
    on_screen: bool = False


class RunReference(NamedTuple):
    """What finds a run's processes again after the worker died. Known, and journalled, before the launch.

    Attributes:
        back_end: `tree` or `systemd`.
        boot_id: processes do not outlive a boot; another id means that nobody is left.
        user_id: numeric account of the run.
        started_s: monotonic seconds of that boot.
    """

    run_id: str
    back_end: str
    boot_id: str
    output_path: str
    output_limit_bytes: int
    user_id: int
    started_s: float
    timeout_s: float
    grace_s: float

    def to_json(self) -> dict[str, str | int | float]:
        """Return a JSON-able form that `from_json` takes back."""
        return self._asdict()

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            MachineError: `machine.reference` if a field is missing or of another type (a damaged journal).
        """
        values: dict[str, Any] = {name: document.get(name) for name in cls._fields}
        for name, kind in cls.__annotations__.items():
            value = values[name]
            if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
                raise MachineError(
                    f"The journalled run reference has no proper {name}; the run counts as unknown.",
                    code="machine.reference",
                    retry=Retry.NEVER,
                )
        return cls(**values)


class Ended(NamedTuple):
    """How a run ended, told once its whole process tree was gone. A failing program is data, not an error.

    Attributes:
        exit_code: of the first process; None if a signal ended it, or if nobody saw its end.
        signal: number of the signal that ended it, if one did.
        timed_out: the tree was killed because the time limit passed. `exit_code` may still be 0: a child hung.
        output_tail: the last bytes of output, at most `TAIL_BYTES`.
        output_bytes: bytes the program wrote, stored or not.
        survivors_killed: processes that were still there when the tree had to be ended.
        survivors_left: processes that even SIGKILL did not end (stuck in the kernel). Normally 0.
        ended_by: `stopped`: somebody told the system to end it; `memory`: it, or the computer, ran out of memory. Else empty.
    """

    exit_code: int | None
    signal: int | None
    timed_out: bool
    output_tail: bytes
    output_bytes: int
    duration_s: float
    survivors_killed: int
    survivors_left: int = 0
    ended_by: str = ""


class Standing(NamedTuple):
    """A process that somebody else started. `started`: with the number, unique for a boot (clock ticks after it on Linux)."""

    process_id: int
    started: int
    name: str
    user_id: int


class Problem(NamedTuple):
    """One reason why a path is not safe: `code` such as `owner`, `writable`, `symlink`, `missing`, and a text for people."""

    path: str
    code: str
    message: str


class Peer(NamedTuple):
    """The other end of a local socket, as the kernel tells it; `name`: that of the number, empty if it has none."""

    user_id: int
    group_id: int
    process_id: int
    name: str = ""


class Account(NamedTuple):
    """A numeric account. `name` may be empty for a number nobody has a name for."""

    user_id: int
    group_id: int
    name: str = ""
    home: str = "/"
    shell: str = "/usr/sbin/nologin"

    @property
    def is_administrator(self) -> bool:
        """Whether the number is the administrator's (as it is on every system with numeric accounts)."""
        return self.user_id == 0


class Limits(NamedTuple):
    """Upper bounds for a confined child, set before it reads its first byte from outside."""

    memory_bytes: int = 1 << 30
    open_files: int = 256
    processes: int = 64
    file_bytes: int = 0


class OwnProgram(NamedTuple):
    """A Python function of our own to run in a child process: `module.function(arguments)` returns its exit code.

    Attributes:
        account: None keeps this process's rights; otherwise the child imports `module` and then gives up every right for good.
        kept_descriptors: open file descriptors the child inherits under the same numbers.
        environment: complete; nothing is inherited.
    """

    module: str
    function: str = "main"
    arguments: tuple[str, ...] = ()
    account: Account | None = None
    limits: Limits = Limits()
    kept_descriptors: tuple[int, ...] = ()
    pipes: bool = False
    environment: Mapping[str, str] = _NOTHING


class RunningProgram(Protocol):
    """A started tree. One thread waits; any thread may kill."""

    @property
    def reference(self) -> RunReference:
        """Identity of the run, as journalled."""

    def wait(self) -> Ended:
        """Serve the run (store output, keep its time limit) until no process of it is left."""

    def kill(self) -> None:
        """Ask for the end of the whole tree: asked politely, killed after the grace time. `wait` tells when it is done."""


class OwnChild(Protocol):
    """A child process made by `Machine.spawn`."""

    @property
    def process_id(self) -> int:
        """Its number; valid until `wait` has returned."""

    @property
    def descriptor(self) -> int:
        """A descriptor that polls readable when the child has ended."""

    @property
    def stdin(self) -> int:
        """Writing end of its standard input, or -1 without pipes."""

    @property
    def stdout(self) -> int:
        """Reading end of its standard output, or -1 without pipes."""

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Return the exit code (negative: signal), or None if it still runs after `timeout_s`."""

    def kill(self) -> None:
        """End it at once."""

    def close(self) -> None:
        """Kill it if it still runs, reap it, and close every descriptor."""


class InstanceLock(Protocol):
    """Held for as long as this process is the one instance."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def release(self) -> None:
        """Let another instance start."""


class Processes(Protocol):
    """Owning process trees: the part of a machine that has several back ends. See the module's docstring for the order."""

    @property
    def name(self) -> str:
        """`tree` or `systemd`."""

    def reference_of(self, launch: Launch) -> RunReference:
        """Say, without doing anything, how this launch will be found again.

        Raises:
            MachineError: the launch is not acceptable (`machine.launch`), or its user does not exist (`machine.account`).
        """

    def start(self, launch: Launch, reference: RunReference | None = None) -> RunningProgram:
        """Start the program and own everything it starts.

        Raises:
            MachineError: `machine.program_not_found`, `machine.not_executable`, `machine.working_directory`,
                `machine.environment`, `machine.run_folder`, `machine.cannot_start`, `machine.limit` (nobody would keep it).
        """

    def find_again(self, reference: RunReference) -> RunningProgram | None:
        """Find a run that another worker started; None if nothing is left of it."""

    def forgets_soon(self, reference: RunReference) -> bool:
        """Tell whether `forget` surely takes no longer than a moment."""

    def forget(self, reference: RunReference) -> None:
        """Take away what is only kept so that `find_again` can answer. Safe to call twice, and for unknown runs."""


class Machine(Processes, Protocol):
    """Everything the service asks of the computer it runs on."""

    def is_administrator(self) -> bool:
        """Tell whether this process may do everything here."""

    def boot_id(self) -> str:
        """Identity of this boot (a restart gives another)."""

    def boot_seconds(self) -> float:
        """Seconds since boot, suspended time included; goes on whatever the wall clock does."""

    def restart(self, reason: str, *, ignore_inhibitors: bool = False) -> None:
        """Ask this computer to restart in good order; `reason` is shown to whoever is logged on.

        Raises:
            MachineError: `machine.restart_inhibited`: somebody holds it up, named in the message; `machine.cannot_restart`;
                `machine.restart_unanswered`: it was asked, and whether it restarts will show.
        """

    def restart_marked(self, since: datetime) -> bool:
        """Tell whether the system's own mark that it needs a restart was written since then."""

    def tell_users(self, text: str) -> None:
        """Show a line to whoever is logged on at a terminal; nobody is waited for."""

    def sessions(self) -> Sequence[Session]:
        """People who are logged on now."""

    def engaged(self, sessions: Sequence[Session]) -> Engaged:
        """Whether those who are logged on should rather not be disturbed."""

    def metered(self) -> bool:
        """Whether the network is paid by volume, as far as the system knows."""

    def processes_named(self, names: Collection[str]) -> list[Standing]:
        """Find processes of these exact program names, whoever's they are; never one of this service's own."""

    def close_processes(self, found: Sequence[Standing], grace_s: float) -> list[Standing]:
        """Ask these very processes to end, and end those that have not within `grace_s` seconds; returns these."""

    def free_bytes(self, path: Path) -> int:
        """Bytes that a file below `path` (or its nearest existing ancestor) may still take."""

    def check_protected(self, path: Path) -> list[Problem]:
        """Name each reason why somebody other than an administrator could change what stands at `path`. Empty: protected."""

    def stage(self, root: Path, run_id: str, reader: Account | None = None) -> PackageDirectory:
        """Make an empty package directory for one run below `root`.

        Args:
            reader: the one user besides administrators who may read and run what is in it; never write.

        Raises:
            MachineError: `machine.unprotected`, `machine.noexec`, `machine.staging_exists`, `machine.no_access_lists`.
            StoreError: `store.full`.
        """

    def release_staged(self, root: Path, run_id: str) -> None:
        """Empty a run's package directory, which may serve the next `stage` below `root`. Raises as `remove_staged`."""

    def remove_spare(self, root: Path) -> None:
        """Remove what `release_staged` kept for a next run below `root`, if there is none. Raises as `remove_staged`."""

    def remove_staged(self, root: Path, run_id: str) -> None:
        """Remove a run's package directory, if there is one, and whatever the program left in it.

        Raises:
            MachineError: `machine.unprotected`, `machine.remove`, `machine.mounted`.
        """

    def peer_of(self, connection: _socket.socket) -> Peer:
        """Ask the kernel who is at the other end of a local connection."""

    def lock_instance(self, path: Path) -> InstanceLock:
        """Become the one instance.

        Raises:
            MachineError: `machine.already_running`, with the other one's process id.
        """

    def account(self, name: str) -> Account:
        """Look an account up by name or number; raises MachineError `machine.account`."""

    def transfer_account(self, name: str) -> Account:
        """Account for the unprivileged network side: `name` if it exists, else a number that nobody has."""

    def spawn(self, program: OwnProgram) -> OwnChild:
        """Start a function of our own in a child process.

        Raises:
            MachineError: `machine.cannot_start`.
        """
