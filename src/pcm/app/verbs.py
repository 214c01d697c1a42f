"""What `pcmapp` does: one question to the service, one answer shown. Serves steps 9 and 12."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pcm.app.columns import BOLD, DIM, GREEN, RED, YELLOW, Screen
from pcm.app.words import OVER, about, clock, read_moment, size, state_of, titled, what, when
from pcm.model.errors import RequestError
from pcm.protocol import local
from pcm.protocol.printable import printable, printable_json
from pcm.service.local_client import ask

A = TypeVar("A")
_RECENT_DAYS = 30
_WATCH_S = 1.0


@dataclass(frozen=True)
class Call:
    """One call of the program: where the service is, where output goes, what was asked."""

    socket: Path
    screen: Screen
    json: bool
    given: argparse.Namespace

    def ask(self, request: local.LocalRequest, shape: type[A]) -> A:
        """Ask the service.

        Raises:
            TransferError: `local.unreachable`.
            RequestError: what the service says; `protocol.wrong_type`: it answers something else.
        """
        answer = ask(self.socket, request)
        if not isinstance(answer, shape):
            raise RequestError("The PCM service answered something else than was asked.", code="protocol.wrong_type")
        return answer

    def print_json(self, value: Any) -> bool:
        """Print a value for programs, if that was asked for."""
        if self.json:
            self.screen.raw(printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2)))
        return self.json

    def find(self, name: str, fits: Callable[[local.Item], bool] | None = None) -> local.Item:
        """The one item that a name means: an id, a job, a package, or the beginning of an id.

        Args:
            fits: What can be meant by an act; None for a question: of several, the one that changed last is meant.

        Raises:
            RequestError: `not_found`; `request.ambiguous`.
        """
        items = self.ask(local.LocalRequest("list"), local.Items).items
        found = [item for item in items if name in {item.id, item.job, item.package}]
        found = found or [item for item in items if len(name) >= 3 and item.id.startswith(name)]
        # of several, the ones that can be meant: what can be installed, what can be postponed, what is not over
        for narrower in (fits, lambda item: item.state not in OVER):
            if len(found) > 1 and narrower is not None:
                found = [item for item in found if narrower(item)] or found
        if fits is None:
            found = sorted(found, key=_changed)[-1:]
        if not found:
            raise RequestError(f"There is no {name!r} here. See: pcmapp list --all", code="not_found")
        if len(found) > 1 and fits is not None and not any(fits(item) for item in found):
            listed = "; ".join(f"{item.id} ({what(item)}): {state_of(item)[0]}" for item in found[:5])
            raise RequestError(f"Nothing called {name!r} waits for that now: {listed}.", code="request.ambiguous")
        if len(found) > 1:
            listed = "; ".join(f"{item.id} ({what(item)})" for item in found[:5])
            raise RequestError(f"Several are called {name!r}: say which one: {listed}", code="request.ambiguous")
        return found[0]


def list_items(call: Call) -> int:
    """`pcmapp list`."""
    items = call.ask(local.LocalRequest("list"), local.Items).items
    if call.print_json(items):
        return 0
    now = datetime.now(UTC)
    over = [item for item in items if item.state in OVER and (call.given.all or _recent(item, now))]
    over.sort(key=_changed, reverse=True)
    free = [item for item in items if item.state not in OVER and item.purpose == "optional"]
    coming = [item for item in items if item.state not in OVER and item.purpose == "mandatory"]
    for title, listed in (("Available", free), ("Coming", coming), ("Done", over)):
        if listed:
            call.screen.line(title, BOLD)
            words = [state_of(item) for item in listed]
            rows = [
                (what(item), state, when(item, now), about(item))
                for item, (state, _) in zip(listed, words, strict=True)
            ]
            call.screen.table(("software", "state", "when", "about"), rows, [style for _, style in words])
            call.screen.line()
    if not (free or coming or over):
        call.screen.line(
            "Nothing is available, coming or done." if call.given.all else "Nothing now. Older: pcmapp list --all"
        )
    elif free:
        call.screen.line("Install with: pcmapp install NAME", DIM)
    return 0


def _changed(item: local.Item) -> float:
    moment = item.ended or item.changed
    return moment.timestamp() if moment is not None else 0.0


def _recent(item: local.Item, now: datetime) -> bool:
    moment = item.ended or item.changed
    return moment is None or (now - moment).days < _RECENT_DAYS


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
        ("why", f"{item.reason} [{item.code}]" if item.code else item.reason),
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
        ("download", f"{details.files} files, {size(details.content_bytes)}" if details.files else ""),
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
    if not call.print_json(accepted):
        call.screen.line(accepted.message)
    if not call.given.wait:
        return 0
    return _watch(call, item.id, item.attempts)


def _watch(call: Call, name: str, attempts: int) -> int:
    """Show each change until it is over; 1 if it did not succeed."""
    last = ""
    while True:
        item = next((i for i in call.ask(local.LocalRequest("list"), local.Items).items if i.id == name), None)
        if item is None:
            raise RequestError("It is gone: the administrator has withdrawn it.", code="not_found")
        state, style = state_of(item)
        if state != last and not call.json:
            call.screen.line(f"{state}{f': {item.reason}' if item.reason else ''}", style)
        last = state
        # a state from before we asked does not count as the end
        if item.state in OVER and (item.attempts > attempts or item.state != "failed"):
            return 0 if item.state in {"succeeded", "already_installed"} else 1
        if item.state == "restart_pending":
            return 0
        time.sleep(_WATCH_S)


def postpone(call: Call) -> int:
    """`pcmapp postpone`."""
    until = None
    if call.given.until is not None:
        try:
            until = read_moment(call.given.until, datetime.now(UTC))
        except (ValueError, OverflowError):
            message = f"{call.given.until!r} is no time: write 18:30, +2h, or '2026-01-31 18:30'."
            raise RequestError(message, code="usage") from None
    item = call.find(call.given.name, lambda item: item.can_defer)
    accepted = call.ask(local.LocalRequest("defer", item.id, until), local.Accepted)
    if not call.print_json(accepted):
        call.screen.line(accepted.message)
    return 0


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
        call.screen.raw(f"  {mark} {printable(line.about):<11} {printable(line.text)}{until}{code}")
    return 0


def history(call: Call) -> int:
    """`pcmapp history`."""
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
                " ".join(entry.argv),
            )
            for entry in entries
        ]
        styles = [GREEN if e.state == "succeeded" else RED if e.state == "failed" else YELLOW for e in entries]
        call.screen.table(("when", "result", "software", "asked for by", "command"), rows, styles)
    else:
        call.screen.line("Nothing has run here with administrator rights.")
    if ledger.broken_at is not None:
        call.screen.line(f"Entry {ledger.broken_at} was changed after it was written: tell your administrator.", RED)
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
        ("not reported", f"{told.unreported} reports" if told.unreported else ""),
        ("service", told.agent_version),
    )
    for name, value in facts:
        if value:
            call.screen.line(f"{name:<14} {value}")
    for refusal in told.refusals:
        times = f" ({refusal.count} times)" if refusal.count > 1 else ""
        call.screen.line(f"refused {clock(refusal.at, now)}{times}: {refusal.reason} [{refusal.code}]", YELLOW)
    return 0


VERBS: dict[str, Callable[[Call], int]] = {
    "list": list_items,
    "show": show_item,
    "install": install,
    "postpone": postpone,
    "why": why,
    "history": history,
    "status": status,
}
