"""Tables for a terminal, with the standard library alone: a client computer has no more than the service needs.

Serves step 9 and 12, under `pcm.app`. It measures what a terminal shows (wide and combining characters), wraps the last column,
and colours only where a person looks. It makes all text printable itself, so no caller can forget.
"""

import os
import shutil
import unicodedata
from collections.abc import Sequence
from typing import TextIO

from pcm.protocol.printable import printable

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"
_GAP = "  "
_NARROWEST = 16


class Screen:
    """Where output goes.

    Args:
        stream: Usually standard output.
        width: In columns; None asks the terminal.
    """

    def __init__(self, stream: TextIO, width: int | None = None) -> None:
        self._stream = stream
        looks = stream.isatty()
        self.colour = looks and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.width = width or (shutil.get_terminal_size((100, 24)).columns if looks else 160)

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line; what is not plain text in it is escaped."""
        print(self.styled(printable(text, lines=True), style), file=self._stream)

    def raw(self, text: str) -> None:
        """Write one line as it is: our own styles and text that is printable already."""
        print(text, file=self._stream)

    def styled(self, text: str, style: str) -> str:
        """Text in a style, if this screen has colours."""
        return f"\x1b[{style}m{text}\x1b[0m" if style and self.colour and text else text

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
        """Write rows below their titles. `styles`: of each row's second column, where states stand."""
        safe = [[printable(cell) for cell in row] for row in rows]
        widths = [max(shown_width(row[index]) for row in [titles, *safe]) for index in range(len(titles))]
        used = sum(widths[:-1]) + len(_GAP) * (len(titles) - 1)
        widths[-1] = max(_NARROWEST, min(widths[-1], self.width - used))
        print(self.styled(_lay_out(titles, widths), BOLD), file=self._stream)
        for number, row in enumerate(safe):
            first, *more = wrap(row[-1], widths[-1])
            cells = [pad(cell, width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
            if styles and len(cells) > 1:
                cells[1] = self.styled(cells[1], styles[number])
            print(_GAP.join([*cells, first]).rstrip(), file=self._stream)
            for rest in more:
                print(" " * (used) + rest, file=self._stream)


def _lay_out(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(pad(cell, width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def pad(text: str, width: int) -> str:
    """Fill up with spaces to a width on the screen."""
    return text + " " * max(0, width - shown_width(text))


def shown_width(text: str) -> int:
    """How many columns a terminal takes for a text."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrap(text: str, width: int) -> list[str]:
    """Break at spaces into lines of at most `width` columns; a longer word is broken where it must be."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if shown_width(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while shown_width(line) > width:
            cut = next(index for index in range(len(line), 0, -1) if index == 1 or shown_width(line[:index]) <= width)
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line]
