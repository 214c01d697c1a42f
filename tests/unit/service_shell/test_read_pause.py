"""What a worker says last to the supervisor: a number, or nothing that counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.service.check_process import MOST_S, read_pause, read_wake, reads


@pytest.mark.parametrize(
    ("word", "pause"),
    [
        (b'{"next_check_s":1800}\n', 1800.0),
        (b'{"next_check_s": 30}', 30.0),
        (b'checking\n{"next_check_s":5}\n', 5.0),
        (b'{"next_check_s":999999999}\n', MOST_S),
        (b"", None),
        (b"\n", None),
        (b'{"next_check_s":-5}\n', None),
        (b'{"next_check_s":1e9}\n', None),
        (b'{"next_check_s":9999999999}\n', None),
        (b'{"next_check_s":5', 5.0),
        (b'x{"next_check_s":5}', None),
        (b'{"next_check_s":5}\nTraceback\n', None),
        (b'{"next_check_s":1800,"logon":true}\n', 1800.0),
    ],
)
def test_the_last_line_counts(word: bytes, pause: float | None) -> None:
    assert read_pause(word) == pause


@given(st.binary(max_size=300))
def test_any_bytes_give_a_bounded_pause_or_none(word: bytes) -> None:
    pause = read_pause(word)
    assert pause is None or 0 <= pause <= MOST_S


@given(st.integers(0, 10**8), st.text(max_size=30).filter(lambda text: "\n" not in text))
def test_a_well_formed_line_is_understood_whatever_came_before(seconds: int, before: str) -> None:
    assert read_pause(f'{before}\n{{"next_check_s":{seconds}}}\n'.encode()) == min(float(seconds), MOST_S)


@pytest.mark.parametrize(
    ("word", "awaited"),
    [
        (b'{"next_check_s":1800,"logon":true}\n', True),
        (b'{"next_check_s":1800}\n', False),
        (b'{"next_check_s":1800,"logon":false}\n', False),
        (b'{"next_check_s":5,"logon":true}\nTraceback\n', False),
        (b"", False),
    ],
)
def test_it_says_whether_something_waits_for_a_person(word: bytes, awaited: bool) -> None:
    assert reads(word, b"logon") is awaited


@given(st.binary(max_size=300))
def test_any_bytes_say_yes_or_no(word: bytes) -> None:
    assert reads(word, b"logon") in {True, False}


def test_it_says_for_how_long_its_connection_may_wait() -> None:
    whole = b'{"next_check_s":1800,"contact":true,"news":true,"wake_s":14400}\n'
    assert (read_pause(whole), read_wake(whole)) == (1800.0, 14400.0)
    assert all(reads(whole, name) for name in (b"contact", b"news"))
    assert read_wake(b'{"next_check_s":1800}\n') == 0
    assert read_wake(b'{"next_check_s":1800,"wake_s":-1}\n') == 0
    assert read_wake(whole + b"Traceback\n") == 0


@given(st.binary(max_size=300))
def test_any_bytes_give_a_bounded_wait(word: bytes) -> None:
    assert 0 <= read_wake(word) <= MOST_S
