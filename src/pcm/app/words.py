"""How the service's states and times read to the person at the computer.

Serves steps 9 and 12, under `pcm.app`. Pure: the time is always an argument.
"""

import re
from datetime import UTC, datetime, timedelta

from pcm.app.columns import DIM, GREEN, RED, YELLOW
from pcm.protocol.local import Item

_STATES = {
    "offered": ("available", ""),
    "waiting": ("planned", ""),
    "downloading": ("downloading", YELLOW),
    "ready": ("ready", ""),
    "asked": ("asks you", YELLOW),
    "deferred": ("postponed", YELLOW),
    "running": ("running", YELLOW),
    "succeeded": ("done", GREEN),
    "failed": ("failed", RED),
    "restart_pending": ("needs a restart", YELLOW),
    "unknown": ("being checked", YELLOW),
    "not_applicable": ("not for here", DIM),
    "already_installed": ("already there", GREEN),
    "refused": ("refused", RED),
    "expired": ("expired", DIM),
    "withdrawn": ("withdrawn", DIM),
    "cancelled": ("cancelled", DIM),
}
_UTC = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(?::[0-9]{2})?) UTC")
SECTIONS = ("Running", "Coming", "Available", "Done")
AT_WORK = frozenset({"running", "downloading"})
_STEPS = {
    "run": "running",
    "detect": "checking",
    "health": "checking",
    "cleanup": "tidying up",
}
OVER = frozenset(
    {"succeeded", "failed", "already_installed", "not_applicable", "refused", "expired", "withdrawn", "cancelled"}
)


def state_of(item: Item) -> tuple[str, str]:
    """An item's state in words, and its style."""
    if item.purpose == "optional" and item.can_run and item.state in {"offered", "waiting", "ready"}:
        return "available", GREEN
    if item.state == "running" and item.step:
        return _STEPS.get(item.step, "running"), YELLOW
    if _asked(item) and item.state in {"offered", "waiting", "ready"}:
        return "asked for", YELLOW
    if item.state == "offered" and item.purpose == "mandatory":
        return "planned", ""
    return _STATES.get(item.state, (item.state, ""))


def changed(item: Item) -> float:
    """When something last became of it, for sorting."""
    moment = item.ended or item.changed
    return moment.timestamp() if moment is not None else 0.0


def section_of(item: Item) -> str:
    """Under which of `SECTIONS` it stands."""
    if item.state in OVER:
        return "Done"
    if item.state in AT_WORK:
        return "Running"
    return "Available" if item.purpose == "optional" and not _asked(item) else "Coming"


def _asked(item: Item) -> bool:
    return item.purpose == "optional" and item.requested is not None and not item.can_run


def what(item: Item) -> str:
    """`jq 1.7` for an installation, `jq 1.7 (uninstall)` for the rest."""
    return titled(item.package, item.version, item.program)


def titled(package: str, version: str, program: str) -> str:
    """As `what`, from its parts."""
    return f"{package} {version}" if program == "install" else f"{package} {version} ({program})"


def about(item: Item) -> str:
    """One line about an item: why it stands where it stands if that matters, else what it is."""
    if item.purpose == "optional" and item.state not in OVER:
        return item.summary or item.reason
    return (
        item.summary
        if item.summary and item.state in {"succeeded", "already_installed"}
        else item.reason or item.summary
    )


def count(number: int, thing: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def size(amount: int) -> str:
    """Bytes for people: `1.5 MB`."""
    for unit, whole in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= whole:
            return f"{amount / whole:.1f} {unit}"
    return f"{amount} B"


def when(item: Item, now: datetime) -> str:
    """The time that matters most about an item."""
    if item.state in OVER:
        return clock(item.ended or item.changed, now)
    if item.not_before is not None and item.not_before > now:
        return f"not before {clock(item.not_before, now)}"
    if item.deadline is not None:
        return f"by {clock(item.deadline, now)}"
    if item.expires is not None:
        return f"until {clock(item.expires, now)}"
    return ""


def clock(moment: datetime | None, now: datetime) -> str:
    """A time as people here say it: `14:30`, `tomorrow 08:00`, `Tue 14 Apr 08:00`."""
    if moment is None:
        return ""
    local, today = moment.astimezone(), now.astimezone().date()
    day = {0: "", 1: "tomorrow ", -1: "yesterday "}.get((local.date() - today).days)
    if day is None:
        names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
        months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
        year = "" if local.year == today.year else f" {local.year}"
        day = f"{names[local.weekday()]} {local.day} {months[local.month - 1]}{year} "
    return f"{day}{local:%H:%M}"


def localised(text: str, now: datetime) -> str:
    """The service's words with its times, which are UTC for logs and administrators far away, as people here say them."""

    def said(found: re.Match[str]) -> str:
        try:
            return clock(datetime.fromisoformat(found[1]).replace(tzinfo=UTC), now)
        except ValueError:
            return found[0]

    return _UTC.sub(said, text)


def read_moment(text: str, now: datetime) -> datetime:
    """Read a time that somebody at this computer wrote: `18:30` (the next one), `+2h`, `2026-01-31 18:30`.

    Raises:
        ValueError: it is none of these.
    """
    text = text.strip()
    if text.startswith("+"):
        amount, unit = text[1:-1], text[-1:]
        seconds = {"m": 60, "h": 3600, "d": 86_400}.get(unit)
        if seconds is None or not amount.isascii() or not amount.isdigit() or len(amount) > 5:
            raise ValueError(text)
        return now + timedelta(seconds=int(amount) * seconds)
    if len(text) == 5 and text[2] == ":" and (text[:2] + text[3:]).isascii() and (text[:2] + text[3:]).isdigit():
        local = now.astimezone().replace(tzinfo=None)
        wanted = local.replace(hour=int(text[:2]), minute=int(text[3:]), second=0, microsecond=0)
        return (wanted if wanted > local else wanted + timedelta(days=1)).astimezone()
    return datetime.fromisoformat(text).astimezone()
