"""Where versions of the client's program lie, which one is in use, and how another one takes its place.

Serves no step. Before: a tree, unpacked by a package or by a setup. After: `current` leads to it, and whoever is started by that
name is the new version; what runs goes on from its own tree, which stays for as long as anything runs from it. It never changes
a file that is in use: files come and go by name, under a name of their own first.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from pcm.model.errors import MachineError, RequestError
from pcm.model.versions import compare_versions
from pcm.service.installation.release import DESCRIPTION, Release, file_problem, read_release
from pcm.service.machine.durable import storing_error, sync_folder

COMMANDS = ("pcmsvc", "pcmapp")
SERVICE = "pcmsvc.service"
WATCH = "pcm-watch.service"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}")


class Layout(NamedTuple):
    """The places of an installation. `root`: `/`, or a folder instead of it (tests)."""

    root: Path = Path("/")

    @property
    def program(self) -> Path:
        """Everything that belongs to the program."""
        return self.root / "opt" / "pcm"

    @property
    def versions(self) -> Path:
        """One folder for each version."""
        return self.program / "versions"

    @property
    def current(self) -> Path:
        """The link to the version in use."""
        return self.program / "current"

    @property
    def package(self) -> Path:
        """The files of the system's own package, if the client came as one."""
        return self.program / "package"

    @property
    def trial(self) -> Path:
        """The record of a version on trial (`pcm.service.trial`)."""
        return self.program / "trial.json"

    @property
    def returns(self) -> Path:
        """Which versions did not work here."""
        return self.program / "returned.json"

    @property
    def watch_unit(self) -> Path:
        """The definition of what watches over a trial; there only while one lasts."""
        return self.root / "etc" / "systemd" / "system" / WATCH

    @property
    def commands(self) -> dict[Path, str]:
        """Links by which people find the commands, and what they hold."""
        return {self.root / "usr" / "bin" / name: f"/opt/pcm/current/bin/{name}" for name in COMMANDS}

    @property
    def completions(self) -> dict[Path, str]:
        """Links by which shells find what completes the commands, in the folders of this distribution."""
        debian = (self.root / "etc" / "debian_version").exists()
        return {
            self.root / "usr" / "share" / name: leads_to for name, leads_to in completion_links(debian=debian).items()
        }

    @property
    def packaged_unit(self) -> Path:
        """The service's definition, where the system's own packages put it."""
        return self.root / "usr" / "lib" / "systemd" / "system" / SERVICE

    @property
    def own_unit(self) -> Path:
        """The service's definition, where an administrator's programs put it. It counts before `packaged_unit`."""
        return self.root / "etc" / "systemd" / "system" / SERVICE

    def version(self, version: str) -> Path:
        """The folder of one version.

        Raises:
            RequestError: `request.version`, it is no version.
        """
        if _VERSION.fullmatch(version) is None or ".." in version:
            raise RequestError(f"{version[:60]!r} is no version.", code="request.version")
        return self.versions / version


def completion_links(*, debian: bool) -> dict[str, str]:
    """Below `/usr/share`: where bash, zsh and fish look for completions, and what is there. Only zsh's folder differs."""
    zsh = "zsh/vendor-completions" if debian else "zsh/site-functions"
    made = "/opt/pcm/current/share/completions"
    found = {}
    for name in COMMANDS:
        found[f"bash-completion/completions/{name}"] = f"{made}/{name}.bash"
        found[f"{zsh}/_{name}"] = f"{made}/{name}.zsh"
        found[f"fish/vendor_completions.d/{name}.fish"] = f"{made}/{name}.fish"
    return found


def own_tree() -> Path | None:
    """The tree that this very code belongs to; None if it was not installed as one (a checkout, a virtual environment)."""
    parents = Path(__file__).resolve().parents  # TREE/lib/python3.11/site-packages/pcm/service/installation/layout.py
    tree = parents[6] if len(parents) > 6 else None
    return tree if tree is not None and (tree / DESCRIPTION).is_file() else None


def present_versions(layout: Layout) -> list[str]:
    """Every version that is here as a whole, oldest first."""
    if not layout.versions.is_dir():
        return []
    whole = [path.name for path in layout.versions.iterdir() if (path / DESCRIPTION).is_file()]
    return sorted(whole, key=_by_version)


def current_version(layout: Layout) -> str | None:
    """The version in use; None if there is none, or if the link leads elsewhere."""
    try:
        leads_to = layout.current.readlink()
    except OSError:
        return None
    inside = leads_to.parts
    if len(inside) != 2 or inside[0] != "versions" or not (layout.program / leads_to / DESCRIPTION).is_file():
        return None
    return inside[1]


def switch(layout: Layout, version: str) -> None:
    """Make a version the one in use, in one step: whoever looks finds the old one or the new one, whole.

    Raises:
        RequestError: `not_found`, that version is not here as a whole. MachineError, StoreError: it could not be written.
    """
    if not (layout.version(version) / DESCRIPTION).is_file():
        raise RequestError(f"Version {version} is not in {layout.versions}.", code="not_found")
    link(layout.current, f"versions/{version}")


def link(path: Path, leads_to: str) -> None:
    """Make a link, or lead the one that is there elsewhere, in one step.

    Raises:
        MachineError, StoreError: it could not be written; what was there stands.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.symlink_to(leads_to)
        with contextlib.ExitStack() as undo:
            undo.callback(temporary.unlink)
            temporary.replace(path)
            undo.pop_all()
        sync_folder(path.parent)
    except OSError as error:
        raise storing_error(error, path) from error


def place(layout: Layout, source: Path, release: Release) -> int:
    """Bring a tree to its place: what is missing or differs there is taken from `source`, what is too much goes.

    Files are linked, or copied from another file system. The description comes last: without it, a version does not count.

    Args:
        release: the description of `source`; every file of it is held against it.

    Returns:
        How many files were placed.

    Raises:
        MachineError: `installation.damaged`: `source` is not what it says. MachineError, StoreError: it could not be written.
    """
    target = layout.version(release.version)
    if target == source:
        return 0
    placed = 0
    try:
        # one's own from the beginning, whatever the umask: the check of the place and all above it follows at once
        for folder in (layout.program, layout.versions, target):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        for file in release.files:
            problem = file_problem(source, file)
            if problem:
                raise MachineError(
                    f"{source} is damaged: {problem} Get it again; nothing was switched.", code="installation.damaged"
                )
            if file_problem(target, file):
                _place_file(source / file.path, target, file.path)
                placed += 1
        if not _same(source / DESCRIPTION, target / DESCRIPTION):
            _place_file(source / DESCRIPTION, target, DESCRIPTION)
        for extra in release.extras(target):
            extra.unlink()
        for folder in sorted(path for path in target.rglob("*") if path.is_dir() and not path.is_symlink()):
            sync_folder(folder)
        sync_folder(target)
        sync_folder(layout.versions)
    except OSError as error:
        raise storing_error(error, target) from error
    return placed


def _place_file(source: Path, tree: Path, inside: str) -> None:
    target = tree / inside
    target.parent.mkdir(parents=True, exist_ok=True)
    for folder in target.parents:
        if folder == tree.parent:
            break
        folder.chmod(0o755)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    temporary = target.with_name(f".new.{os.urandom(8).hex()}")
    try:
        try:
            os.link(source, temporary, follow_symlinks=False)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, temporary)
            temporary.chmod(source.stat().st_mode & 0o777)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def collect(layout: Layout, in_use: set[str]) -> list[str]:
    """Remove versions that nobody needs: not the one in use, not the newest before it, and none that something runs from.

    Args:
        in_use: versions from which processes run, and those that a trial may need.

    Returns:
        What was removed.
    """
    current = current_version(layout)
    if current is None:
        return []
    older = [each for each in present_versions(layout) if compare_versions(each, current) < 0]
    kept = {current, *older[-1:], *in_use}
    gone = [path for path in layout.versions.iterdir() if path.name not in kept]
    for path in gone:
        if path.is_dir() and not path.is_symlink():
            (path / DESCRIPTION).unlink(missing_ok=True)  # first of all: half of it is no version
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return sorted(path.name for path in gone)


class _by_version:  # noqa: N801 - a key, as functools.cmp_to_key makes them
    def __init__(self, version: str) -> None:
        self._version = version

    def __lt__(self, other: "_by_version") -> bool:
        return compare_versions(self._version, other._version) < 0


def read_own_release(layout: Layout) -> tuple[Path, Release] | None:
    """The tree that `install` takes the program from, and its description; None if this code was not installed as one.

    Raises:
        MachineError: `installation.damaged`.
    """
    tree = own_tree()
    if tree is None:
        return None
    if tree.parent == layout.versions and (layout.package / DESCRIPTION).is_file():
        packaged = read_release(layout.package)
        if packaged.version == tree.name:
            return (
                layout.package,
                packaged,
            )  # what the system's own package brought: from there the version can be mended
    return tree, read_release(tree)
