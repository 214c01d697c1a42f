"""Programs: the signed command lines of a package, their parameters, and what their exit codes mean.

Serves steps 1, 6, 7, 10 and 11. A program is written by a packager, signed with the manifest, and never changed by anything a
server says: an instruction may only name a program and give values to its declared parameters.
"""

import re
from enum import Enum
from typing import Annotated, Literal

import msgspec

from pcm.model.detection import Detection
from pcm.model.errors import RequestError
from pcm.model.names import check_name
from pcm.model.patterns import Pattern

Argument = Annotated[str, msgspec.Meta(max_length=4000)]
Variable = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$(?!\n)")]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=86_400)]
Code = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**32 - 1)]
Codes = Annotated[tuple[Code, ...], msgspec.Meta(max_length=64)]
_HEALTH_WITHIN_S = 60
EACH_USER = "each_user"
"""`run_as` of a program that runs once for every user."""
_PLACEHOLDER = re.compile(r"(?:[-/]{0,2}[A-Za-z_][A-Za-z0-9_.-]*=)?\{([A-Za-z][A-Za-z0-9_]{0,39})\}")


class ExitClass(Enum):
    """What an exit code says about the work (KB Q216744, Q263700). Anything not listed by the program is `FAILED`."""

    SUCCESS = "success"
    RESTART = "restart"  # done, a restart is needed
    RESTARTING = "restarting"  # done, the program itself is restarting the computer
    RETRY = "retry"  # try again later
    CANCELLED = "cancelled"  # a person or the program declined
    FAILED = "failed"


class ExitCodes(msgspec.Struct, frozen=True, omit_defaults=True):
    """Exit codes by class; the defaults are Windows Installer's and also right for ordinary Unix programs."""

    success: Codes = (0, 1707)
    restart: Codes = (3010,)
    restarting: Codes = (1641,)
    retry: Codes = (1618,)
    cancelled: Codes = (1602,)

    def __post_init__(self) -> None:
        every = [*self.success, *self.restart, *self.restarting, *self.retry, *self.cancelled]
        if len(every) != len(set(every)):
            raise ValueError("an exit code stands in two classes")

    def classify(self, code: int | None) -> ExitClass:
        """Name the class of an exit code; None (ended by a signal, or unknown) is never success (KB Q190135)."""
        if code is None:
            return ExitClass.FAILED
        for exit_class in (
            ExitClass.SUCCESS,
            ExitClass.RESTART,
            ExitClass.RESTARTING,
            ExitClass.RETRY,
            ExitClass.CANCELLED,
        ):
            if code in getattr(self, exit_class.value):
                return exit_class
        return ExitClass.FAILED


class Parameter(msgspec.Struct, frozen=True, omit_defaults=True):
    """One value that an instruction may give to a program: an enumeration or a pattern, with a length limit."""

    type: Literal["string"] = "string"
    enum: tuple[Argument, ...] | None = None
    pattern: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    max_length: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200
    default: Argument | None = None
    secret: bool = False

    def __post_init__(self) -> None:
        if (self.enum is None) == (self.pattern is None):
            raise ValueError("a parameter needs either enum or pattern")
        if self.pattern is not None:
            Pattern(self.pattern)
        if self.default is not None:
            self.check("default", self.default)

    def check(self, name: str, value: str) -> str:
        """Return `value` if it fits.

        Raises:
            RequestError: `request.parameter`, naming the parameter and what it takes. Secret values are not repeated.
        """
        shown = "the value" if self.secret else repr(value[:60])
        if len(value) > self.max_length:
            raise RequestError(
                f"parameter {name}: {shown} is longer than {self.max_length} characters.", code="request.parameter"
            )
        if self.enum is not None and value not in self.enum:
            raise RequestError(
                f"parameter {name}: {shown} is not one of {', '.join(self.enum)}.", code="request.parameter"
            )
        if self.pattern is not None and not Pattern(self.pattern).fits(value):
            raise RequestError(f"parameter {name}: {shown} does not match {self.pattern!r}.", code="request.parameter")
        if "\0" in value:
            raise RequestError(f"parameter {name} has a NUL character.", code="request.parameter")
        return value


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a program's whole process tree may use at most; None: as much as the computer has.

    `memory_bytes` of all its processes together, `cpu_percent` of one core (200: two cores), `processes` (and threads) at one
    time. A client that cannot keep one does not run the program (`machine.limit`).
    """

    memory_bytes: Annotated[int, msgspec.Meta(ge=2**20, le=2**53)] | None = None
    cpu_percent: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    processes: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class Program(msgspec.Struct, frozen=True, omit_defaults=True):
    """One command line of a package, with its conditions. Times in seconds, disk in bytes.

    `health` is looked at once its work is done, until it holds or `health_within_s` is over; then `rollback_to` names the program
    that returns to the last good version. `blocking_processes`: file names of programs that it cannot run beside.
    `run_as`: `system`; `user`: the one who asked for it, or is logged on; `each_user`: everybody, once, when they are logged on.
    `interaction`: a user's program may show windows, and is told where the user's session shows them.
    """

    argv: Annotated[tuple[Argument, ...], msgspec.Meta(min_length=1, max_length=256)]
    run_as: Literal["system", "user", "each_user"] = "system"
    interaction: Literal["none", "allowed"] = "none"
    presence: Literal["any", "logged_on", "logged_off"] = "any"
    timeout_s: Seconds = 3600
    exit_codes: ExitCodes = ExitCodes()
    working_directory: Annotated[str, msgspec.Meta(max_length=400)] | None = None
    environment: dict[Variable, Argument] = msgspec.field(default_factory=dict)
    detect: Detection | None = None
    health: Detection | None = None
    health_within_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = _HEALTH_WITHIN_S
    rollback_to: str | None = None
    blocking_processes: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=100)], ...], msgspec.Meta(max_length=32)
    ] = ()
    user_requestable: bool = False
    approvals: Annotated[int, msgspec.Meta(ge=0, le=20)] = 0
    estimated_s: Seconds | None = None
    disk_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    limits: Limits | None = None

    def __post_init__(self) -> None:
        if not self.argv[0] or placeholder_of(self.argv[0]) is not None:
            raise ValueError("the first argument names the program itself; it cannot be empty or a placeholder")
        if any("\0" in text for text in (*self.argv, *self.environment.values())):
            raise ValueError("an argument or environment value has a NUL character")
        if self.health is None and (self.rollback_to is not None or self.health_within_s != _HEALTH_WITHIN_S):
            raise ValueError("rollback_to and health_within need a health check, whose failure they are about")
        for name in self.blocking_processes:
            check_process_name(name)

    def placeholders(self) -> frozenset[str]:
        """Names of the parameters that this command line uses."""
        return frozenset(name for argument in self.argv if (name := placeholder_of(argument)) is not None)


def check_process_name(name: str) -> str:
    """Return the name of a program that can be in another one's way: its whole file name, nothing else.

    Raises:
        ValueError: a path, a pattern, or nothing.
    """
    if not name or name in {".", ".."} or any(each in "/\\*?\0\n" for each in name):
        raise ValueError(f"blocking_processes: {name[:60]!r} is no file name of a program (no path, no pattern)")
    return name


def asks_for_more(program: Program) -> tuple[str, ...]:
    """What a signed program asks for and this version of the service does not do.

    A condition that is ignored is a condition that silently does not hold, so whoever meets one refuses the program (KB Q154931).
    """
    if program.interaction == "allowed" and program.run_as == "system":
        return ("interaction as system, which has no screen (only a user's program can show windows)",)
    return ()


def check_placeholders(argv: tuple[str, ...], declared: frozenset[str]) -> None:
    """Check that each placeholder stands at the end of one argument of its own and names a declared parameter.

    `NAME={VALUE}` and `--name={VALUE}` are allowed as one argument, because Windows Installer properties and many options
    are written so; the value still arrives inside that one argument and can never become a second one.

    Raises:
        RequestError: `request.placeholder`.
    """
    for argument in argv:
        name = placeholder_of(argument)
        if name is not None and name not in declared:
            raise RequestError(
                f"argument {argument!r} uses the parameter {name!r}, which the package does not declare.",
                code="request.placeholder",
            )


def placeholder_of(argument: str) -> str | None:
    """Name of the parameter that an argument takes its value from; None if it is fixed text."""
    if not argument.endswith("}"):  # nearly all: no pattern is asked
        return None
    match = _PLACEHOLDER.fullmatch(argument)
    return match.group(1) if match else None


def check_parameters(declared: dict[str, Parameter], given: dict[str, str]) -> dict[str, str]:
    """Complete `given` with defaults and check every value.

    Raises:
        RequestError: `request.parameter`: unknown name, value that does not fit, or a missing one without a default.
    """
    for name in given:
        check_name("parameter", name)
        if name not in declared:
            known = ", ".join(sorted(declared)) or "none"
            raise RequestError(
                f"parameter {name!r} is not declared by the package; this program takes {known}.",
                code="request.parameter",
            )
    values: dict[str, str] = {}
    for name, parameter in declared.items():
        value = given.get(name, parameter.default)
        if value is not None:
            values[name] = parameter.check(name, value)
    return values


def build_argv(program: Program, declared: dict[str, Parameter], given: dict[str, str]) -> tuple[str, ...]:
    """Put parameter values into a program's argument list. The number of arguments never changes (KB Q166245).

    Raises:
        RequestError: `request.parameter` or `request.placeholder`.
    """
    check_placeholders(program.argv, frozenset(declared))
    values = check_parameters(declared, given)
    built: list[str] = []
    for argument in program.argv:
        name = placeholder_of(argument)
        if name is None:
            built.append(argument)
        elif name not in values:
            raise RequestError(f"parameter {name!r} has no value and no default.", code="request.parameter")
        else:
            built.append(argument[: argument.index("{")] + values[name])
    return tuple(built)
