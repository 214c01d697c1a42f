"""Whether the person at the computer should rather not be disturbed. Serves step 7: what may be delayed then waits.

Asked only if an instruction's decision could depend on it. A few small files, and two questions over the message bus; what is not
there (no battery, no NetworkManager, no bus) is no reason to wait. It never asks a program of the user's: whatever he lets it
answer, it could only delay what its order lets him delay anyway. A window that merely fills the screen is not seen from here.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from pcm.model.errors import MachineError
from pcm.service.machine.interface import Engaged, Session
from pcm.service.machine.linux.system_bus import SOCKET, SystemBus

PRESENTATION, BATTERY, METERED = "presentation", "battery", "metered"
_INHIBITORS = Path("/run/systemd/inhibit")
_POWER = Path("/sys/class/power_supply")
_SUPPLIES = frozenset({"Mains", "USB"})
_METERED_STATES = frozenset({1, 3})  # NMMetered: yes, and yes as far as it can guess
_SCREENS = frozenset({"x11", "wayland", "mir"})
_LOGIN = "org.freedesktop.login1"
_NETWORK = "org.freedesktop.NetworkManager"


def engaged(
    sessions: Sequence[Session], socket: str = SOCKET, inhibitors: Path = _INHIBITORS, power: Path = _POWER
) -> Engaged:
    """What speaks against disturbing those who are logged on now."""
    if not sessions:
        return Engaged()
    busy = [PRESENTATION] if keeps_screen_on({session.user_id for session in sessions}, inhibitors) else []
    busy += [BATTERY] if on_battery(power) else []
    screens = [session for session in sessions if session.kind in _SCREENS]
    try:
        bus = SystemBus(socket)
    except MachineError:
        return Engaged(tuple(busy))
    try:
        if _asks_metered(bus):
            busy.append(METERED)
        locked = bool(screens) and all(
            bus.read(_LOGIN, session_path(session.name), f"{_LOGIN}.Session", "LockedHint") is True
            for session in screens
        )
    finally:
        bus.close()
    return Engaged(tuple(busy), locked)


def is_metered(socket: str = SOCKET) -> bool:
    """Whether the network is paid by volume, as NetworkManager says or guesses; where it does not run, nobody knows: no."""
    try:
        bus = SystemBus(socket)
    except MachineError:
        return False
    try:
        return _asks_metered(bus)
    finally:
        bus.close()


def _asks_metered(bus: SystemBus) -> bool:
    return bus.read(_NETWORK, "/org/freedesktop/NetworkManager", _NETWORK, "Metered") in _METERED_STATES


def keeps_screen_on(users: Collection[int], folder: Path = _INHIBITORS) -> bool:
    """Whether a program of one of these users, or an administrator's, keeps the computer from counting as idle.

    Presentations, calls and films do so by a lock of systemd-logind (systemd-inhibit(1), `--what=idle --mode=block`).
    """
    for values in _read_all(folder):
        if "idle" in values.get("WHAT", "").split(":") and values.get("MODE") == "block":
            user = values.get("UID", "")
            if user.isdigit() and int(user) in {0, *users}:
                return True
    return False


def on_battery(folder: Path = _POWER) -> bool:
    """Whether this computer lives on its battery: one is being emptied, and nothing else gives power.

    Source: Linux, Documentation/ABI/testing/sysfs-class-power. A mouse's battery (`scope` Device) does not count.
    """
    discharging = False
    try:
        supplies = list(folder.iterdir())
    except OSError:
        return False
    for supply in supplies:
        if _word(supply / "scope") == "Device":
            continue
        kind = _word(supply / "type")
        if kind in _SUPPLIES and _word(supply / "online") == "1":
            return False
        discharging |= kind == "Battery" and _word(supply / "status") == "Discharging"
    return discharging


def session_path(name: str) -> str:
    """Where a session is on the bus (sd_bus_path_encode(3)): also its first letter is escaped if it is a digit."""
    escaped = "".join(
        each if each.isascii() and (each.isalpha() or (each.isdigit() and at)) else f"_{ord(each):02x}"
        for at, each in enumerate(name)
    )
    return f"/org/freedesktop/login1/session/{escaped}"


def _read_all(folder: Path) -> list[dict[str, str]]:
    found = []
    try:
        names = [path for path in folder.iterdir() if path.suffix != ".ref"]
    except OSError:
        return []
    for path in names:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue  # let go of in this moment
        found.append(dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")))
    return found


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
