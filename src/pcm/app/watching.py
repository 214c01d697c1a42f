"""`pcmapp watch`, and `install --wait`: what happens here, as it happens, until it is over or somebody has seen enough.

Serves step 9. On a terminal the board is drawn over itself, with bars that fill and clocks that run; elsewhere each change is one
line, or one JSON document. Leaving it ends nothing: the service goes on by itself (KB Q160853).
"""

import time
from datetime import UTC, datetime

from pcm.app.bars import bar, percent
from pcm.app.board import Moment, board, summary
from pcm.app.call import Call
from pcm.app.columns import BOLD, DIM, YELLOW, clip
from pcm.app.feed import Feed
from pcm.app.words import OVER, size, state_of, what
from pcm.model.errors import RequestError
from pcm.protocol import local
from pcm.protocol.printable import printable

FRAME_S = 1.0
_BAR = 30


def watch(call: Call) -> int:
    """`pcmapp watch`."""
    feed = Feed(call.socket)
    feed.begin()
    try:
        if call.json:
            _tell_json(call, feed)
        elif call.screen.moves:
            _draw(call, feed)
        else:
            _tell_lines(call, feed)
    finally:
        feed.close()
    return 0


def _tell_json(call: Call, feed: Feed) -> None:
    call.print_json_line(feed.items)
    while True:
        call.screen.flush()
        told = feed.update(60.0)
        if told is not None:
            call.print_json_line(told)


def _tell_lines(call: Call, feed: Feed) -> None:
    """One line for each change of state. Bytes that come are no news to whoever reads a log."""
    states = {item.id: state_of(item)[0] for item in feed.items.items if item.state in OVER}  # no news
    while True:
        for item in feed.items.items:
            state, _ = state_of(item)
            if states.get(item.id) != state:
                reason = f": {item.reason}" if item.reason and item.state != "succeeded" else ""
                call.screen.line(f"{datetime.now(UTC).astimezone():%H:%M:%S}  {what(item)}: {state}{reason}")
            states[item.id] = state
        call.screen.flush()
        feed.update(60.0)


def _draw(call: Call, feed: Feed) -> None:
    screen, drawn = call.screen, 0
    screen.show_cursor(False)
    try:
        while True:
            screen.measure()
            lines = _frame(call, feed)
            screen.draw(lines, drawn)
            drawn = len(lines)
            _wait_for_next_frame(feed)
    finally:
        screen.show_cursor(True)


def _wait_for_next_frame(feed: Feed) -> None:
    """Until something has changed, or a second has passed and the clocks have to move."""
    end = time.monotonic() + FRAME_S
    while (left := end - time.monotonic()) > 0:
        if feed.update(left) is not None:
            return


def _frame(call: Call, feed: Feed) -> list[str]:
    screen, now = call.screen, datetime.now(UTC)
    title = f"{now.astimezone():%H:%M:%S}  {summary(feed.items.items)}"
    lines = [screen.styled(clip(title, screen.width), BOLD)]
    if feed.away is not None:
        lines.append(screen.styled("The service does not answer just now; what stands here may be old.", YELLOW))
    lines += ["", *board(feed.items, Moment(now, live=True), screen)]
    room = max(3, screen.height - 2)
    if not screen.colour:
        lines = [clip(line, screen.width) for line in lines]
    if len(lines) > room:
        hidden = len(lines) - room + 1
        lines = [*lines[: room - 1], screen.styled(f"… {hidden} more lines: pcmapp list", DIM)]
    return [*lines, screen.styled("Ctrl-C leaves; the service goes on by itself.", DIM)]


def wait_for(call: Call, name: str, attempts: int) -> int:
    """Show each change of one instruction until it is over; 1 if it did not succeed.

    Args:
        attempts: Its runs so far: an end from before does not count.

    Raises:
        RequestError: `not_found`: it is gone.
    """
    feed = Feed(call.socket)
    feed.begin()
    last, transient = "", False
    try:
        while True:
            item = next((each for each in feed.items.items if each.id == name), None)
            if item is None:
                raise RequestError("It is gone: the administrator has withdrawn it.", code="not_found")
            transient = _wipe(call, transient)
            last = _tell_change(call, item, last)
            if item.state in OVER and (item.attempts > attempts or item.state != "failed"):
                return 0 if item.state in {"succeeded", "already_installed"} else 1
            if item.state == "restart_pending":
                return 0
            transient = _draw_bar(call, item, feed.items.standing.transfer)
            feed.update(FRAME_S)
    finally:
        _wipe(call, transient)
        feed.close()


def _tell_change(call: Call, item: local.Item, last: str) -> str:
    state, style = state_of(item)
    if state != last and not call.json:
        call.screen.line(f"{state}{f': {item.reason}' if item.reason else ''}", style)
    return state


def _draw_bar(call: Call, item: local.Item, transfer: local.Transfer | None) -> bool:
    if call.json or not call.screen.moves or transfer is None or transfer.id != item.id or not transfer.total:
        return False
    fraction = transfer.done / transfer.total
    text = f"{bar(fraction, _BAR, plain=call.screen.plain)} {percent(fraction)}  {size(transfer.done)} of {size(transfer.total)}"
    call.screen.draw([printable(clip(text, call.screen.width - 1))], 0)
    return True


def _wipe(call: Call, transient: bool) -> bool:
    if transient:
        call.screen.draw([], 1)
    return False
