"""The process that makes one published version smaller: told on standard input, answering on standard output.

Serves step 2, started by `improving`. It gives way to everything else on the machine, may use so much memory and no more, and
ends with the site. It knows no database and no key: it reads and writes one distribution folder.
"""

import contextlib
import ctypes
import hashlib
import os
import resource
import signal
import sys
from pathlib import Path

import msgspec

from pcm.content.bundle_index import Listing
from pcm.distribution.improving import improve
from pcm.model.errors import PcmError
from pcm.protocol.manifest import MAX_BYTES, read_manifest

MOST_MEMORY = 4 * 2**30
_NICE = 19
_PR_SET_PDEATHSIG = 1
_FAILED = 1


class ImprovingOrder(msgspec.Struct, frozen=True):
    """What to do: names of manifests below a distribution folder's root. `level` None: objects stay as they are."""

    root: str
    new: str
    olds: tuple[str, ...]
    level: int | None


class ImprovingResult(msgspec.Struct, frozen=True):
    """What there is now, in bytes: the bundle of whole files, and those of patches by the manifest that they start from."""

    whole: int
    patches: dict[str, int]


def main() -> int:
    """Carry out one order."""
    _give_way()
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=ImprovingOrder)
    root = Path(order.root)
    try:
        made = improve(root, _listing(root, order.new), [_listing(root, old) for old in order.olds], level=order.level)
    except PcmError as error:
        sys.stderr.write(f"{error.code} {error.message}\n")
        return _FAILED
    sys.stdout.buffer.write(msgspec.json.encode(ImprovingResult(made.whole, made.patches)))
    return 0


def _listing(root: Path, name: str) -> Listing:
    with (root / name).open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    return Listing(hashlib.sha256(data).hexdigest(), read_manifest(data).files)


def _give_way() -> None:
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    with contextlib.suppress(AttributeError, OSError):  # only Linux has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):  # the last whom a system without memory lets live
        Path("/proc/self/oom_score_adj").write_text("800")


if __name__ == "__main__":
    sys.exit(main())
