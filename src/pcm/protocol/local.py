"""What the PCM application and the PCM service say to each other over the local socket: one JSON line each way.

Serves steps 9 and 12, between `pcm.app` (unprivileged, asks) and `service.local_api` (privileged, answers). A request carries a
verb and an instruction id, and a time for 'later': never a command, a path or a user name. Who asks is what the kernel says
about the other end, never what the line says. Both sides bound what they read. No I/O here.

Only `watch` is answered with several lines, until either side closes the connection: `Items` first, then `Changed` whenever
something has, and `Progress` a few times a second while content comes.
"""

from datetime import datetime
from typing import Annotated, Literal, get_args

import msgspec

from pcm.model.errors import RequestError
from pcm.protocol import codec

MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 16 * 2**20
MAX_LEDGER_ENTRIES = 1000
SOCKET_NAME = "pcmsvc.sock"
DEFAULT_SOCKET = "/run/pcm/" + SOCKET_NAME

Verb = Literal[
    "list", "details", "why", "run", "defer", "cancel", "ledger", "check", "status", "watch", "restart", "postpone_restart",
    "sync", "pause", "resume",
]  # fmt: skip
VERBS: tuple[Verb, ...] = get_args(Verb)
WITH_ID: frozenset[Verb] = frozenset({"details", "why", "run", "defer", "cancel"})
WITH_TIME: frozenset[Verb] = frozenset({"defer", "pause", "postpone_restart"})
ADMINISTRATORS_ONLY: frozenset[Verb] = frozenset({"sync", "pause", "resume"})

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class LocalRequest(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One question. `id`: an instruction's (`why`: or a job's). `until`: aware; only verbs of `WITH_TIME` may have it."""

    verb: Verb
    id: _Id | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        if (self.id is not None) != (self.verb in WITH_ID):
            raise ValueError(f"the verb {self.verb} takes {'an' if self.verb in WITH_ID else 'no'} id")
        if self.until is not None and (self.verb not in WITH_TIME or self.until.tzinfo is None):
            raise ValueError("until is a time with an offset, and only for what can be put off")


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One instruction as the person at the computer sees it. Times aware, UTC.

    `state` is a `model.assignment.State`; `reason` says in words why it stands there; `code` is the stable name of the reason.
    `can_run`, `can_defer`, `can_cancel`: whether this asker may say so now. `not_before`: it will not start earlier.
    `announced`: the countdown to `not_before` began then, and at its end it starts. `started`, `step`: of the run that goes on;
    `estimated_s`: how long its packager says that it takes. `ended`, `exit_class`: of the last run. `attempts`: runs so far.
    `next_at`: when it comes again, if it recurs.
    """

    id: str
    job: str
    package: str
    version: str
    program: str
    purpose: Literal["mandatory", "optional"]
    state: str
    reason: str = ""
    code: str = ""
    summary: str = ""
    publisher: str = ""
    changed: datetime | None = None
    offered: datetime | None = None
    deadline: datetime | None = None
    expires: datetime | None = None
    not_before: datetime | None = None
    requested: datetime | None = None
    requested_by: str = ""
    attempts: int = 0
    ended: datetime | None = None
    exit_code: int | None = None
    exit_class: str = ""
    can_run: bool = False
    can_defer: bool = False
    can_cancel: bool = False
    announced: datetime | None = None
    started: datetime | None = None
    step: str = ""
    estimated_s: int = 0
    next_at: datetime | None = None


class Transfer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Content on its way. `id`: for which instruction; `done`, `total`: bytes of the files as they will be.

    `travelled` came over the network, at `rate` bytes a second, by `way` (`patch`, `small`, `whole`, `peer`) from `source`; in
    the end it will be `to_travel`, if that is known.
    """

    id: str
    done: int
    total: int
    rate: float = 0.0
    left_s: float | None = None
    travelled: int = 0
    to_travel: int = 0
    way: str = ""
    source: str = ""


class Restart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A restart that is wanted and has not come.

    `packages`: who needs it. `due`: when it comes by itself; None: not by itself, or after an event. `latest`: until when it
    may be postponed, `deferrals_left` times. `begun`: the computer was asked to, and is going down.
    """

    packages: tuple[str, ...]
    policy: str
    reason: str = ""
    due: datetime | None = None
    deferred_until: datetime | None = None
    deferrals_left: int = 0
    latest: datetime | None = None
    requested_by: str = ""
    begun: bool = False


class Pause(msgspec.Struct, frozen=True, omit_defaults=True):
    """An administrator holds everything here that has not begun. `until` None: until somebody resumes."""

    since: datetime
    by: str = ""
    until: datetime | None = None


class Standing(msgspec.Struct, frozen=True, omit_defaults=True):
    """What concerns the whole computer. `hold`: why nothing starts at all now, for people; `hold_code` is stable."""

    pause: Pause | None = None
    hold: str = ""
    hold_code: str = ""
    restart: Restart | None = None
    transfer: Transfer | None = None


class Items(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="answer", tag="items"):
    """Answer to `list`: what is available, what is coming, what was done."""

    items: tuple[Item, ...]
    standing: Standing = Standing()


class Changed(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="answer", tag="changed"):
    """A line of `watch`: items as they are now, ids of those that are gone, and how the computer stands now."""

    items: tuple[Item, ...] = ()
    gone: tuple[str, ...] = ()
    standing: Standing = Standing()


class Progress(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="answer", tag="progress"):
    """A line of `watch`: how far the content is that comes now; None: none comes any more."""

    transfer: Transfer | None = None


class Details(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="answer", tag="details"):
    """Answer to `details`. `command`: the signed argument list, with placeholders. `content_bytes`: of all files together.

    `output_tail`: the end of what the last run wrote; only for administrators and whoever asked for that run.
    """

    item: Item
    release: int
    files: int = 0
    content_bytes: int = 0
    command: tuple[str, ...] = ()
    run_as: str = ""
    timeout_s: int = 0
    output_tail: str = ""


class WhyLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of a decision. `about`: target, window, presence, dependency, source, detection, brake, expiry, trust ...

    `holds`: this step allows the program to start; `until`: when that is expected to change.
    """

    about: str
    text: str
    holds: bool = True
    code: str = ""
    until: datetime | None = None


class ContentWay(msgspec.Struct, frozen=True, omit_defaults=True):
    """Files that came by one way (see `Transfer`) from one source; `plain` their bytes, `bytes` what travelled."""

    way: str
    source: str
    files: int
    plain: int
    bytes: int
    reason: str = ""


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a package's content came: `travelled` bytes, `saved` less than the `whole` that its objects would have taken."""

    came: datetime | None = None
    travelled: int = 0
    whole: int = 0
    saved: int = 0
    missing_files: int = 0
    missing_bytes: int = 0
    ways: tuple[ContentWay, ...] = ()


class Why(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="answer", tag="why"):
    """Answer to `why`: the planner's decision trace, then what was refused lately (the newest first). `content`: how it came."""

    id: str
    state: str
    lines: tuple[WhyLine, ...]
    content: Content | None = None


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="answer", tag="accepted"):
    """Answer to whatever asks for something to be done: it is noted, durably; `message` says what comes next.

    `until`: the time that was granted, if it is about a time.
    """

    message: str
    until: datetime | None = None


class LedgerEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that ran here with administrator rights, with its place in the hash chain.

    `manifest_path` names the team that signed the program; `requested_by`: the local user who asked, if one did.
    """

    seq: int
    sha256: str
    run: str
    instruction: str
    job: str
    generation: int
    package: str
    version: str
    release: int
    program: str
    argv: tuple[str, ...]
    run_as: str
    manifest_path: str
    manifest_sha256: str
    started: datetime
    ended: datetime
    state: str
    exit_code: int | None = None
    requested_by: str = ""


class LedgerBreak(msgspec.Struct, frozen=True, omit_defaults=True):
    """Entries `first` to `last` are not what they were. `code`: `ledger.changed`, `ledger.rewritten` or `ledger.shorter`."""

    first: int
    last: int
    code: str
    text: str


class Ledger(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="answer", tag="ledger"):
    """Answer to `ledger`: the newest entries, oldest first. `broken_at`: the first entry that was changed, or None.

    `breaks`: everything found that does not fit the chain, or what the site was told of it. `before`: so many entries were here
    in a ledger before this one, which the site knows up to the hash `head_before`: this computer's records were lost once.
    """

    entries: tuple[LedgerEntry, ...]
    total: int
    head: str | None = None
    broken_at: int | None = None
    breaks: tuple[LedgerBreak, ...] = ()
    before: int = 0
    head_before: str = ""


class Requirement(msgspec.Struct, frozen=True, omit_defaults=True):
    """One requirement of the service, by name; `remedy` says what to do when it does not hold."""

    name: str
    holds: bool
    message: str
    remedy: str = ""


class Requirements(msgspec.Struct, frozen=True, tag_field="answer", tag="requirements"):
    """Answer to `check`."""

    requirements: tuple[Requirement, ...]


class LastRefusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that was refused as a whole: an instruction file, a repository, a server's answer."""

    code: str
    at: datetime
    reason: str = ""
    source: str = ""
    count: int = 1


class Update(msgspec.Struct, frozen=True, omit_defaults=True):
    """`trial`: version `new` has until `at` to show that it works. `returned`: it did not; `old` is in use again since `at`.

    `untold`: `old` is in use again since `at`, and `new` has another try once the site is reached.
    """

    state: Literal["trial", "returned", "untold"]
    old: str
    new: str
    at: datetime
    why: str = ""


class Status(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="answer", tag="status"):
    """Answer to `status`. `unreported`: reports that the site has not acknowledged; `unreported_why`: if no server takes any.

    `last_contact`: a server answered.
    """

    enrolled: bool
    agent_version: str
    site: str = ""
    client_id: str = ""
    serial: int = 0
    issued: datetime | None = None
    expires: datetime | None = None
    last_check: datetime | None = None
    last_contact: datetime | None = None
    logon_server: str = ""
    instructions: int = 0
    running: str = ""
    unreported: int = 0
    unreported_why: str = ""
    ledger_head: str = ""
    refusals: tuple[LastRefusal, ...] = ()
    standing: Standing = Standing()
    update: Update | None = None


class Fault(msgspec.Struct, frozen=True, tag_field="answer", tag="error"):
    """The answer when something cannot be done. Codes: `not_found`, `not_allowed`, `request.*`, `local.busy`, ..."""

    code: str
    message: str


Answer = Items | Changed | Progress | Details | Why | Accepted | Ledger | Requirements | Status | Fault


def read_request(line: bytes) -> LocalRequest:
    """Parse a request's line, with or without its line feed.

    Raises:
        RequestError: `protocol.too_long`, `protocol.too_deep` or `protocol.malformed`.
    """
    request: LocalRequest = codec.parse(LocalRequest, line, kind="local request", max_bytes=MAX_REQUEST_BYTES)
    return request


def write_request(request: LocalRequest) -> bytes:
    """One line, with its line feed."""
    return codec.encode(request) + b"\n"


def read_answer(line: bytes) -> Answer:
    """Parse an answer's line.

    Returns:
        What was asked for; never a `Fault`.

    Raises:
        RequestError: what the service said (`not_allowed`, ...), or `protocol.*` if its line makes no sense.
    """
    answer: Answer = codec.parse(Answer, line, kind="local answer", max_bytes=MAX_ANSWER_BYTES)
    if isinstance(answer, Fault):
        raise RequestError(answer.message, code=answer.code)
    return answer


def write_answer(answer: Answer) -> bytes:
    """One line, with its line feed."""
    return codec.encode(answer) + b"\n"
