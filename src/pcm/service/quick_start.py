"""Imported by `worker` before everything else: `msgspec` without what it does not need, for a process that starts often.

Serves steps 6 to 12 by saving each check and each local answer 12 ms. `msgspec` takes `get_type_hints` from `typing_extensions`
if that is installed (which loads `inspect`), else from `typing`, which has everything since Python 3.11. And it takes `UUID` from
`uuid`, which asks `platform` (a module full of patterns) for the system's name only. Whoever needs either later still finds it.
"""

import os
import sys
from types import ModuleType


def _platform() -> ModuleType:
    """What `uuid` asks of `platform`."""
    module = ModuleType("platform")
    module.system = lambda: os.uname().sysname  # type: ignore[attr-defined]
    return module


if "msgspec" not in sys.modules and "typing_extensions" not in sys.modules:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    alone = "platform" not in sys.modules and "uuid" not in sys.modules and hasattr(os, "uname")
    if alone:
        sys.modules["platform"] = _platform()
    try:
        import msgspec
    finally:
        del sys.modules["typing_extensions"]
        if alone:
            del sys.modules["platform"]

__all__ = ["msgspec"]
