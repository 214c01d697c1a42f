"""How the demonstration tells its story: headings, sentences, the commands as one would type them, and what they said."""

import sys
import time

_COLOURS = sys.stdout.isatty()
_STARTED = time.monotonic()


def _paint(code: str, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if _COLOURS else text


def act(title: str) -> None:
    """Begin an act."""
    print(f"\n{_paint('1;34', title)}\n{_paint('34', '─' * len(title))}", flush=True)


def say(text: str) -> None:
    """Tell what happens next."""
    print(f"\n{_paint('2', f'{time.monotonic() - _STARTED:5.1f} s')}  {text}", flush=True)


def typed(command: str) -> None:
    """Show a command as somebody would type it."""
    print(f"         {_paint('36', '$ ' + command)}", flush=True)


def shown(text: str, *, most: int = 30) -> None:
    """Show what a command said, indented; long output is cut in the middle."""
    lines = text.rstrip().splitlines()
    if len(lines) > most:
        lines = [*lines[: most - 6], f"… {len(lines) - most + 1} more lines", *lines[-5:]]
    for line in lines:
        print(f"         {line}", flush=True)


def held(text: str) -> None:
    """Something that the demonstration checked by itself, and that holds."""
    print(f"         {_paint('32', '✔ ' + text)}", flush=True)


def missing(text: str) -> None:
    """Something that this machine cannot show."""
    print(f"         {_paint('33', '○ not shown here: ' + text)}", flush=True)


def broken(text: str) -> None:
    """Something that should hold and does not."""
    print(f"         {_paint('1;31', '✘ ' + text)}", flush=True)
