"""Numbers behind account names, and a number for the network side that no account has. Serves steps 6 and 10.

Asks the system's account database only; never creates an account.
"""

import contextlib
import os
import pwd
import zlib
from functools import cache
from pathlib import Path

from pcm.model.errors import MachineError, Retry
from pcm.service.machine.interface import SYSTEM, Account

# systemd's range for accounts without a name (systemd.io/UIDS-GIDS): it alone hands these out, to units with DynamicUser=
_UNNAMED_FIRST, _UNNAMED_LAST = 61184, 65519
_HANDED_OUT = Path("/run/systemd/dynamic-uid")  # holds a file for each number that a unit has now


def account_named(name: str) -> Account:
    """Look an account up; `system` is root, or this process's own account where it is not root.

    Raises:
        MachineError: `machine.account`.
    """
    if name == SYSTEM:
        return _own_account(os.geteuid())
    try:
        return _from_entry(pwd.getpwnam(name))  # names first: an account may be called by a number that is another's
    except (KeyError, ValueError):
        if name.isascii() and name.isdigit() and int(name) < 2**32 - 1:
            return _account_of(int(name))
        raise MachineError(
            f"There is no account {name[:60]!r} on this computer.", code="machine.account", retry=Retry.NEVER
        ) from None


def transfer_account(name: str, seed: str) -> Account:
    """Return the account `name`, or a number without a name in systemd's unnamed range, the same each time for one `seed`.

    Raises:
        MachineError: `machine.account`: every number of the range is taken, or the account has an administrator's rights.
    """
    with contextlib.suppress(KeyError, ValueError):
        named = _from_entry(pwd.getpwnam(name))
        if 0 in {named.user_id, named.group_id}:
            raise MachineError(
                f"The transfer account {name[:60]!r} is an administrator's; the network side needs one without rights.",
                code="machine.account",
                retry=Retry.NEVER,
            )
        return named
    size = _UNNAMED_LAST - _UNNAMED_FIRST + 1
    start = zlib.crc32(f"{name}:{seed}".encode())  # spreads, guards nothing; hashlib would cost the supervisor 3 MB
    for offset in range(100):
        number = _UNNAMED_FIRST + (start + offset) % size
        if (_HANDED_OUT / str(number)).exists():
            continue
        try:
            pwd.getpwuid(number)
        except KeyError:
            return Account(number, number)
    raise MachineError(
        "No free account number was found for the network side; create the account.", code="machine.account"
    )


def name_of(number: int) -> str:
    """The name of a number; empty if it has none. Never by `account_named`: an account may be called by another's number."""
    return _account_of(number).name


def groups_of(account: Account) -> list[int]:
    """Every group of an account; only its own where it has no name."""
    return os.getgrouplist(account.name, account.group_id) if account.name else [account.group_id]


@cache
def _own_account(number: int) -> Account:
    return _account_of(number)


def _account_of(number: int) -> Account:
    try:
        return _from_entry(pwd.getpwuid(number))
    except KeyError:
        return Account(number, number)


def _from_entry(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir or "/", entry.pw_shell or "/bin/sh")
