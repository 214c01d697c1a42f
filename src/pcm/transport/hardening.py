"""What the transfer process takes away from itself before it reads a single byte from a network.

Serves steps 6, 8 and 12: called by `transfer.main`, after `service.machine` has already given the process an account of
its own. Each protection is tried by itself and reported by name: an old kernel that lacks one must not stop updates, but
`pcmsvc check` shows it. It protects the computer from whoever takes the process over through a fault in HTTP, TLS or zstd.
"""

import contextlib
import ctypes
import os
import resource
import struct

MEMORY = 512 * 1024 * 1024  # bytes of address space: Python 40 MB, TLS 10 MB, zstd window 16 MB, and room
FILES = 64
NICE = 10

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38  # linux/prctl.h
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS, _IDLE = 1, 3 << 13  # IOPRIO_WHO_PROCESS, IOPRIO_CLASS_IDLE in linux/ioprio.h
_SECCOMP_MODE_FILTER = 2
_ALLOW, _EPERM = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EPERM
# machine: (AUDIT_ARCH, numbers of execve, execveat, ptrace, process_vm_readv, process_vm_writev, io_uring_setup; then, of its
# own end, which must come with its parent's, prctl, unshare, setns; of others under its account kill, tkill, rt_sigqueueinfo,
# rt_tgsigqueueinfo, pidfd_send_signal, pidfd_getfd; of the kernel bpf, userfaultfd, perf_event_open, keyctl, add_key)
_CALLS = {
    "x86_64": (
        0xC000003E,
        (59, 322, 101, 310, 311, 425, 157, 272, 308, 62, 200, 129, 297, 424, 438, 321, 323, 298, 250, 248),
    ),
    "aarch64": (
        0xC00000B7,
        (221, 281, 117, 270, 271, 425, 167, 97, 268, 129, 130, 138, 240, 424, 438, 280, 282, 241, 219, 217),
    ),
}


def harden() -> list[str]:
    """Give up what the process does not need.

    Returns:
        The names of the protections that hold now: `no_new_privs`, `not_dumpable`, `no_core`, `no_file_writing`,
        `no_new_processes`, `memory_limit`, `file_limit`, `no_exec`.
    """
    held = [name for name, kind, limit in _limits() if _limit(kind, limit)]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        held.append("no_new_privs")
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0:
        held.append("not_dumpable")
    if _forbid_exec(libc):
        held.append("no_exec")
    return sorted(held)


def give_way() -> None:
    """Let all other work on this computer go first, for the rest of this process's life: its processor, then its disk.

    What the system does not offer stays as it is: it is a courtesy.
    """
    if os.nice(0) < NICE:
        os.nice(NICE - os.nice(0))
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(ctypes.c_long(number), ctypes.c_int(_WHO_PROCESS), ctypes.c_int(0), ctypes.c_int(_IDLE))


def _limits() -> list[tuple[str, int, int]]:
    return [
        ("no_core", resource.RLIMIT_CORE, 0),
        ("no_file_writing", resource.RLIMIT_FSIZE, 0),
        ("no_new_processes", resource.RLIMIT_NPROC, 0),
        ("memory_limit", resource.RLIMIT_AS, MEMORY),
        ("file_limit", resource.RLIMIT_NOFILE, FILES),
    ]


def _limit(kind: int, limit: int) -> bool:
    try:
        resource.setrlimit(kind, (limit, limit))
    except (ValueError, OSError):
        return False
    return True


def _forbid_exec(libc: ctypes.CDLL) -> bool:
    """Install a seccomp filter: what `_CALLS` names fails with EPERM, the rest is allowed."""
    known = _CALLS.get(os.uname().machine)
    if known is None:
        return False
    program = seccomp_program(*known)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))  # struct sock_fprog, 64 bit
    pointer = ctypes.create_string_buffer(header, len(header))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(pointer), 0, 0) == 0)


def seccomp_program(architecture: int, calls: tuple[int, ...]) -> bytes:
    """The filter in classic BPF (linux/filter.h): instructions of code, jump if true, jump if false, operand."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    count = len(calls)
    lines = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 1, 0, architecture),
        (give, 0, 0, _EPERM),
        (load, 0, 0, 0),  # seccomp_data.nr
        (at_least, count + 1, 0, 0x40000000),  # the x32 numbers of x86-64
        *((equal, count - index, 0, number) for index, number in enumerate(calls)),
        (give, 0, 0, _ALLOW),
        (give, 0, 0, _EPERM),
    ]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)
