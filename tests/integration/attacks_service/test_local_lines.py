"""Whatever comes over the local socket, in whatever pieces: the process that answers it says one line, or nothing, and ends."""

import contextlib
import json
import socket
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pcm.protocol import local
from pcm.protocol.local import VERBS
from pcm.service import local_api
from pcm.service.machine.here import this_machine
from pcm.service.places import Places, create_places, find_places
from tests.unit.trust.simulated import utc_now

WORDS = st.sampled_from(["verb", "id", "until", "argv", "user", *VERBS, "2030-01-01T00:00:00Z", "\0", "..", "0", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
NEARLY = st.dictionaries(WORDS, VALUES, max_size=4).map(lambda each: json.dumps(each).encode() + b"\n")
LINES = (
    st.binary(max_size=5000) | NEARLY | st.tuples(NEARLY, st.binary(max_size=50)).map(lambda two: two[0][:-2] + two[1])
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    made = find_places(Path(tmp_path_factory.mktemp("home")))
    create_places(made)
    return made


def heard(sent: list[bytes], places: Places) -> bytes:
    """What somebody hears who sends these pieces and then nothing more."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        mine.setblocking(False)
        for piece in sent:
            with contextlib.suppress(OSError):
                mine.send(piece)
        mine.shutdown(socket.SHUT_WR)
        assert local_api.serve(theirs, places, this_machine(), utc_now) is False
        theirs.close()
        mine.settimeout(5)
        answer = b""
        while piece := mine.recv(65_536):
            answer += piece
    return answer


@given(st.lists(LINES, max_size=3))
@example([b'{"verb":"status"}\n'])
@example([b'{"verb":"watch"}\n'])
@example([b'{"verb":"li', b'st"}\n{"verb":"sync"}\n'])
@settings(deadline=None, max_examples=150)
def test_it_says_one_line_or_nothing(places: Places, sent: list[bytes]) -> None:
    answer = heard(sent, places)
    assert answer.count(b"\n") == (1 if answer else 0)
    if answer:
        document = json.loads(answer)
        assert document["answer"] in {"error", "status", "requirements"}, "nothing else is to be had before enrolment"
        assert len(answer) < 20_000


@given(st.binary(max_size=local.MAX_REQUEST_BYTES * 2))
@settings(deadline=None, max_examples=100)
def test_no_line_makes_it_look_at_the_database_before_it_is_whole(places: Places, line: bytes) -> None:
    heard([line.replace(b"\n", b" ")], places)
    assert not places.database.exists()
