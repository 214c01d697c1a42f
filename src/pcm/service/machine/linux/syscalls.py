"""Linux system calls that Python does not wrap. Serves `posix.beneath` (step 8) and `linux.tree` (step 10).

Thin: numbers and structures in, descriptors and OSError out. It decides nothing.
Sources: openat2(2), prctl(2) and their kernel headers. Call numbers from 424 on are the same on every
architecture but alpha.
"""

import ctypes
import errno
import os

_SYS_OPENAT2 = 437
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)
# `syscall` and `prctl` are variadic: name every argument as a full register, or the upper half is left to chance
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
_libc.prctl.restype = ctypes.c_int
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_SIZE_OF_HOW = ctypes.sizeof(_OpenHow)


def openat2(folder: int, path: str, flags: int, mode: int, resolve: int) -> int:
    """Open `path` below the open folder, under the kernel's own resolution rules.

    Returns:
        A new descriptor, closed on exec.

    Raises:
        OSError: ELOOP for a symbolic link, EXDEV for a way out, ENOSYS or EPERM where the call is missing or filtered.
    """
    how, name = _OpenHow(flags | os.O_CLOEXEC, mode, resolve), os.fsencode(path)
    while True:
        result = _libc.syscall(_SYS_OPENAT2, folder, name, ctypes.addressof(how), _SIZE_OF_HOW)
        if result >= 0:
            return int(result)
        number = ctypes.get_errno()
        # EAGAIN: a rename elsewhere made the kernel unsure about '..'; openat2(2) says to try again
        if number not in {errno.EINTR, errno.EAGAIN}:
            raise OSError(number, os.strerror(number), path)


def become_subreaper() -> None:
    """Make orphaned descendants children of this process instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """Never again gain rights by executing anything, in this process and its descendants."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def forbid_inspection() -> None:
    """Keep other processes of the same account from reading or tracing this one."""
    _prctl(_PR_SET_DUMPABLE, 0)


def end_with_parent(signal_number: int) -> None:
    """Get this signal when the parent's thread ends. A change of account clears it: call it afterwards."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
