"""Documents made to cost time or to slip past a check: bounds are linear, names end where they end, times can be reckoned with."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import RequestError
from pcm.model.instruction import Deferral, Instruction
from pcm.model.package import PackageFile
from pcm.model.schedule import Window
from pcm.protocol import codec
from pcm.protocol.enrolment import read_enrolment
from pcm.protocol.policy import Approver


@pytest.mark.parametrize(
    "unit", [b'\\"', b'"', b"\\", b'"\\', b'\\\\"', b"[", b"{", b"[]", b'"[', b'["', b'{"', b'"\\\\', b'\n"\\']
)
def test_no_pattern_of_bytes_makes_the_bounds_slow(unit: bytes) -> None:
    """An enrolment is read before its sender is known; looking at its nesting must not take minutes."""
    bomb = (b'{"a":[{"b":"' + unit * 200_000)[: 256 * 1024]
    began = time.process_time()
    with pytest.raises(RequestError):
        read_enrolment(bomb)
    assert time.process_time() - began < 0.5


values = st.recursive(
    st.none() | st.text('\\"[]{}a\n', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('\\"[]{}', max_size=3), inner, max_size=3),
    max_leaves=25,
)


@given(values, st.integers(0, 4))
def test_depth_is_what_a_parser_would_see(value: Any, most: int) -> None:
    data = msgspec.json.encode([[[[[[value]]]]]] if most == 0 else value)
    try:
        codec.check_bounds(data, kind="x", max_bytes=len(data), max_depth=most)
        passed = True
    except RequestError:
        passed = False
    assert passed == (_depth(msgspec.json.decode(data)) <= most)


def _depth(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0) if isinstance(value, (dict, list)) else 0


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        (PackageFile, {"path": "a", "length": 1, "sha256": "a" * 64}),
        (Approver, {"name": "a", "public_key": "a" * 64}),
        (Window, {"days": ["mon"], "start": "10:00", "minutes": 5}),
    ],
)
def test_a_line_feed_at_the_end_of_a_name_is_not_overlooked(shape: type[Any], fields: dict[str, Any]) -> None:
    """`$` matches before a last line feed: one key with and without it would be two approvers."""
    msgspec.convert(fields, shape)
    for name in ("sha256", "public_key", "start"):
        if name in fields:
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert({**fields, name: fields[name] + "\n"}, shape)


INSTRUCTION: dict[str, Any] = {
    "id": "j0123456789.0123456789ab",
    "generation": 1,
    "job": "j0123456789",
    "package": "a",
    "version": "1",
    "release": 1,
    "program": "install",
    "manifest": {"path": "p", "length": 1, "sha256": "a" * 64},
    "purpose": "optional",
    "offer_after": "2026-01-31T12:00:00Z",
}


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-01-31T12:00:00"])
@pytest.mark.parametrize("name", ["offer_after", "mandatory_after", "expires_after"])
def test_a_time_that_cannot_be_reckoned_with_is_refused_when_read(name: str, moment: str) -> None:
    """Else it raises OverflowError in the middle of a plan, and with it every other order stands still."""
    msgspec.convert(INSTRUCTION, Instruction, strict=False)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**INSTRUCTION, name: moment}, Instruction)


def test_nobody_may_defer_beyond_the_end_of_time() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"times": 1, "max_s": 2**53}, Deferral)
