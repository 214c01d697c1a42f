"""What `pcmapp` does: one question to the service, one answer shown. Serves steps 9 and 12; what stays to watch is `watching`."""

import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from pcm.app import completion, watching
from pcm.app.bars import roughly
from pcm.app.board import Moment, banners, board
from pcm.app.call import Call
from pcm.app.columns import BOLD, DIM, GREEN, RED, YELLOW
from pcm.app.words import clock, count, localised, read_moment, size, state_of, titled, what
from pcm.model.errors import RequestError
from pcm.protocol import local
from pcm.protocol.printable import printable

_STAGED = re.compile(r"^/\S*/staging/[0-9a-f]{32}/")


def list_items(call: Call) -> int:
    """`pcmapp list`."""
    items = call.ask(local.LocalRequest("list"), local.Items)
    if call.print_json(items.items):
        return 0
    now = datetime.now(UTC)
    lines = board(items, Moment(now), call.screen, everything=call.given.all)[:-1]
    for line in lines:
        call.screen.raw(line)
    if not lines:
        call.screen.line(
            "Nothing is available, coming or done." if call.given.all else "Nothing now. Older: pcmapp list --all"
        )
    elif any(item.can_run for item in items.items):
        call.screen.line()
        call.screen.line("Install with: pcmapp install NAME", DIM)
    return 0


def show_item(call: Call) -> int:
    """`pcmapp show`."""
    item = call.find(call.given.name)
    details = call.ask(local.LocalRequest("details", item.id), local.Details)
    if call.print_json(details):
        return 0
    now, item = datetime.now(UTC), details.item
    state, style = state_of(item)
    call.screen.line(what(item), BOLD)
    facts = (
        ("state", state),
        ("why", localised(f"{item.reason} [{item.code}]" if item.code else item.reason, now)),
        ("about", item.summary),
        ("publisher", item.publisher),
        ("deadline", clock(item.deadline, now)),
        ("not before", clock(item.not_before, now)),
        ("expires", clock(item.expires, now)),
        ("asked for by", item.requested_by),
        ("runs so far", str(item.attempts) if item.attempts else ""),
        ("last run", clock(item.ended, now) + (f", exit code {item.exit_code}" if item.exit_code is not None else "")),
        ("command", " ".join(details.command)),
        ("runs as", details.run_as),
        ("download", f"{count(details.files, 'file')}, {size(details.content_bytes)}" if details.files else ""),
        ("id", item.id),
    )
    for name, value in facts:
        if value:
            call.screen.raw(f"  {name:<13} {call.screen.styled(printable(value), style if name == 'state' else '')}")
    if details.output_tail:
        call.screen.line("What it wrote:", BOLD)
        for line in details.output_tail.splitlines():
            call.screen.line(f"  {printable(line)}")
    return 0


def install(call: Call) -> int:
    """`pcmapp install`."""
    item = call.find(call.given.name, lambda item: item.can_run)
    accepted = call.ask(local.LocalRequest("run", item.id), local.Accepted)
    if not (call.print_json(accepted) or call.given.wait):
        call.screen.line(accepted.message)
    if not call.given.wait:
        return 0
    if not call.json:
        call.screen.line(accepted.message)
    return watching.wait_for(call, item.id, item.attempts)


def postpone(call: Call) -> int:
    """`pcmapp postpone`."""
    until = _moment(call.given.until) if call.given.until is not None else None
    item = call.find(call.given.name, lambda item: item.can_defer)
    accepted = call.ask(local.LocalRequest("defer", item.id, until), local.Accepted)
    if not call.print_json(accepted):
        call.screen.line(_local_time(accepted))
    return 0


def cancel(call: Call) -> int:
    """`pcmapp cancel`."""
    item = call.find(call.given.name, lambda item: item.can_cancel)
    accepted = call.ask(local.LocalRequest("cancel", item.id), local.Accepted)
    if not call.print_json(accepted):
        call.screen.line(accepted.message)
    return 0


def restart(call: Call) -> int:
    """`pcmapp restart`: what is wanted; now; later."""
    if call.given.now:
        request = local.LocalRequest("restart")
    elif call.given.later is not None:
        request = local.LocalRequest("postpone_restart", until=_moment(call.given.later) if call.given.later else None)
    else:
        return _show_restart(call)
    accepted = call.ask(request, local.Accepted)
    if not call.print_json(accepted):
        call.screen.line(_local_time(accepted))
    return 0


def _show_restart(call: Call) -> int:
    standing = call.ask(local.LocalRequest("list"), local.Items).standing
    if call.print_json(standing.restart):
        return 0
    wanted, now = standing.restart, datetime.now(UTC)
    if wanted is None:
        call.screen.line("No restart is wanted.")
        return 0
    facts = (
        ("for", " and ".join(wanted.packages)),
        ("why", wanted.reason),
        (
            "comes",
            f"{clock(wanted.due, now)}, in {roughly(wanted.due - now)}" if wanted.due and wanted.due > now else "",
        ),
        ("postponed", f"until {clock(wanted.deferred_until, now)}" if wanted.deferred_until else ""),
        (
            "later",
            f"{wanted.deferrals_left} times more, until {clock(wanted.latest, now)}" if wanted.deferrals_left else "",
        ),
        ("chosen by", wanted.requested_by),
    )
    for name, value in facts:
        if value:
            call.screen.line(f"{name:<10} {value}")
    call.screen.line("Now: pcmapp restart --now    Later: pcmapp restart --later [TIME]", DIM)
    return 0


def _local_time(accepted: local.Accepted) -> str:
    """The service's words, with the time as people here say it."""
    if accepted.until is None:
        return accepted.message
    shown = f"{accepted.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return accepted.message.replace(shown, clock(accepted.until, datetime.now(UTC)))


def _moment(text: str) -> datetime:
    try:
        return read_moment(text, datetime.now(UTC))
    except (ValueError, OverflowError):
        message = f"{text!r} is no time: write 18:30, +2h, or '2026-01-31 18:30'."
        raise RequestError(message, code="usage") from None


def why(call: Call) -> int:
    """`pcmapp why`."""
    item = call.find(call.given.name)
    trace = call.ask(local.LocalRequest("why", item.id), local.Why)
    if call.print_json(trace):
        return 0
    now = datetime.now(UTC)
    state, style = state_of(item)
    call.screen.raw(f"{printable(what(item))}: {call.screen.styled(printable(state), style)}")
    for line in trace.lines:
        mark = call.screen.styled("✓", GREEN) if line.holds else call.screen.styled("✗", RED)
        until = f" (until {clock(line.until, now)})" if line.until is not None else ""
        code = call.screen.styled(f" [{printable(line.code)}]", DIM) if line.code else ""
        call.screen.raw(f"  {mark} {printable(line.about):<11} {printable(localised(line.text, now))}{until}{code}")
    return 0


def history(call: Call) -> int:
    """`pcmapp history`. A program of the package itself is told as its packager wrote it, not where it was staged."""
    ledger = call.ask(local.LocalRequest("ledger"), local.Ledger)
    if call.print_json(ledger):
        return 0
    now = datetime.now(UTC)
    entries = list(reversed(ledger.entries))
    if entries:
        rows = [
            (
                clock(entry.started, now),
                "done" if entry.state == "succeeded" else entry.state.replace("_", " "),
                titled(entry.package, entry.version, entry.program),
                entry.requested_by or "administrator",
                " ".join((_STAGED.sub("./", entry.argv[0]), *entry.argv[1:])) if entry.argv else "",
            )
            for entry in entries
        ]
        styles = [GREEN if e.state == "succeeded" else RED if e.state == "failed" else YELLOW for e in entries]
        call.screen.table(("when", "result", "software", "asked for by", "command"), rows, styles)
    else:
        call.screen.line("Nothing has run here with administrator rights.")
    if ledger.broken_at is not None:
        found = [each.text for each in ledger.breaks] or [f"Entry {ledger.broken_at} was changed after it was written."]
        for text in found:
            call.screen.line(text, RED)
        call.screen.line("Tell your administrator: what stands here is not what was written.", RED)
        return 1
    return 0


def status(call: Call) -> int:
    """`pcmapp status`."""
    told = call.ask(local.LocalRequest("status"), local.Status)
    if call.print_json(told):
        return 0
    now = datetime.now(UTC)
    if not told.enrolled:
        call.screen.line("This computer is not managed by any site yet.")
        return 0
    facts = (
        ("site", told.site),
        ("this computer", told.client_id),
        ("last check", clock(told.last_check, now) or "never"),
        ("last contact", clock(told.last_contact, now) or "never"),
        ("running now", told.running),
        ("not reported", count(told.unreported, "report") if told.unreported else ""),
        ("service", told.agent_version),
    )
    for name, value in facts:
        if value:
            call.screen.line(f"{name:<14} {value}")
    for line in banners(told.standing, Moment(now), call.screen):
        call.screen.raw(line)
    for refusal in told.refusals:
        times = f" ({refusal.count} times)" if refusal.count > 1 else ""
        call.screen.line(f"refused {clock(refusal.at, now)}{times}: {refusal.reason} [{refusal.code}]", YELLOW)
    return 0


def complete(call: Call) -> int:
    """`pcmapp completion`: the script for a shell."""
    sys.stdout.write(completion.script(call.given.shell, VERBS))
    return 0


def name_some(call: Call) -> int:
    """`pcmapp names`, for the scripts of `completion`: what can stand behind a verb."""
    items = call.ask(local.LocalRequest("list"), local.Items).items
    for name in completion.names(items, call.given.behind):
        call.screen.line(name)
    return 0


VERBS: dict[str, Callable[[Call], int]] = {
    "list": list_items,
    "show": show_item,
    "install": install,
    "cancel": cancel,
    "postpone": postpone,
    "restart": restart,
    "why": why,
    "watch": watching.watch,
    "history": history,
    "status": status,
    "completion": complete,
    "names": name_some,
}
