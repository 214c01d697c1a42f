"""Spans of time as people write them: `1h30m`. Serves step 1 (`package.yaml`), the command lines, and `pcmsvc simulate`."""

import re

_DURATION = re.compile(r"(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")


def parse_duration(text: str) -> int | None:
    """Seconds of `1h30m`, or None."""
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def show_duration(seconds: int) -> str:
    """`1h30m` of 5400."""
    parts = []
    for letter, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{letter}")
    return "".join(parts) or "0s"
