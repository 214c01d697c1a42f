"""What a peer's server takes away from itself once it listens: everything that it has not got open already. Serves step 8.

After `transport.hardening`, which forbids what the transfer process may not do either: this process, unlike that one, connects to
nobody and opens no file at all, so both are forbidden too. Each is tried by itself; an old kernel must not stop it.
"""

import ctypes
import os
import struct

from pcm.transport.hardening import harden, seccomp_program

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
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
    held = harden()
    known = _CALLS.get(os.uname().machine)
    if known is None:
        return held
    program = seccomp_program(*known)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))  # struct sock_fprog, 64 bit
    pointer = ctypes.create_string_buffer(header, len(header))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.argtypes = [ctypes.c_long] * 4
    # not prctl, which the filter before this one forbids
    if libc.syscall(_SECCOMP[os.uname().machine], 1, 0, ctypes.addressof(pointer)) == 0:
        held.append("no_opening")
    return sorted(held)


_SECCOMP = {"x86_64": 317, "aarch64": 277}  # seccomp(2), with SECCOMP_SET_MODE_FILTER
