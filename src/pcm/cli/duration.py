"""Command-line values that are spans or points of time: `1h30m`, `2026-01-31T22:00+01:00`, `+2d`.

Serves verbs that take times (steps 3 and enrolment). A point of time must say its offset, or be relative to now:
nothing is guessed.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from pcm.protocol.durations import parse_duration


class Duration(click.ParamType[int]):
    """A span such as `1h30m`; seconds."""

    name = "duration"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        """As help shows it."""
        return "1h30m"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        seconds = value if isinstance(value, int) else 0 if value == "0" else parse_duration(str(value))
        if seconds is None:
            self.fail(f"{value!r} is no span of time: write it like 90s, 20m, 1h30m or 7d.", param, ctx)
        return seconds


class Moment(click.ParamType[datetime]):
    """A point of time with its offset, or `+2h` from now; aware."""

    name = "time"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        """As help shows it."""
        return "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it."""
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        if text.startswith("+"):
            seconds = parse_duration(text[1:])
            if seconds:
                return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None:
            meant = f"+{text} for that long from now" if parse_duration(text) else "+2h or +3d"
            self.fail(f"{value!r} is no time: write 2026-01-31T22:00+01:00, 2026-01-31T21:00Z, or {meant}.", param, ctx)
        if moment.tzinfo is None:
            self.fail(
                f"{value!r} does not say its offset: end it with Z (UTC) or +01:00, or write +2h.",
                param,
                ctx,
            )
        return moment


DURATION = Duration()
MOMENT = Moment()
