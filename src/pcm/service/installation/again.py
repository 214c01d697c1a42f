"""A trial that ended without an answer: the network may have been away. Nothing is held against a version until that is known.

Serves no step; beside `watch`, which calls it. The version before comes back into use, and what *it* reaches tells whose fault
it was: if it reaches the site at once, the version on trial was bad; if it does so only later, there was no network, and the
version has another trial, now that there is one. So often, and for so long, as is said here, then it is given up, and nothing is
held against it. Each step is written into `trial.json` before it is taken, and may be taken again after a power cut.
"""

import os
from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import structs

from pcm.service.installation.measures import Host
from pcm.service.installation.release import DESCRIPTION
from pcm.service.installation.trials import bring_into_use, end, remember
from pcm.service.trial import Trial, last_contact, write_record

MOST_TRIES = 3
"""So many trials without an answer a version has."""
MOST_UNTOLD_S = 30 * 86_400.0
"""So long the network may be away before a version is given up."""
AT_ONCE_S = 180.0
"""Within this, and no less than a third of the trial, the version before has reached the site at once: it asks each minute."""


def at_once_s(trial: Trial) -> float:
    """How soon after its return the version before must reach the site to show that there was a network."""
    return max(AT_ONCE_S, trial.patience_s / 3)


def turn_back(host: Host, trial: Trial, why: str, now: datetime, say: Callable[[str], None]) -> None:
    """Bring the version before back into use, without a verdict on the other one.

    Raises:
        MachineError, StoreError, RequestError: it could not be switched; it is tried again.
    """
    if trial.stage != "returning":
        trial = structs.replace(
            trial, stage="returning", tries=trial.tries + 1, contact=last_contact(host.places), why=why
        )
        write_record(host.layout.trial, trial)
        say(f"version {trial.old} is to show whether the site can be reached: {why}")
    bring_into_use(host, trial.old, say)
    write_record(host.layout.trial, structs.replace(trial, stage="untold", since=now))


def try_again(host: Host, trial: Trial, now: datetime, say: Callable[[str], None]) -> None:
    """Give the version another trial, of its own number: what an earlier one confirmed does not count for it.

    Raises:
        MachineError, StoreError, RequestError: it could not be switched; it is tried again.
    """
    if trial.stage != "again":
        trial = structs.replace(trial, id=os.urandom(8).hex(), stage="again", since=None, why="")
        write_record(host.layout.trial, trial)
        say(f"the site is reached: version {trial.new} has another trial")
    bring_into_use(host, trial.new, say)
    until = now + timedelta(seconds=trial.patience_s)
    write_record(host.layout.trial, structs.replace(trial, stage="trial", begun=now, until=until))


def give_up(host: Host, trial: Trial, why: str, now: datetime) -> None:
    """No further trial by itself. Whoever installs the version again begins anew.

    Raises:
        MachineError, StoreError: this disk.
    """
    remember(host, trial, f"{why} Nothing is held against it; it may be installed again.", now, untold=True)
    end(host)


def is_whole(host: Host, version: str) -> bool:
    """Whether there is a version here to try again."""
    return (host.layout.version(version) / DESCRIPTION).is_file()
