"""What a peer's server takes away from itself once it listens: everything that it has not got open already. Serves step 8.

Besides `transport.hardening`, which forbids what the transfer process may not do either: this process, unlike that one, connects
to nobody and opens no file at all, so both are forbidden too. Each is tried by itself; an old kernel must not stop it.
"""

import ctypes
import os
import struct

from pcm.transport.hardening import harden, seccomp_program

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
# machine: (AUDIT_ARCH, numbers of open, openat, openat2, creat, connect, socket, socketpair, bind, listen; of the file system
# mkdir, mkdirat, unlink, unlinkat, rename, renameat, renameat2, link, linkat, symlink, symlinkat, chmod, fchmodat, chown,
# fchownat)
_CALLS = {
    "x86_64": (
        0xC000003E,
        (2, 257, 437, 85, 42, 41, 53, 49, 50, 83, 258, 87, 263, 82, 264, 316, 86, 265, 88, 266, 90, 268, 92, 260),
    ),
    "aarch64": (0xC00000B7, (56, 437, 203, 198, 199, 200, 201, 34, 35, 38, 276, 37, 36, 53, 54)),
}


def seal() -> list[str]:
    """Give up everything else.

    Returns:
        The names of the protections that hold: those of `transport.hardening.harden`, and `no_opening`.
    """
    held = ["no_opening"] if _forbid_opening() else []
    return sorted((*held, *harden()))  # which forbids prctl, so it comes last


def _forbid_opening() -> bool:
    known = _CALLS.get(os.uname().machine)
    if known is None:
        return False
    program = seccomp_program(*known)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))  # struct sock_fprog, 64 bit
    pointer = ctypes.create_string_buffer(header, len(header))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(pointer), 0, 0) == 0)
