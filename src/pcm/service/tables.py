"""Plain-text tables and times for `pcmsvc`. No colours, no library: they are read on consoles, in logs and by mail.

Serves `main`. Values in, lines out; what people or servers wrote is made printable first.
"""

import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

_NARROWEST = 12


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    notes: Sequence[str] = (),
    width: int | None = None,
    empty: str = "Nothing.",
) -> str:
    """Columns as wide as they need to be, two spaces between them; the last column is not padded.

    Args:
        notes: What stands below each row, indented; an empty one leaves nothing.
        width: Columns of the screen: notes are wrapped there, and the widest cells cut. None: it is no screen, nothing is lost.
    """
    cleaned = [[printable(cell) for cell in row] for row in rows]
    if not cleaned:
        return empty
    lines = [[title.upper() for title in head], *cleaned]
    widths = _fit([max(len(line[column]) for line in lines) for column in range(len(head))], width)
    shown = []
    for number, line in enumerate(lines):
        cells = [cut(cell, most) for cell, most in zip(line, widths, strict=True)]
        shown.append("  ".join([*(map(str.ljust, cells[:-1], widths)), cells[-1]]).rstrip())
        if number and number <= len(notes) and notes[number - 1]:
            shown += _below(printable(notes[number - 1]), width)
    return "\n".join(shown)


def _fit(widths: list[int], width: int | None) -> list[int]:
    """Take from the widest columns what does not fit."""
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _below(note: str, width: int | None) -> list[str]:
    if width is None:
        return [f"    {note}"]
    return textwrap.wrap(note, max(width, 2 * _NARROWEST), initial_indent="    ", subsequent_indent="    ")


def cut(text: str, most: int) -> str:
    """At most so many characters; what is left out is marked."""
    return text if len(text) <= most else text[: most - 1] + "…"


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """A name and its value on each line, values below each other."""
    kept = [(name, printable(value)) for name, value in rows if value]
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(f"{name + ':':<{width + 1}} {value}" for name, value in kept)


def when(moment: datetime | None, *, bare: bool = False) -> str:
    """A time for people: UTC, to the minute; empty for none. `bare`: something else says that it is UTC."""
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}{'' if bare else ' UTC'}"


def count(number: int, thing: str) -> str:
    """`1 report`, `2 reports`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def span(seconds: float) -> str:
    """About how long, in one unit: `40 s`, `31 min`, `5 h`."""
    for least, length, unit in ((7200, 3600, "h"), (120, 60, "min")):
        if seconds >= least:
            return f"{round(seconds / length)} {unit}"
    return f"{round(seconds)} s"


def printable(text: str) -> str:
    """Without line feeds and whatever else could play tricks in a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
