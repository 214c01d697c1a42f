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

BOLD, DIM, RED, GREEN, YELLOW, CYAN = "1", "2", "31", "32", "33", "36"
_GAP = "  "
_NARROWEST = 16
_NARROW = 60


class Screen:
    """Where output goes.

    Args:
        stream: Usually standard output.
        width: In columns; None asks the terminal.
    """

    def __init__(self, stream: TextIO, width: int | None = None) -> None:
        self._stream = stream
        looks = stream.isatty()
        self.colour = self._may_colour = looks and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.moves = looks and os.environ.get("TERM", "dumb") != "dumb"  # lines can be drawn again in their place
        self.plain = "utf" not in (getattr(stream, "encoding", None) or "").lower()
        self.width = width or (shutil.get_terminal_size((100, 24)).columns if looks else 160)

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line; what is not plain text in it is escaped."""
        print(self.styled(printable(text, lines=True), style), file=self._stream)

    def raw(self, text: str) -> None:
        """Write one line as it is: our own styles and text that is printable already."""
        print(text, file=self._stream)

    @property
    def height(self) -> int:
        """Lines that fit on the screen."""
        return shutil.get_terminal_size((100, 24)).lines

    def measure(self) -> None:
        """Look again how wide the terminal is: somebody may have drawn it wider. Where lines must be cut, none has colours."""
        if self.moves:
            self.width = shutil.get_terminal_size((100, 24)).columns
            self.colour = self._may_colour and self.width >= _NARROW

    def flush(self) -> None:
        """Let what was written be seen."""
        self._stream.flush()

    def draw(self, lines: Sequence[str], over: int) -> None:
        """Write lines that are ready, over as many that were written before."""
        back = f"\x1b[{over}A" if over else ""
        self._stream.write(f"{back}\r\x1b[J" + "".join(f"{line}\n" for line in lines))
        self._stream.flush()

    def show_cursor(self, shown: bool) -> None:
        """Hide the cursor while lines are drawn again and again, or show it."""
        if self.moves:
            self._stream.write("\x1b[?25h" if shown else "\x1b[?25l")
            self._stream.flush()

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


def clip(text: str, width: int) -> str:
    """At most so many columns; what is left out is marked."""
    if shown_width(text) <= width:
        return text
    kept = ""
    for character in text:
        if shown_width(kept + character) > width - 1:
            break
        kept += character
    return kept + "…"


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
