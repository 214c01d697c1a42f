"""What one version of the client's program consists of: every file with its hash, in the `release.json` of its tree.

Serves no step. Before: `tools/packages` wrote it when the tree was made. After: `layout.place` takes nothing from a tree that is
not what it says, and `pcmsvc check` names each file that was changed since (KB Q181118, Q191328). It guards against damage and
against whoever may not write there anyway; who can write a tree as root can write its description.
"""

import hashlib
import os
import stat
from pathlib import Path

import msgspec

from pcm.model.errors import MachineError, RequestError
from pcm.protocol import codec
from pcm.service.machine.durable import pinned

DESCRIPTION = "release.json"
_MAX_BYTES = 4 * 2**20
_CHUNK = 2**20
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class ReleaseFile(msgspec.Struct, frozen=True):
    """One file: `path` from the tree's top, `length` in bytes, `sha256` in hex."""

    path: str
    length: int
    sha256: str
    executable: bool = False


class Release(codec.Document, frozen=True, kw_only=True, tag="pcm.release"):
    """A version. `platform`: as packages name it. `made_from` stands in the file for people, and is not read here."""

    version: str
    platform: str
    files: tuple[ReleaseFile, ...]

    def extras(self, tree: Path) -> list[Path]:
        """Files, links and whatever else is in the tree and does not belong there."""
        known = {self_path(tree, file.path) for file in self.files} | {tree / DESCRIPTION}
        found = []
        for top, folders, names in os.walk(tree):
            links = [name for name in folders if Path(top, name).is_symlink()]
            found += [Path(top, name) for name in (*names, *links) if Path(top, name) not in known]
        return sorted(found)


def self_path(tree: Path, inside: str) -> Path:
    """A file's place in a tree.

    Raises:
        MachineError: `installation.damaged`: the path leads out of it.
    """
    parts = Path(inside).parts
    if not parts or inside.startswith("/") or ".." in parts:
        raise MachineError(f"{tree / DESCRIPTION} names a file outside: {inside[:200]!r}.", code="installation.damaged")
    return tree.joinpath(*parts)


def read_release(tree: Path) -> Release:
    """The description of a tree.

    Raises:
        MachineError: `installation.damaged`.
    """
    path = tree / DESCRIPTION
    try:
        release = codec.decode(Release, path.read_bytes(), max_bytes=_MAX_BYTES)
        for file in release.files:
            self_path(tree, file.path)
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}.", code="installation.damaged") from None
    except RequestError as error:
        raise MachineError(f"{path} is damaged: {error.message}", code="installation.damaged") from None
    return release


def file_problem(tree: Path, file: ReleaseFile) -> str:
    """What is wrong with one file of a tree, in a sentence; empty if nothing is."""
    path = self_path(tree, file.path)
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return f"{path} is no file."
        found = _problem_of(path, status)
        if found:
            return found
        if bool(status.st_mode & stat.S_IXUSR) != file.executable:
            return f"{path} has mode {stat.S_IMODE(status.st_mode):04o}."
        if status.st_size != file.length or _digest(path) != file.sha256:
            return f"{path} was changed."
    except FileNotFoundError:
        return f"{path} is missing."
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}."
    return ""


def tree_problems(tree: Path, release: Release) -> list[str]:
    """Everything that is wrong with a tree: files, what does not belong there, folders that others may change."""
    problems = [problem for file in release.files if (problem := file_problem(tree, file))]
    problems += [f"{path} does not belong there." for path in release.extras(tree)]
    for top, _, _ in os.walk(tree):
        found = _problem_of(Path(top), os.lstat(top))
        problems += [found] if found else []
    described = tree / DESCRIPTION
    found = _problem_of(described, described.lstat())
    return [*problems, found] if found else problems


def mend_modes(tree: Path, release: Release) -> None:
    """Give every file and folder of a tree its owner and mode back. Contents are not touched.

    Raises:
        OSError: the system refused.
    """
    executable = {self_path(tree, file.path) for file in release.files if file.executable}
    for top, _, names in os.walk(tree):
        for path in (Path(top), *(Path(top, name) for name in names)):
            with pinned(path) as (held, status):
                if stat.S_ISLNK(status.st_mode):
                    continue
                wanted = 0o755 if stat.S_ISDIR(status.st_mode) or path in executable else 0o644
                if status.st_uid != os.geteuid() or status.st_gid != os.getegid():
                    os.chown(held, os.geteuid(), os.getegid())
                if stat.S_IMODE(status.st_mode) != wanted:
                    held.chmod(wanted)


def _problem_of(path: Path, status: os.stat_result) -> str:
    if status.st_uid not in {0, os.geteuid()}:
        return f"{path} belongs to user {status.st_uid}."
    if status.st_mode & _OTHERS_WRITE:
        return f"{path} (mode {stat.S_IMODE(status.st_mode):04o}) can be changed by others."
    return ""


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
