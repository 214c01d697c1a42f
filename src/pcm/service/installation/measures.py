"""What has to hold on this computer for the service to be installed: each measure with a look, and with what puts it right.

Serves no step. One list for everything: `pcmsvc check` shows what does not hold, `repair` puts it right, `install` is `place`,
`switch` and the same list, `--dry-run` is the list without the doing (KB Q169476, Q174648, Q173785: an installer that may be run
again, and that believes only what it sees). A look changes nothing.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pcm.model.errors import MachineError, PcmError
from pcm.protocol.local import Requirement
from pcm.service.configuration import load_configuration
from pcm.service.installation import links, pinned_files
from pcm.service.installation.layout import (
    COMMANDS,
    SERVICE,
    Layout,
    current_version,
    own_tree,
    place,
    read_own_release,
    switch,
)
from pcm.service.installation.release import mend_modes, read_release, tree_problems
from pcm.service.machine.durable import pinned, set_mode, storing_error, write_atomically
from pcm.service.machine.here import this_machine, this_registration
from pcm.service.machine.interface import Machine, Problem
from pcm.service.machine.registration import Registration
from pcm.service.places import Places, create_places, find_problems

NETWORK_ACCOUNT = "_pcm"
MARK = "# Part of Package Command Manager"  # the first line of the unit: it is ours, and may be replaced
_MOST_TOLD = 5
# also what would let a file that somebody else has made run with the rights of its new owner
_NOBODY_ELSES = stat.S_IWGRP | stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID
_AGAIN = (
    "install it again: the package (apt-get install --reinstall pcm-client, dnf reinstall pcm-client) or the setup file"
)
_REPAIR = "sudo pcmsvc repair"


class Host(NamedTuple):
    """Where and what is installed: the places of the program and of the service, and who does it."""

    layout: Layout
    places: Places
    machine: Machine
    registration: Registration


class Measure(NamedTuple):
    """One thing that has to hold.

    `look` says what is wrong, in sentences; nothing if it holds. `mend` puts it right or raises PcmError. `holds`: what to say
    when nothing is wrong.
    """

    name: str
    holds: str
    look: Callable[[], list[str]]
    mend: Callable[[], None]
    remedy: str = _REPAIR


def measures(host: Host, *, start: bool = True) -> list[Measure]:
    """Every measure, in the order in which they are mended.

    Args:
        start: False leaves out whether the service is enabled and runs.
    """
    found = [
        Measure(
            "program files",
            "as they were made, and writable by administrators only",
            lambda: _program_problems(host),
            lambda: _mend_program(host),
            f"{_REPAIR}; if it does not help, {_AGAIN}",
        ),
        Measure(
            "commands",
            " and ".join(COMMANDS) + " lead to the version in use, and shells can complete them",
            lambda: links.problems(host.layout),
            lambda: links.mend(host.layout),
        ),
        Measure(
            "network account",
            f"{NETWORK_ACCOUNT} is there and has no rights",
            lambda: _account_problems(host),
            lambda: host.registration.create_account(NETWORK_ACCOUNT, "Package Command Manager, network side"),
        ),
        Measure(
            "trusted files",
            "nobody but administrators wrote configuration, pinned roots and account",
            lambda: pinned_files.in_words(doubts(host), host.places),
            lambda: _mend_trusted(host),
            f"{_REPAIR} sets them aside; then {pinned_files.GIVE_KIT}",
        ),
        Measure(
            "folders",
            "owners and modes are right",
            lambda: _folder_problems(host),
            lambda: _mend_folders(host),
        ),
        Measure(
            "service definition",
            "the one of the version in use",
            lambda: _unit_problems(host),
            lambda: _mend_unit(host),
        ),
    ]
    return [*found, *_running(host)] if start else found


def requirements(host: Host) -> Iterator[Requirement]:
    """The measures as `pcmsvc check` shows them."""
    for measure in measures(host):
        try:
            problems = measure.look()
        except PcmError as error:
            problems = [error.message]
        if problems:
            more = f" (and {len(problems) - _MOST_TOLD} more)" if len(problems) > _MOST_TOLD else ""
            yield Requirement(measure.name, False, " ".join(problems[:_MOST_TOLD]) + more, measure.remedy)
        else:
            yield Requirement(measure.name, True, measure.holds)


def installed_here(places: Places) -> list[Requirement]:
    """The measures of this computer, for `pcmsvc check`; none where this code runs from a checkout or in a folder of its own."""
    if places.home is not None or own_tree() is None:
        return []
    return list(requirements(Host(Layout(), places, this_machine(), this_registration())))


def _running(host: Host) -> list[Measure]:
    def disabled() -> list[str]:
        service = host.registration.service(SERVICE)
        return [] if service.enabled else ["The service does not start with the computer."]

    def stopped() -> list[str]:
        if not host.registration.is_up() or not is_enrolled(host.places):
            return []  # it has nothing to do yet
        service = host.registration.service(SERVICE)
        return [] if service.active else ["The service does not run."]

    return [
        Measure(
            "service at boot",
            "it starts with the computer",
            disabled,
            lambda: host.registration.enable(SERVICE),
            "sudo systemctl enable pcmsvc",
        ),
        Measure(
            "service",
            "it runs" if is_enrolled(host.places) else "it starts once this computer is enrolled",
            stopped,
            lambda: host.registration.start(SERVICE),
            "sudo systemctl start pcmsvc; journalctl -u pcmsvc tells why it stopped",
        ),
    ]


def is_enrolled(places: Places) -> bool:
    """Whether this computer has a configuration that can be read."""
    try:
        load_configuration(places)
    except PcmError:
        return False
    return True


# ---- the program


def _tree(host: Host) -> Path:
    version = current_version(host.layout)
    if version is None:
        raise MachineError(f"{host.layout.current} leads to no version of the program.", code="installation.damaged")
    return host.layout.version(version)


def _program_problems(host: Host) -> list[str]:
    tree = _tree(host)
    protected = [problem.message for problem in host.machine.check_protected(tree)]
    return [*protected, *tree_problems(tree, read_release(tree))]


def _mend_program(host: Host) -> None:
    """Modes and owners first; then contents, from what a package or a setup brought, so far as that is whole."""
    _mend_above(host.layout.versions, host)
    own = read_own_release(host.layout)
    if current_version(host.layout) is None and own is not None and (host.layout.version(own[1].version)).is_dir():
        switch(host.layout, own[1].version)
    tree = _tree(host)
    try:
        mend_modes(tree, read_release(tree))
        if own is not None and own[0] != tree and own[1].version == tree.name:
            mend_modes(*own)
    except OSError as error:
        raise storing_error(error, tree) from error
    if own is not None and own[0] != tree and own[1].version == tree.name:
        place(host.layout, *own)


# ---- account and folders


def _account_problems(host: Host) -> list[str]:
    if not host.registration.has_account(NETWORK_ACCOUNT):
        return [f"There is no account {NETWORK_ACCOUNT}, under which the service speaks to networks."]
    account = host.machine.account(NETWORK_ACCOUNT)
    if 0 in {account.user_id, account.group_id}:
        return [f"The account {NETWORK_ACCOUNT} has an administrator's rights: remove it (userdel {NETWORK_ACCOUNT})."]
    return []


def _folder_problems(host: Host) -> list[str]:
    program = _program_places(host)
    problems = [each.message for each in find_problems(host.places, host.machine) if each not in program]
    for folder, mode in _modes(host.places).items():
        if folder.is_dir() and not folder.is_symlink() and stat.S_IMODE(folder.stat().st_mode) != mode:
            problems.append(f"{folder} has mode {stat.S_IMODE(folder.stat().st_mode):04o} instead of {mode:04o}.")
    return list(dict.fromkeys(problems))


def _program_places(host: Host) -> list[Problem]:
    """What is told of the program, and of the folders above it, under its own name."""
    try:
        tree = _tree(host)
    except MachineError:
        return []
    return [problem for path in (tree, *tree.glob("bin/*")) for problem in host.machine.check_protected(path)]


def _modes(places: Places) -> dict[Path, int]:
    private = (places.metadata, places.store, places.runs)
    return {places.config: 0o755, places.runtime: 0o755, places.state: 0o711, places.staging: 0o711} | dict.fromkeys(
        private, 0o700
    )


def doubts(host: Host) -> list[pinned_files.Doubt]:
    """The files that say whom to obey, so far as somebody else may have written them."""
    is_open = host.places.config.exists() and bool(host.machine.check_protected(host.places.config))
    return pinned_files.doubtful(host.places, is_open=is_open)


def _mend_trusted(host: Host) -> None:
    """First nobody else can bring another file; then what is there is looked at, and set aside."""
    is_open = host.places.config.exists() and bool(host.machine.check_protected(host.places.config))
    _mend_above(host.places.config, host)
    pinned_files.set_aside(host.places, pinned_files.doubtful(host.places, is_open=is_open))


def _mend_folders(host: Host) -> None:
    """Owners first: nothing is made below a folder that is still somebody else's."""
    _mend_trusted(host)  # what would say whom to obey is never taken over
    for _ in range(8):  # what lies below an unreadable folder shows once that is mended
        problems = [each for each in find_problems(host.places, host.machine) if each.code in {"owner", "writable"}]
        if not problems:
            break
        for problem in problems:
            _own(Path(problem.path))
    create_places(host.places)
    for folder, mode in _modes(host.places).items():
        _set_mode(folder, mode)
    for secret in (host.places.identity, host.places.new_identity, host.places.database, host.places.account):
        if secret.is_file() and not secret.is_symlink():
            _own(secret)
            _set_mode(secret, 0o600)


def _mend_above(folder: Path, host: Host) -> None:
    for problem in host.machine.check_protected(folder):
        if problem.code in {"owner", "writable"}:
            _own(Path(problem.path))


def _own(path: Path) -> None:
    """Give something to administrators, and take everybody else's right to change it."""
    try:
        with pinned(path) as (held, status):
            if stat.S_ISLNK(status.st_mode):
                return  # named by the check; where it leads is nobody's business here
            if status.st_uid not in {0, os.geteuid()}:
                os.chown(held, os.geteuid(), os.getegid())
            if status.st_mode & _NOBODY_ELSES:
                held.chmod(stat.S_IMODE(status.st_mode) & ~_NOBODY_ELSES)
    except OSError as error:
        raise storing_error(error, path) from error


def _set_mode(path: Path, mode: int) -> None:
    try:
        set_mode(path, mode)
    except OSError as error:
        raise storing_error(error, path) from error


# ---- the service's definition


def shipped_unit(host: Host) -> bytes:
    """The definition that belongs to the version in use.

    Raises:
        MachineError: `installation.damaged`.
    """
    path = _tree(host) / "share" / SERVICE
    try:
        return path.read_bytes()
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}.", code="installation.damaged") from None


def _unit_problems(host: Host) -> list[str]:
    shipped = shipped_unit(host)
    for path in (host.layout.own_unit, host.layout.packaged_unit):
        if path.is_symlink() and not path.exists():
            return [f"{path} leads nowhere: the service is switched off (masked)."]
        if path.exists() or path.is_symlink():
            if str(path.resolve()) == os.devnull:
                return [f"{path} is masked: the service cannot start (systemctl unmask pcmsvc)."]
            problems = [each.message for each in host.machine.check_protected(path)]
            if _read(path) != shipped:
                problems.append(f"{path} is not the definition of the version in use; changes belong into a drop-in.")
            return problems + _not_yet_read(host, path)
    return [f"There is no service definition: neither {host.layout.own_unit} nor {host.layout.packaged_unit}."]


def _not_yet_read(host: Host, path: Path) -> list[str]:
    if not host.registration.is_up() or host.layout.root != Path("/"):
        return []
    known = host.registration.service(SERVICE).defined_by
    # one folder may have two names (/lib, /usr/lib)
    if known is not None and known.exists() and known.samefile(path):
        return []
    return [f"The system uses {known or 'no definition'} instead of {path}."]


def _mend_unit(host: Host) -> None:
    """The package's definition while its version is in use, else one in the administrators' folder. Foreign ones stay."""
    shipped, own, packaged = shipped_unit(host), host.layout.own_unit, host.layout.packaged_unit
    foreign = own.is_symlink() or (own.exists() and not _read(own).startswith(MARK.encode()))
    if foreign and _read(own) != shipped:
        raise MachineError(
            f"{own} is not of this program. Move it away (systemctl unmask pcmsvc, if it is masked), then run this again.",
            code="conflict",
        )
    if _is_packaged(host):
        if _read(packaged) != shipped:
            write_atomically(packaged, shipped, 0o644)
        _own(packaged)
        own.unlink(missing_ok=True)
    else:
        own.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(own, shipped, 0o644)
    host.registration.reload()


def _is_packaged(host: Host) -> bool:
    """Whether the version in use is the one that the system's own package brought."""
    try:
        return read_release(host.layout.package).version == current_version(host.layout)
    except MachineError:
        return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
