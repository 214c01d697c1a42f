"""Documents: round trips, versions, bounds, and what arbitrary bytes do."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.assignment import State
from pcm.model.detection import AllOf, DpkgDetection, FileDetection, Not
from pcm.model.errors import RequestError
from pcm.model.facts import Facts
from pcm.model.instruction import Instruction, ManifestReference
from pcm.model.package import PackageFile
from pcm.model.program import Parameter, Program
from pcm.protocol import codec
from pcm.protocol.approval import ApprovalOrder, approves, read_approval, write_approval
from pcm.protocol.enrolment import ClientConfiguration, EnrolmentRequest, read_configuration, read_enrolment
from pcm.protocol.instructions import Instructions, read_instructions, write_instructions
from pcm.protocol.manifest import Manifest, manifest_target, read_manifest, write_manifest
from pcm.protocol.policy import Approver, SitePolicy, read_policy, write_policy
from pcm.protocol.report import Outcome, Report, RunResult, read_report, write_report

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HASH = "ab" * 32
CLIENT = "0f" * 16

MANIFEST = Manifest(
    package="tree",
    version="2.1.0",
    release=3,
    min_release=2,
    platforms=("linux-x86_64",),
    files=(PackageFile("tree.deb", 10, HASH), PackageFile("bin/run me", 0, HASH, executable=True)),
    parameters={"MODE": Parameter(enum=("a", "b"), default="a")},
    programs={
        "install": Program(
            argv=("dpkg", "--install", "tree.deb", "{MODE}"),
            detect=AllOf([DpkgDetection("tree", ">= 2"), Not(FileDetection("/nowhere"))]),
        )
    },
    signed_at=NOW,
)
INSTRUCTION = Instruction(
    id="j0123456789.0f0f0f0f0f0f",
    generation=1,
    job="j0123456789",
    package="tree",
    version="2.1.0",
    release=3,
    program="install",
    manifest=ManifestReference(manifest_target("base", "tree", "2.1.0"), 100, HASH),
    purpose="mandatory",
    offer_after=NOW,
    mandatory_after=NOW,
)
INSTRUCTIONS = Instructions(site="hq", client_id=CLIENT, serial=7, issued=NOW, expires=NOW, instructions=(INSTRUCTION,))
POLICY = SitePolicy(site="hq", spread_s=60, pilot_share=0.5, approvers=(Approver("ann", HASH),))
APPROVAL = ApprovalOrder(
    site="hq",
    job="j0123456789",
    generation=1,
    package="tree",
    release=3,
    program="install",
    manifest_sha256=HASH,
    expires=NOW,
)
REPORT = Report(
    site="hq",
    client_id=CLIENT,
    seq=1,
    boot_id="b",
    sent=NOW,
    outcomes=(
        Outcome(
            instruction=INSTRUCTION.id,
            job=INSTRUCTION.job,
            generation=1,
            state=State.SUCCEEDED,
            at=NOW,
            result=RunResult(run="0" * 32, started=NOW, ended=NOW, exit_code=0, exit_class="success", detected=True),
        ),
    ),
)
KIT = ClientConfiguration(
    site="hq", logon=("http://127.0.0.1:1/logon",), distribution=("/srv",), instructions_root="{}", packages_root="{}"
)
ENROLMENT = EnrolmentRequest(site="hq", public_key="pem", facts=Facts("host", "linux-x86_64"), token="t")

CASES: list[tuple[str, Any, Callable[[Any], bytes], Callable[[bytes], Any]]] = [
    ("manifest", MANIFEST, write_manifest, read_manifest),
    ("instructions", INSTRUCTIONS, write_instructions, read_instructions),
    ("policy", POLICY, write_policy, read_policy),
    ("approval", APPROVAL, write_approval, read_approval),
    ("report", REPORT, write_report, read_report),
    ("kit", KIT, codec.encode, read_configuration),
    ("enrolment", ENROLMENT, codec.encode, read_enrolment),
]
every_document = pytest.mark.parametrize(("name", "value", "write", "read"), CASES, ids=[case[0] for case in CASES])


@every_document
def test_round_trip_with_its_header(name: str, value: Any, write: Any, read: Any) -> None:
    data = write(value)
    assert read(data) == value
    assert write(read(data)) == data
    header = msgspec.json.decode(data)
    assert header["spec"] == "1.0"
    assert header["type"].startswith("pcm.")


@every_document
def test_q160855_unknown_minor_fields_are_ignored(name: str, value: Any, write: Any, read: Any) -> None:
    data = msgspec.json.decode(write(value))
    data["spec"] = "1.7"
    data["of_a_later_minor"] = {"deep": [1, 2]}
    assert read(msgspec.json.encode(data)).spec == "1.7"


@every_document
def test_q160855_an_unknown_major_version_is_refused_by_name(name: str, value: Any, write: Any, read: Any) -> None:
    data = msgspec.json.decode(write(value))
    data["spec"] = "2.0"
    with pytest.raises(RequestError) as caught:
        read(msgspec.json.encode(data))
    assert caught.value.code == "protocol.unknown_version"
    assert "2.0" in caught.value.message


@every_document
def test_another_documents_type_is_refused(name: str, value: Any, write: Any, read: Any) -> None:
    data = msgspec.json.decode(write(value))
    data["type"] = "pcm.something-else"
    with pytest.raises(RequestError) as caught:
        read(msgspec.json.encode(data))
    assert caught.value.code == "protocol.wrong_type"


@every_document
@pytest.mark.parametrize("spec", ["", "1", "one.0", "1.", ".0", "1.0.0.0.0.0.0.0", "-1.0", "²1.0"])
def test_a_version_that_is_none_is_malformed(name: str, value: Any, write: Any, read: Any, spec: str) -> None:
    data = msgspec.json.decode(write(value))
    data["spec"] = spec
    with pytest.raises(RequestError) as caught:
        read(msgspec.json.encode(data))
    assert caught.value.code in {"protocol.malformed", "protocol.unknown_version"}


@every_document
@given(st.data())
def test_damaged_bytes_never_raise_anything_else(
    name: str, value: Any, write: Any, read: Any, data: st.DataObject
) -> None:
    good = write(value)
    place = data.draw(st.integers(0, len(good) - 1))
    damaged = good[:place] + data.draw(st.binary(max_size=8)) + good[place + data.draw(st.integers(0, 8)) :]
    try:
        read(damaged)
    except RequestError as error:
        assert error.code.startswith(("protocol.", "request."))


@every_document
@given(junk=st.binary(max_size=200))
def test_junk_is_malformed(name: str, value: Any, write: Any, read: Any, junk: bytes) -> None:
    with pytest.raises(RequestError):
        read(junk)


@every_document
def test_deep_nesting_is_refused_before_parsing(name: str, value: Any, write: Any, read: Any) -> None:
    for bomb in (b"[" * 30_000, b'{"a":' * 9_000, b'{"type":"x","spec":"1.0","x":' + b"[" * 30 + b"]" * 30 + b"}"):
        with pytest.raises(RequestError) as caught:
            read(bomb)
        assert caught.value.code == "protocol.too_deep"


def test_brackets_inside_strings_do_not_count_as_depth() -> None:
    codec.check_bounds(b'{"a":"' + b"[{" * 1000 + b'\\"[[["}', kind="x", max_bytes=10_000)


@given(st.recursive(st.none() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_whatever_is_flat_enough_passes_the_bounds(value: Any) -> None:
    data = msgspec.json.encode(value)
    deepest = depth = 0
    for kind in (token for token in _tokens(value)):
        depth += kind
        deepest = max(deepest, depth)
    if deepest <= codec.MAX_DEPTH:
        codec.check_bounds(data, kind="x", max_bytes=len(data))


def _tokens(value: Any) -> list[int]:
    return [1, *(t for item in value for t in _tokens(item)), -1] if isinstance(value, list) else []


def test_too_long_input_is_refused_before_parsing() -> None:
    with pytest.raises(RequestError) as caught:
        read_approval(b" " * (64 * 1024 + 1))
    assert caught.value.code == "protocol.too_long"


def test_two_instructions_with_one_id_are_malformed() -> None:
    data = msgspec.json.decode(write_instructions(INSTRUCTIONS))
    data["instructions"] *= 2
    with pytest.raises(RequestError, match="same id"):
        read_instructions(msgspec.json.encode(data))


@pytest.mark.parametrize("moment", ["2026-11-22T12:00:00", "2026-13-01T00:00:00Z", "100-01-01T00:00:00Z", "tomorrow"])
def test_q151648_a_time_without_offset_or_out_of_the_calendar_is_malformed(moment: str) -> None:
    data = msgspec.json.decode(write_instructions(INSTRUCTIONS))
    data["instructions"][0]["offer_after"] = moment
    with pytest.raises(RequestError) as caught:
        read_instructions(msgspec.json.encode(data))
    assert caught.value.code == "protocol.malformed"


def test_q202003_dates_after_2037_travel_unharmed() -> None:
    far = datetime(2138, 12, 31, 23, 59, 59, tzinfo=UTC)
    value = msgspec.structs.replace(INSTRUCTIONS, expires=far)
    assert read_instructions(write_instructions(value)).expires == far


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"files": [{"path": "../x", "length": 1, "sha256": HASH}]}, "request.path"),
        (
            {
                "platforms": ["windows-any"],
                "files": [{"path": "a", "length": 1, "sha256": HASH}, {"path": "A", "length": 1, "sha256": HASH}],
            },
            "request.path",
        ),
        ({"files": [{"path": "a", "length": -1, "sha256": HASH}]}, "protocol.malformed"),
        ({"package": "../x"}, "request.name"),
        ({"platforms": ["amiga-68k"]}, "request.name"),
        ({"platforms": []}, "protocol.malformed"),
        ({"programs": {}}, "protocol.malformed"),
        ({"programs": {"Install!": {"argv": ["x"]}}}, "request.name"),
        ({"programs": {"install": {"argv": ["x", "{NO}"]}}}, "request.placeholder"),
        ({"programs": {"install": {"argv": ["x"], "run_as": "root"}}}, "protocol.malformed"),
        (
            {
                "programs": {
                    "install": {"argv": ["x"], "health": {"kind": "file", "path": "/x"}, "rollback_to": "nothing"}
                }
            },
            "request.package",
        ),
        ({"programs": {"install": {"argv": ["x"], "working_directory": "no/such"}}}, "request.package"),
        ({"programs": {"install": {"argv": ["x"], "detect": {"kind": "magic"}}}}, "protocol.malformed"),
        (
            {"programs": {"install": {"argv": ["x"], "detect": {"kind": "dpkg", "package": "a", "version": "1"}}}},
            "protocol.malformed",
        ),
        ({"programs": {"install": {"argv": ["x"], "environment": {"A=B": "c"}}}}, "protocol.malformed"),
        ({"min_release": 4}, "request.package"),
        ({"icon": "missing.png"}, "request.package"),
        ({"signed_at": "2026-11-22T12:00:00"}, "protocol.malformed"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(change: dict[str, Any], code: str) -> None:
    data = {**msgspec.json.decode(write_manifest(MANIFEST)), **change}
    with pytest.raises(RequestError) as caught:
        read_manifest(msgspec.json.encode(data))
    assert caught.value.code == code


def test_an_approval_speaks_of_exactly_one_order() -> None:
    assert approves(APPROVAL, INSTRUCTION, "hq")
    assert not approves(APPROVAL, INSTRUCTION, "elsewhere")
    for change in (
        {"job": "j9999999999"},
        {"generation": 2},
        {"package": "bush"},
        {"release": 4},
        {"program": "uninstall"},
        {"parameters": {"MODE": "b"}},
        {"manifest": ManifestReference("p", 100, "cd" * 32)},
    ):
        assert not approves(APPROVAL, msgspec.structs.replace(INSTRUCTION, **change), "hq")
