"""People at the computer, as values: who is logged on, and whether they should rather not be disturbed. Serves steps 7, 9 and 10.

`interface` shows these as its own. They decide nothing.
"""

from typing import NamedTuple


class Session(NamedTuple):
    """Somebody who is logged on.

    Attributes:
        active: in the foreground of its seat, or a live remote terminal.
        name: what the system calls the session.
        kind: `tty`, `x11`, `wayland` ...; empty where nobody says.
        display: of an X11 session: where it shows its windows (`:0`).
    """

    user: str
    user_id: int
    active: bool
    remote: bool
    name: str = ""
    kind: str = ""
    display: str = ""


class Engaged(NamedTuple):
    """Why work that may wait should wait: `presentation`, `battery`, `metered`. `locked`: every screen is locked."""

    busy: tuple[str, ...] = ()
    locked: bool = False
