"""Tables for consoles: aligned, and without anything that could play tricks in a terminal."""

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from pcm.service import tables


def test_columns_line_up_and_nothing_trails() -> None:
    text = tables.table(("id", "state"), [("a", "waiting"), ("longer", "")])
    assert text.splitlines() == ["ID      STATE", "a       waiting", "longer"]


def test_no_rows_say_so() -> None:
    assert tables.table(("id",), [], empty="No instructions.") == "No instructions."


def test_pairs_leave_out_what_is_empty() -> None:
    assert tables.pairs([("Site", "hq"), ("Serial", ""), ("Client id", "7")]) == "Site:      hq\nClient id: 7"


def test_times_are_shown_in_utc() -> None:
    assert tables.when(datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))) == "2026-01-31 10:00 UTC"
    assert tables.when(None) == ""


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=10))
def test_one_line_each_whatever_is_in_the_cells(rows: list[tuple[str, str]]) -> None:
    text = tables.table(("a", "b"), rows)
    assert text.count("\n") == len(rows)
    assert "\x1b" not in text


def test_one_is_no_plural() -> None:
    assert [tables.count(number, "report") for number in (0, 1, 2)] == ["0 reports", "1 report", "2 reports"]


def test_spans_are_told_in_one_unit() -> None:
    assert [tables.span(s) for s in (0, 60, 119, 120, 1865, 7199, 7200, 18_000)] == [
        "0 s", "60 s", "119 s", "2 min", "31 min", "120 min", "2 h", "5 h",
    ]  # fmt: skip


def test_notes_stand_below_their_rows_and_are_wrapped_where_the_screen_ends() -> None:
    rows = [("a", "waiting"), ("b", "done")]
    shown = tables.table(("id", "state"), rows, notes=["word " * 12, ""], width=40).splitlines()
    assert shown[1] == "a   waiting"
    assert shown[2].startswith("    word")
    assert shown[-1] == "b   done"
    assert all(len(line) <= 40 for line in shown)
    assert len(tables.table(("id", "state"), rows, notes=["word " * 12, ""]).splitlines()) == 4, "elsewhere in one line"


@given(st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60), st.text(max_size=200)), min_size=1, max_size=5))
def test_on_a_screen_no_line_is_wider_than_it(rows: list[tuple[str, str, str]]) -> None:
    shown = tables.table(("a", "b"), [row[:2] for row in rows], notes=[row[2] for row in rows], width=40)
    assert all(len(line) <= 40 for line in shown.splitlines())


def test_elsewhere_nothing_is_cut() -> None:
    assert "x" * 300 in tables.table(("a",), [("x" * 300,)])
