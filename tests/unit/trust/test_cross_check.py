"""Checks 9 to 11 as a pure function: each instruction by itself, each refusal with its code."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import PcmError, StoreError, TransferError
from pcm.model.instruction import Instruction, ManifestReference
from pcm.model.package import PackageReference
from pcm.model.program import Program
from pcm.protocol.manifest import Manifest, write_manifest
from pcm.protocol.policy import SitePolicy
from pcm.trust import cross_check as subject
from pcm.trust.codes import REFUSALS, refuse
from pcm.trust.cross_check import Accepted, Circumstances, Refused, Release
from pcm.trust.manifests import Published
from tests.unit.trust.simulated import ME, SITE, a_manifest, instruction_for, utc_now


def around(**changes: Any) -> Circumstances:
    values: dict[str, Any] = {
        "client_id": ME,
        "platform": "linux-x86_64",
        "policy": SitePolicy(site=SITE),
        "now": utc_now(),
    }
    return Circumstances(**{**values, **changes})


def judge(pairs: list[tuple[Instruction, Manifest]], **changes: Any) -> dict[str, str]:
    """Instruction id → code, or 'accepted'."""
    evidence = {instruction.id: write_manifest(manifest) for instruction, manifest in pairs}
    verdicts = subject.cross_check([instruction for instruction, _ in pairs], evidence, around(**changes))
    assert [verdict.instruction for verdict in verdicts] == [instruction for instruction, _ in pairs]
    return {
        verdict.instruction.id: "accepted" if isinstance(verdict, Accepted) else verdict.error.code
        for verdict in verdicts
    }


def judge_one(manifest: Manifest | None = None, instruction: dict[str, Any] | None = None, **changes: Any) -> str:
    manifest = manifest or a_manifest()
    ordered = msgspec.structs.replace(instruction_for(manifest), **(instruction or {}))
    return next(iter(judge([(ordered, manifest)], **changes).values()))


def test_an_honest_instruction_gets_its_command_line() -> None:
    manifest = a_manifest()
    instruction = instruction_for(manifest, parameters={"mode": "small"})
    (verdict,) = subject.cross_check([instruction], {instruction.id: write_manifest(manifest)}, around())
    assert isinstance(verdict, Accepted)
    assert verdict.argv == ("setup", "--mode", "small")
    assert verdict.manifest == manifest


def test_a_program_that_no_packager_signed() -> None:
    assert judge_one(instruction={"program": "format-disk"}) == "trust.unsigned_program"


@pytest.mark.parametrize(
    "asked",
    [
        {"interaction": "allowed"},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_q154931_a_condition_that_this_service_does_not_keep_is_refused_by_name(asked: dict[str, Any]) -> None:
    (name,) = asked
    manifest = a_manifest(programs={"install": Program(argv=("setup",), **asked), "repair": Program(argv=("setup",))})
    instruction = instruction_for(manifest)
    (verdict,) = subject.cross_check([instruction], {instruction.id: write_manifest(manifest)}, around())
    assert isinstance(verdict, Refused)
    assert verdict.error.code == "trust.unsupported"
    assert name in verdict.error.message
    assert "does not do this yet" in verdict.error.message
    assert judge_one(manifest, {"program": "repair"}) == "accepted", "only the program that asks for it"


@pytest.mark.parametrize(
    "parameters",
    [
        {"mode": "everything"},
        {"mode": "full --and-more"},
        {"mode": ""},
        {"other": "x"},
        {"mode": "full\0"},
        {"mode": "f" * 300},
    ],
)
def test_parameters_outside_the_schema(parameters: dict[str, str]) -> None:
    assert judge_one(instruction={"parameters": parameters}) == "trust.arguments"


@pytest.mark.parametrize(
    "changes",
    [
        {"package": "other"},
        {"version": "1.1"},
        {"release": 6},
    ],
)
def test_a_manifest_about_something_else(changes: dict[str, Any]) -> None:
    assert judge_one(instruction=changes) == "trust.manifest_mismatch"


@pytest.mark.parametrize(("platform", "expected"), [("linux-arm64", "accepted"), ("windows-x86_64", "trust.platform")])
def test_platforms(platform: str, expected: str) -> None:
    assert judge_one(platform=platform) == expected


@pytest.mark.parametrize(
    ("release", "newest", "min_release", "expected"),
    [
        (5, 5, 5, "accepted"),
        (6, 5, 5, "accepted"),
        (4, 5, 4, "accepted"),
        (4, 5, 5, "trust.downgrade"),
        (3, 5, 4, "trust.downgrade"),
        (1, 5, 1, "accepted"),
    ],
)
def test_releases_go_back_only_as_far_as_signed(release: int, newest: int, min_release: int, expected: str) -> None:
    known = {"viewer": Release(newest, min_release, installed=newest)}
    assert judge_one(a_manifest(release=release), releases=known) == expected


def test_a_manifest_of_an_unknown_major_version_or_damaged() -> None:
    instruction = instruction_for(a_manifest())
    for data, code in (
        (b'{"type":"pcm.manifest","spec":"2.0"}', "trust.unknown_version"),
        (b'{"type":"pcm.instructions","spec":"1.0"}', "trust.wrong_type"),
        (b"{}", "trust.malformed"),
        (b"[" * 1000, "trust.malformed"),
    ):
        (verdict,) = subject.cross_check([instruction], {instruction.id: data}, around())
        assert isinstance(verdict, Refused)
        assert verdict.error.code == code


def test_one_bad_instruction_never_stops_the_others() -> None:
    good, bad = a_manifest(), a_manifest(platforms=("windows-any",), version="2")
    pairs = [(instruction_for(bad, number=1), bad), (instruction_for(good, number=2), good)]
    assert sorted(judge(pairs).values()) == ["accepted", "trust.platform"]


def test_the_number_of_approvals_is_the_manifests() -> None:
    dangerous = a_manifest(programs={"install": Program(argv=("x",), approvals=1)}, parameters={})
    assert judge_one(dangerous) == "trust.approval"


def chain(*after: tuple[str, ...], bad: set[int] = frozenset()) -> list[tuple[Instruction, Manifest]]:  # type: ignore[assignment]
    """Instructions 1, 2, ... of which number n comes after those named in after[n-1] (by number)."""
    ids = [f"j{number:010d}.{ME[:12]}" for number in range(1, len(after) + 1)]
    pairs = []
    for number, names in enumerate(after, 1):
        manifest = a_manifest(package=f"p{number}", platforms=("windows-any",) if number in bad else ("linux-any",))
        before = tuple(ids[int(name) - 1] if name.isdigit() else name for name in names)
        pairs.append((instruction_for(manifest, number=number, after=before), manifest))
    return pairs


def codes(pairs: list[tuple[Instruction, Manifest]], **changes: Any) -> list[str]:
    return list(judge(pairs, **changes).values())


def test_after_is_closed() -> None:
    assert codes(chain((), ("1",), ("2",))) == ["accepted"] * 3
    assert codes(chain((), ("nothing",))) == ["accepted", "trust.dependency"]
    assert codes(chain((), ("1",), ("2",), bad={1})) == ["trust.platform", "trust.dependency", "trust.dependency"]
    assert codes(chain(("earlier",)), done=frozenset({"earlier"})) == ["accepted"]


def test_after_may_name_a_job() -> None:
    assert codes(chain((), ("j0000000001",))) == ["accepted"] * 2


@pytest.mark.parametrize("after", [(("1",),), (("2",), ("1",)), (("2",), ("3",), ("1",), ("1",))])
def test_circles_are_refused(after: tuple[tuple[str, ...], ...]) -> None:
    assert codes(chain(*after)) == ["trust.dependency"] * len(after)


def test_a_circle_harms_only_itself() -> None:
    assert codes(chain(("2",), ("1",), (), ("3",))) == ["trust.dependency", "trust.dependency", "accepted", "accepted"]


def needing(min_release: int) -> Manifest:
    return a_manifest(package="addon", requires=(PackageReference("viewer", min_release),))


def test_requires_is_closed_by_what_is_here_or_ordered() -> None:
    addon, viewer = needing(5), a_manifest()
    ask = (instruction_for(addon, number=1), addon)
    assert codes([ask]) == ["trust.dependency"]
    assert codes([ask, (instruction_for(viewer, number=2), viewer)]) == ["accepted", "accepted"]
    assert codes([ask], releases={"viewer": Release(5, 1, installed=5)}) == ["accepted"]
    assert codes([ask], releases={"viewer": Release(5, 1, installed=None)}) == ["trust.dependency"]
    assert codes([ask], releases={"viewer": Release(4, 1, installed=4)}) == ["trust.dependency"]
    newer = needing(6)
    assert codes([(instruction_for(newer, number=1), newer), (instruction_for(viewer, number=2), viewer)]) == [
        "trust.dependency",
        "accepted",
    ]


def test_going_needs_nothing() -> None:
    addon = a_manifest(
        package="addon",
        requires=(PackageReference("viewer", 5),),
        programs={"uninstall": Program(argv=("x",))},
        parameters={},
    )
    assert judge_one(addon, {"program": "uninstall"}) == "accepted"


def published_for(instruction: Instruction, **changes: Any) -> Published:
    reference = instruction.manifest
    values = {"path": reference.path, "length": reference.length, "hashes": {"sha256": reference.sha256}}
    return Published(**{**values, **changes})


@pytest.mark.parametrize(
    "changes", [{"length": 1}, {"hashes": {"sha256": "0" * 64}}, {"hashes": {"sha512": "0"}}, {"hashes": {}}]
)
def test_both_repositories_must_agree_before_anything_is_fetched(changes: dict[str, Any]) -> None:
    instruction = instruction_for(a_manifest())
    fetched: list[str] = []

    def read(path: str, _length: int, _sha256: str) -> bytes:
        fetched.append(path)
        return b""

    evidence = subject.gather([instruction], lambda _path: published_for(instruction, **changes), read)
    error = evidence[instruction.id]
    assert isinstance(error, PcmError)
    assert (error.code, fetched) == ("trust.mix_and_match", [])


@pytest.mark.parametrize(
    "changes",
    [
        {"manifest": ManifestReference("packages/apps/viewer/1.1/manifest.json", 1, "0" * 64)},
        {"manifest": ManifestReference("packages/apps/other/1.0/manifest.json", 1, "0" * 64)},
        {"manifest": ManifestReference("packages/../viewer/1.0/manifest.json", 1, "0" * 64)},
        {"manifest": ManifestReference("packages/a/b/viewer/1.0/manifest.json", 1, "0" * 64)},
        {"manifest": ManifestReference("policy/site.json", 1, "0" * 64)},
        {"package": "..", "manifest": ManifestReference("packages/apps/../1.0/manifest.json", 1, "0" * 64)},
        {"version": "../../x"},
    ],
)
def test_nothing_is_asked_for_under_another_packages_name(changes: dict[str, Any]) -> None:
    instruction = msgspec.structs.replace(instruction_for(a_manifest()), **changes)
    asked: list[str] = []

    def find(path: str) -> Published:
        asked.append(path)
        return published_for(instruction)

    evidence = subject.gather([instruction], find, lambda *_: b"")
    error = evidence[instruction.id]
    assert isinstance(error, PcmError)
    assert (error.code, asked) == ("trust.manifest_mismatch", [])


def test_a_manifest_is_read_once_for_many_instructions() -> None:
    manifest = a_manifest()
    many = [instruction_for(manifest, number=number) for number in range(1, 51)]
    fetched: list[str] = []

    def read(path: str, _length: int, _sha256: str) -> bytes:
        fetched.append(path)
        return write_manifest(manifest)

    evidence = subject.gather(many, lambda _path: published_for(many[0]), read)
    assert len(fetched) == 1
    assert len(evidence) == 50


def test_what_concerns_one_package_stays_with_it_and_a_full_disk_does_not() -> None:
    one, two = instruction_for(a_manifest(), number=1), instruction_for(a_manifest(version="2"), number=2)

    def find(path: str) -> Published:
        raise refuse("trust.unsigned", "team") if "1.0" in path else TransferError("gone", code="transfer.unreachable")

    evidence = subject.gather([one, two], find, lambda *_: b"")
    assert [error.code for error in evidence.values() if isinstance(error, PcmError)] == [
        "trust.unsigned",
        "transfer.unreachable",
    ]

    def full(_path: str, _length: int, _sha256: str) -> bytes:
        raise StoreError("disk full")

    with pytest.raises(StoreError):
        subject.gather([one], lambda _path: published_for(one), full)


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("begun", [True, False])
def test_a_chain_as_long_as_a_file_can_hold_costs_no_more_than_its_length(turn: int, begun: bool) -> None:
    """Whoever signs instruction files must not be able to keep a client busy: 10,000 of them, each after the next."""
    count = 10_000
    ids = [f"i{n}" for n in range(count)][::turn]
    manifest = a_manifest()
    body = write_manifest(manifest)
    chained = [
        instruction_for(manifest, number=n, id=name, after=(before,))
        for n, (name, before) in enumerate(zip(ids, ["done" if begun else "missing", *ids], strict=False))
    ]
    began = time.process_time()
    verdicts = subject.cross_check(chained, dict.fromkeys(ids, body), around(done=frozenset({"done"})))
    assert time.process_time() - began < 5
    assert {type(verdict) for verdict in verdicts} == {Accepted if begun else Refused}


def test_a_wrong_name_for_a_manifest_spoils_nothing_for_the_right_one() -> None:
    manifest = a_manifest()
    wrong = instruction_for(manifest, number=1, package="other")
    right = instruction_for(manifest, number=2)
    body = write_manifest(manifest)
    published = Published(right.manifest.path, right.manifest.length, {"sha256": right.manifest.sha256})
    for order in ([wrong, right], [right, wrong]):
        evidence = subject.gather(order, lambda _: published, lambda *_: body)
        verdicts = {verdict.instruction.id: verdict for verdict in subject.cross_check(order, evidence, around())}
        assert isinstance(verdicts[right.id], Accepted)
        assert isinstance(verdicts[wrong.id], Refused)


@given(
    st.lists(st.lists(st.integers(1, 8), max_size=3), min_size=1, max_size=8), st.sets(st.integers(1, 8), max_size=3)
)
def test_whatever_is_accepted_could_really_run(after: list[list[int]], bad: set[int]) -> None:
    """Accepted instructions can be put in an order in which each comes after all that it names."""
    pairs = chain(*[tuple(str(n) if n <= len(after) else "missing" for n in names) for names in after], bad=bad)
    evidence = {instruction.id: write_manifest(manifest) for instruction, manifest in pairs}
    verdicts = subject.cross_check([instruction for instruction, _ in pairs], evidence, around())
    left = {verdict.instruction.id: verdict for verdict in verdicts if isinstance(verdict, Accepted)}
    while left:
        ready = [name for name, verdict in left.items() if not set(verdict.instruction.after) & set(left)]
        assert ready
        for name in ready:
            del left[name]
    for verdict in verdicts:
        if isinstance(verdict, Refused):
            assert verdict.error.code in REFUSALS
