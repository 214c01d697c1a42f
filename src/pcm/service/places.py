"""Where the service keeps things: configuration, state and runtime folders, and the name of each file in them.

Serves steps 6 to 12. Before everything else: `main` chooses the places, every other module is told them. Here the folders are
made with their right modes and looked at (`machine.check_protected`) before anything in them is believed (KB Q181118, Q191328,
Q189809). It never reads what the files say.

    default             with --home DIR     what
    /etc/pcm            DIR/etc             client.json, pinned roots: written at enrolment only
    /var/lib/pcm        DIR/var             0711: key, database (0600); metadata, content, output of runs (0700); staging (0711)
    /run/pcm            DIR/run             socket for everybody, locks

Others can pass through the state folder and `staging` to a package directory that is theirs to read for one run (`steps/stage`),
by a path with 128 random bits; they can list neither folder, and read nothing else in them.
"""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from pcm.model.errors import MachineError
from pcm.protocol.local import SOCKET_NAME
from pcm.service.machine.durable import set_mode, storing_error
from pcm.service.machine.interface import Machine, Problem

PRIVATE, PASSABLE = 0o700, 0o711


class Places(NamedTuple):
    """Absolute paths of one service. `home`: the folder given with `--home`, else None."""

    config: Path
    state: Path
    runtime: Path
    home: Path | None = None

    @property
    def configuration(self) -> Path:
        """The enrolment kit without its token."""
        return self.config / "client.json"

    @property
    def instructions_root(self) -> Path:
        """Pinned root of the instruction repository."""
        return self.config / "instructions.root.json"

    @property
    def packages_root(self) -> Path:
        """Pinned root of the package repository."""
        return self.config / "packages.root.json"

    @property
    def authority(self) -> Path:
        """The authority for https that came with the kit."""
        return self.config / "authority.pem"

    @property
    def account(self) -> Path:
        """The account that reads shares, if the administrator gave one."""
        return self.config / "account.json"

    @property
    def account_rest(self) -> Path:
        """What a domain or file server said when it last refused that account, and until when it is left in peace."""
        return self.state / "account-rest.json"

    @property
    def identity(self) -> Path:
        """This client's private key."""
        return self.state / "identity.pem"

    @property
    def new_identity(self) -> Path:
        """A key that is to take the place of this client's, until the site has taken it."""
        return self.state / "identity.new.pem"

    @property
    def database(self) -> Path:
        """Journal, floors, outbox, ledger."""
        return self.state / "state.db"

    @property
    def metadata(self) -> Path:
        """Folder of the numbered copies of both repositories' metadata."""
        return self.state / "metadata"

    @property
    def store(self) -> Path:
        """Content by hash."""
        return self.state / "store"

    @property
    def staging(self) -> Path:
        """Package directories, as programs see them."""
        return self.state / "staging"

    @property
    def trial(self) -> Path:
        """The record of a version on trial, beside the versions."""
        return self._program / "trial.json"

    @property
    def returns(self) -> Path:
        """Which versions did not work here, beside the versions."""
        return self._program / "returned.json"

    @property
    def confirmed(self) -> Path:
        """What the service says of itself during a trial: that it works."""
        return self.state / "confirmed.json"

    @property
    def _program(self) -> Path:
        return (Path("/") if self.home is None else self.home) / "opt" / "pcm"

    @property
    def runs(self) -> Path:
        """Output of each run."""
        return self.state / "runs"

    @property
    def socket(self) -> Path:
        """The local socket."""
        return self.runtime / SOCKET_NAME

    @property
    def work_lock(self) -> Path:
        """Held by the one process that works: a check, or `pcmsvc once`."""
        return self.runtime / "pcmsvc.lock"

    def arguments(self) -> tuple[str, ...]:
        """The command-line arguments that lead another process to the same places."""
        return () if self.home is None else ("--home", str(self.home))


def find_places(home: Path | None) -> Places:
    """The default places, or those below `home`."""
    if home is None:
        return Places(Path("/etc/pcm"), Path("/var/lib/pcm"), Path("/run/pcm"))
    home = home.absolute()
    return Places(home / "etc", home / "var", home / "run", home)


def create_places(places: Places) -> None:
    """Make the folders that are missing. What exists keeps its owner; a state folder gets its mode back.

    Raises:
        MachineError: `machine.write` or `machine.unprotected`; StoreError: `store.full`.
    """
    _refuse_links(places)
    for folder, mode in (
        (places.config, 0o755),
        (places.runtime, 0o755),
        (places.state, PASSABLE),
        (places.staging, PASSABLE),
        *((folder, PRIVATE) for folder in (places.metadata, places.store, places.runs)),
    ):
        try:
            # parents get the usual mode; only the folder itself is ours to restrict
            folder.parent.mkdir(parents=True, exist_ok=True)
            if not folder.is_dir():
                folder.mkdir(mode=mode)
                set_mode(folder, mode)  # whatever the umask was
            elif mode in {PASSABLE, PRIVATE}:
                set_mode(folder, mode)
        except FileExistsError:
            raise MachineError(
                f"{folder} stands where a folder must be; move it away.", code="machine.unprotected"
            ) from None
        except OSError as error:
            raise storing_error(error, folder) from error


def _refuse_links(places: Places) -> None:
    """Nothing is made, and no mode changed, through a link: `--home` may name a folder that somebody else has prepared."""
    own = (places.config, places.runtime, places.state, places.staging, places.metadata, places.store, places.runs)
    link = next((path for path in (places.home, *own) if path is not None and path.is_symlink()), None)
    if link is not None:
        raise MachineError(f"{link} is a symbolic link; name the real folder.", code="machine.unprotected")


def looked_at(places: Places) -> tuple[Path, ...]:
    """Everything whose protection counts: folders, key, own program. Of the files some may not be there."""
    pinned = (places.configuration, places.instructions_root, places.packages_root, places.authority, places.account)
    files = (*pinned, places.identity, places.new_identity, places.database)
    folders = (places.metadata, places.store, places.staging, places.runs)
    return (places.config, places.state, places.runtime, *files, *folders, *_own_program())


def find_problems(places: Places, machine: Machine) -> list[Problem]:
    """Name each way in which somebody other than an administrator could change the service: folders, key, own program."""
    needed = {places.config, places.state}  # the runtime folder comes with the first start after a boot
    paths = [path for path in looked_at(places) if path in needed or os.path.lexists(path)]
    problems = [problem for path in paths for problem in machine.check_protected(path)]
    return list({(problem.path, problem.code): problem for problem in problems}.values())


def require_protected(places: Places, machine: Machine) -> None:
    """Refuse to work as administrator on folders that others can change. Without rights there is nothing to protect.

    Raises:
        MachineError: `machine.unprotected`, naming the first problem.
    """
    if not machine.is_administrator():
        return
    problems = find_problems(places, machine)
    if problems:
        raise MachineError(
            f"{problems[0].message} Whoever can write there can become administrator; nothing runs until it is mended "
            f"({len(problems)} problem{'s' if len(problems) > 1 else ''}; see `pcmsvc check`).",
            code="machine.unprotected",
        )


def _own_program() -> tuple[Path, ...]:
    """The interpreter, the folder of this very code, and every other place that its modules come from."""
    searched = (Path(entry) for entry in sys.path if entry.startswith("/"))
    return tuple(
        dict.fromkeys(
            path.resolve() for path in (Path(sys.executable), Path(__file__).parents[1], *searched) if path.exists()
        )
    )
