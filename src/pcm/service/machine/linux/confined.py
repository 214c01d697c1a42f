"""First code of every child of our own: give up what the child shall not have, then call its function.

Before: `linux.spawning`. After: for instance the network side of step 6, which sees bytes from anywhere and therefore gets: its
own account, no groups, no capability, no way to gain rights by executing, no file to write, few descriptors, bounded memory, and
an end together with its parent. The module is imported *before* (it may not be readable afterwards), its function called *after*:
importing a module of this project does nothing but define things.
"""

import os
import resource
import sys

from pcm.service.machine.linux.syscalls import end_with_parent, forbid_inspection, forbid_new_privileges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_OWN_ARGUMENTS = 9
_KILL = 9  # SIGKILL; `signal` makes an enumeration of all signals at each import


def main() -> None:
    """Read what `linux.spawning.spawn` wrote on the command line and become that program."""
    module, function, user, *numbers = sys.argv[1 : 1 + _OWN_ARGUMENTS]
    sys.argv = [module, *sys.argv[1 + _OWN_ARGUMENTS :]]
    __import__(module)
    called: Callable[[list[str]], int | None] = getattr(sys.modules[module], function)
    if user != "-":
        group, memory, files, processes, size, parent = map(int, numbers)
        confine(int(user), group, parent)
        for what, bound in (
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_NOFILE, files),
            (resource.RLIMIT_NPROC, processes),
            (resource.RLIMIT_FSIZE, size),
            (resource.RLIMIT_CORE, 0),
        ):
            _lower(what, bound)
    raise SystemExit(called(sys.argv[1:]))


def confine(user: int, group: int, parent: int) -> None:
    """Give up, for good and in this order: groups, group, user, rights to come, being looked into, life after the parent.

    Without root there is no account to change to; the rest still holds.

    Raises:
        OSError: the system refused; the child must not go on.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
        if 0 in {*os.getresuid(), *os.getresgid()} and user != 0:
            raise PermissionError("the child still has an administrator's id")
    forbid_new_privileges()
    forbid_inspection()
    end_with_parent(_KILL)
    if os.getppid() != parent:  # it ended before the line above could tell us
        raise SystemExit(1)


def _lower(what: int, bound: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(what, (bound, bound))
