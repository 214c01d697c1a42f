"""Who is logged on. Serves steps 7 and 9: presence conditions, and whom to ask.

systemd-logind's session files where it runs (the files that sd-login(3) itself reads), the older utmp(5) record elsewhere. It
reads, and never asks over a bus; an unreadable or half-written record only means that nobody is known there.
"""

import struct
from pathlib import Path

from pcm.model.errors import MachineError
from pcm.service.machine.interface import Session
from pcm.service.machine.linux.accounts import account_named

_SESSIONS = Path("/run/systemd/sessions")
_UTMP = Path("/run/utmp")
# utmp(5) on every 64-bit Linux: type, pid, line, id, user, host, exit, session, time, address, reserved
_RECORD = struct.Struct("=hxxi32s4s32s256shhiii4i20x")
_USER_PROCESS = 7
# not a greeter, a lock screen, a job of cron's, or a user's manager, whoever's name it has (pam_systemd(8), "class=")
_PEOPLE = frozenset({"user", "user-early", "user-light"})


def sessions(folder: Path = _SESSIONS, utmp: Path = _UTMP) -> tuple[Session, ...]:
    """Return everybody who is logged on now, in the order of the sessions' names."""
    if folder.is_dir():
        found = [_from_logind(path) for path in sorted(folder.iterdir()) if path.suffix != ".ref"]
        return tuple(session for session in found if session is not None)
    return tuple(_from_utmp(utmp))


def _from_logind(path: Path) -> Session | None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        values = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        if values.get("CLASS") not in _PEOPLE or values.get("STATE") == "closing":
            return None
        return Session(
            user=values["USER"],
            user_id=int(values["UID"]),
            active=values.get("ACTIVE") == "1",
            remote=values.get("REMOTE") == "1",
            name=path.name,
            kind=values.get("TYPE", ""),
            display=values.get("DISPLAY", ""),
        )
    except (OSError, KeyError, ValueError):
        return None


def _from_utmp(path: Path) -> list[Session]:
    try:
        content = path.read_bytes()
    except OSError:
        return []
    found = []
    for record in _RECORD.iter_unpack(content[: len(content) // _RECORD.size * _RECORD.size]):
        kind, process_id, _, _, name, host = record[:6]
        if kind != _USER_PROCESS or not Path(f"/proc/{process_id}").exists():
            continue
        user = name.rstrip(b"\0").decode(errors="replace")
        try:
            user_id = account_named(user).user_id
        except MachineError:
            continue
        found.append(Session(user=user, user_id=user_id, active=True, remote=bool(host.rstrip(b"\0"))))
    return found
