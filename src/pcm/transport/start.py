"""How the transfer process begins: as `transfer`, but without TLS until somebody asks for it.

Serves steps 6, 8 and 12; started by `service.transfer_start`, in a process of its own and nowhere else. `http.client` loads `ssl`
wherever there is one (10 ms of every poll over plain HTTP) and goes without it wherever there is none, so here there is none
while it loads. `wire` loads `ssl` itself for the first https address; where the account without rights could not read it then,
`transfer` loads it at once.
"""

import sys

sys.modules["ssl"] = None  # type: ignore[assignment]
try:
    import http.client
finally:
    del sys.modules["ssl"]

from pcm.transport.transfer import main  # noqa: E402 - loads http.client

__all__ = ["http", "main"]
