"""Parts of lists."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import RequestError
from pcm.site.pages import Slice, moment_cursor, page, read_slice


@given(st.integers(0, 60), st.integers(1, 20))
def test_pages_give_every_row_once_in_order(count: int, limit: int) -> None:
    rows = list(range(1, count + 1))
    seen: list[int] = []
    cursor: str | None = None
    for _ in range(count + 2):
        part = Slice(limit, cursor)
        after = part.number() or 0
        answer = page([row for row in rows if row > after][: limit + 1], part, lambda row: row, str)
        seen += answer.items
        cursor = answer.next
        if cursor is None:
            break
    assert seen == rows


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)),
    st.from_regex(r"j[0-9a-z]{10}", fullmatch=True),
)
def test_a_cursor_by_time_comes_back(moment: datetime, name: str) -> None:
    assert Slice(1, moment_cursor(moment, name)).moment_and_id() == (moment, name)


@given(st.text(max_size=40))
def test_a_foreign_cursor_is_refused_or_read_but_never_more(text: str) -> None:
    for read in (Slice(1, text).number, Slice(1, text).moment_and_id):
        try:
            read()
        except RequestError as error:
            assert error.code == "request.cursor"


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1.5", "", "9" * 30, "١"])
def test_wrong_limits(limit: str) -> None:
    try:
        assert 1 <= read_slice(limit, None).limit <= 1000
    except RequestError as error:
        assert error.code == "request.limit"
    else:
        assert limit == "١"  # a digit, and one that means 1


def test_the_default() -> None:
    assert read_slice(None, None) == Slice(100, None)
