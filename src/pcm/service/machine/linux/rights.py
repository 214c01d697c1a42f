"""Administrator's rights on Linux: root and its powers (capabilities), or a named account whose unit gives it the same.

Serves no step; used when the service starts and by `pcmsvc check`. An account that may become root is root: its name is for
people and for rules, and no wall. So the service takes at its start what the unit's policy gives it; everything after sees root.
"""

import os
import stat
from pathlib import Path

from pcm.model.errors import MachineError

# numbers of linux/capability.h: what staging, programs for others, ending them, and the network side's own account take
NEEDED = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
}


def missing_rights() -> tuple[str, ...]:
    """The powers that this process needs as administrator and has not, by name; root's too may be bounded by its unit."""
    effective = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    return tuple(name for name, number in NEEDED.items() if not effective >> number & 1)


def take_rights(runtime: Path) -> None:
    """Become root by the powers of this process's account, and take over the runtime folder that systemd gave to it.

    Powers that the account's processes inherit end with its name: children as other accounts have none.

    Raises:
        MachineError: `machine.rights`: the account has not been given them; says which are missing.
    """
    account = os.geteuid()
    if account == 0:
        return
    missing = missing_rights()
    if missing:
        raise MachineError(
            f"The service runs as user {account}, which is not root and lacks {', '.join(missing)}: its unit has to give them "
            "(AmbientCapabilities=), or to leave out User=.",
            code="machine.rights",
        )
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    for path in (runtime, *(runtime.iterdir() if runtime.is_dir() else ())):
        status = path.lstat()
        if status.st_uid == account and not stat.S_ISLNK(status.st_mode):
            os.chown(path, 0, 0, follow_symlinks=False)
