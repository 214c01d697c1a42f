"""What the person at the computer reads: states, times, tables; and that nothing from elsewhere steers the terminal."""

import contextlib
import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.app.columns import GREEN, Screen, shown_width, wrap
from pcm.app.main import parser, run, socket_path
from pcm.app.words import about, clock, read_moment, size, state_of, what, when
from pcm.model.assignment import State
from pcm.protocol.local import DEFAULT_SOCKET, Item

NOW = datetime(2026, 4, 14, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def item(**fields: object) -> Item:
    given = {
        "id": "j0.a",
        "job": "j0",
        "package": "jq",
        "version": "1.7",
        "program": "install",
        "purpose": "mandatory",
        "state": "waiting",
    }
    return Item(**{**given, **fields})  # type: ignore[arg-type]


class Terminal(io.StringIO):
    """A stream at which somebody looks."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("state", [state.value for state in State])
def test_every_state_has_its_words(state: str) -> None:
    words, _ = state_of(item(state=state))
    assert words
    assert "_" not in words


def test_what_can_be_asked_for_is_available() -> None:
    assert state_of(item(purpose="optional", can_run=True, state="waiting")) == ("available", GREEN)
    assert state_of(item(purpose="optional", can_run=False, state="waiting"))[0] == "planned"


def test_items_are_called_by_their_package() -> None:
    assert what(item()) == "jq 1.7"
    assert what(item(program="uninstall")) == "jq 1.7 (uninstall)"


def test_a_failure_says_why_and_a_success_says_what() -> None:
    assert about(item(state="failed", summary="JSON", reason="exit code 7")) == "exit code 7"
    assert about(item(state="succeeded", summary="JSON", reason="fine")) == "JSON"
    assert about(item(state="waiting", summary="JSON", reason="window")) == "window"
    assert about(item(state="waiting", purpose="optional", summary="JSON", reason="nobody asked")) == "JSON"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"not_before": NOW + timedelta(hours=3)}, "not before 17:00"),
        ({"not_before": NOW - timedelta(hours=3), "deadline": NOW + timedelta(days=1)}, "by tomorrow 14:00"),
        ({"expires": NOW + timedelta(days=3)}, "until Fri 17 Apr 14:00"),
        ({"state": "succeeded", "ended": NOW - timedelta(days=1)}, "yesterday 14:00"),
        ({}, ""),
    ],
)
def test_the_time_that_matters_is_shown(fields: dict[str, object], says: str) -> None:
    assert when(item(**fields), NOW) == says


def test_another_year_is_named() -> None:
    assert clock(datetime(2027, 1, 1, tzinfo=UTC), NOW) == "Fri 1 Jan 2027 01:00"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:30", datetime(2026, 4, 14, 16, 30, tzinfo=UTC)),
        ("08:00", datetime(2026, 4, 15, 6, 0, tzinfo=UTC)),
        ("+2h", NOW + timedelta(hours=2)),
        ("+90m", NOW + timedelta(minutes=90)),
        ("2026-12-24 18:00", datetime(2026, 12, 24, 17, 0, tzinfo=UTC)),
        ("2026-12-24T18:00Z", datetime(2026, 12, 24, 18, 0, tzinfo=UTC)),
    ],
)
def test_people_write_times_in_their_own_way(text: str, moment: datetime) -> None:
    assert read_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "soon", "25:00", "+h", "+2y", "+99999999h", "1830", "٢٣:٠٠", "12:٣٠"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_moment(text, NOW)


@given(st.text(max_size=12))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError, OverflowError):
        assert read_moment(text, NOW).tzinfo is not None


@pytest.mark.parametrize(
    ("count", "says"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (10**10, "10.0 GB")]
)
def test_sizes_are_for_people(count: int, says: str) -> None:
    assert size(count) == says


def test_tables_line_up_with_wide_characters() -> None:
    stream = io.StringIO()
    Screen(stream, 60).table(("name", "state", "about"), [("日本語", "ok", "x"), ("cafe\u0301", "ok", "y")])
    lines = stream.getvalue().splitlines()
    assert lines == ["name    state  about", "日本語  ok     x", "cafe\u0301    ok     y"]


def test_the_last_column_wraps_below_itself() -> None:
    stream = io.StringIO()
    Screen(stream, 40).table(("a", "b", "about"), [("one", "two", "a long story that does not fit into one line")])
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all(shown_width(line) <= 40 for line in lines)
    assert lines[2].startswith(" " * 10)


@given(st.text(max_size=80), st.integers(2, 30))
def test_wrapping_loses_nothing_and_fits(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(shown_width(line) <= width for line in lines)


@given(st.text(max_size=60))
def test_no_text_steers_the_terminal(text: str) -> None:
    stream = Terminal()
    screen = Screen(stream, 80)
    screen.colour = False
    screen.line(text)
    screen.table(("a", "b"), [(text, text)])
    assert not set(stream.getvalue()) & set("\x1b\x07\x08\r\x7f\x9b\u202e\u2066")


def test_colour_is_for_people_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[32m" in Screen(Terminal()).styled("x", GREEN)
    assert Screen(io.StringIO()).styled("x", GREEN) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Screen(Terminal()).styled("x", GREEN) == "x"


def test_the_socket_is_the_services() -> None:
    assert str(socket_path(None)) == DEFAULT_SOCKET
    assert str(socket_path(Path("/h"))) == "/h/run/pcmsvc.sock"


@pytest.mark.parametrize("arguments", [[], ["frob"], ["show"], ["list", "extra"], ["install", "a", "b"]])
def test_usage_mistakes_end_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "usage: pcmapp" in capsys.readouterr().err


def test_options_may_stand_on_either_side() -> None:
    for arguments in (["--json", "--home", "/h", "list"], ["list", "--json", "--home", "/h"]):
        given_ = parser().parse_args(arguments)
        assert given_.json
        assert str(given_.home) == "/h"
