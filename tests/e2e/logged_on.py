"""People who are logged on to a booted host: real sessions, opened through PAM as `login` does, with a systemd of their own each.

desk = Desk(host)
desk.log_on("alice")
desk.as_user("alice", "systemctl --user show-environment")
desk.log_off("alice")
"""

import shlex

from tests.e2e.booted_host import BootedHost
from tests.e2e.hosts import wait_for

_SESSION_OF = "for s in /run/systemd/sessions/*[0-9]; do grep -qsx USER={user} $s && grep -qsx STATE=active $s && echo $s; done; :"


class Desk:
    """Who sits at a host."""

    def __init__(self, host: BootedHost) -> None:
        self.host = host

    def add(self, *users: str) -> None:
        """Make accounts, each with a home."""
        for user in users:
            self.host.shell(f"id {user} >/dev/null 2>&1 || useradd --create-home {user}")

    def log_on(self, user: str, kind: str = "tty", session: str = "user") -> None:
        """Open a session and wait until the user's own systemd is there."""
        self.add(user)
        variables = f"-E XDG_SESSION_CLASS={session} -E XDG_SESSION_TYPE={kind}"
        self.host.shell(
            f"systemd-run -q --collect --unit=desk-{user} -p PAMName=login -p User={user} {variables} sleep 3600"
        )
        wait_for(lambda: self.session_of(user), f"{user} logged on")
        if session == "user":
            number = self.number(user)
            wait_for(
                lambda: self.host.shell(f"systemctl is-active user@{number} || :") == "active\n",
                f"{user}'s own systemd",
            )

    def log_off(self, user: str) -> None:
        """End the session."""
        self.host.shell(f"systemctl stop desk-{user}")
        wait_for(lambda: not self.session_of(user), f"{user} logged off")

    def only(self, *users: str) -> None:
        """Have these people logged on, and nobody else."""
        here = set(self.host.shell("cat /run/systemd/sessions/*[0-9] 2>/dev/null | sed -n 's/^USER=//p'").split())
        for user in sorted(here - set(users)):
            self.log_off(user)
        for user in users:
            if user not in here:
                self.log_on(user)

    def session_of(self, user: str) -> str:
        """Name of the user's session; nothing if there is none."""
        return self.host.shell(_SESSION_OF.format(user=user)).strip().rpartition("/")[2]

    def number(self, user: str) -> int:
        """The account's number."""
        return int(self.host.shell(f"id -u {user}"))

    def as_user(self, user: str, script: str, *, check: bool = True) -> str:
        """Run a script with the rights of a user and the address of his session; what it printed."""
        number = self.number(user)
        variables = f"XDG_RUNTIME_DIR=/run/user/{number} HOME=/home/{user}"
        command = f"cd /; setpriv --reuid={user} --regid={user} --init-groups env {variables} /bin/sh -c {shlex.quote(script)}"
        return self.host.shell(command, check=check)
