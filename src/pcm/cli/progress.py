"""Progress bars on long work, on stderr and only where a person looks.

Serves `pcm package create` and `publish` (steps 1 and 2).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pcm.cli.show import console
from pcm.protocol.printable import printable

Advance = Callable[[int, int, str], None]
"""Done so far, of how many, and what is being done right now."""


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """Show how far some work in bytes is while the block runs."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda _done, _total, _what: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", style="dim"),
    )
    bars = Progress(*columns, console=screen, transient=True)
    task = bars.add_task(title, total=None, what="", visible=False)
    try:

        def advance(done: int, total: int, what: str) -> None:
            bars.start()  # not before: a passphrase may be asked for first, and drawing would wipe the question out
            bars.update(task, completed=done, visible=True, total=max(total, 1), what=printable(what)[-40:])

        yield advance
    finally:
        bars.stop()
