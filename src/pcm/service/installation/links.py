"""The names by which people and their shells find the program: commands, and what completes them. They lead to `current`.

Serves no step; beside `measures`, which looks and mends, and `remove`. A command's name is ours or nobody's: a file of something
else there is told, and left. What completes is a convenience: whatever stands there already, even a file of somebody else, is
left alone without a word.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from pcm.model.errors import MachineError
from pcm.service.installation.layout import Layout, current_version, link
from pcm.service.machine.durable import storing_error


def problems(layout: Layout) -> list[str]:
    """What does not lead where it should."""
    found = []
    for path, leads_to in layout.commands.items():
        if not path.is_symlink() or str(path.readlink()) != leads_to:
            found.append(f"{path} does not lead to {leads_to}.")
    return found + [f"{path}, for completion, is not there." for path in _lacking(layout)]


def mend(layout: Layout) -> None:
    """Lead everything there.

    Raises:
        MachineError: `conflict`, a file of something else; or it cannot be written, as StoreError.
    """
    for path, leads_to in layout.commands.items():
        if path.exists() and not path.is_symlink():
            raise MachineError(
                f"{path} is a file of something else; move it away, then run this again.", code="conflict"
            )
        if not path.is_symlink() or str(path.readlink()) != leads_to:
            link(path, leads_to)
    for path in _lacking(layout):
        _make_folder(path.parent)
        link(path, layout.completions[path])


def remove(layout: Layout, done: Callable[[str], None]) -> None:
    """Take away what leads here, and folders of completions that are empty then."""
    for path, leads_to in {**layout.commands, **layout.completions}.items():
        if path.is_symlink() and str(path.readlink()) == leads_to:
            path.unlink()
            done(f"{path} is gone")
    for path in layout.completions:
        with contextlib.suppress(OSError):  # somebody else's are in it
            path.parent.rmdir()
            path.parent.parent.rmdir()


def _lacking(layout: Layout) -> list[Path]:
    """Completions that the version in use has, and no shell finds."""
    version = current_version(layout)
    if version is None:
        return []
    return [
        path
        for path, leads_to in layout.completions.items()
        if (layout.root / leads_to.lstrip("/")).is_file() and not os.path.lexists(path)
    ]


def _make_folder(folder: Path) -> None:
    """As every folder of the system, for everybody to read: whatever the umask of whoever installs."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        for each in reversed(missing):
            each.mkdir()
            each.chmod(0o755)
    except OSError as error:
        raise storing_error(error, folder) from error
