"""Reasons not to disturb somebody, read from folders as Linux and systemd-logind keep them."""

from pathlib import Path

import pytest

from pcm.service.machine.interface import Engaged, Session
from pcm.service.machine.linux.engaged import engaged, keeps_screen_on, on_battery, session_path

ADA = 1000


def inhibitor(folder: Path, name: str = "1", **changes: str) -> None:
    values = {
        "WHAT": "idle",
        "MODE": "block",
        "UID": str(ADA),
        "PID": "7",
        "WHO": "Slides",
        "WHY": "a\\x20talk",
    } | changes
    text = "# This is private data. Do not parse.\n" + "".join(f"{key}={value}\n" for key, value in values.items())
    (folder / name).write_text(text)


def supply(folder: Path, name: str, **values: str) -> None:
    (folder / name).mkdir()
    for file, value in values.items():
        (folder / name / file).write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("changes", "busy"),
    [
        ({}, True),
        ({"WHAT": "sleep:idle:shutdown"}, True),
        ({"UID": "0"}, True),
        ({"MODE": "delay"}, False),
        ({"WHAT": "sleep"}, False),
        ({"WHAT": "idleness"}, False),
        ({"UID": "990"}, False),  # a daemon's, not a person's
        ({"UID": ""}, False),
        ({"UID": "x"}, False),
    ],
)
def test_who_keeps_the_screen_on_is_presenting(tmp_path: Path, changes: dict[str, str], busy: bool) -> None:
    inhibitor(tmp_path, **changes)
    assert keeps_screen_on({ADA}, tmp_path) is busy


def test_what_is_no_inhibitor_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"\xff\xfe=\n==\n")
    (tmp_path / "2").mkdir()
    (tmp_path / "1.ref").write_text("WHAT=idle\nMODE=block\nUID=1000\n")
    assert not keeps_screen_on({ADA}, tmp_path)
    assert not keeps_screen_on({ADA}, tmp_path / "none")


def test_a_battery_that_empties_counts_and_one_that_is_charged_does_not(tmp_path: Path) -> None:
    assert not on_battery(tmp_path / "none")
    assert not on_battery(tmp_path)
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", scope="System")
    assert on_battery(tmp_path)
    supply(tmp_path, "AC", type="Mains", online="1")
    assert not on_battery(tmp_path)
    (tmp_path / "AC" / "online").write_text("0\n")
    assert on_battery(tmp_path)
    (tmp_path / "BAT0" / "status").write_text("Charging\n")
    assert not on_battery(tmp_path)


def test_a_mouses_battery_and_a_usb_charger(tmp_path: Path) -> None:
    supply(tmp_path, "hid", type="Battery", status="Discharging", scope="Device")
    assert not on_battery(tmp_path)
    supply(tmp_path, "BAT0", type="Battery", status="Discharging")
    supply(tmp_path, "ucsi", type="USB", online="1")
    assert not on_battery(tmp_path)


def test_without_anybody_or_without_a_bus_nothing_is_asked(tmp_path: Path) -> None:
    assert engaged([], str(tmp_path / "none")) == Engaged()
    ada = Session("ada", ADA, active=True, remote=False, name="2", kind="x11")
    assert engaged([ada], str(tmp_path / "none")).locked is False


@pytest.mark.parametrize(
    ("name", "path"), [("27", "_327"), ("c1", "c1"), ("7", "_37"), ("a-b", "a_2db"), ("1_2", "_31_5f2")]
)
def test_a_sessions_place_on_the_bus(name: str, path: str) -> None:
    assert session_path(name) == f"/org/freedesktop/login1/session/{path}"
