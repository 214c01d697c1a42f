"""Packages: a name and a version, their files by hash, and their programs. The value inside a signed manifest.

Serves steps 1–2 (made and signed on the packager's machine), 6 (cross-checked on the client) and 8–11 (staged and run).
"""

from typing import Annotated

import msgspec

from pcm.model.errors import RequestError
from pcm.model.names import check_name, check_platform
from pcm.model.paths import check_paths
from pcm.model.program import Parameter, Program, check_placeholders

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Release = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
MAX_FILES = 200_000


class PackageFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a package directory: its path below it, its length in bytes, the SHA-256 of its bytes."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
    length: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    sha256: Sha256
    executable: bool = False


class PackageReference(msgspec.Struct, frozen=True, omit_defaults=True):
    """Another package that must (or must not) be installed, from this release on."""

    package: str
    min_release: Release = 1


class Package(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a packager signs: immutable files, and the programs that act on them.

    `release` counts per package and never goes back. A client with a newer release goes back to this one only if this one is
    at least the newest installed manifest's `min_release`.
    """

    package: str
    version: str
    release: Release
    platforms: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=16)]
    programs: Annotated[dict[str, Program], msgspec.Meta(min_length=1, max_length=64)]
    files: Annotated[tuple[PackageFile, ...], msgspec.Meta(max_length=MAX_FILES)] = ()
    min_release: Release = 1
    summary: Annotated[str, msgspec.Meta(max_length=200)] = ""
    publisher: Annotated[str, msgspec.Meta(max_length=200)] = ""
    icon: Annotated[str, msgspec.Meta(max_length=400)] | None = None
    requires: tuple[PackageReference, ...] = ()
    conflicts: tuple[PackageReference, ...] = ()
    supersedes: Annotated[
        tuple[str, ...], msgspec.Meta(max_length=64)
    ] = ()  # packages that this one takes the place of
    parameters: Annotated[dict[str, Parameter], msgspec.Meta(max_length=64)] = msgspec.field(default_factory=dict)

    def content_bytes(self) -> int:
        """Bytes of all files together, as staged."""
        return sum(file.length for file in self.files)


def check_package(package: Package) -> Package:
    """Return `package` if everything in it that shape alone does not show is right too.

    Raises:
        RequestError: names, platforms, paths, placeholders, release order, an icon or working directory that is no file or
            folder of the package.
    """
    check_name("package", package.package)
    check_name("version", package.version)
    for platform in package.platforms:
        check_platform(platform)
    check_paths(
        (file.path for file in package.files),
        folding=not all(platform.startswith("linux-") for platform in package.platforms),
    )
    for reference in (*package.requires, *package.conflicts):
        check_name("package", reference.package)
    for superseded in package.supersedes:
        check_name("package", superseded)
        if superseded == package.package:
            raise RequestError(
                "supersedes names the package itself; a greater release takes the place of a lower one by itself.",
                code="request.package",
            )
    for name in package.parameters:
        check_name("parameter", name)
    if package.min_release > package.release:
        raise RequestError(
            f"min_release {package.min_release} is newer than the release {package.release} itself.",
            code="request.package",
        )
    paths = {file.path for file in package.files}
    if package.icon is not None and package.icon not in paths:
        raise RequestError(f"icon {package.icon!r} is not a file of the package.", code="request.package")
    for name, program in package.programs.items():
        _check_program(package, name, program, paths)
    return package


def _check_program(package: Package, name: str, program: Program, paths: set[str]) -> None:
    check_name("program", name)
    check_placeholders(program.argv, frozenset(package.parameters))
    folder = program.working_directory
    if folder is not None and not folder.startswith("/") and ":" not in folder:
        prefix = folder.rstrip("/") + "/"
        if not any(path.startswith(prefix) for path in paths):
            raise RequestError(
                f"program {name}: working directory {folder!r} is no folder of the package.", code="request.package"
            )
    check_return(package, name, program)


def check_return(package: Package, name: str, program: Program) -> None:
    """Check that the program which returns to the last good version needs nothing that the order of `program` did not have.

    Raises:
        RequestError: `request.package`.
    """
    if program.rollback_to is None:
        return
    back = package.programs.get(program.rollback_to)
    problem = ""
    if back is None:
        problem = "is no program of the package"
    elif back is program:
        problem = "is the same program"
    elif back.rollback_to is not None:
        problem = "names a rollback_to itself; a return is never undone"
    elif back.approvals > program.approvals:
        problem = f"wants {back.approvals} approvals, more than the {program.approvals} that are asked for before"
    elif "each_user" in {program.run_as, back.run_as} or back.run_as not in {"system", program.run_as}:
        problem = f"runs as {back.run_as}, and this one as {program.run_as}; only 'system', or the same user, can be returned to"
    if problem:
        raise RequestError(
            f"program {name}: rollback_to names {program.rollback_to!r}, which {problem}.", code="request.package"
        )
