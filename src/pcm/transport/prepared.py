"""The transfer process with all of its code loaded, for an account that cannot read its own interpreter.

Serves steps 6, 8 and 12 as `transfer` does, started by `service.transfer_start`. `service.machine` imports this module with
the service's rights and gives them up before it calls `main`. Whatever `transfer` would load later, when first needed (TLS, zstd,
host names beyond ASCII), must have come by then: the interpreter may lie where the unprivileged account reads nothing.
"""

import encodings.idna
import ssl

import zstandard

from pcm.transport.transfer import main

__all__ = ["encodings", "main", "ssl", "zstandard"]
