"""Reasons not to disturb somebody, read from folders as Linux and systemd-logind keep them."""

import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from pcm.service.machine.interface import Engaged, Session
from pcm.service.machine.linux.engaged import engaged, is_metered, keeps_screen_on, on_battery, session_path
from pcm.service.machine.linux.wire import pack, unpack

ADA = 1000
NETWORK, LOGIN = "org.freedesktop.NetworkManager", "org.freedesktop.login1"


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


class Reporting(threading.Thread):
    """A message bus with services that tell what they are given: `(service, property)` to a typed value. Refuses the rest."""

    def __init__(self, path: Path, told: dict[tuple[str, str], tuple[str, object]]) -> None:
        super().__init__(daemon=True)
        self.told = told
        self.flags: list[int] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.start()

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as reading:
            while reading.readline() != b"BEGIN\r\n":
                pass
            connection.sendall(b"OK 0123456789\r\nAGREE_UNIX_FD\r\n")
            while head := reading.read(16):
                body_length, serial, fields_length = struct.unpack_from("<III", head, 4)
                rest = reading.read(fields_length + -fields_length % 8)
                *_, pairs = unpack("yyyyuua(yv)", head + rest[:fields_length])
                fields = {code: value for code, (_, value) in pairs}
                body = reading.read(body_length)
                self.flags.append(head[2])
                connection.sendall(self._answer(serial, fields, body))

    def _answer(self, serial: int, fields: dict[int, Any], body: bytes) -> bytes:
        if fields[3] == "Hello":
            return message(2, serial, "s", pack("s", (":1.7",)))
        interface, name = unpack("ss", body)
        assert interface
        value = self.told.get((fields[6], name))
        if value is None:
            return message(3, serial, "s", pack("s", ("nobody here",)), "org.freedesktop.DBus.Error.ServiceUnknown")
        return message(2, serial, "v", pack("v", (value,)))

    def close(self) -> None:
        self._listener.close()


def message(kind: int, serial: int, signature: str, body: bytes, error: str = "") -> bytes:
    """A reply, as a bus sends it."""
    fields: list[tuple[int, tuple[str, Any]]] = [(5, ("u", serial)), (8, ("g", signature))]
    fields += [(4, ("s", error))] if error else []
    head = pack("yyyyuua(yv)", (ord("l"), kind, 0, 1, len(body), 1, fields))
    return head + b"\0" * (-len(head) % 8) + body


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, Engaged()),
        ({(NETWORK, "Metered"): ("u", 1)}, Engaged(("metered",))),
        ({(NETWORK, "Metered"): ("u", 3)}, Engaged(("metered",))),
        ({(NETWORK, "Metered"): ("u", 4)}, Engaged()),
        ({(NETWORK, "Metered"): ("s", "yes")}, Engaged()),
        ({(LOGIN, "LockedHint"): ("b", True)}, Engaged((), locked=True)),
        ({(LOGIN, "LockedHint"): ("b", False)}, Engaged()),
    ],
)
def test_what_other_services_tell_is_taken_as_they_mean_it(
    tmp_path: Path, told: dict[tuple[str, str], tuple[str, object]], expected: Engaged
) -> None:
    bus = Reporting(tmp_path / "bus", told)
    screen = Session("ada", ADA, active=True, remote=False, name="2", kind="wayland")
    terminal = Session("bob", ADA + 1, active=True, remote=True, name="3", kind="tty")
    found = engaged([screen, terminal], str(tmp_path / "bus"), tmp_path / "none", tmp_path / "none")
    bus.close()
    assert found == expected
    assert set(bus.flags) == {2}, "asking started a service"


@pytest.mark.parametrize(("told", "metered"), [(1, True), (3, True), (0, False), (2, False), (4, False), (None, False)])
def test_a_network_is_paid_by_volume_if_its_service_says_or_guesses_so(
    tmp_path: Path, told: int | None, metered: bool
) -> None:
    bus = Reporting(tmp_path / "bus", {} if told is None else {(NETWORK, "Metered"): ("u", told)})
    assert is_metered(str(tmp_path / "bus")) is metered
    bus.close()


def test_without_a_message_bus_no_network_is_known_to_be_paid_by_volume(tmp_path: Path) -> None:
    assert not is_metered(str(tmp_path / "none"))
