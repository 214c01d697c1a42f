"""The cross-check: what the site asks for against what packagers have signed. Checks 9 to 11 for each instruction by itself.

Serves step 6: comes after `instructions` and `packages`, before `service.planner`. `gather` brings the evidence
together (and fetches manifests, through what it is given); `cross_check` is pure and gives one verdict per
instruction. One bad instruction never stops the others: it is refused with its code, and so is what depends on it.

Source: design, 'What the client checks, in this order'; the numbers below are the document's.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pcm.model.errors import PcmError, RequestError, TransferError, TrustError
from pcm.model.instruction import Instruction, ManifestReference
from pcm.model.names import check_name, platform_fits
from pcm.model.program import Program, asks_for_more, build_argv
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
    known: dict[tuple[str, str, ManifestReference], bytes | PcmError] = {}
    for instruction in instructions:
        # with the package's name: an instruction that names a wrong one spoils nothing for those that name the right one
        key = (instruction.package, instruction.version, instruction.manifest)
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
    _check_supported(instruction, program)
    try:
        argv = build_argv(program, manifest.parameters, instruction.parameters)
    except RequestError as error:
        raise refuse("trust.arguments", error.message) from None
    agreement = check_approvals(instruction, program.approvals, around.policy, around.client_id, around.now)
    return Accepted(instruction, manifest, program, argv, agreement)


def _check_supported(instruction: Instruction, program: Program) -> None:
    """Check 11: whatever restricts the program is something that this service does (KB Q154931)."""
    unknown = asks_for_more(program)
    if unknown:
        raise refuse(
            "trust.unsupported",
            f"Program {instruction.program} of {instruction.package} {instruction.version} asks for {', '.join(unknown)}; "
            "this version of the service does not do this yet.",
        )


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
    """Check 11: `after` and `requires` are closed. What depends on something refused or missing is refused too, to the end.

    Each refusal asks again only those who named what is gone, so that a long chain costs no more than its length.
    """
    usable = {key: verdict for key, verdict in verdicts.items() if isinstance(verdict, Accepted)}
    if not any(each.instruction.after or each.manifest.requires for each in usable.values()):
        return  # nobody depends on anybody: nothing to close
    offers = _Offers(usable.values(), around)
    questions = deque(usable)
    while questions:
        each = usable.get(questions.popleft())
        error = None if each is None else _missing(each, offers)
        if each is None or error is None:
            continue
        del usable[each.instruction.id]
        verdicts[each.instruction.id] = Refused(each.instruction, error)
        questions.extend(offers.withdraw(each))
    for each in _in_circles(usable):
        error = refuse("trust.dependency", f"Instruction {each.instruction.id} would have to come after itself.")
        verdicts[each.instruction.id] = Refused(each.instruction, error)


class _Offers:
    """What usable instructions bring, by name: their ids and jobs for `after`, releases of packages for `requires`."""

    def __init__(self, usable: Iterable[Accepted], around: Circumstances) -> None:
        self._around = around
        self._names: Counter[str] = Counter()
        self._releases: dict[str, Counter[int]] = {}
        self._askers: dict[str, list[str]] = {}
        for each in usable:
            self._names.update(_names_of(each))
            self._releases.setdefault(each.manifest.package, Counter())[each.manifest.release] += 1
            for name in (*each.instruction.after, *(needed.package for needed in each.manifest.requires)):
                self._askers.setdefault(name, []).append(each.instruction.id)

    def has(self, name: str) -> bool:
        """Whether something of this id or job is ordered, or done already."""
        return name in self._around.done or self._names[name] > 0

    def newest(self, package: str) -> int:
        """The newest release of a package that is ordered or here; 0 if there is none."""
        known = self._around.releases.get(package)
        here = known.installed if known is not None and known.installed is not None else 0
        return max(here, *self._releases.get(package, ()), 0)

    def withdraw(self, each: Accepted) -> list[str]:
        """Take away what one instruction brought; the ids of those whom that may concern."""
        concerned: list[str] = []
        for name in _names_of(each):
            self._names[name] -= 1
            if not self._names[name]:
                concerned += self._askers.get(name, ())
        package, release = each.manifest.package, each.manifest.release
        self._releases[package][release] -= 1
        if not self._releases[package][release]:
            del self._releases[package][release]
            concerned += self._askers.get(package, ())
        return concerned


def _names_of(each: Accepted) -> set[str]:
    return {each.instruction.id, each.instruction.job}


def _missing(each: Accepted, offers: _Offers) -> TrustError | None:
    for name in each.instruction.after:
        if not offers.has(name):
            return refuse("trust.dependency", f"It must come after {name}, which is missing or was refused.")
    if each.instruction.program == "uninstall":
        return None  # what a package needed to run, it does not need to go
    for needed in each.manifest.requires:
        if offers.newest(needed.package) < needed.min_release:
            return refuse(
                "trust.dependency",
                f"{each.manifest.package} requires {needed.package} from release {needed.min_release} on; it is neither "
                "here nor ordered.",
            )
    return None


def _in_circles(usable: Mapping[str, Accepted]) -> list[Accepted]:
    """Those whose `after` leads back to themselves, or to such a circle: none of them could ever start."""
    blocking = {name for each in usable.values() for name in _names_of(each)}
    pending = {key: set(each.instruction.after) & blocking for key, each in usable.items()}
    askers: dict[str, list[str]] = {}
    for key, names in pending.items():
        for name in names:
            askers.setdefault(name, []).append(key)
    ready = deque(key for key, names in pending.items() if not names)
    startable: set[str] = set()
    while ready:
        key = ready.popleft()
        startable.add(key)
        for name in _names_of(usable[key]):
            for asker in askers.pop(name, ()):
                pending[asker].discard(name)
                if not pending[asker]:
                    ready.append(asker)
    return [each for key, each in usable.items() if key not in startable]
