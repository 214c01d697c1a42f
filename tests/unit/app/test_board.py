"""The board that `pcmapp list` prints and `pcmapp watch` keeps true: sections, bars, countdowns, banners, at any width."""

import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.app.bars import bar, countdown, percent, roughly
from pcm.app.board import Moment, board, summary
from pcm.app.columns import Screen, clip, shown_width
from pcm.app.words import localised
from pcm.protocol import local

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
LIVE = Moment(NOW, live=True)
ESCAPE = "\x1b]0;owned\x07\u202e"


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times of the day are this computer's own; here they are what the tests say."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def item(name: str, number: int = 1, **fields: Any) -> local.Item:
    job = f"j{number:010}"
    given = {"version": "1.0", "program": "install", "purpose": "mandatory", "state": "waiting"}
    return local.Item(id=f"{job}.0123456789ab", job=job, package=name, **{**given, **fields})


def screen(width: int = 80, encoding: str = "utf-8") -> Screen:
    return Screen(io.TextIOWrapper(io.BytesIO(), encoding=encoding), width)


def lines(*items: local.Item, moment: Moment = LIVE, width: int = 80, **standing: Any) -> list[str]:
    return board(local.Items(items, local.Standing(**standing)), moment, screen(width))


def text(*items: local.Item, **more: Any) -> str:
    return "\n".join(lines(*items, **more))


def test_q122320_everything_has_its_section_whatever_else_comes() -> None:
    shown = lines(
        item("runs", 1, state="running", started=NOW),
        item("comes", 2),
        item("also-comes", 3, deadline=NOW + timedelta(hours=3)),
        item("offered", 4, purpose="optional", can_run=True),
        item("asked", 5, purpose="optional", requested=NOW),
        item("done", 6, state="succeeded", ended=NOW),
        item("failed", 7, state="failed", ended=NOW, reason="Exit code 7."),
    )
    names = [line.split()[0] for line in shown if line]
    assert names == [
        "Running", "runs", "Coming", "comes", "also-comes", "asked", "Available", "offered", "Done", "done", "failed", "Exit",
    ]  # fmt: skip


def test_what_has_long_been_over_is_shown_only_if_everything_is() -> None:
    old = item("old", state="succeeded", ended=NOW - timedelta(days=31))
    assert lines(old) == []
    assert board(local.Items((old,)), LIVE, screen(), everything=True) != []


def test_q187287_q185805_an_announced_start_counts_down_and_says_that_it_may_wait() -> None:
    soon = item(
        "firefox",
        state="asked",
        announced=NOW - timedelta(minutes=1),
        not_before=NOW + timedelta(seconds=250),
        can_defer=True,
    )
    assert "starts soon" in text(soon)
    assert "starts in 4:10 · may be postponed" in text(soon)
    later = Moment(NOW + timedelta(seconds=9), live=True)
    assert "starts in 4:01" in text(soon, moment=later)
    assert "starts in 4 min" in text(soon, moment=Moment(NOW)), "what does not move does not pretend to"


def test_a_time_is_said_as_people_here_say_it() -> None:
    assert "in 30:00" in text(item("a", not_before=NOW + timedelta(minutes=30)))
    assert "not before 15:00" in text(item("a", not_before=NOW + timedelta(hours=3)))
    assert "by tomorrow 12:00" in text(item("a", deadline=NOW + timedelta(days=1)))
    assert "due since 11:00" in text(item("a", deadline=NOW - timedelta(hours=1)))
    assert "until 14:00" in text(item("a", expires=NOW + timedelta(hours=2)))
    assert "next tomorrow 12:00" in text(item("a", state="succeeded", ended=NOW, next_at=NOW + timedelta(days=1)))


def test_the_services_own_times_are_made_local_too() -> None:
    assert localised("It opens at 2026-01-31 22:00 UTC, or not.", NOW) == "It opens at 22:00, or not."
    assert localised("At 2026-02-30 22:00 UTC and 12345 UTC.", NOW) == "At 2026-02-30 22:00 UTC and 12345 UTC."
    assert "until tomorrow 02:00" in text(item("a", reason="Wait until 2026-02-01 02:00 UTC."))


def test_a_program_that_runs_has_a_bar_if_its_packager_says_how_long() -> None:
    running = item("vim", state="running", started=NOW - timedelta(seconds=60), estimated_s=120, step="run")
    assert "████████········  50%  ~1:00 left" in text(running)
    late = item("vim", state="running", started=NOW - timedelta(seconds=600), estimated_s=120)
    assert "99%  longer than usual" in text(late)
    assert "for 1:00" in text(item("vim", state="running", started=NOW - timedelta(seconds=60)))
    assert "checking" in text(item("vim", state="running", started=NOW, step="detect"))


def test_content_on_its_way_has_a_bar_speed_and_rest() -> None:
    coming = item("libre", state="downloading")
    transfer = local.Transfer(coming.id, 120_000_000, 480_000_000, 4_000_000.0, 90.0)
    shown = text(coming, transfer=transfer)
    assert "████············  25%  90 s left" in shown
    assert "120.0 MB of 480.0 MB, 4.0 MB/s" in shown
    assert "%" not in text(coming, transfer=local.Transfer("another", 1, 2))
    patches = local.Transfer(coming.id, 1, 2, way="patch", source="https://near.example.org:8443/distribution")
    assert "only what changed from near.example.org:8443" in " ".join(text(coming, transfer=patches).split())
    assert "whole files from /mnt/stick" in " ".join(
        text(coming, transfer=local.Transfer(coming.id, 1, 2, way="whole", source="/mnt/stick")).split()
    )
    assert " 0%" in text(coming, transfer=local.Transfer(coming.id, 0, 0))


def test_what_concerns_the_whole_computer_stands_above() -> None:
    restart = local.Restart(
        ("linux 6.1",), "ask", due=NOW + timedelta(minutes=18), deferrals_left=1, latest=NOW + timedelta(hours=2)
    )
    shown = " ".join(text(restart=restart).split())
    assert "Restart for linux 6.1: at 12:18, in 18:00." in shown
    assert "pcmapp restart --later (until 14:00 at most)" in shown
    assert "when you choose: pcmapp restart" in text(restart=local.Restart(("linux",), "ask"))
    assert "is restarting for linux" in text(restart=local.Restart(("linux",), "force", begun=True))
    assert "as soon as nothing else" in text(restart=local.Restart(("linux",), "force", due=NOW))
    assert "Paused by root until it is resumed" in text(
        pause=local.Pause(NOW, "root"), hold="Paused.", hold_code="wait.paused"
    )
    assert "Paused by an administrator until 14:00" in text(pause=local.Pause(NOW, until=NOW + timedelta(hours=2)))
    assert "Nothing begins now: The clock is behind." in text(hold="The clock is behind.", hold_code="trust.clock")


def test_nothing_that_others_wrote_plays_tricks() -> None:
    shown = text(
        item(ESCAPE, reason=ESCAPE),
        item("b", 2, purpose="optional", can_run=True, summary=ESCAPE),
        restart=local.Restart((ESCAPE,), "ask"),
        hold=ESCAPE,
    )
    assert not set(ESCAPE[0] + ESCAPE[-2:]) & set(shown)


@given(
    st.lists(
        st.tuples(st.text(max_size=60), st.text(max_size=200), st.sampled_from(["waiting", "running", "failed"])),
        max_size=5,
    ),
    st.integers(60, 200),
)
def test_no_line_is_wider_than_the_screen(given_items: list[tuple[str, str, str]], width: int) -> None:
    shown = lines(
        *(
            item(name or "a", number, reason=reason, state=state, started=NOW, ended=NOW, deadline=NOW)
            for number, (name, reason, state) in enumerate(given_items)
        ),
        width=width,
    )
    assert all(shown_width(line) <= width for line in shown)


def test_a_terminal_without_such_characters_gets_plain_bars() -> None:
    running = item("vim", state="running", started=NOW - timedelta(seconds=60), estimated_s=120)
    plain = board(local.Items((running,)), LIVE, screen(encoding="ascii"))
    assert any("########--------  50%" in line for line in plain)


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [(0, "····"), (1, "████"), (0.5, "██··"), (0.53, "██▏·"), (-1, "····"), (7, "████"), (0.999, "████")],
)
def test_bars(fraction: float, shown: str) -> None:
    assert bar(fraction, 4) == shown
    assert len(bar(fraction, 4, plain=True)) == 4


@given(st.floats(0, 1), st.integers(1, 60))
def test_bars_are_as_wide_as_they_should_be(fraction: float, width: int) -> None:
    assert shown_width(bar(fraction, width)) == width


def test_all_is_said_to_be_there_only_when_it_is() -> None:
    assert [percent(value) for value in (0, 0.999, 1, 2)] == ["  0%", " 99%", "100%", "100%"]


@pytest.mark.parametrize(
    ("seconds", "clock", "words"),
    [
        (-5, "0:00", "0 s"), (9.9, "0:09", "10 s"), (252, "4:12", "4 min"), (3723, "1:02:03", "62 min"), (7200, "2:00:00", "2 h"),
        (90_000, "1 d 1 h", "25 h"), (200_000, "2 d 7 h", "2 days"),
    ],
)  # fmt: skip
def test_spans(seconds: float, clock: str, words: str) -> None:
    assert (countdown(timedelta(seconds=seconds)), roughly(timedelta(seconds=seconds))) == (clock, words)


def test_a_summary_counts_what_matters() -> None:
    assert summary(()) == "nothing to do"
    assert summary((item("a"), item("b", 2, state="running"))) == "1 at work, 1 coming"


@given(st.text(max_size=50), st.integers(1, 30))
def test_what_is_clipped_fits(words: str, width: int) -> None:
    assert shown_width(clip(words, width)) <= max(width, 1)
