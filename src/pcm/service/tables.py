"""Plain-text tables and times for `pcmsvc`. No colours, no library: they are read on consoles, in logs and by mail.

Serves `main`. Values in, lines out; what people or servers wrote is made printable first.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str = "Nothing.") -> str:
    """Columns as wide as they need to be, two spaces between them; the last column is not padded."""
    cleaned = [[printable(cell) for cell in row] for row in rows]
    if not cleaned:
        return empty
    lines = [[title.upper() for title in head], *cleaned]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """A name and its value on each line, values below each other."""
    kept = [(name, printable(value)) for name, value in rows if value]
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(f"{name + ':':<{width + 1}} {value}" for name, value in kept)


def when(moment: datetime | None) -> str:
    """A time for people: UTC, to the minute; empty for none."""
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


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
