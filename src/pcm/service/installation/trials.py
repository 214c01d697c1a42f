"""A newer version comes on trial: the record, the unit that watches from the version before, and the way back.

Serves no step. `install` calls `begin` before it switches; `watch` calls `end` or `go_back`. Each step is durable before the next
one begins, and each may be done again: a power cut at any point leaves a version in use that is whole, and, from the switch on,
somebody enabled who looks after it (KB Q168463). What watches is a unit of its own, executed from the tree of the version before:
nothing of the version on trial takes part in the way back from it.
"""

import contextlib
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from pcm.model.errors import PcmError
from pcm.service.installation.layout import SERVICE, WATCH, Layout, current_version, switch
from pcm.service.installation.measures import MARK, Host, is_enrolled, measures
from pcm.service.machine.durable import storing_error, sync_folder, write_atomically
from pcm.service.trial import KEPT_RETURNS, Return, Returns, Trial, is_confirmed, read_record, write_record

PATIENCE_S = 15 * 60
LEAST_PATIENCE_S, MOST_PATIENCE_S = 30, 7 * 86_400
WATCHER = "lib/python3*/site-packages/pcm/service/installation/watch.py"
_UNIT = """\
{mark}: version {old} watches over the trial of another one. Gone once that trial is over.

[Unit]
Description=Package Command Manager, trial of another version
# it never gives up while the trial lasts
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=/opt/pcm/versions/{old}/bin/pcmsvc watch-update
Restart=on-failure
RestartSec=5s

[Install]
WantedBy=multi-user.target
"""


def wants_trial(host: Host, before: str | None) -> bool:
    """Whether another version has to show here that it works: a service is to run, and it has reached its site before.

    A client that has never reached its site would have nothing to go back for.
    """
    if before is None or not host.registration.is_up() or not is_enrolled(host.places):
        return False
    service = host.registration.service(SERVICE)
    reached = (host.places.state / "last-contact").exists()
    return (service.active or service.enabled) and reached and can_watch(host.layout, last_good(host, before))


def last_good(host: Host, before: str) -> str:
    """The version to go back to: the one in use, or while that is on trial itself, the one before it."""
    trial = read_record(Trial, host.layout.trial)
    if trial is None or trial.new != before or is_confirmed(trial, host.places):
        return before
    return trial.old


def can_watch(layout: Layout, version: str) -> bool:
    """Whether a version is here and knows how to watch over another one."""
    return any(layout.version(version).glob(WATCHER))


def begin(host: Host, before: str, new: str, patience_s: int, now: datetime) -> Trial:
    """Write the record, and have the last good version watch, now and after each boot. Nothing is switched yet.

    Raises:
        MachineError, StoreError: nothing was begun that counts.
    """
    old = last_good(host, before)
    until = now + timedelta(seconds=patience_s)
    trial = Trial(id=os.urandom(8).hex(), old=old, new=new, begun=now, until=until, patience_s=patience_s)
    write_record(host.layout.trial, trial)
    unit = host.layout.watch_unit
    unit.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(unit, _UNIT.format(mark=MARK, old=old).encode(), 0o644)
    host.registration.reload()
    host.registration.enable(WATCH)
    _sync(unit.parent)
    running = host.registration.service(WATCH).active
    (host.registration.restart if running else host.registration.start)(WATCH)
    return trial


def go_back(host: Host, trial: Trial, why: str, now: datetime, say: Callable[[str], None]) -> None:
    """Bring the version before back into use, and remember the other one as bad. Done again, it goes on where it was cut off.

    Raises:
        MachineError, StoreError, RequestError: it could not be switched; it is tried again.
    """
    remember(host, trial, why, now)
    if current_version(host.layout) != trial.old:
        say(f"version {trial.old} is in use again instead of {trial.new}: {why}")
    bring_into_use(host, trial.old, say)
    end(host)


def remember(host: Host, trial: Trial, why: str, now: datetime, *, untold: bool = False) -> None:
    """Write down, once, that a trial ended with the version before. `untold`: nothing is held against the other one.

    Raises:
        MachineError, StoreError: this disk.
    """
    known = read_record(Returns, host.layout.returns) or Returns()
    if any(each.id == trial.id for each in known.returns):
        return
    gone = Return(id=trial.id, old=trial.old, new=trial.new, at=now, why=why, untold=untold)
    bad = tuple(each for each in known.bad if each != trial.new) + (() if untold else (trial.new,))
    write_record(host.layout.returns, Returns(returns=(*known.returns, gone)[-KEPT_RETURNS:], bad=bad[-KEPT_RETURNS:]))


def bring_into_use(host: Host, version: str, say: Callable[[str], None]) -> None:
    """Switch to a version that is here, with all that belongs to it. Done again, it goes on where it was cut off.

    Raises:
        MachineError, StoreError, RequestError: it could not be switched; it is tried again.
    """
    if current_version(host.layout) != version:
        switch(host.layout, version)
    host.registration.reload()
    for measure in measures(host, start=False):
        try:
            if measure.look():
                measure.mend()
        except PcmError as error:  # the service may well run without it; `pcmsvc check` names it
            say(f"{measure.name}: {error.message}")
    service = host.registration.service(SERVICE)
    if service.active:
        host.registration.restart(SERVICE)
    elif service.enabled:
        host.registration.start(SERVICE)


def end(host: Host) -> None:
    """The trial is over: nobody watches any more. The record goes first, so that whoever still watches finds none.

    Raises:
        MachineError, StoreError: something could not be removed; it is tried again.
    """
    _remove(host.layout.trial)
    host.registration.disable(WATCH)
    unit = host.layout.watch_unit
    if unit.exists() and unit.read_bytes().startswith(MARK.encode()):
        _remove(unit)
        host.registration.reload()


def forget(host: Host, version: str) -> None:
    """An administrator wants this version once more, although it did not work.

    Raises:
        MachineError, StoreError: this disk.
    """
    known = read_record(Returns, host.layout.returns)
    if known is not None and version in known.bad:
        write_record(
            host.layout.returns,
            Returns(returns=known.returns, bad=tuple(each for each in known.bad if each != version)),
        )


def why_bad(layout: Layout, version: str) -> str:
    """Why this version is not installed again by itself; empty if it may be."""
    known = read_record(Returns, layout.returns)
    if known is None or version not in known.bad:
        return ""
    return next((each.why for each in reversed(known.returns) if each.new == version), "It did not work.")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_folder(path.parent)
    except OSError as error:
        raise storing_error(error, path) from error


def _sync(folder: Path) -> None:
    """Make durable what systemctl has linked."""
    for each in (folder, folder / "multi-user.target.wants"):
        with contextlib.suppress(OSError):
            sync_folder(each)
