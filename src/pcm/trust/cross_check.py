"""The cross-check: what the site asks for against what packagers have signed. Checks 9 to 11 for each instruction by itself.

Serves step 6: comes after `instructions` and `packages`, before `service.planner`. `gather` brings the evidence
together (and fetches manifests, through what it is given); `cross_check` is pure and gives one verdict per
instruction. One bad instruction never stops the others: it is refused with its code, and so is what depends on it.

Source: design, 'What the client checks, in this order'; the numbers below are the document's.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pcm.model.errors import PcmError, RequestError, TransferError, TrustError
from pcm.model.instruction import Instruction
from pcm.model.names import check_name, platform_fits
from pcm.model.program import Program, build_argv
from pcm.protocol.manifest import Manifest, manifest_target, read_manifest
from pcm.protocol.policy import SitePolicy
from pcm.trust.approvals import Agreement, check_approvals
from pcm.trust.codes import refuse, refuse_document
from pcm.trust.manifests import Published


@dataclass(frozen=True)
class Release:
    """What this client knows of a package: the newest release it ever had, that manifest's `min_release`, the one it has now."""

    newest: int
    min_release: int
    installed: int | None = None


@dataclass(frozen=True)
class Circumstances:
    """What an instruction is judged by, beside the signed files.

    `platform`: `linux-x86_64`. `releases`: package → what is known of it. `done`: instruction and job ids that succeeded here.
    """

    client_id: str
    platform: str
    policy: SitePolicy
    now: datetime
    releases: Mapping[str, Release] = field(default_factory=dict)
    done: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Accepted:
    """An instruction that may be planned, with the signed program that it chose and the finished command line."""

    instruction: Instruction
    manifest: Manifest
    program: Program
    argv: tuple[str, ...]
    agreement: Agreement


@dataclass(frozen=True)
class Refused:
    """An instruction that will not run, and why. A `TransferError` means: not yet known, ask again."""

    instruction: Instruction
    error: PcmError


Verdict = Accepted | Refused
Evidence = Mapping[str, bytes | PcmError]
"""Instruction id → its manifest's verified bytes, or why there are none."""


def gather(
    instructions: Iterable[Instruction],
    find: Callable[[str], Published],
    read: Callable[[str, int, str], bytes],
) -> Evidence:
    """Bring each instruction's manifest: first both repositories must agree on it (check 9), then it is read by hash.

    Args:
        find: `Packages.find`.
        read: `Manifests.read`.

    Raises:
        StoreError: this disk; nothing else, since the rest concerns one instruction only.
    """
    evidence: dict[str, bytes | PcmError] = {}
    known: dict[tuple[str, int, str], bytes | PcmError] = {}
    for instruction in instructions:
        reference = instruction.manifest
        key = (reference.path, reference.length, reference.sha256)
        if key not in known:
            known[key] = _gather_one(instruction, find, read)
        evidence[instruction.id] = known[key]
    return evidence


def _gather_one(
    instruction: Instruction, find: Callable[[str], Published], read: Callable[[str, int, str], bytes]
) -> bytes | PcmError:
    reference = instruction.manifest
    try:
        _check_path(instruction)
        check_reference(instruction, find(reference.path))
        return read(reference.path, reference.length, reference.sha256)
    except RequestError as error:
        return refuse("trust.manifest_mismatch", error.message)
    except (TrustError, TransferError) as error:
        return error


def _check_path(instruction: Instruction) -> None:
    """Check 9: the target path names this very package; nothing is asked of a server under any other name."""
    parts = instruction.manifest.path.split("/")
    check_name("package", instruction.package)
    check_name("version", instruction.version)
    if len(parts) != 5 or instruction.manifest.path != manifest_target(
        parts[1], instruction.package, instruction.version
    ):
        raise refuse(
            "trust.manifest_mismatch",
            f"The manifest of {instruction.package} {instruction.version} cannot be {instruction.manifest.path}.",
        )
    check_name("team", parts[1])


def check_reference(instruction: Instruction, published: Published) -> None:
    """Check 9: length and every hash of the manifest agree between both repositories.

    Raises:
        TrustError: `trust.mix_and_match`.
    """
    reference = instruction.manifest
    if published.length != reference.length or published.hashes.get("sha256") != reference.sha256:
        raise refuse(
            "trust.mix_and_match",
            f"The site names another manifest for {instruction.package} {instruction.version} than its packager signed.",
        )


def cross_check(instructions: Iterable[Instruction], evidence: Evidence, around: Circumstances) -> list[Verdict]:
    """Judge every instruction; one verdict each, in the given order.

    Args:
        evidence: From `gather`.
        around: The client's own knowledge.
    """
    manifests: dict[bytes, Manifest | TrustError] = {}
    verdicts: dict[str, Verdict] = {}
    for instruction in instructions:
        found = evidence[instruction.id]
        try:
            if isinstance(found, PcmError):
                raise found
            verdicts[instruction.id] = _judge(instruction, _parse(found, manifests), around)
        except PcmError as error:
            verdicts[instruction.id] = Refused(instruction, error)
    _close_dependencies(verdicts, around)
    return list(verdicts.values())


def _parse(data: bytes, parsed: dict[bytes, Manifest | TrustError]) -> Manifest:
    # many instructions name one manifest; it is parsed once
    known = parsed.get(data)
    if known is None:
        try:
            known = read_manifest(data)
        except RequestError as error:
            known = refuse_document(error, "manifest")
        parsed[data] = known
    if isinstance(known, TrustError):
        raise known
    return known


def _judge(instruction: Instruction, manifest: Manifest, around: Circumstances) -> Accepted:
    _check_identity(instruction, manifest)  # check 9
    if not any(platform_fits(offered, around.platform) for offered in manifest.platforms):  # check 10
        raise refuse(
            "trust.platform",
            f"{manifest.package} {manifest.version} is for {', '.join(manifest.platforms)}; this is {around.platform}.",
        )
    check_release(manifest, around.releases.get(manifest.package))
    program = manifest.programs.get(instruction.program)  # check 11
    if program is None:
        raise refuse(
            "trust.unsigned_program",
            f"{manifest.package} {manifest.version} has no signed program {instruction.program!r}.",
        )
    try:
        argv = build_argv(program, manifest.parameters, instruction.parameters)
    except RequestError as error:
        raise refuse("trust.arguments", error.message) from None
    agreement = check_approvals(instruction, program.approvals, around.policy, around.client_id, around.now)
    return Accepted(instruction, manifest, program, argv, agreement)


def _check_identity(instruction: Instruction, manifest: Manifest) -> None:
    """Check 9: the manifest is about the package that the instruction and the target path name."""
    said = (manifest.package, manifest.version, manifest.release)
    if said != (instruction.package, instruction.version, instruction.release):
        raise refuse(
            "trust.manifest_mismatch",
            f"The instruction names {instruction.package} {instruction.version} (release {instruction.release}); its manifest "
            f"is {manifest.package} {manifest.version} (release {manifest.release}).",
        )


def check_release(manifest: Manifest, known: Release | None) -> None:
    """Check 10, and check 13 once more: a release does not go back but to where the newest manifest here allows.

    Raises:
        TrustError: `trust.downgrade`.
    """
    if known is not None and manifest.release < min(known.newest, known.min_release):
        raise refuse(
            "trust.downgrade",
            f"{manifest.package} was here in release {known.newest}, which allows going back to {known.min_release}, "
            f"not to {manifest.release}.",
        )


def _close_dependencies(verdicts: dict[str, Verdict], around: Circumstances) -> None:
    """Check 11: `after` and `requires` are closed. What depends on something refused or missing is refused too, to the end."""
    while True:
        usable = [verdict for verdict in verdicts.values() if isinstance(verdict, Accepted)]
        names = {name for each in usable for name in (each.instruction.id, each.instruction.job)} | around.done
        offered: dict[str, int] = {}
        for each in usable:
            offered[each.manifest.package] = max(each.manifest.release, offered.get(each.manifest.package, 0))
        refused = [(each, error) for each in usable if (error := _missing(each, names, offered, around)) is not None]
        for each, error in refused:
            verdicts[each.instruction.id] = Refused(each.instruction, error)
        if not refused:
            break
    for each in _in_circles(usable):
        error = refuse("trust.dependency", f"Instruction {each.instruction.id} would have to come after itself.")
        verdicts[each.instruction.id] = Refused(each.instruction, error)


def _missing(each: Accepted, names: set[str], offered: Mapping[str, int], around: Circumstances) -> TrustError | None:
    for name in each.instruction.after:
        if name not in names:
            return refuse("trust.dependency", f"It must come after {name}, which is missing or was refused.")
    if each.instruction.program == "uninstall":
        return None  # what a package needed to run, it does not need to go
    for needed in each.manifest.requires:
        known = around.releases.get(needed.package)
        here = known.installed if known is not None and known.installed is not None else 0
        if max(here, offered.get(needed.package, 0)) < needed.min_release:
            return refuse(
                "trust.dependency",
                f"{each.manifest.package} requires {needed.package} from release {needed.min_release} on; it is neither "
                "here nor ordered.",
            )
    return None


def _in_circles(usable: list[Accepted]) -> list[Accepted]:
    """Those whose `after` leads back to themselves, or to such a circle: none of them could ever start."""
    waiting = {each.instruction.id: each for each in usable}
    startable: set[str] = set()
    while True:
        blocked = {name for each in waiting.values() for name in (each.instruction.id, each.instruction.job)}
        ready = [key for key, each in waiting.items() if not (set(each.instruction.after) - startable) & blocked]
        if not ready:
            return list(waiting.values())
        for key in ready:
            startable |= {key, waiting.pop(key).instruction.job}
