"""How results and errors look, for people and for programs; and docs/commands.md, which must say what --help says."""

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pcm.cli import show
from pcm.cli.ask import passphrase
from pcm.cli.duration import DURATION, MOMENT
from pcm.model.errors import RequestError
from pcm.protocol.durations import parse_duration, show_duration
from pcm.protocol.printable import printable, printable_json
from pcm.protocol.yaml_kinds import parse_size
from tools import command_reference

BAD = set("\x1b\x07\x08\r\x7f\x9b\u202e\u2066\u2028\ufeff")


class Terminal(io.StringIO):
    """A stream at which somebody looks."""

    def isatty(self) -> bool:
        return True


@given(st.text())
def test_printable_text_holds_nothing_that_steers(text: str) -> None:
    assert not set(printable(text)) & (BAD | {"\n"})
    assert not set(printable(text, lines=True)) & BAD


@pytest.mark.parametrize("text", ["plain", "Zürich – 50 %", "日本語", "cafe\u0301", "😀"])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_lines_stay_lines_where_they_may() -> None:
    assert printable("a\r\nb\tc\rd", lines=True) == "a\nb\tc\\x0dd"
    assert printable("a\nb") == "a\\x0ab"
    assert printable("\U000e0001") == "\\U000e0001"


@given(st.dictionaries(st.text(), st.text()))
def test_json_for_programs_says_the_same_without_raw_characters(value: dict[str, str]) -> None:
    written = printable_json(msgspec.json.encode(value))
    assert json.loads(written) == value
    assert not set(written) & BAD


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_yaml_for_programs_says_the_same_without_raw_characters(value: dict[str, str]) -> None:
    stream = io.StringIO()
    kept, sys.stdout = sys.stdout, stream
    try:
        assert show.print_data(value, "yaml")
    finally:
        sys.stdout = kept
    assert yaml.safe_load(stream.getvalue()) == value
    assert not set(stream.getvalue()) & BAD


def test_tables_show_states_in_words_and_nothing_as_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a[b]", "restart_pending", None, True), ("\x1b[31m", "failed", 3, False)]
    show.print_table(("name", "state", ">count", "ok"), rows, none="")
    out = capsys.readouterr().out
    assert "a[b]" in out, "square brackets are no markup"
    assert "restart pending" in out
    assert "–" in out
    assert r"\x1b[31m" in out
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show.print_table(("a",), [], none="Nothing here.")
    assert capsys.readouterr().out == "Nothing here.\n"


def test_facts_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    show.print_facts((("name", "x"), ("empty", ""), ("count", 0), ("none", None)))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["name", "x"], ["count", "0"]]


def test_errors_name_their_kind_and_code(capsys: pytest.CaptureFixture[str]) -> None:
    show.show_error(RequestError("There is no \x1b[31mthing.", code="not_found"), "table")
    assert capsys.readouterr().err == "not found: There is no \\x1b[31mthing. [not_found]\n"


@pytest.mark.parametrize(
    ("count", "says"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5 * 10**12, "5.0 TB")]
)
def test_sizes_are_for_people(count: int, says: str) -> None:
    assert show.size(count) == says


@pytest.mark.parametrize(
    ("seconds", "says"), [(5, "5 s ago"), (90, "1 min ago"), (7200, "2 h ago"), (200_000, "2 days ago")]
)
def test_how_long_ago(seconds: int, says: str) -> None:
    now = datetime(2026, 1, 31, tzinfo=UTC)
    assert show.ago(now - timedelta(seconds=seconds), now) == says
    assert show.ago(None) == "never"


@given(st.integers(0, 10**7))
def test_durations_are_read_as_they_are_shown(seconds: int) -> None:
    assert parse_duration(show_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("1.5 GB", 1_500_000_000), ("200MiB", 200 * 2**20), ("0 B", 0), ("1 gb", None), ("GB", None)]
)
def test_sizes_are_read(text: str, count: int | None) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "5", "h", "1h 30m", "-1h", "30m1h", "٣h", "1.5h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


def test_moments_say_their_offset_or_are_relative() -> None:
    assert MOMENT.convert("2026-01-31T22:00+01:00", None, None) == datetime(2026, 1, 31, 21, tzinfo=UTC)
    assert MOMENT.convert("2026-01-31T21:00Z", None, None) == datetime(2026, 1, 31, 21, tzinfo=UTC)
    soon = MOMENT.convert("+2h", None, None) - datetime.now(UTC)
    assert timedelta(minutes=119) < soon <= timedelta(hours=2)
    for text in ("2026-01-31T22:00", "2026-01-31", "+", "+x", "tomorrow"):
        with pytest.raises(click.BadParameter):
            MOMENT.convert(text, None, None)


def test_passphrases_come_from_a_file_once(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_text("first line is it\nsecond is not\n")
    ask = passphrase(str(file), new=True)
    assert ask() == "first line is it"
    file.unlink()
    assert ask() == "first line is it", "asked for once only"


@pytest.mark.parametrize(("text", "new"), [("", False), ("\nx", False), ("short", True)])
def test_empty_and_short_passphrases_are_refused(tmp_path: Path, text: str, new: bool) -> None:
    file = tmp_path / "p"
    file.write_text(text)
    with pytest.raises(RequestError) as caught:
        passphrase(str(file), new=new)()
    assert caught.value.code == "request.passphrase"


def test_passphrases_come_from_the_environment_or_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCM_KEY_PASSPHRASE", "from the environment")
    assert passphrase(None, new=True)() == "from the environment"
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe\n"))
    assert passphrase("-", new=True)() == "from a pipe"
    monkeypatch.delenv("PCM_KEY_PASSPHRASE")
    with pytest.raises(RequestError, match="nobody is there to ask"):
        passphrase(None, new=False)()
    with pytest.raises(RequestError, match="cannot be read"):
        passphrase("/no/such/file", new=False)()


def test_commands_md_says_what_help_says() -> None:
    written, made = command_reference.PAGE.read_text(), command_reference.page()
    if sys.version_info >= (3, 13):  # argparse lays its help out differently there
        written, made = written.partition("## pcmapp")[0], made.partition("## pcmapp")[0]
    assert written == made, "run: python -m tools.command_reference"


def test_the_reference_tool_takes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_reference.main([str(tmp_path / "c.md")]) == 0
    assert (tmp_path / "c.md").read_text().startswith("# Commands")
    assert command_reference.main(["a", "b"]) == 2
    assert "usage" in capsys.readouterr().err
