"""Version orders against their published tables, dpkg's database as text, and the bus's wire format."""

import contextlib
import os
import struct
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from pcm.model.errors import MachineError
from pcm.service.machine.linux.presence import sessions
from pcm.service.machine.linux.unit import object_path, unit_name
from pcm.service.machine.linux.wire import WireError, pack, split_signature, unpack
from pcm.service.machine.package_database import dpkg_versions
from pcm.service.machine.version_order import compare_debian, compare_rpm, compare_rpm_part

# deb-version(7), Debian Policy 5.6.12, and dpkg's own tests
DEBIAN = [
    ("1.0", "1.0", 0),
    ("1.0", "1.00", 0),
    ("0:1.0", "1.0", 0),
    ("1.0", "1.0-0", 0),
    ("1.0~rc1", "1.0", -1),
    ("1.0~~", "1.0~", -1),
    ("1.0~", "1.0~a", -1),
    ("1.0", "1.0a", -1),
    ("1.0a", "1.0+", -1),
    ("1.9", "1.10", -1),
    ("2:1.0", "1:9.9", 1),
    ("1.0-1", "1.0-1.1", -1),
    ("1.0-1+deb12u1", "1.0-1+deb12u2", -1),
    ("1.0-1~bpo12+1", "1.0-1", -1),
    ("1.2-3-4", "1.2-3-5", -1),
    ("1:1.0", "1:1.0-1", -1),
    ("252.39-1~deb12u2", "252.39-1~deb12u1", 1),
]

# rpm's tests/rpmvercmp.at
RPM = [
    ("1.0", "1.0", 0),
    ("1.0", "2.0", -1),
    ("2.0.1", "2.0.1a", -1),
    ("5.5p1", "5.5p2", -1),
    ("5.5p10", "5.5p1", 1),
    ("10xyz", "10.1xyz", -1),
    ("xyz10", "xyz10.1", -1),
    ("xyz.4", "8", -1),
    ("5.5p2", "5.6p1", -1),
    ("6.0.rc1", "6.0", 1),
    ("10b2", "10a1", 1),
    ("1.0aa", "1.0a", 1),
    ("10.0001", "10.1", 0),
    ("4.999.9", "5.0", -1),
    ("20101121", "20101122", -1),
    ("2_0", "2.0", 0),
    ("a", "a+", 0),
    ("+_", "_+", 0),
    ("1.0~rc1", "1.0", -1),
    ("1.0~rc1", "1.0~rc2", -1),
    ("1.0~rc1~git123", "1.0~rc1", -1),
    ("1.0^", "1.0", 1),
    ("1.0^git1", "1.0", 1),
    ("1.0^git1", "1.0^git2", -1),
    ("1.0^git1", "1.01", -1),
    ("1.0^20160101", "1.0.1", -1),
    ("1.0^20160102", "1.0^20160101^git1", 1),
    ("1.0~rc1^git1", "1.0~rc1", 1),
    ("1.0^git1~pre", "1.0^git1", -1),
]


@pytest.mark.parametrize(("left", "right", "order"), DEBIAN)
def test_debian_versions_are_ordered_by_debians_rules(left: str, right: str, order: int) -> None:
    assert compare_debian(left, right) == order
    assert compare_debian(right, left) == -order


@pytest.mark.parametrize(("left", "right", "order"), RPM)
def test_rpm_versions_are_ordered_by_rpms_rules(left: str, right: str, order: int) -> None:
    assert compare_rpm_part(left, right) == order
    assert compare_rpm_part(right, left) == -order


@pytest.mark.parametrize(
    ("installed", "wanted", "order"),
    [
        ("0:1.2-3", "1.2", 0),
        ("1:1.0-1", "2.0", 1),
        ("0:1.2-3", "1.2-4", -1),
        ("0:1.3-1", "1.2-4", 1),
        ("1:1.2-3", "1:1.2-3", 0),
    ],
)
def test_an_rpm_version_without_release_fits_every_release(installed: str, wanted: str, order: int) -> None:
    assert compare_rpm(installed, wanted) == order


versions = st.text("0123456789abz.+~", min_size=1, max_size=8).map(lambda rest: "1" + rest)


@hypothesis.given(versions, versions, versions)
def test_debians_order_is_a_total_order(one: str, two: str, three: str) -> None:
    assert compare_debian(one, two) == -compare_debian(two, one)
    if compare_debian(one, two) <= 0 and compare_debian(two, three) <= 0:
        assert compare_debian(one, three) <= 0


STATUS = """Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b7
Description: GNU Bourne Again SHell
 A text with
 Package: trap
 Status: install ok installed

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: broken
Status: install ok half-configured
Architecture: amd64
Version: 1.0

Package: waiting
Status: install ok triggers-pending
Architecture: all
Version: 3

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.36-8
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    (tmp_path / "updates").mkdir()
    (tmp_path / "status").write_text(STATUS)
    return tmp_path


@pytest.mark.parametrize(
    ("package", "found"),
    [
        ("bash", ["5.2.15-2+b7"]),
        ("bash:amd64", ["5.2.15-2+b7"]),
        ("bash:i386", []),
        ("removed", []),
        ("broken", []),
        ("waiting", ["3"]),
        ("trap", []),
        ("nosuch", []),
        ("bas", []),
        ("libc6", ["2.36-9", "2.36-8"]),
        ("libc6:i386", ["2.36-8"]),
    ],
)
def test_dpkgs_database_tells_what_is_installed(database: Path, package: str, found: list[str]) -> None:
    assert dpkg_versions(package, database) == found


def test_what_a_running_dpkg_has_not_merged_yet_counts(database: Path) -> None:
    paragraph = "Package: bash\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 5\n"
    (database / "updates" / "0001").write_text(
        "Package: new\nStatus: install ok installed\nArchitecture: all\nVersion: 7\n"
    )
    (database / "updates" / "0000").write_text(paragraph)
    (database / "updates" / "tmp.i").write_text("Package: half")
    assert dpkg_versions("bash", database) == []
    assert dpkg_versions("new", database) == ["7"]


def test_no_database_is_no_dpkg_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert dpkg_versions("bash", tmp_path / "none") is None
    (tmp_path / "status").write_bytes(b"Package: \xff\xfe")
    with pytest.raises(MachineError):
        dpkg_versions("bash", tmp_path)


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("ybnqiuxtd", (255, True, -5, 6, -7, 8, -9, 10, 0.5)),
        ("sog", ("grüße", "/a/b", "a{sv}")),
        ("as", (["a", "", "c"],)),
        ("a{sv}", ({"k": ("s", "v"), "n": ("at", [1, 2])},)),
        ("(ys)a(sasas)", ((1, "x"), [("/bin/true", ["a", "b"], [])])),
        ("ayt", ([1, 2, 3], 4)),
        ("v", (("(sv)", ("x", ("as", ["y"]))),)),
        ("", ()),
    ],
)
def test_values_survive_the_wire(signature: str, values: tuple[Any, ...]) -> None:
    assert unpack(signature, pack(signature, values)) == values


def test_the_wire_format_is_dbuss() -> None:
    # D-Bus specification, "Marshalling examples"
    assert pack("s", ("foo",)) == b"\x03\0\0\0foo\0"
    assert pack("ssu", ("foo", "+", 5)) == b"\x03\0\0\0foo\0\x01\0\0\0+\0\0\0\x05\0\0\0"
    assert pack("at", ([5],)) == b"\x08\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0"


@pytest.mark.parametrize("signature", ["a", "(", "a{sv", "z", "(s", "aaaa", "a" * 100 + "s"])
def test_broken_signatures_are_refused(signature: str) -> None:
    with pytest.raises(WireError):
        split_signature(signature)


@hypothesis.given(st.sampled_from(["s", "as", "a{sv}", "v", "a(sv)", "yyyyuua(yv)", "(oayt)"]), st.binary(max_size=200))
def test_any_bytes_give_values_or_a_wire_error(signature: str, content: bytes) -> None:
    with contextlib.suppress(WireError):
        unpack(signature, content)


def test_a_unit_is_named_and_found_as_systemd_does() -> None:
    assert unit_name("0a") == "pcm-run-0a.service"
    assert object_path("pcm-run-0a.service") == "/org/freedesktop/systemd1/unit/pcm_2drun_2d0a_2eservice"


def test_sessions_are_read_from_logind(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    (folder / "1").write_text("# private\nUID=1000\nUSER=alice\nACTIVE=1\nSTATE=active\nREMOTE=0\nCLASS=user\n")
    (folder / "2").write_text("UID=1001\nUSER=bob\nACTIVE=0\nSTATE=online\nREMOTE=1\nCLASS=user\n")
    (folder / "3").write_text("UID=1002\nUSER=gone\nSTATE=closing\nCLASS=user\n")
    (folder / "4").write_text("UID=110\nUSER=gdm\nACTIVE=1\nSTATE=active\nCLASS=greeter\n")
    (folder / "5").write_text("UID=half-wri")
    (folder / "5.ref").write_text("")
    assert [(each.user, each.user_id, each.active, each.remote) for each in sessions(folder)] == [
        ("alice", 1000, True, False),
        ("bob", 1001, False, True),
    ]


def test_sessions_are_read_from_utmp_where_there_is_no_logind(tmp_path: Path) -> None:
    def record(kind: int, process_id: int, user: bytes, host: bytes) -> bytes:
        text = struct.pack("<hxxi32s4s32s256s", kind, process_id, b"pts/0", b"ts/0", user, host)
        return text.ljust(384, b"\0")

    utmp = tmp_path / "utmp"
    utmp.write_bytes(
        record(7, os.getpid(), b"root", b"")
        + record(7, os.getpid(), b"root", b"10.0.0.1")
        + record(8, os.getpid(), b"root", b"")
        + record(7, 2**30, b"root", b"")
        + record(7, os.getpid(), b"nobody-of-that-name", b"")
        + b"half a record"
    )
    found = sessions(tmp_path / "none", utmp)
    assert [(each.user, each.user_id, each.remote) for each in found] == [("root", 0, False), ("root", 0, True)]
    assert sessions(tmp_path / "none", tmp_path / "none") == ()
