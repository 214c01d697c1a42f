"""What this computer is: the facts that packages are matched against and that the site is told.

Serves steps 6, 7 and 12. Reads what the system says of itself; asks no network, starts no program, and decides nothing.
"""

import os
from pathlib import Path

from pcm.model.facts import Facts

AGENT_VERSION = "0.1.0"
_MOST = 256
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def read_facts(os_release: Path = Path("/etc/os-release")) -> Facts:
    """The facts of this computer, each cut to what a document may hold."""
    system = os.uname()
    described = _read_os_release(os_release)
    return Facts(
        host_name=_printable(system.nodename) or "unnamed",
        platform=f"{system.sysname.lower()}-{_MACHINES.get(system.machine.lower(), system.machine.lower())}"[:_MOST],
        os_name=_printable(described.get("NAME", system.sysname)),
        os_version=_printable(described.get("VERSION_ID", system.release)),
        agent_version=AGENT_VERSION,
    )


def _read_os_release(path: Path) -> dict[str, str]:
    """Assignments of os-release(5), quotes removed; empty if there is no such file."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:_MOST]
