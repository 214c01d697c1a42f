"""The board: everything that concerns this computer on one screen, as `list` prints it once and `watch` keeps it true.

Serves step 9, under `verbs` and `watching`. Pure: items, standing, time and width in, lines out. What others wrote is made
printable here. Lines are at most as wide as the screen; colours are added to whole pieces, so that none is cut in two.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from pcm.app.bars import bar, countdown, percent, roughly
from pcm.app.columns import BOLD, CYAN, DIM, RED, YELLOW, Screen, clip, pad, shown_width, wrap
from pcm.app.words import OVER, SECTIONS, about, changed, clock, localised, section_of, size, state_of, what
from pcm.protocol.local import Item, Items, Restart, Standing, Transfer
from pcm.protocol.printable import printable

_INDENT = "  "
_MOST_NAME = 30
_STATE = 15
_BAR = 16
_LEAST_TEXT = 24
_RECENT = timedelta(days=30)
WAYS = {
    "patch": "only what changed",
    "small": "small files together",
    "whole": "whole files",
    "peer": "from computers nearby",
}


class Moment(NamedTuple):
    """When something is looked at. `live`: it will be looked at again in a second, so clocks may run."""

    now: datetime
    live: bool = False


class _Row(NamedTuple):
    """A line of the board: name, state in its style, text; `more` stands below, dimmed."""

    name: str
    state: str
    style: str
    text: str
    more: str = ""


def board(items: Items, moment: Moment, screen: Screen, *, everything: bool = False) -> list[str]:
    """All lines, with styles if the screen has them.

    Args:
        everything: Also what has long been over.
    """
    sections: dict[str, list[Item]] = {name: [] for name in SECTIONS}
    for item in items.items:
        if item.state not in OVER or everything or _is_recent(item, moment.now):
            sections[section_of(item)].append(item)
    sections["Done"].sort(key=changed, reverse=True)
    lines = list(banners(items.standing, moment, screen))
    width = _name_width(sections, screen)
    for name, listed in sections.items():
        if listed:
            lines.append(screen.styled(name, BOLD))
            for item in listed:
                lines += _lay_out(_row(item, items.standing, moment, screen), width, screen)
            lines.append("")
    return lines


def banners(standing: Standing, moment: Moment, screen: Screen) -> Iterable[str]:
    """What concerns the whole computer, in lines with an empty one below each."""
    told: list[tuple[str, str]] = []
    if standing.restart is not None:
        told.append((_restart(standing.restart, moment), RED if standing.restart.begun else YELLOW))
    if standing.pause is not None:
        end = (
            "until it is resumed"
            if standing.pause.until is None
            else f"until {clock(standing.pause.until, moment.now)}"
        )
        told.append((f"Paused by {standing.pause.by or 'an administrator'} {end}: nothing new begins.", YELLOW))
    elif standing.hold:
        told.append(
            (
                f"Nothing begins now: {localised(standing.hold, moment.now)}",
                RED if standing.hold_code.startswith("trust.") else YELLOW,
            )
        )
    for text, style in told:
        for line in wrap(printable(text), screen.width):
            yield screen.styled(line, style)
        yield ""


def _restart(restart: Restart, moment: Moment) -> str:
    who = " and ".join(restart.packages)
    if restart.begun:
        return f"This computer is restarting for {who}."
    if restart.due is None:
        when = "when you choose: pcmapp restart"
    elif restart.due <= moment.now:
        when = "as soon as nothing else is at work"
    else:
        left = restart.due - moment.now
        when = f"at {clock(restart.due, moment.now)}, in {countdown(left) if moment.live else roughly(left)}"
    later = ""
    if restart.deferrals_left and restart.latest is not None and restart.latest > moment.now:
        later = f" Later: pcmapp restart --later (until {clock(restart.latest, moment.now)} at most)"
    return f"Restart for {who}: {when}.{later}"


def _row(item: Item, standing: Standing, moment: Moment, screen: Screen) -> _Row:
    state, style = state_of(item)
    name = what(item)
    transfer = standing.transfer
    if transfer is not None and transfer.id == item.id:
        text, more = _transfer(transfer, screen)
        return _Row(name, "downloading", YELLOW, text, more)
    section = section_of(item)
    if section == "Running":
        return _Row(name, state, style, _running(item, moment, screen), "" if item.started else item.reason)
    if section == "Coming":
        when, urgent = _coming(item, moment)
        reason = localised(item.reason, moment.now) or about(item)
        return _Row(name, "starts soon" if urgent else state, YELLOW if urgent else style, when, reason)
    if section == "Done":
        failed = localised(item.reason, moment.now) if style == RED else ""
        again = f", next {clock(item.next_at, moment.now)}" if item.next_at is not None else ""
        return _Row(name, state, style, clock(item.ended or item.changed, moment.now) + again, failed)
    return _Row(name, state, style, item.summary or item.reason)


def _coming(item: Item, moment: Moment) -> tuple[str, bool]:
    """When it comes, and whether that is soon."""
    later = " · may be postponed" if item.can_defer else ""
    if item.not_before is not None and item.not_before > moment.now:
        left = item.not_before - moment.now
        if item.announced is not None:
            return f"starts in {countdown(left) if moment.live else roughly(left)}{later}", True
        if left < timedelta(hours=1):
            return f"in {countdown(left) if moment.live else roughly(left)}{later}", False
        return f"not before {clock(item.not_before, moment.now)}{later}", False
    if item.deadline is not None:
        if item.deadline <= moment.now:
            return f"due since {clock(item.deadline, moment.now)}{later}", False
        return f"by {clock(item.deadline, moment.now)}{later}", False
    return (f"until {clock(item.expires, moment.now)}" if item.expires is not None else ""), False


def _running(item: Item, moment: Moment, screen: Screen) -> str:
    if item.started is None:
        return ""
    took = moment.now - item.started
    if not item.estimated_s:
        return f"for {countdown(took) if moment.live else roughly(took)}"
    fraction = min(0.99, took.total_seconds() / item.estimated_s)
    left = timedelta(seconds=item.estimated_s) - took
    shown = countdown(left) if moment.live else roughly(left)
    end = f"~{shown} left" if left > timedelta(0) else "longer than usual"
    return f"{bar(fraction, _BAR, plain=screen.plain)} {percent(fraction)}  {end}"


def _transfer(transfer: Transfer, screen: Screen) -> tuple[str, str]:
    fraction = transfer.done / transfer.total if transfer.total else 0.0
    end = "" if transfer.left_s is None else f"  {roughly(timedelta(seconds=transfer.left_s))} left"
    speed = f", {size(int(transfer.rate))}/s" if transfer.rate else ""
    more = f"{size(transfer.done)} of {size(transfer.total)}{speed}{_way(transfer)}"
    return f"{bar(fraction, _BAR, plain=screen.plain)} {percent(fraction)}{end}", more


def _way(transfer: Transfer) -> str:
    """How it comes, and from whom: the host alone, or the folder."""
    way = WAYS.get(transfer.way, "")
    host = transfer.source.partition("://")[2].partition("/")[0] or transfer.source
    return f", {way}" + (f" from {host}" if host else "") if way else ""


def _name_width(sections: dict[str, list[Item]], screen: Screen) -> int:
    widest = max((shown_width(printable(what(item))) for listed in sections.values() for item in listed), default=0)
    room = screen.width - len(_INDENT) - _STATE - 4 - _LEAST_TEXT
    return max(8, min(widest, _MOST_NAME, room))


def _lay_out(row: _Row, name_width: int, screen: Screen) -> list[str]:
    name = pad(clip(printable(row.name), name_width), name_width)
    state = pad(clip(printable(row.state), _STATE), _STATE)
    before = len(_INDENT) + name_width + 2 + _STATE + 2
    room = max(_LEAST_TEXT, screen.width - before)
    text = [line for line in wrap(printable(row.text), room) if line]
    more = [line for line in wrap(printable(row.more), room) if line]
    styled = [screen.styled(line, CYAN) if "█" in line else line for line in text]
    styled += [screen.styled(line, DIM) for line in more]
    first = f"{_INDENT}{name}  {screen.styled(state, row.style)}  {styled[0] if styled else ''}"
    return [first.rstrip(), *(" " * before + line for line in styled[1:])]


def _is_recent(item: Item, now: datetime) -> bool:
    moment = item.ended or item.changed
    return moment is None or now - moment < _RECENT


def summary(items: Sequence[Item]) -> str:
    """One line about all: how many run, come, can be installed."""
    count = {name: sum(section_of(item) == name for item in items) for name in SECTIONS}
    words = ((count["Running"], "at work"), (count["Coming"], "coming"), (count["Available"], "available"))
    return ", ".join(f"{number} {word}" for number, word in words if number) or "nothing to do"
