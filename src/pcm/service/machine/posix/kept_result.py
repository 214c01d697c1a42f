"""Step 10: a run's result, kept in its folder from the end of the tree until the caller has journalled it.

For the moment between the two: a worker killed there loses nothing. It need survive a killed process, not a power cut (after
which the run counts as unknown), so it is not synced.
"""

import base64
import contextlib
import json
import os
from pathlib import Path

from pcm.service.machine.durable import write_all
from pcm.service.machine.interface import Ended

_NAME = "ended.json"


def keep_result(folder: Path, ended: Ended) -> None:
    """Write the result down; a full disk only means that it cannot be found again."""
    document = ended._asdict() | {"output_tail": base64.b64encode(ended.output_tail).decode()}
    with contextlib.suppress(OSError):
        descriptor = os.open(folder / _NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, json.dumps(document).encode())
        finally:
            os.close(descriptor)


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
        os.unlink(folder / _NAME)  # noqa: PTH108 - at each run
