"""`pcmsvc remove`: the service is gone from this computer; with `--purge` its key, records and account too.

Serves no step. What programs installed stays: it belongs to the computer. It refuses while a program runs, because that program's
end and result are the service's to keep; `wait` waits for it. Doing it again does nothing. What cannot be undone comes last.
"""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pcm.model.errors import MachineError, PcmError, RequestError
from pcm.service.installation import links, trials
from pcm.service.installation.install import require_rights
from pcm.service.installation.layout import SERVICE, WATCH
from pcm.service.installation.measures import MARK, NETWORK_ACCOUNT, Host
from pcm.service.installation.release import DESCRIPTION
from pcm.service.machine.durable import storing_error
from pcm.service.state import State

_SETTLE_S = 20.0
_LOOK_EVERY_S = 0.2


def remove(
    host: Host,
    clock: Callable[[], datetime],
    say: Callable[[str], None],
    *,
    purge: bool = False,
    wait: bool = False,
    keep_program: bool = False,
) -> list[str]:
    """Remove the service.

    Args:
        purge: also key, configuration, records and the network account; the site then knows a client that never comes back.
        wait: for a program that runs, however long that takes.
        keep_program: leave the program's files to the system's own package tool, which asks for this.

    Returns:
        What was done, each in a sentence.

    Raises:
        MachineError: `machine.rights`, `machine.busy` (a program runs: nothing was changed), `machine.*`.
        RequestError: `installation.packaged`: the system's own package tool has to do it.
    """
    require_rights(host)
    if (host.layout.package / DESCRIPTION).is_file() and not keep_program:
        raise RequestError(
            "This client came as a package of the system, which has to remove it: apt-get remove pcm-client (or purge), or "
            "dnf remove pcm-client. Nothing was changed.",
            code="installation.packaged",
        )
    did: list[str] = []

    def done(told: str) -> None:
        did.append(told)
        say(told)

    if not wait and (running := _running(host, clock)):
        raise _busy(running)
    _stop(host, clock, done, wait=wait)
    _end_trial(host, done)
    if host.registration.service(SERVICE).enabled:
        host.registration.disable(SERVICE)
        done("the service does not start with the computer any more")
    _remove_unit(host, done)
    if not keep_program:
        links.remove(host.layout, done)
    _delete(host.places.runtime)
    if purge:
        for folder in (host.places.state, host.places.config):
            if _delete(folder):
                done(f"{folder} is gone")
        if host.registration.has_account(NETWORK_ACCOUNT):
            host.registration.delete_account(NETWORK_ACCOUNT)
            done(f"the account {NETWORK_ACCOUNT} is gone")
    if not keep_program and _delete(host.layout.program):
        done(f"{host.layout.program} is gone")
    return did


def _running(host: Host, clock: Callable[[], datetime]) -> str:
    """Which program runs now, if one does."""
    if not host.places.database.exists():
        return ""
    try:
        with State.open(host.places.state, clock(), repair=False) as state:
            found = state.rows("SELECT instruction, program FROM runs WHERE finished = 0 LIMIT 1")
    except PcmError:
        return ""  # records that cannot be read keep nobody from removing them
    if not found:
        return ""
    try:
        host.machine.lock_instance(host.places.work_lock).release()
    except MachineError:
        return f"{found[0][1]} of {found[0][0]}"
    return ""  # nobody works: it was cut off, and nobody needs its end any more


def _busy(running: str) -> MachineError:
    return MachineError(
        f"A program runs here now ({running}), and its result would be lost. Nothing was changed: try again later, or give "
        "--wait.",
        code="machine.busy",
    )


def _stop(host: Host, clock: Callable[[], datetime], done: Callable[[str], None], *, wait: bool) -> None:
    """Stop what runs; first what watches over a trial: it might bring another version back while all of them go."""
    watching = host.registration.service(WATCH).active
    host.registration.stop(WATCH)
    try:
        _stop_service(host, clock, done, wait=wait)
    except MachineError:
        if watching:
            host.registration.start(WATCH)
        raise


def _stop_service(host: Host, clock: Callable[[], datetime], done: Callable[[str], None], *, wait: bool) -> None:
    """Stop the service, and its worker with it: a stopped service begins nothing new, and a check ends by itself."""
    was_active = host.registration.service(SERVICE).active
    if was_active:
        host.registration.stop(SERVICE)
    end = time.monotonic() + _SETTLE_S
    while host.places.runtime.is_dir():
        try:
            host.machine.lock_instance(host.places.work_lock).release()
            break
        except MachineError as error:
            if error.code != "machine.already_running":
                raise
            if not wait and time.monotonic() > end:
                if was_active:
                    host.registration.start(SERVICE)
                raise _busy(_running(host, clock) or "a check that does not end") from None
        time.sleep(_LOOK_EVERY_S)
    if was_active:
        done("the service was stopped")


def _end_trial(host: Host, done: Callable[[str], None]) -> None:
    if host.layout.trial.exists() or host.layout.watch_unit.exists():
        trials.end(host)
        done("the trial of this version is over")
    host.layout.returns.unlink(missing_ok=True)


def _remove_unit(host: Host, done: Callable[[str], None]) -> None:
    unit = host.layout.own_unit
    with suppress(FileNotFoundError):
        if not unit.is_symlink() and unit.read_bytes().startswith(MARK.encode()):
            unit.unlink()
            done(f"{unit} is gone")
            host.registration.reload()


def _delete(folder: Path) -> bool:
    """Remove a folder with all that is in it; whether there was one. Nothing is followed out of it."""
    if folder.is_symlink():
        raise MachineError(
            f"{folder} is a symbolic link; what it leads to is not removed. Remove both by hand.",
            code="machine.unprotected",
        )
    if not folder.exists():
        return False
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise storing_error(error, folder) from error
    return True
