"""Progress bars and spans of time, in characters. Pure. Serves step 9, under `board` and `watching`."""

from datetime import timedelta

_PARTS = "▏▎▍▌▋▊▉"
_PLAIN = ("#", "-")


def bar(fraction: float, width: int, *, plain: bool = False) -> str:
    """A bar of so many columns; in eighths of a column where the terminal can show that."""
    fraction = min(1.0, max(0.0, fraction))
    if plain:
        full = round(fraction * width)
        return _PLAIN[0] * full + _PLAIN[1] * (width - full)
    eighths = round(fraction * width * 8)
    full, rest = divmod(eighths, 8)
    shown = "█" * full + (_PARTS[rest - 1] if rest else "")
    return shown + "·" * (width - len(shown))


def percent(fraction: float) -> str:
    """`  7%`; never 100% before all is there."""
    return f"{int(min(1.0, max(0.0, fraction)) * 100):>3}%"


def countdown(left: timedelta) -> str:
    """What is left, as it is read off a clock: `0:42`, `12:04`, `1:02:03`; days in words; `0:00` when it is over."""
    seconds = max(0, int(left.total_seconds()))
    days, seconds = divmod(seconds, 86_400)
    if days:
        return f"{days} d {seconds // 3600} h"
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def roughly(left: timedelta) -> str:
    """The same for what is read once and stays on the screen: `42 s`, `12 min`, `3 h`, `2 days`."""
    seconds = max(0.0, left.total_seconds())
    for least, length, unit in ((2 * 86_400, 86_400, "days"), (7200, 3600, "h"), (100, 60, "min")):
        if seconds >= least:
            return f"{round(seconds / length)} {unit}"
    return f"{round(seconds)} s"
