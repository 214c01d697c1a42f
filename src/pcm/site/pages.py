"""Lists in parts: how many rows, and after which one. Keyset paging, so the ten-thousandth page costs as much as the first.

Serves the API's lists. A cursor is opaque to callers; a foreign one is refused, never guessed at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from pcm.model.errors import RequestError
from pcm.protocol.admin import DEFAULT_LIMIT, MAX_LIMIT, Page

T = TypeVar("T")


@dataclass(frozen=True)
class Slice:
    """What the caller asked for: `limit` rows after `cursor` (None: from the beginning)."""

    limit: int = DEFAULT_LIMIT
    cursor: str | None = None

    def number(self) -> int | None:
        """The cursor, where rows are counted by a number. Raises RequestError `request.cursor`."""
        if self.cursor is None:
            return None
        if not self.cursor.isdecimal() or len(self.cursor) > 18:
            raise _wrong()
        return int(self.cursor)

    def moment_and_id(self) -> tuple[datetime, str] | None:
        """The cursor, where rows are ordered by a time and an id. Raises RequestError `request.cursor`."""
        if self.cursor is None:
            return None
        moment, _, name = self.cursor.partition("_")
        if not moment.isdecimal() or len(moment) > 18 or not name:
            raise _wrong()
        seconds, micros = divmod(int(moment), 1_000_000)
        try:
            return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros), name
        except (ValueError, OverflowError, OSError):
            raise _wrong() from None


def moment_cursor(moment: datetime, name: str) -> str:
    """The cursor that `Slice.moment_and_id` reads."""
    return f"{int(moment.timestamp()) * 1_000_000 + moment.microsecond}_{name}"


def read_slice(limit: str | None, cursor: str | None) -> Slice:
    """The slice from query parameters.

    Raises:
        RequestError: `request.limit`.
    """
    if limit is None:
        return Slice(cursor=cursor)
    if not limit.isdecimal() or len(limit) > 6 or not 1 <= int(limit) <= MAX_LIMIT:
        raise RequestError(f"limit must be a number from 1 to {MAX_LIMIT}.", code="request.limit")
    return Slice(int(limit), cursor)


def page(rows: Sequence[Any], part: Slice, view: Callable[[Any], T], cursor: Callable[[Any], str]) -> Page[T]:
    """Make a page of `limit + 1` rows that were read: the one too many says that there is more."""
    shown = rows[: part.limit]
    following = cursor(shown[-1]) if len(rows) > part.limit else None
    return Page(tuple(view(row) for row in shown), following)


def _wrong() -> RequestError:
    return RequestError("This cursor was not given by this list; begin again without one.", code="request.cursor")
