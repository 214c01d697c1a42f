"""What `pcmsvc` prints: each answer for people, or as one JSON document for programs.

Serves `main`. Asks the local state when it may read it, else the running service over its socket; both give the same answers.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from pcm.model.errors import RequestError
from pcm.protocol import local
from pcm.protocol.local import LocalRequest, Verb
from pcm.service import local_client, tables
from pcm.service.naming import Named
from pcm.service.places import Places
from pcm.service.worker import utc_now

_OVER = {"succeeded", "already_installed", "not_applicable", "expired", "withdrawn", "cancelled"}

if TYPE_CHECKING:  # a whole check, which most commands never load
    from pcm.service.check import Checked
    from pcm.service.enrolment import Enrolled
    from pcm.service.log import Event, Output


def ask(
    places: Places,
    verb: Verb,
    wanted: str | None = None,
    *,
    until: datetime | None = None,
    through_socket: bool = False,
) -> local.Answer:
    """One answer: from the state itself for whoever owns it, else from the running service.

    Raises:
        PcmError: what either says.
    """
    try:
        request = LocalRequest(verb, wanted, until)
    except ValueError as error:
        raise RequestError(f"{error}.", code="request.invalid") from None
    if through_socket or not _owns_state(places):
        return local_client.ask(places.socket, request)
    from pcm.service.asking import Asker  # noqa: PLC0415
    from pcm.service.local_api import answer  # noqa: PLC0415 - not for whoever asks over the socket
    from pcm.service.machine.here import this_machine  # noqa: PLC0415

    # whoever owns the state may see everything in it
    return answer(request, Asker(0, "root"), places, this_machine(), utc_now).answer


def named(places: Places) -> list[Named]:
    """Everything here that this user may see, by its names.

    Raises:
        PcmError: as `ask`.
    """
    answer = ask(places, "list")
    assert isinstance(answer, local.Items)
    return [
        Named(
            each.id,
            each.job,
            each.package,
            f"{each.package} {each.version}, {each.program}, {each.state.replace('_', ' ')}",
            each.state not in _OVER,
        )
        for each in answer.items
    ]


def _owns_state(places: Places) -> bool:
    """Whether this user's own rights reach the state: the administrator's, or a `--home` of one's own."""
    if not places.state.parent.is_dir() or not places.state.exists():
        return os.geteuid() == 0 or not places.socket.exists()
    return os.access(places.state, os.R_OK | os.W_OK | os.X_OK)


def _width() -> int | None:
    """Columns of the screen; None if nobody looks at one."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else None


def _put(text: str, stream: TextIO | None = None) -> None:
    stream = stream or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def json_line(document: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")


def progress(line: str) -> None:
    """What is happening, as it happens."""
    _put(f"{utc_now():%H:%M:%S}  {tables.printable(line)}")


def enrolled(result: "Enrolled", site: str, *, as_json: bool) -> None:
    """The end of an enrolment."""
    identity = result.identity
    if as_json:
        state = "pending" if result.pending else "enrolled"
        json_line(
            {"client_id": identity.client_id, "fingerprint": identity.fingerprint(), "site": site, "state": state}
        )
    elif result.pending:
        _put(f"This computer waits for approval by the administrator of site {site}.")
        _put(f"Fingerprint to compare:  {identity.fingerprint()}")
    else:
        _put(f"This computer is a client of site {site}.")
        _put(f"Client id:  {identity.client_id}")


def requirements(found: Sequence[local.Requirement], *, as_json: bool) -> None:
    """Each requirement with what to do."""
    if as_json:
        json_line({"requirements": found, "all_hold": all(each.holds for each in found)})
        return
    for each in found:
        _put(f"{'ok ' if each.holds else 'NO '}  {each.name}: {tables.printable(each.message)}")
        if not each.holds and each.remedy:
            _put(f"       → {tables.printable(each.remedy)}")


def checked(result: "Checked", *, as_json: bool) -> None:
    """The end of one check."""
    problem = result.problem
    if as_json:
        json_line(
            {
                "next_check_s": result.next_check_s,
                "acknowledged": result.sent.acknowledged,
                "waiting": result.sent.waiting,
                "problem": None if problem is None else {"code": problem.code, "message": problem.message},
            }
        )
        return
    if problem is not None:
        _put(f"pcmsvc: {tables.printable(problem.message)} [{problem.code}]", sys.stderr)
    done = "Done; the" if problem is None else "The"
    _put(f"{done} next check would be in {tables.span(result.next_check_s)}.")


def accepted(answer: local.Accepted, *, as_json: bool) -> None:
    """What the service says it will do."""
    if as_json:
        json_line({"accepted": answer.message})
    else:
        _put(answer.message)


def status(answer: local.Status, *, as_json: bool) -> None:
    """How the service is."""
    if as_json:
        json_line(answer)
        return
    if not answer.enrolled:
        _put("This computer is not enrolled; run `pcmsvc install --kit FILE`. [not_enrolled]", sys.stderr)
        return
    _put(
        tables.pairs(
            [
                ("Site", answer.site),
                ("Client id", answer.client_id),
                ("Service version", answer.agent_version),
                ("Update", _update(answer.update)),
                (
                    "Instructions",
                    f"{answer.instructions} (serial {answer.serial}, until {tables.when(answer.expires)})",
                ),
                ("Running now", answer.running or "nothing"),
                ("Paused", _paused(answer.standing.pause)),
                ("Restart", _restart(answer.standing.restart)),
                ("Last check", tables.when(answer.last_check) or "never"),
                ("Last contact", f"{tables.when(answer.last_contact) or 'never'} {answer.logon_server}"),
                ("Unreported", f"{answer.unreported} {answer.unreported_why}".rstrip()),
                ("Ledger head", f"{answer.ledger_head[:40]}…" if answer.ledger_head else "empty"),
            ]
        )
    )
    if answer.refusals:
        _put("\nRefused lately:")
        refused = [(tables.when(each.at), each.code, str(each.count)) for each in answer.refusals]
        notes = [f"{each.source}: {each.reason}" if each.source else each.reason for each in answer.refusals]
        _put(tables.table(("first", "code", "times"), refused, notes=notes, width=_width()))


def _update(update: local.Update | None) -> str:
    if update is None:
        return ""
    if update.state == "trial":
        return f"{update.new} is on trial until {tables.when(update.at)}; else {update.old} comes back"
    if update.state == "untold":
        return f"{update.new} did not reach the site, and nor does {update.old}, back since {tables.when(update.at)}"
    return f"{update.new} did not work here; {update.old} is back since {tables.when(update.at)}. {update.why}"


def _paused(pause: local.Pause | None) -> str:
    if pause is None:
        return ""
    end = "until somebody resumes" if pause.until is None else f"until {tables.when(pause.until)}"
    return f"by {pause.by or 'an administrator'} since {tables.when(pause.since)}, {end}"


def _restart(restart: local.Restart | None) -> str:
    if restart is None:
        return ""
    return f"for {', '.join(restart.packages)}" + (f", due {tables.when(restart.due)}" if restart.due else "")


def items(answer: local.Items, *, as_json: bool) -> None:
    """All instructions."""
    if as_json:
        json_line(answer)
        return
    rows = [
        (each.job, f"{each.package} {each.version}", each.program, each.state, tables.when(each.deadline, bare=True))
        for each in answer.items
    ]
    notes = [each.reason for each in answer.items]
    head = ("job", "package", "program", "state", "deadline (UTC)")
    _put(tables.table(head, rows, notes=notes, width=_width(), empty="No instructions."))


def why(answer: local.Why, *, as_json: bool) -> None:
    """One decision, line by line."""
    if as_json:
        json_line(answer)
        return
    _put(f"{answer.id} is {answer.state.replace('_', ' ')}.")
    for line in answer.lines:
        code = f" [{line.code}]" if line.code else ""
        _put(f"  {'yes' if line.holds else 'NO '}  {line.about + ':':<12} {tables.printable(line.text)}{code}")


def events(found: "Sequence[Event]", *, as_json: bool) -> None:
    """The log."""
    if as_json:
        json_line({"events": [each._asdict() for each in found]})
        return
    rows = [(tables.when(each.at), each.what, each.code) for each in found]
    notes = [each.text for each in found]
    empty = "Nothing has happened here yet."
    _put(tables.table(("at", "what", "code"), rows, notes=notes, width=_width(), empty=empty))


def output(found: "Output", *, as_json: bool) -> None:
    """What a run wrote; terminals get no control characters."""
    if as_json:
        json_line(found._asdict())
        return
    for line in found.text.splitlines():
        _put(tables.printable(line))


def ledger(answer: local.Ledger, *, verify: bool, as_json: bool) -> None:
    """What ran here, and whether the past is what it was."""
    if as_json:
        json_line(msgspec.structs.replace(answer, entries=()) if verify else answer)
        return
    if not verify:
        rows = [
            (
                str(each.seq),
                tables.when(each.started, bare=True),
                f"{each.package} {each.version}",
                each.program,
                each.state,
            )
            for each in answer.entries
        ]
        head, notes = ("no", "started (UTC)", "package", "program", "state"), list(map(_under_what, answer.entries))
        _put(tables.table(head, rows, notes=notes, width=_width(), empty="Nothing ran here."))
    if answer.before:
        _put(
            f"Before this ledger there was one with {tables.count(answer.before, 'run')}, which the site knows; it was lost.",
            sys.stderr,
        )
    for each in answer.breaks:
        _put(f"NO   {tables.printable(each.text)} [{each.code}]", sys.stderr)
    if answer.broken_at is not None:
        _put(f"The ledger is not what it was, from entry {answer.broken_at} on: it proves nothing.", sys.stderr)
    else:
        entries = "1 entry" if answer.total == 1 else f"{answer.total} entries"
        _put(f"{entries}, the chain holds.{' Its head:' if answer.head else ''}")
        if answer.head:
            _put(answer.head)


def _under_what(entry: local.LedgerEntry) -> str:
    """Under whose order and signature something ran."""
    asked = f", asked for by {entry.requested_by}" if entry.requested_by else ""
    code = "" if entry.exit_code is None else f", exit code {entry.exit_code}"
    return f"job {entry.job}{asked}, as {entry.run_as}{code}, signed as {entry.manifest_path}"
