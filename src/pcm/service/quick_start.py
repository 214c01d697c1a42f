"""Imported by `worker` before everything else: `msgspec` without what it does not need, for a process that starts often.

Serves steps 6 to 12 by saving each check and each local answer 10 ms. `msgspec` takes `get_type_hints` from `typing_extensions`
if that is installed (which loads `inspect`), else from `typing`, which has everything since Python 3.11. Whoever needs
`typing_extensions` later still finds it.
"""

import sys

if "msgspec" not in sys.modules and "typing_extensions" not in sys.modules:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec
    finally:
        del sys.modules["typing_extensions"]

__all__ = ["msgspec"]
