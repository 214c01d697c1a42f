"""How results look: tables for people, JSON and YAML for programs, errors in one clear message.

Serves every verb, after its call. Text from elsewhere never reaches the terminal raw (`protocol.printable`). Rich is loaded
only when a table is drawn on the way out.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from pcm.cli.exit_codes import NOT_ALLOWED, NOT_FOUND, UNREACHABLE, USAGE, exit_code
from pcm.cli.settings import Output, Settings
from pcm.model.errors import PcmError
from pcm.protocol.printable import printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

GOOD = frozenset({"succeeded", "already_installed", "enrolled", "done", "yes", "ok"})
BAD = frozenset({"failed", "refused", "quarantined", "revoked", "no", "withdrawn"})
OPEN = frozenset(
    {
        "unknown", "restart_pending", "pending", "waiting_for_approval", "cancelling", "deferred", "running", "asked",
        "downloading", "offered", "waiting", "ready", "active",
    }
)  # fmt: skip
_WORD = 16
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def print_data(value: Any, output: Output) -> bool:
    """Print a value for programs, if that is what was asked for.

    Returns:
        Whether it was; otherwise the caller draws its table.
    """
    if output == "json":
        sys.stdout.write(printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2)) + "\n")
        return True
    if output == "yaml":
        import yaml  # noqa: PLC0415 - only when asked for

        data = msgspec.to_builtins(value)
        # without allow_unicode, everything that is not plain text is written as an escape
        sys.stdout.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=False, width=120))
        return True
    return False


def print_done(settings: Settings, text: str, **told: Any) -> None:
    """Say what was done: one sentence for people, or what it says as data for programs."""
    if not print_data({"done": True, **told}, settings.output):
        click.echo(printable(text))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, none: str, title: str = "") -> None:
    """Draw a table; if it has no rows, say `none`.

    Args:
        columns: Names. One that starts with '>' is aligned to the right; one with '~' wraps where space is short (the last one
            always does). The others never wrap: what people copy stays whole.
    """
    from rich import box  # noqa: PLC0415 - see module
    from rich.table import Table  # noqa: PLC0415

    lines = list(rows)
    if not lines:
        click.echo(none)
        return
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    cells = [[cell(value) for value in line] for line in lines]
    for index, column in enumerate(columns):
        fixed = not column.startswith("~") and index < len(columns) - 1
        side: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        # a column that wraps keeps its words whole, up to a point
        longest = max(len(word) for line in cells for word in [column, *line[index].plain.split(), ""])
        table.add_column(
            column.lstrip(">~"), justify=side, no_wrap=fixed, overflow="fold", min_width=min(longest, _WORD)
        )
    for line in cells:
        table.add_row(*line)
    click.echo()  # what stands above is something else
    if title:
        click.echo(click.style(title, bold=True))
    _draw(table)


def print_refusals(refusals: Iterable[tuple[str, int, datetime, str, str]]) -> None:
    """Tell what was refused, if anything was: two lines for each, since reasons name addresses and do not fit into a column.

    Args:
        refusals: Code, how often, when, whose or where from, reason.
    """
    import textwrap  # noqa: PLC0415 - see module

    width = console().width
    for number, (code, count, at, source, reason) in enumerate(refusals):
        if number == 0:
            click.echo("\n" + click.style("Refusals", bold=True))
        times = "once" if count == 1 else f"{count} times"
        # further lines stand deeper than any first one: no text from elsewhere can look like another refusal
        for text, first in ((f"{code}  {times}, {moment(at)}, {source}", " "), (reason, "   ")):
            lines = textwrap.wrap(
                one_line(text), width, initial_indent=first, subsequent_indent="   ", break_on_hyphens=False
            )
            click.echo("\n".join(lines))


def print_named(things: Iterable[tuple[str, str]]) -> None:
    """Tell what is wrong with each of some things: two lines each.

    Args:
        things: What it is called, whole in however narrow a terminal, so that it can be copied; and what is wrong with it.
    """
    import textwrap  # noqa: PLC0415 - see module

    width = console().width
    for name, wrong in things:
        click.echo(f" {one_line(name)}")
        lines = textwrap.wrap(one_line(wrong), width, initial_indent="   ", subsequent_indent="   ")
        click.echo("\n".join(lines))


def _draw(table: "Table") -> None:
    """Print a table without the spaces that fill its lines up."""
    screen = console()
    with screen.capture() as drawn:
        screen.print(table)
    lines = [line.rstrip() for line in drawn.get().split("\n")]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    click.echo("\n".join(lines), color=screen.is_terminal)


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Draw names and values, one pair a line; pairs without a value are left out."""
    from rich.table import Table  # noqa: PLC0415 - see module

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        text = cell(value)
        if value is not None and text.plain:
            table.add_row(name, text)
    _draw(table)


def console(*, stderr: bool = False) -> "Console":
    """Where rich draws: no colour unless a person looks; as wide as the terminal, or COLUMNS, else wide enough for most."""
    from rich.console import Console  # noqa: PLC0415 - see module

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() or os.environ.get("COLUMNS") else 200,
        highlight=False,
        soft_wrap=False,
        markup=False,
    )


def cell(value: Any) -> "Text":
    """A value as a table shows it; states in their colour."""
    from rich.text import Text  # noqa: PLC0415 - see module

    if isinstance(value, Text):
        return value
    if value is None:
        return Text("–", style="dim")
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, datetime):
        return Text(moment(value))
    text = one_line(str(value))
    style = "green" if text in GOOD else "red" if text in BAD else "yellow" if text in OPEN else ""
    return Text(text.replace("_", " ") if style else text, style=style)


def plain(value: str) -> "Text":
    """Text that is no state, whatever it says."""
    from rich.text import Text  # noqa: PLC0415 - see module

    return Text(one_line(value))


def one_line(text: str) -> str:
    """Text from elsewhere in one line: what looks like another row, or another fact, is one."""
    return printable(" ⏎ ".join(text.splitlines()) if "\n" in text else text)


def moment(value: datetime | None) -> str:
    """A time on this machine's clock: `2026-01-31 12:00`."""
    return "–" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M")


def ago(value: datetime | None, now: datetime | None = None) -> str:
    """How long ago, in one unit: `5 min ago`."""
    if value is None:
        return "never"
    seconds = int(((now or datetime.now(UTC)) - value).total_seconds())
    if seconds < 0:
        return moment(value)
    for least, length, unit in ((2 * _DAY, _DAY, "days"), (2 * _HOUR, _HOUR, "h"), (_MINUTE, _MINUTE, "min")):
        if seconds >= least:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def count(number: int, thing: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def size(count: int) -> str:
    """Bytes for people: `1.5 MB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def say(text: str) -> None:
    """One line to a person, beside the result: on stderr, so that pipes carry results only."""
    click.echo(printable(text, lines=True), err=True)


def show_error(error: PcmError, output: Output) -> None:
    """Tell an error: its message, and its code for whoever looks it up; as JSON if that was asked for."""
    if output == "json":
        told = {"error": {"code": error.code, "message": error.message}}
        problems = getattr(error, "problems", None)
        if problems is not None:
            told["error"]["problems"] = msgspec.to_builtins(problems)
        click.echo(printable_json(msgspec.json.format(msgspec.json.encode(told), indent=2)), err=True)
        return
    words = {NOT_FOUND: "not found", NOT_ALLOWED: "not allowed", UNREACHABLE: "unreachable", USAGE: "usage"}
    head = click.style(f"{words.get(exit_code(error), 'refused')}:", fg="red", bold=True)
    click.echo(f"{head} {printable(error.message, lines=True)} [{printable(error.code)}]", err=True)
