"""How far long work is: bars on stderr where a person looks, events on stderr for programs that asked for JSON.

Serves `pcm package create` and `publish` (steps 1 and 2), and `pcm distribution mirror`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from pcm.cli.settings import Output
from pcm.cli.show import console
from pcm.protocol.printable import printable, printable_json

Advance = Callable[[int, int, str], None]
"""Done so far, of how many, and what is being done right now. One call at a time, from any thread."""
_EVERY_S = 1.0


class ProgressEvent(msgspec.Struct, frozen=True):
    """One line on stderr. Bytes; `rate`: bytes a second since the beginning; `left_s`: at that rate."""

    event: str
    step: str
    done: int
    total: int
    rate: int
    left_s: int | None
    what: str


@contextmanager
def progress(title: str, output: Output = "table") -> Iterator[Advance]:
    """Show how far some work in bytes is while the block runs."""
    if output == "json":
        yield _Events(title)
        return
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda _done, _total, _what: None
        return
    from rich.progress import (  # noqa: PLC0415 - only where a person looks
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", style="dim"),
    )
    bars = Progress(*columns, console=screen, transient=True)
    task = bars.add_task(title, total=None, what="", visible=False)
    shown = 0.0
    try:

        def advance(done: int, total: int, what: str) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < 0.05 and done < total:  # a hundred thousand files would draw a hundred thousand times
                return
            shown = now
            bars.start()  # not before: a passphrase may be asked for first, and drawing would wipe the question out
            bars.update(task, completed=done, visible=True, total=max(total, 1), what=printable(what)[-40:])

        yield advance
    finally:
        bars.stop()


class _Events:
    """An `Advance` that writes one JSON line a second, and one at the end."""

    def __init__(self, step: str) -> None:
        self._step = step.lower()
        self._begun: float | None = None
        self._told = 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        self._begun = now if self._begun is None else self._begun
        if now - self._told < _EVERY_S and done < total:
            return
        self._told = now
        took = now - self._begun
        rate = int(done / took) if took > 0 else 0
        left = int((total - done) / rate) if rate else None
        event = ProgressEvent("progress", self._step, done, total, rate, left, what[-400:])
        sys.stderr.write(printable_json(msgspec.json.encode(event)) + "\n")
        sys.stderr.flush()
