"""`pcmsvc install` and `repair`: this computer has the program, and what the program needs; each may be done again and again.

Serves no step; comes before enrolment, and does that too if a kit is given. The order: everything that can be refused is refused
before anything is changed (rights, a damaged tree, an older version, a kit of another site); then the version is placed beside
the one in use, and switched to; then the measures; then the site is asked; only then the service starts. A wrong token leaves
a program that is installed and a service that waits, and says so (KB Q174938, Q190832).
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pcm.model.errors import MachineError, PcmError, RequestError, StoreError, TransferError, TrustError
from pcm.model.versions import compare_versions
from pcm.protocol.enrolment import ClientConfiguration
from pcm.service.check import PENDING
from pcm.service.configuration import load_configuration
from pcm.service.enrolment import Enrolled, Kit, bring_up_to_date, check_free, enroll
from pcm.service.facts import read_facts
from pcm.service.installation import pinned_files, trials
from pcm.service.installation.layout import (
    SERVICE,
    collect,
    current_version,
    place,
    read_own_release,
    switch,
)
from pcm.service.installation.measures import Host, Measure, doubts, is_enrolled, measures
from pcm.service.installation.release import Release, file_problem
from pcm.service.installation.trials import PATIENCE_S
from pcm.service.state import State
from pcm.service.trial import Trial, read_record


class Installed(NamedTuple):
    """What was done (or, in a dry run, would be), each in a sentence; and how the enrolment ended, if there was one."""

    done: list[str]
    enrolled: Enrolled | None = None


class Wish(NamedTuple):
    """What the administrator asked for.

    `kit`: enrol with it. `keep_newer`: leave a newer version alone instead of refusing (packages). `dry_run`: change nothing.
    `again`: also a version that was here and did not work. `trial_s`: how long a newer version may take to show that it works;
    0: it need not.
    """

    kit: Kit | None = None
    token: str | None = None
    keep_newer: bool = False
    dry_run: bool = False
    again: bool = False
    trial_s: int = PATIENCE_S


def install(host: Host, wish: Wish, clock: Callable[[], datetime], say: Callable[[str], None]) -> Installed:
    """Install this version, or bring the client that is here to it.

    Args:
        say: is told each thing once it is done, in a sentence.

    Raises:
        RequestError: `installation.downgrade`, `conflict`, or what the site says. MachineError: `machine.rights`,
            `installation.*`, `machine.registration`. TransferError, StoreError: see `enrolment`.
    """
    require_rights(host)
    source = read_own_release(host.layout)
    if source is None:
        raise MachineError(
            "This pcmsvc was not installed as a whole (it runs from a source folder or a virtual environment), so there is "
            "nothing to install. Use the package or the setup file (make packages).",
            code="installation.source",
        )
    tree, release = source
    _check_platform(release)
    before = current_version(host.layout)
    if before is not None and compare_versions(before, release.version) > 0:
        if not wish.keep_newer:
            raise RequestError(
                f"Version {before} is here, which is newer than {release.version}. Nothing was changed. To go back, remove the "
                "client first: its key and records stay (sudo pcmsvc remove).",
                code="installation.downgrade",
            )
        say(f"Version {before} is here, which is newer than {release.version}: it stays.")
        return Installed([])
    why_bad = trials.why_bad(host.layout, release.version)
    if why_bad and before != release.version and not wish.again:
        if not wish.keep_newer:
            raise RequestError(
                f"Version {release.version} was here, and version {before} had to come back. {why_bad} Nothing was changed. To "
                "try it once more: --again.",
                code="installation.returned",
            )
        say(f"Version {release.version} was here and did not work ({why_bad}): version {before} stays.")
        return repair(
            host, say, dry_run=wish.dry_run, start=False
        )  # a package has brought its own definition of the service
    is_new = before is None or not is_enrolled(host.places)
    kit = _usable(host, wish.kit, say)
    lost = doubts(host)
    work = _Work(say, wish.dry_run)
    _place(host, work, tree, release)
    _put_on_trial(host, work, wish, before, release.version, clock)
    _switch(host, work, before, release.version)
    _mend(work, measures(host, start=False))
    enrolled = _enrol(host, work, kit, wish.token, clock) if kit is not None else None
    _start(host, work, is_new=is_new, is_other=before not in {None, release.version})
    if not wish.dry_run:
        for gone in collect(host.layout, host.registration.trees_in_use(host.layout.versions) | _on_trial(host)):
            work.done(f"removed version {gone}")
    if kit is None:
        _ask_for_kit(host, work, lost)
    return Installed(work.did, enrolled)


def repair(host: Host, say: Callable[[str], None], *, dry_run: bool = False, start: bool = True) -> Installed:
    """Put right whatever `pcmsvc check` names of the installation. Enrolment, key and records are not touched.

    Args:
        start: False: whether the service runs is left as it is.

    Raises:
        MachineError, StoreError, RequestError: the first thing that cannot be put right, with its remedy; the others were tried.
    """
    require_rights(host)
    work = _Work(say, dry_run)
    lost = doubts(host)
    _mend(work, measures(host, start=start))
    _ask_for_kit(host, work, lost)
    return Installed(work.did)


def require_rights(host: Host) -> None:
    """Only an administrator installs.

    Raises:
        MachineError: `machine.rights`.
    """
    if not host.machine.is_administrator():
        raise MachineError("Only an administrator can do this; use sudo. Nothing was changed.", code="machine.rights")


class _Work:
    """Does things, or only says them; remembers which."""

    def __init__(self, say: Callable[[str], None], dry_run: bool) -> None:
        self._say = say
        self.dry_run = dry_run
        self.did: list[str] = []

    def do(self, told: str, action: Callable[[], object]) -> None:
        if not self.dry_run:
            action()
        self.done(told)

    def done(self, told: str) -> None:
        self.did.append(told)
        self._say(told)


def _ask_for_kit(host: Host, work: _Work, lost: list[pinned_files.Doubt]) -> None:
    """What others could write was set aside: until there is a kit again, this computer is nobody's client, and says so."""
    if lost and not work.dry_run:
        told = " ".join(pinned_files.in_words(lost, host.places))
        raise MachineError(
            f"Set aside, as *.untrusted-N in {host.places.config}: {told}", code="installation.untrusted"
        )


def _check_platform(release: Release) -> None:
    here = read_facts().platform
    if release.platform != here:
        raise MachineError(
            f"This is the client for {release.platform}, and this computer is {here}. Nothing was changed.",
            code="installation.platform",
        )


def _usable(host: Host, kit: Kit | None, say: Callable[[str], None]) -> Kit | None:
    """The kit, unless this client's own configuration has to stay.

    Raises:
        RequestError: `conflict`: this computer is a client of another site, whatever that is called.
    """
    if kit is None or not is_enrolled(host.places) or pinned_files.needs_kit(doubts(host), host.places):
        return kit
    present = load_configuration(host.places)
    if present.site == kit.configuration.site and _roots(present) != _roots(kit.configuration):
        from pcm.service.installation.lineage import is_of_same_keepers  # noqa: PLC0415 - loads tuf, hardly ever

        if is_of_same_keepers(host.places, present, kit.configuration):
            # what is pinned here follows the ceremony by itself
            say(f"The kit is of another time of site {present.site}, with other roots: the configuration here stays.")
            return None
    check_free(host.places, kit.configuration)
    return kit


def _roots(configuration: ClientConfiguration) -> tuple[str, str]:
    return configuration.instructions_root, configuration.packages_root


def _place(host: Host, work: _Work, tree: Path, release: Release) -> None:
    target = host.layout.version(release.version)
    lacking = 0 if tree == target else sum(1 for file in release.files if file_problem(target, file))
    if lacking:
        work.do(f"placed {lacking} files in {target}", lambda: place(host.layout, tree, release))
    elif tree != target:
        place(host.layout, tree, release) if not work.dry_run else None  # what is too much goes, the description comes


def _put_on_trial(
    host: Host, work: _Work, wish: Wish, before: str | None, new: str, clock: Callable[[], datetime]
) -> None:
    """Before the switch: from there on the version before watches over the new one. Without a trial nobody does."""
    if before is None or before == new:
        return
    if wish.again and not work.dry_run:
        trials.forget(host, new)
    if wish.trial_s and trials.wants_trial(host, before):
        old = trials.last_good(host, before)
        told = f"version {new} is on trial: {old} comes back unless it reaches the site within {_span(wish.trial_s)}"
        work.do(told, lambda: trials.begin(host, before, new, wish.trial_s, clock()))
    elif not work.dry_run and host.layout.trial.exists():
        trials.end(host)


def _span(seconds: int) -> str:
    return f"{seconds // 60} min" if seconds % 60 == 0 else f"{seconds} s"


def _on_trial(host: Host) -> set[str]:
    trial = read_record(Trial, host.layout.trial)
    return set() if trial is None else {trial.old, trial.new}


def _switch(host: Host, work: _Work, before: str | None, version: str) -> None:
    if before != version:
        said = f"version {version} is in use" + (f" instead of {before}" if before else "")
        work.do(said, lambda: switch(host.layout, version))
        if not work.dry_run:
            host.registration.reload()  # a package may have brought another definition of the service


def _mend(work: _Work, wanted: list[Measure]) -> None:
    """Every measure is tried; the first that fails is told at the end, by raising what it raised."""
    first: PcmError | None = None
    for measure in wanted:
        try:
            problems = measure.look()
        except PcmError as error:
            problems = [error.message]
        if not problems:
            continue
        try:
            work.do(f"{measure.name}: {measure.holds} (was: {' '.join(problems[:3])})", measure.mend)
            left = [] if work.dry_run else measure.look()
            if left:
                raise MachineError(
                    f"{measure.name}: {' '.join(left[:5])} Remedy: {measure.remedy}.", code="installation.unmet"
                )
        except PcmError as error:
            first = first or error
    if first is not None:
        raise first


def _enrol(host: Host, work: _Work, kit: Kit, token: str | None, clock: Callable[[], datetime]) -> Enrolled | None:
    site = kit.configuration.site
    obeys = is_enrolled(host.places) and not pinned_files.needs_kit(doubts(host), host.places)
    if obeys and not _waits(host, clock):
        # its key is known there: no server need be asked, and no token is used up
        told = f"client of site {site}: servers are those of the kit"
        work.do(told, lambda: bring_up_to_date(host.places, kit.configuration))
        return None
    if work.dry_run:
        work.done(f"site {site} is asked to take this computer as a client")
        return None
    try:
        enrolled = enroll(host.places, host.machine, kit, token, clock)
    except PcmError as error:
        raise _honest(error) from error
    with State.open(host.places.state, clock()) as state:
        state.set_meta(PENDING, "1" if enrolled.pending else "")
    work.done(
        f"site {site} was asked; an administrator has to approve this computer there: {enrolled.identity.fingerprint()}"
        if enrolled.pending
        else f"this computer is a client of site {site}"
    )
    return enrolled


def _honest(error: PcmError) -> PcmError:
    """The same error, with what is and what is not done now, and what to do about it."""
    roots = (RequestError, TransferError, TrustError, StoreError, MachineError, PcmError)
    kind = next(each for each in roots if isinstance(error, each))
    remedy = (
        "Ask the site's administrator for a new token (pcm client token), then: pcmsvc install --kit KIT --token TOKEN."
        if error.code == "not_allowed"
        else "Once that is mended, the same command may be given again."
    )
    told = (
        f"{error.message.rstrip('.')}. The program is installed, and the service waits until there is a site. {remedy}"
    )
    return kind(told, code=error.code, retry=error.retry)


def _waits(host: Host, clock: Callable[[], datetime]) -> bool:
    """Whether an earlier enrolment still waits for an administrator: a token may now let it in."""
    with State.open(host.places.state, clock()) as state:
        return bool(state.meta(PENDING))


def _start(host: Host, work: _Work, *, is_new: bool, is_other: bool) -> None:
    registration = host.registration
    service = registration.service(SERVICE)
    if not service.enabled and is_new:  # later on it is the administrator's choice
        work.do("the service starts with the computer", lambda: registration.enable(SERVICE))
    if not registration.is_up() or not is_enrolled(host.places):
        return
    if service.active and is_other:
        work.do("the service was restarted", lambda: registration.restart(SERVICE))
    elif not service.active and (service.enabled or is_new):
        work.do("the service was started", lambda: registration.start(SERVICE))
