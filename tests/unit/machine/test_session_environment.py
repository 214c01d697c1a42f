"""The environment of a user's program, from whatever the user's own manager tells. Pure."""

from hypothesis import given
from hypothesis import strategies as st

from pcm.service.machine.linux.in_session import (
    MOST_BYTES,
    MOST_VARIABLES,
    ON_SCREEN,
    ask_session,
    session_environment,
)

HERE = {"PATH": "/usr/bin", "HOME": "/home/ada", "LANG": "C.UTF-8", "PCM_RUN_ID": "ab" * 16}
SETTLED = frozenset({"PATH", "HOME", "PCM_RUN_ID"})


def made(*session: str, on_screen: bool = False, display: str = "") -> dict[str, str]:
    return session_environment(HERE, session, SETTLED, on_screen=on_screen, display=display)


def test_the_session_adds_its_own_and_changes_nothing_that_is_settled() -> None:
    assert made("EDITOR=ed", "LANG=fr_FR.UTF-8", "PATH=/home/ada/bin", "HOME=/root") == {
        **HERE,
        "EDITOR": "ed",
        "LANG": "fr_FR.UTF-8",
    }


def test_what_loads_code_or_speaks_for_the_service_is_left_out() -> None:
    session = [
        "LD_PRELOAD=/evil.so",
        "LD_LIBRARY_PATH=/x",
        "PCM_JOB=j",
        "NOTIFY_SOCKET=/s",
        "LISTEN_FDS=3",
        "MANAGERPID=1",
    ]
    assert made(*session) == HERE


def test_displays_are_told_only_to_what_may_show_windows() -> None:
    session = [f"{name}=x" for name in sorted(ON_SCREEN)]
    assert made(*session) == HERE
    assert made(*session, on_screen=True).keys() >= ON_SCREEN


def test_the_sessions_display_serves_where_the_manager_was_never_told() -> None:
    assert made(on_screen=True, display=":3")["DISPLAY"] == ":3"
    assert "DISPLAY" not in made("WAYLAND_DISPLAY=wayland-0", on_screen=True, display=":3")
    assert "DISPLAY" not in made(display=":3")


def test_a_signed_display_stays() -> None:
    here = {**HERE, "DISPLAY": ":9"}
    assert session_environment(here, ["DISPLAY=:1"], SETTLED | {"DISPLAY"}, on_screen=False)["DISPLAY"] == ":9"


def test_a_flood_has_an_end() -> None:
    many = made(*(f"V{number}=x" for number in range(100_000)))
    assert len(many) == len(HERE) + MOST_VARIABLES
    assert made("A=1", "BIG=" + "x" * MOST_BYTES, "B=2") == {**HERE, "A": "1"}


@given(st.lists(st.text(max_size=40), max_size=40), st.booleans())
def test_nothing_that_is_told_breaks_it_or_changes_what_is_settled(session: list[str], on_screen: bool) -> None:
    found = made(*session, on_screen=on_screen)
    assert {name: found[name] for name in SETTLED} == {name: HERE[name] for name in SETTLED}
    for name, value in found.items():
        assert name
        assert name.isascii()
        assert "=" not in name
        assert "\0" not in name + value


def test_where_nobody_is_logged_on_nobody_is_asked() -> None:
    assert ask_session("") == []
