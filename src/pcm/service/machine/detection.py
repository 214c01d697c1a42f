"""Step 11 (and 7, 'already there?'): look whether what a program should have done is done.

Before: `model.detection` says what to look for, in words of the signed manifest. After: `service.steps.detect` journals it
together with the exit code. Looking changes nothing here, except for what a detection's own command does.

Three answers: found, not found, and *not applicable* (a registry value on Linux, a Debian package where there is no dpkg). Not
applicable counts as not found, is passed over by `any`, and does not become 'found' by a `not`. What cannot be told (a command
that ran into its time limit) is an error, never an answer (KB Q190135).
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pcm.model.detection import (
    AllOf,
    AnyOf,
    CommandDetection,
    Detection,
    DpkgDetection,
    FileDetection,
    MsiDetection,
    Not,
    RegistryDetection,
    RpmDetection,
)
from pcm.model.errors import MachineError, Retry
from pcm.model.versions import check_constraint, satisfies
from pcm.service.machine.commands import resolve_program
from pcm.service.machine.interface import SYSTEM, Ended, Launch, Processes
from pcm.service.machine.package_database import dpkg_versions
from pcm.service.machine.version_order import compare_debian, compare_rpm

COMMAND_LIMIT_S = 60.0
HASH_LIMIT_S = 600.0
_OUTPUT_BYTES = 65536
_MAX_DEPTH = 20
_CHUNK_BYTES = 1 << 20
_RPM_MARK = "installed="  # tells rpm's answers from its warnings, which come the same way


class Detected(NamedTuple):
    """An answer. `detail` tells people why; `version` is set where one is known."""

    found: bool
    detail: str
    version: str | None = None
    applicable: bool = True


class Look(NamedTuple):
    """How to look: what detections need of this computer.

    Attributes:
        processes: starts detection commands.
        runs: a protected folder in which each command gets a run folder of its own, removed afterwards.
        package_directory: where a command's relative path is looked for first; None if nothing is staged.
        limit_s: time limit of one command, in seconds.
        dpkg_versions: finds installed versions of a Debian package.
        rpm: how rpm is called; its options may name another database.
        hash_limit_s: time limit for one file's bytes: whoever can write there could make a file of exabytes, with nothing in it.
        run_as: as whom a detection's own command runs: as its program does. Everything else is looked at as system.
    """

    processes: Processes
    runs: Path
    package_directory: Path | None = None
    limit_s: float = COMMAND_LIMIT_S
    dpkg_versions: Callable[[str], list[str] | None] = dpkg_versions
    rpm: tuple[str, ...] = ("rpm",)
    hash_limit_s: float = HASH_LIMIT_S
    run_as: str = SYSTEM


def detect(detection: Detection, look: Look, depth: int = 0) -> Detected:
    """Evaluate one detection.

    Raises:
        MachineError: `machine.detection`: it could not be told; or what starting a command raises.
    """
    if depth > _MAX_DEPTH:
        raise _untold("The detection is nested too deeply.")
    match detection:
        case FileDetection():
            return _detect_file(detection, look.hash_limit_s)
        case DpkgDetection():
            return _detect_dpkg(detection, look)
        case RpmDetection():
            return _detect_rpm(detection, look)
        case CommandDetection():
            return _detect_command(detection, look)
        case RegistryDetection() | MsiDetection():
            kind = "registry" if isinstance(detection, RegistryDetection) else "msi"
            return Detected(found=False, detail=f"'{kind}' is for Windows", applicable=False)
        case Not():
            inner = detect(detection.of, look, depth + 1)
            if not inner.applicable:
                return inner
            return Detected(found=not inner.found, detail=f"not: {inner.detail}")
        case AllOf() | AnyOf():
            return _combine(detection, look, depth)


def _combine(detection: AllOf | AnyOf, look: Look, depth: int) -> Detected:
    """Look one after the other, and no further than needed."""
    wants_all = isinstance(detection, AllOf)
    answers: list[Detected] = []
    for child in detection.of:
        answer = detect(child, look, depth + 1)
        answers.append(answer)
        if answer.found != wants_all and (answer.applicable or wants_all):
            return answer
    told = [answer for answer in answers if answer.applicable]
    detail = "; ".join(answer.detail for answer in told or answers)
    version = next((answer.version for answer in told if answer.version), None)
    return Detected(found=wants_all, detail=detail, version=version, applicable=bool(told))


def _detect_file(detection: FileDetection, limit_s: float) -> Detected:
    path = Path(detection.path)
    if not path.is_absolute():
        raise _untold(f"The file {detection.path!r} to look for is not named by an absolute path.")
    try:
        if detection.sha256 is None:
            path.stat()
            return Detected(found=True, detail=f"{path} is there")
        digest = _hash_of(path, limit_s)
    except (FileNotFoundError, NotADirectoryError):
        return Detected(found=False, detail=f"{path} is not there")
    except OSError as error:
        raise _untold(f"{path} cannot be looked at: {error.strerror}.") from error
    if digest != detection.sha256:
        return Detected(found=False, detail=f"{path} is there, with other bytes")
    return Detected(found=True, detail=f"{path} is there, with the expected bytes")


def _hash_of(path: Path, limit_s: float) -> str | None:
    """SHA-256 of a regular file; None for anything else (a FIFO would block, a device never end)."""
    give_up_s = time.monotonic() + limit_s
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        digest = hashlib.sha256()
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            digest.update(chunk)
            if time.monotonic() > give_up_s:
                raise _untold(f"{path} could not be read within {limit_s:g} seconds.")
        return digest.hexdigest()
    finally:
        os.close(descriptor)


def _detect_dpkg(detection: DpkgDetection, look: Look) -> Detected:
    versions = look.dpkg_versions(detection.package)
    if versions is None:
        return Detected(found=False, detail="there is no dpkg here", applicable=False)
    return _judge("Debian package", detection.package, versions, detection.version, compare_debian)


def _detect_rpm(detection: RpmDetection, look: Look) -> Detected:
    question = [
        *look.rpm,
        "-q",
        "--qf",
        f"{_RPM_MARK}%{{EPOCHNUM}}:%{{VERSION}}-%{{RELEASE}}\\n",
        "--",
        detection.package,
    ]
    try:
        ended = _run(question, look)
    except MachineError as error:
        if error.code == "machine.program_not_found":
            return Detected(found=False, detail="there is no rpm here", applicable=False)
        raise
    lines = ended.output_tail.decode(errors="replace").splitlines()
    versions = [line.removeprefix(_RPM_MARK) for line in lines if line.startswith(_RPM_MARK)]
    # a database that rpm cannot read is, in its own words, one in which nothing is installed
    problem = next((line for line in lines if line.startswith(("error:", "fatal:"))), "")
    if problem or (not versions and ended.exit_code != 1):
        raise _untold(
            f"rpm cannot tell whether {detection.package} is installed: {problem[:200] or 'it gave no answer'}."
        )
    return _judge("RPM package", detection.package, versions, detection.version, compare_rpm)


def _judge(
    kind: str, package: str, versions: list[str], constraint: str | None, compare: Callable[[str, str], int]
) -> Detected:
    if not versions:
        return Detected(found=False, detail=f"{kind} {package} is not installed")
    if constraint is None:
        return Detected(found=True, detail=f"{kind} {package} {versions[0]} is installed", version=versions[0])
    operator, wanted = check_constraint(constraint)
    for version in versions:
        if satisfies(compare(version, wanted), operator):
            return Detected(found=True, detail=f"{kind} {package} {version} is installed", version=version)
    detail = f"{kind} {package} {versions[0]} is installed, not {operator} {wanted}"
    return Detected(found=False, detail=detail, version=versions[0])


def _detect_command(detection: CommandDetection, look: Look) -> Detected:
    name = detection.command[0]
    try:
        ended = _run(detection.command, look, look.run_as)
    except MachineError as error:
        if (
            error.code == "machine.program_not_found"
        ):  # what is not there has not been installed, whichever code is wanted
            return Detected(found=False, detail=error.message)
        raise
    if ended.exit_code is None:
        raise _untold(
            f"The detection command {name} was ended by signal {ended.signal}; whether it is installed is unknown."
        )
    found = (ended.exit_code == 0) == (detection.installed_when == "exit_zero")
    return Detected(found=found, detail=f"{name} returned {ended.exit_code}")


def _run(command: list[str], look: Look, run_as: str = SYSTEM) -> Ended:
    """Run a command through the same layer as programs, in a folder that is gone afterwards."""
    import shutil  # noqa: PLC0415 - only where a command is asked

    run_id = os.urandom(16).hex()
    folder = look.package_directory or Path("/")
    program = resolve_program(command[0], look.package_directory or look.runs / run_id)
    launch = Launch(
        run_id=run_id,
        argv=(str(program), *command[1:]),
        working_directory=folder,
        output_path=look.runs / run_id / "output",
        timeout_s=look.limit_s,
        run_as=run_as,
        output_limit_bytes=_OUTPUT_BYTES,
        grace_s=1.0,
    )
    reference = look.processes.reference_of(launch)
    ended = look.processes.start(launch, reference).wait()
    look.processes.forget(reference)
    shutil.rmtree(look.runs / run_id)
    if ended.timed_out:
        raise _untold(f"The detection command {command[0]} took longer than {look.limit_s:g} seconds and was ended.")
    return ended


def _untold(message: str) -> MachineError:
    return MachineError(message, code="machine.detection", retry=Retry.LATER)
