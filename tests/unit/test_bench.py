"""What the measurements are judged and told by; the measurements themselves assert nothing and are no tests."""

import json
from pathlib import Path

import pytest

from bench import measure
from bench.measure import Report, Sample, judge, number, table, verdict


def test_a_sample_knows_its_middle_and_its_least() -> None:
    sample = Sample([9.0, 1.0, 2.0])
    assert (sample.median, sample.least) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("value", "limits", "expected"),
    [
        (50.0, (50.0, None), (True, "≤ 50")),
        (50.1, (50.0, None), (False, "≤ 50")),
        (0.2, (None, 0.2), (True, "≥ 0.200")),
        (0.19, (None, 0.2), (False, "≥ 0.200")),
        (7.0, (None, None), (None, "")),
    ],
)
def test_an_aim_is_reached_or_not_or_not_set(
    value: float, limits: tuple[float | None, float | None], expected: tuple[bool | None, str]
) -> None:
    assert judge(value, *limits) == expected


def test_a_ratio_is_judged_where_the_aim_is_for_the_ratio() -> None:
    report = Report("part")
    report.add("slow", 30.0, "ms", peer=("bare", 10.0), at_most=2.0, of_ratio=True)
    report.add("fast", 30.0, "ms", peer=("bare", 10.0), at_most=40.0)
    slow, fast = report.figures
    assert (slow.ratio, slow.holds, slow.aim) == (3.0, False, "ratio ≤ 2")
    assert (fast.ratio, fast.holds, fast.aim) == (3.0, True, "≤ 40")
    assert verdict(slow) == "does not hold: slow: ratio 3.00 (aim ratio ≤ 2)"
    assert verdict(fast) == "holds: fast: 30 ms (aim ≤ 40)"


def test_a_peer_that_costs_nothing_gives_no_ratio() -> None:
    report = Report("part")
    report.add("cost", 3.0, "ms", peer=("nothing", 0.0))
    assert report.figures[0].ratio is None


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.0421, "0.042"), (1.0, "1"), (9.876, "9.88"), (1234.5, "1,234")]
)
def test_numbers_show_the_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


def test_the_table_keeps_its_columns_in_line() -> None:
    report = Report("part")
    report.add("short", 1.0, "ms")
    report.add("a much longer name", 1000.0, "ms", at_most=10.0)
    head, line, first, second = table(report.figures).splitlines()
    assert set(line) == {"-"}
    assert first.index(" ms") == second.index(" ms")
    assert head.startswith("what")
    assert second.endswith("DOES NOT HOLD")


def test_a_finished_report_is_written_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "OUT", tmp_path / "out")
    report = Report("part")
    report.add("reached", 1.0, "", at_most=2.0)
    report.add("missed", 3.0, "", at_most=2.0)
    assert report.finish() == 1
    written = json.loads((tmp_path / "out" / "part.json").read_text())
    assert [sorted(each) for each in written] == [
        sorted(("name", "value", "unit", "beside", "ratio", "aim", "holds"))
    ] * 2
    assert [each["holds"] for each in written] == [True, False]
    assert "does not hold: missed" in capsys.readouterr().out
