"""Step 9: the one line that a local user may send, and what is refused before anything looks at it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import RequestError
from pcm.protocol import local


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"list",
        b"[]",
        b"{}",
        b'{"verb":"install"}',
        b'{"verb":"run"}',
        b'{"verb":"run","id":""}',
        b'{"verb":"run","id":7}',
        b'{"verb":"run","id":"' + b"x" * 65 + b'"}',
        b'{"verb":"list","id":"x"}',
        b'{"verb":"run","id":"x","argv":["sh"]}',
        b'{"verb":"run","id":"x","user":"root"}',
        b'{"verb":"run","id":"x","until":"2030-01-01T00:00:00Z"}',
        b'{"verb":"defer","id":"x","until":"2030-01-01T00:00:00"}',
        b'{"verb":"defer","id":"x","until":12}',
        b'{"verb":"cancel"}',
        b'{"verb":"watch","id":"x"}',
        b'{"verb":"watch","until":"2030-01-01T00:00:00Z"}',
        b'{"verb":"pause","id":"x"}',
        b'{"verb":"pause","until":"tomorrow"}',
        b'{"verb":"resume","until":"2030-01-01T00:00:00Z"}',
        b'{"verb":"restart","until":"2030-01-01T00:00:00Z"}',
        b'{"verb":"postpone_restart","id":"x"}',
        b'{"verb":"list"}' + b" " * 4096,
        b"[" * 3000,
        b'{"verb":"list","verb2":' + b"[" * 30 + b"]" * 30 + b"}",
        b"\xff\xfe\x00",
        b'{"verb":"li\x00st"}',
    ],
)
def test_hostile_lines_are_refused_by_code(line: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        local.read_request(line)
    assert caught.value.code.startswith("protocol.")
    assert len(caught.value.message) < 400


@given(st.binary(max_size=5000))
def test_any_bytes_are_a_request_or_a_request_error(line: bytes) -> None:
    try:
        request = local.read_request(line)
    except RequestError:
        return
    assert request.verb in local.VERBS


@given(
    st.sampled_from(local.VERBS),
    st.text(min_size=1, max_size=64),
    st.none() | st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC)),
)
def test_a_request_survives_the_wire(verb: local.Verb, wanted: str, until: datetime | None) -> None:
    request = local.LocalRequest(
        verb, wanted if verb in local.WITH_ID else None, until if verb in local.WITH_TIME else None
    )
    line = local.write_request(request)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert local.read_request(line) == request


def test_an_answer_survives_the_wire_and_a_fault_becomes_its_error() -> None:
    item = local.Item("j1", "j", "p", "1", "install", "optional", "waiting", can_run=True)
    assert local.read_answer(local.write_answer(local.Items((item,)))) == local.Items((item,))
    with pytest.raises(RequestError) as caught:
        local.read_answer(local.write_answer(local.Fault("not_allowed", "No.")))
    assert (caught.value.code, caught.value.message) == ("not_allowed", "No.")


@given(st.binary(max_size=2000))
def test_the_application_survives_any_answer(line: bytes) -> None:
    try:
        local.read_answer(line)
    except RequestError:
        return
