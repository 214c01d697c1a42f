"""Noticing that somebody logs on or off, for the resident supervisor. Serves step 7: what waits for a person waits no longer.

systemd-logind keeps a file for each session in one folder (sd-login(3) watches the same), and the kernel tells by a signal when
that folder changes (fcntl(2), F_NOTIFY): no process, no bus and no library more. Where it does not tell, or there is no such
folder yet, the next look does, at every waking. It reads no more than whether a session is a person's: a greeter, a lock screen
or a cron job is nobody. Standard library only, for a process that stays for ever.
"""

import os

SIGNAL = 29  # SIGIO on x86 and ARM; `signal` would cost the resident process a megabyte
FOLDER = "/run/systemd/sessions"
_MOST_BYTES = 4096


class Logons:
    """Sessions of people, as they come and go. `SIGNAL` must be handled before the first look: unhandled, it ends a process."""

    def __init__(self, folder: str = FOLDER) -> None:
        self._folder = folder
        self._watched = -1
        self._people: set[str] = set()

    def changed(self) -> bool:
        """Look: whether somebody has logged on or off since the last look."""
        try:
            if self._watched < 0:
                self._watch()
            names = [name for name in os.listdir(self._folder) if not name.endswith(".ref")]  # noqa: PTH208 - no pathlib here
        except OSError:
            names = []
        before, self._people = self._people, {name for name in names if self._is_person(name)}
        return self._people != before

    def _watch(self) -> None:
        import fcntl  # noqa: PLC0415 - loaded for the lock already

        self._watched = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            changes = fcntl.DN_CREATE | fcntl.DN_DELETE | fcntl.DN_RENAME | fcntl.DN_MULTISHOT
            fcntl.fcntl(self._watched, fcntl.F_NOTIFY, changes)
        except OSError:
            return  # a kernel without it: every waking looks

    def _is_person(self, name: str) -> bool:
        try:
            file = os.open(f"{self._folder}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            told = os.read(file, _MOST_BYTES)
        except OSError:
            return False
        finally:
            os.close(file)
        return b"\nCLASS=user" in told and b"\nSTATE=closing" not in told
