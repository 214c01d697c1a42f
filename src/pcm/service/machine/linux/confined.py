"""First code of every child of our own: give up what the child shall not have, then call its function.

Before: `linux.spawning`. After: for instance the network side of step 6, which sees bytes from anywhere and therefore gets: its
own account, no groups, no capability, no way to gain rights by executing, no file to write, few descriptors, bounded memory, and
an end together with its parent. The module is imported *before* (it may not be readable afterwards), its function called *after*:
importing a module of this project does nothing but define things.
"""

import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable

from pcm.service.machine.interface import Account, Limits
from pcm.service.machine.linux.syscalls import end_with_parent, forbid_inspection, forbid_new_privileges

_OWN_ARGUMENTS = 9


def main() -> None:
    """Read what `linux.spawning.spawn` wrote on the command line and become that program."""
    module, function, user, group, memory, files, processes, size, parent = sys.argv[1 : 1 + _OWN_ARGUMENTS]
    sys.argv = [module, *sys.argv[1 + _OWN_ARGUMENTS :]]
    called: Callable[[list[str]], int | None] = getattr(importlib.import_module(module), function)
    if user != "-":
        limits = Limits(int(memory), int(files), int(processes), int(size))
        confine(Account(int(user), int(group)), limits, int(parent))
    raise SystemExit(called(sys.argv[1:]))


def confine(account: Account, limits: Limits, parent: int) -> None:
    """Give up, for good and in this order: groups, group, user, rights to come, resources, life after the parent.

    Without root there is no account to change to; the rest still holds.

    Raises:
        OSError: the system refused; the child must not go on.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(account.group_id, account.group_id, account.group_id)
        os.setresuid(account.user_id, account.user_id, account.user_id)
        if 0 in {*os.getresuid(), *os.getresgid()} and account.user_id != 0:
            raise PermissionError("the child still has an administrator's id")
    forbid_new_privileges()
    forbid_inspection()
    for what, bound in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _lower(what, bound)
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above could tell us
        raise SystemExit(1)


def _lower(what: int, bound: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(what, (bound, bound))
