"""Step 10: a run's result, kept in its folder from the end of the tree until the caller has journalled it.

For the moment between the two: a worker killed there loses nothing. It need survive a killed process, not a power cut (after
which the run counts as unknown), so it is not synced. The file of a run that is journalled serves the next one (`posix.spare`):
it stands in that one's folder when it is whole, not before.
"""

import base64
import contextlib
import json
import os
from pathlib import Path

from pcm.service.machine.durable import write_all
from pcm.service.machine.interface import Ended
from pcm.service.machine.posix import spare

_NAME = "ended.json"


def keep_result(folder: Path, ended: Ended) -> None:
    """Write the result down; a full disk only means that it cannot be found again."""
    document = ended._asdict() | {"output_tail": base64.b64encode(ended.output_tail).decode()}
    content = json.dumps(document).encode()
    with contextlib.suppress(OSError):
        place = folder.parent
        if not spare.is_ours_alone(place) or not _write(f"{place}/{spare.FILE}", content, 0, f"{folder}/{_NAME}"):
            _write(f"{folder}/{_NAME}", content, os.O_CREAT)


def _write(path: str, content: bytes, more: int, target: str = "") -> bool:
    """Write a file anew, and give it its name if it has another one; False: there is no such file."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | more, 0o600)
    except OSError:
        if more:
            raise
        return False
    try:
        write_all(descriptor, content)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)
    if target:
        os.rename(path, target)  # noqa: PTH104 - at each run
    return True


def kept_result(folder: Path) -> Ended | None:
    """Read it again; None if there is none, or only a part of one."""
    try:
        document = json.loads((folder / _NAME).read_bytes())
        return Ended(**document | {"output_tail": base64.b64decode(document["output_tail"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remove_result(folder: Path) -> None:
    """Forget it."""
    with contextlib.suppress(FileNotFoundError):
        if spare.is_ours_alone(folder.parent):
            os.rename(f"{folder}/{_NAME}", f"{folder.parent}/{spare.FILE}")  # noqa: PTH104 - at each run
        else:
            os.unlink(f"{folder}/{_NAME}")  # noqa: PTH108
