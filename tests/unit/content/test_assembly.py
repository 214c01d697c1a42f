"""Bringing files: only what is missing, only right bytes, by any way, from whoever gives them, and not onto a full disk."""

import contextlib
import functools
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm.content.assembly import RESERVE_BYTES, Brought, Wanted, bring, missing_files
from pcm.content.bundle_index import Listing, bundle_path
from pcm.content.bundles import Version
from pcm.content.carrying import FetchProgress
from pcm.content.client_store import ClientStore
from pcm.content.objects import object_path
from pcm.content.parts import Part, Parts
from pcm.content.ways import Link
from pcm.model.errors import PcmError, StoreError, TransferError, TrustError
from pcm.model.package import PackageFile
from tests.content_sources import (
    Fault,
    Sources,
    bundle_of,
    cut,
    down,
    flipped,
    garbage,
    honest,
    listing_of,
    objects_of,
    package_file,
)

CONTENTS = {f"f{number}": bytes([number]) * (number * 1000) for number in range(6)}
FILES = [package_file(path, content) for path, content in CONTENTS.items()]
OBJECTS = objects_of(CONTENTS)
SLOW = Link(rate=200e3)


def longer(path: str, data: bytes) -> bytes:
    return honest(path, data) + b"and more"


def other(path: str, data: bytes) -> bytes:
    """A right object, of another file."""
    honest(path, data)
    return OBJECTS[object_path(FILES[5 if object_path(FILES[5].sha256) != path else 4].sha256)]


@pytest.fixture
def store(tmp_path: Path) -> ClientStore:
    return ClientStore(tmp_path)


def bring_from(store: ClientStore, sources: Sources, files: Iterable[PackageFile] = FILES, **more: object) -> Brought:
    return bring(Wanted(list(files)), store, sources.names, sources, **more)  # type: ignore[arg-type]


def read(store: ClientStore, file: PackageFile) -> bytes:
    return b"".join(store.read(file.sha256, file.length))


# ---- whole objects


def test_all_files_come_and_the_empty_one_from_nowhere(store: ClientStore) -> None:
    sources = Sources(OBJECTS, a=honest)
    brought = bring_from(store, sources)
    assert (brought.files, brought.bytes, brought.complaints) == (6, 15_000, ())
    assert [(each.way, each.source, each.files, each.plain) for each in brought.traffic if each.way != "have"] == [
        ("whole", "a", 5, 15_000)
    ]
    assert missing_files(FILES, store) == []
    assert ("a", object_path(FILES[0].sha256)) not in sources.asked
    for file in FILES:
        assert read(store, file) == CONTENTS[file.path]


def test_q140051_what_is_there_does_not_travel_again(store: ClientStore) -> None:
    bring_from(store, Sources(OBJECTS, a=honest), FILES[:4])
    sources = Sources(OBJECTS, a=honest)
    assert bring_from(store, sources).files == 2
    assert {path for _, path in sources.asked} == {object_path(file.sha256) for file in FILES[4:]}
    assert bring_from(store, sources) == Brought(0, 0, ())


def test_equal_files_travel_once(store: ClientStore) -> None:
    twins = [FILES[3], PackageFile("other", FILES[3].length, FILES[3].sha256)]
    sources = Sources(OBJECTS, a=honest)
    assert bring_from(store, sources, twins).files == 1
    assert len(sources.asked) == 1


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (other, "trust.endless_data"),
        (flipped, "trust.content"),
        (garbage, "trust.content"),
        (cut, "trust.content"),
        (longer, "trust.content"),
        (down, "transfer.unreachable"),
    ],
)
def test_a_bad_source_is_named_and_the_next_one_asked(store: ClientStore, bad: Fault, code: str) -> None:
    sources = Sources(OBJECTS, bad=bad, b=honest)
    told: list[str] = []
    brought = bring_from(store, sources, FILES[1:3], on_complaint=lambda complaint: told.append(complaint.source))
    assert brought.files == 2
    assert [(each.source, each.code) for each in brought.complaints] == [("bad", code)]
    assert [source for source, _ in sources.asked] == ["bad", "b", "b"]  # asked once, then it stands last
    assert told == ["bad"]


@pytest.mark.parametrize(
    ("faults", "error", "code"),
    [
        ({"a": other, "b": down}, TrustError, "trust.endless_data"),
        ({"a": down, "b": flipped}, TrustError, "trust.content"),
        ({"a": down, "b": honest}, TransferError, "transfer.not_found"),
        ({}, TransferError, "transfer.unreachable"),
    ],
)
def test_when_nobody_gives_a_file_the_worst_reason_is_the_code(
    store: ClientStore, faults: Mapping[str, Fault], error: type[PcmError], code: str
) -> None:
    sources = Sources({} if "not_found" in code else OBJECTS, **faults)
    with pytest.raises(error) as caught:
        bring_from(store, sources, FILES[1:3])
    assert caught.value.code == code
    assert "f1" in caught.value.message
    assert all(name in caught.value.message for name in faults)


def test_a_message_that_names_its_server_does_not_name_it_twice(store: ClientStore) -> None:
    server = "https://bad/distribution"
    with pytest.raises(TrustError) as caught:
        bring_from(store, Sources(OBJECTS, **{server: other}), FILES[1:2])
    assert caught.value.message.count(server) == 1


def test_progress_counts_right_bytes_only(store: ClientStore) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.1
        return now[0]

    told: list[FetchProgress] = []
    bring_from(store, Sources(OBJECTS, bad=cut, b=honest), on_progress=told.append, clock=clock)
    assert told[-1][:4] == (6, 6, 15_000, 15_000)
    assert told[-1].left_s == 0
    assert all(each.bytes_done <= each.bytes_total and each.rate >= 0 for each in told)
    assert {each.way for each in told} >= {"whole"}
    assert len(told) > 3


# ---- room


def test_q137610_room_is_checked_before_the_first_byte(store: ClientStore) -> None:
    free = store.free_bytes()
    sources = Sources(OBJECTS, a=honest)
    with pytest.raises(StoreError) as caught:
        bring(Wanted(FILES, staging_bytes=free), store, ["a"], sources)
    assert caught.value.code == "store.disk_full"
    assert str(store.root) in caught.value.message
    assert str(15_000 + free + RESERVE_BYTES) in caught.value.message
    assert sources.asked == []


def test_q191297_what_is_missing_is_named_with_what_it_is_for(store: ClientStore) -> None:
    free = store.free_bytes()
    with pytest.raises(StoreError) as caught:
        bring(Wanted(FILES, staging_bytes=free + 123), store, ["a"], Sources(OBJECTS, a=honest))
    message = caught.value.message
    lack = int(message.split("free another ")[1].split(".")[0])
    assert lack >= 123 + 15_000
    assert "15000 for 6 missing files" in message
    assert f"{free + 123} for the package directory" in message


def test_q193766_q191297_what_earlier_attempts_have_left_gives_way_when_room_is_scarce(
    store: ClientStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = ClientStore.free_bytes
    monkeypatch.setattr(
        ClientStore, "free_bytes", lambda self: free(self) if not Parts(self.root).bytes() else RESERVE_BYTES
    )
    with Parts(store.root).open("objects/of/something else") as part:
        os.write(part.descriptor, b"x" * 1000)
    assert bring_from(store, Sources(OBJECTS, a=honest)).files == 6
    assert Parts(store.root).bytes() == 0


# ---- interruptions


def test_an_interrupted_fetch_keeps_what_came(store: ClientStore) -> None:
    sources = Sources(OBJECTS, a=honest)
    third = object_path(FILES[3].sha256)

    def until_f3(_source: str, _count: int) -> None:
        if sources.asked[-1][1] == third:
            raise KeyboardInterrupt

    sources.on_bytes = until_f3
    with pytest.raises(KeyboardInterrupt):
        bring_from(store, sources, FILES[1:4])
    assert [file.path for file in missing_files(FILES[1:], store)] == ["f3", "f4", "f5"]


LARGE = {"large": random.Random(1).randbytes(3_000_000)}


@pytest.mark.parametrize("after", [1, 100_000, 1_500_000, 2_900_000])
def test_a_large_file_is_gone_on_with_at_another_source(store: ClientStore, after: int) -> None:
    holds = objects_of(LARGE)
    sources = Sources(holds, a=honest, b=honest)
    sources.breaks_off["a"] = after
    brought = bring_from(store, sources, listing_of(LARGE, "1").files)
    assert read(store, listing_of(LARGE, "1").files[0]) == LARGE["large"]
    packed = len(next(iter(holds.values())))
    assert sum(sources.travelled.values()) == packed  # nothing travelled twice
    assert [each.source for each in brought.complaints] == ["a"]
    assert Parts(store.root).bytes() == 0


def test_a_source_that_breaks_off_again_and_again_gets_there(store: ClientStore) -> None:
    sources = Sources(objects_of(LARGE), a=honest)
    sources.breaks_off["a"] = 800_000
    bring_from(store, sources, listing_of(LARGE, "1").files)
    assert len(sources.asked) == 4
    assert sources.travelled["a"] < 3_001_000


def test_an_object_that_was_packed_anew_in_between_is_fetched_whole_once(store: ClientStore) -> None:
    file = listing_of(LARGE, "1").files[0]
    with Parts(store.root).open(object_path(file.sha256)) as part:
        os.write(part.descriptor, b"(\xb5/\xfd of another packing" * 1000)
    sources = Sources(objects_of(LARGE), a=honest)
    brought = bring_from(store, sources, [file])
    assert brought.complaints == ()  # nobody's fault that can be told
    assert len(sources.asked) <= 2


# ---- patches and small files


@functools.cache
def version(
    seed: int, files: int = 40, changed: int = 15, size: int = 20_000
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Two versions: of the second some files differ in a few bytes, some are new, some are renamed."""
    chance = random.Random(seed)
    old = {f"file{number}": chance.randbytes(chance.randrange(1, size)) for number in range(files)}
    new = dict(old)
    for path in chance.sample(sorted(old), changed):
        data = bytearray(old[path])
        data[chance.randrange(len(data))] ^= 1
        new[path] = bytes(data) + b"tail"
    new |= {f"new{number}": chance.randbytes(3000) for number in range(8)}
    return old, new


class Case:
    """A client that has the old version, and servers that have both."""

    def __init__(self, root: Path, old: dict[str, bytes], new: dict[str, bytes], segment: int = 1 << 20) -> None:
        self.new_contents = new
        self.old, self.new = listing_of(old, "old"), listing_of(new, "new")
        self.patches = bundle_of(self.new, new, self.old, old, segment=segment)
        self.holds = objects_of(new) | self.patches | bundle_of(self.new, new)
        self.store = ClientStore(root)
        for file in self.old.files:
            self.store.add(file.sha256, file.length, (old[file.path],), "before")

    def bring(self, sources: Sources, link: Link = SLOW, **more: object) -> Brought:
        wanted = Wanted(self.new.files, self.new, (Version(self.old, "1.0"),))
        return bring(wanted, self.store, sources.names, sources, link, **more)  # type: ignore[arg-type]

    def check(self) -> None:
        for file in self.new.files:
            assert read(self.store, file) == self.new_contents[file.path]


@pytest.fixture
def update(tmp_path: Path) -> Case:
    return Case(tmp_path, *version(1))


def test_an_update_travels_as_patches_in_few_requests(update: Case) -> None:
    sources = Sources(update.holds, a=honest)
    brought = update.bring(sources)
    update.check()
    assert len(sources.asked) <= 4
    assert {path for _, path in sources.asked} == set(update.patches)
    changed = [file for file in update.new.files if file not in update.old.files]
    whole = sum(len(update.holds[object_path(file.sha256)]) for file in changed)
    assert sum(sources.travelled.values()) < whole
    assert brought.choice is not None
    assert {each.way for each in brought.traffic} == {"patch"}
    assert sum(each.bytes for each in brought.traffic) == sum(sources.travelled.values())
    assert Parts(update.store.root).bytes() == 0


def test_q160567_q184512_only_what_changed_travels(update: Case) -> None:
    sources = Sources(update.holds, a=honest)
    update.bring(sources)
    changed = [file for file in update.new.files if file not in update.old.files]
    assert sum(sources.travelled.values()) < sum(file.length for file in changed) / 2


def test_from_nothing_small_files_travel_together(tmp_path: Path) -> None:
    case = Case(tmp_path, {}, version(2, size=2000)[1])
    sources = Sources(case.holds, a=honest)
    brought = bring(Wanted(case.new.files, case.new), case.store, ["a"], sources, SLOW)
    case.check()
    assert len(sources.asked) <= 4
    assert "small" in {each.way for each in brought.traffic}


def test_on_a_quick_link_whole_files_are_fetched(update: Case) -> None:
    quick = Link(rate=10e9, latency_s=0.000_01, unpack_rate=1e6, object_rate=1e9)
    brought = update.bring(Sources(update.holds, a=honest), quick)
    update.check()
    assert "whole" in {each.way for each in brought.traffic}


def test_without_any_bundle_everything_comes_whole(update: Case) -> None:
    sources = Sources({path: data for path, data in update.holds.items() if path.startswith("objects/")}, a=honest)
    assert update.bring(sources).complaints == ()
    update.check()


@pytest.mark.parametrize("bad", [flipped, cut, garbage, longer])
def test_a_bad_bundle_costs_another_try_and_names_its_source(update: Case, bad: Fault) -> None:
    def lies(path: str, data: bytes) -> bytes:
        return bad(path, data) if path.startswith("bundles/") else honest(path, data)

    brought = update.bring(Sources(update.holds, bad=lies, b=honest))
    update.check()
    if bad is not longer:
        assert {each.source for each in brought.complaints} == {"bad"}
        assert {each.code for each in brought.complaints} <= {
            "trust.content",
            "trust.endless_data",
            "transfer.truncated",
        }


@pytest.mark.parametrize("code", ["trust.endless_data", "trust.content"])
def test_an_answer_that_cannot_be_costs_its_source_and_not_the_fetch(tmp_path: Path, code: str) -> None:
    """A stretch of a bundle that goes on and on, say: the next server gives it."""
    chance = random.Random(7)
    old = [chance.randbytes(1000) for _ in range(400)]
    new = [chance.randbytes(1000) if number % 3 == 0 else each for number, each in enumerate(old)]
    update = Case(tmp_path, {"large": b"".join(old)}, {"large": b"".join(new)})
    sources = Sources(update.holds, bad=honest, b=honest)
    fetch_range = sources.fetch_range

    def endless(source: str, path: str, part: Part, end: int, on_progress: Callable[[], None] = lambda: None) -> None:
        if source != "bad" or part.end == 0:
            fetch_range(source, path, part, end, on_progress)
            return
        os.write(part.descriptor, b"wrong" * 10)
        raise TrustError("bad: sent more than it may", code=code)

    sources.fetch_range = endless  # type: ignore[method-assign]
    brought = update.bring(sources)
    update.check()
    assert ("bad", code) in {(each.source, each.code) for each in brought.complaints}
    assert {each.way for each in brought.traffic if each.source == "b" and each.bytes} == {"patch"}


def test_when_every_bundle_lies_the_whole_files_come(update: Case) -> None:
    def lies(path: str, data: bytes) -> bytes:
        return flipped(path, data) if path.startswith("bundles/") else honest(path, data)

    brought = update.bring(Sources(update.holds, a=lies, b=lies))
    update.check()
    assert {each.source for each in brought.complaints} == {"a", "b"}


def test_a_damaged_old_file_is_nobodys_lie(update: Case) -> None:
    for file in update.old.files:
        place = update.store.root / file.sha256[:2] / file.sha256
        place.write_bytes(bytes(file.length))
    brought = update.bring(Sources(update.holds, a=honest))
    assert brought.complaints == ()
    for file in update.new.files:
        if file not in update.old.files:
            assert read(update.store, file) == update.new_contents[file.path]


def test_a_bundle_is_gone_on_with_at_another_source(update: Case) -> None:
    path = next(iter(update.patches))
    sources = Sources(update.holds, a=honest, b=honest)
    sources.breaks_off["a"] = 64 * 1024  # after the index
    brought = update.bring(sources)
    update.check()
    assert sum(sources.travelled.values()) <= len(update.holds[path])
    assert {each.source for each in brought.traffic if each.bytes} == {"a", "b"} or len(update.holds[path]) <= 65536


def test_large_files_of_several_segments_are_put_together(tmp_path: Path) -> None:
    chance = random.Random(5)
    old = {"large": chance.randbytes(400_000), "other": chance.randbytes(100_000)}
    new = {"large": old["large"][:150_000] + b"inserted" + old["large"][150_000:], "other": old["other"][::-1]}
    case = Case(tmp_path, old, new, segment=64 * 1024)
    brought = case.bring(Sources(case.holds, a=honest))
    case.check()
    assert brought.complaints == ()
    assert not list(tmp_path.glob("*/.incoming-*"))


def test_what_peers_have_is_not_asked_of_servers(tmp_path: Path) -> None:
    contents = version(3, size=300_000)[1]
    files = listing_of(contents, "1").files
    store, sources = ClientStore(tmp_path), Sources(objects_of(contents), a=honest)

    def peers(
        asked: Sequence[PackageFile],
        own_share: Callable[[Sequence[PackageFile]], None],
        came_from: Callable[[PackageFile, str], None],
    ) -> None:
        for file in asked[::2]:
            store.add(file.sha256, file.length, (contents[file.path],), "a peer")
            came_from(file, "peer 10.0.0.7:8441")
        own_share(asked[1:4])

    brought = bring(Wanted(files), store, ["a"], sources, Link(rate=1e6, peers=5), neighbours=peers)
    assert brought.files == len({file.sha256 for file in files})
    assert missing_files(files, store) == []
    assert len(sources.asked) < len(files) * 0.7
    [given] = [row for row in brought.traffic if row.way == "peer"]
    assert given.source == "peer 10.0.0.7:8441"
    assert given.bytes > 0


# ---- resuming, at any byte


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 400_000), st.integers(0, 3))
def test_an_update_that_is_killed_anywhere_fetches_nothing_again(
    tmp_path_factory: pytest.TempPathFactory, after: int, seed: int
) -> None:
    case = Case(tmp_path_factory.mktemp("store"), *version(seed, files=12, changed=6, size=60_000))
    sources = Sources(case.holds, a=honest)

    def kill(_source: str, _count: int) -> None:
        if sum(sources.travelled.values()) > after:
            raise KeyboardInterrupt

    sources.on_bytes = kill
    with contextlib.suppress(KeyboardInterrupt):
        case.bring(sources)
    sources.on_bytes = lambda _source, _count: None
    case.bring(sources)
    case.check()
    clean = Case(tmp_path_factory.mktemp("clean"), *version(seed, files=12, changed=6, size=60_000))
    once = Sources(clean.holds, a=honest)
    clean.bring(once)
    # small objects, and an index that was not whole yet, may come again; nothing else does
    assert sum(sources.travelled.values()) <= sum(once.travelled.values()) + 256 * 1024


# ---- any way, hostile and random


_FAULTS: list[Fault] = [honest, honest, honest, down, flipped, cut, garbage, longer]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 5),
    st.lists(st.sampled_from(_FAULTS), max_size=4),
    st.sampled_from([1e4, 1e6, 1e8, 1e10]),
    st.integers(64, 40_000),
    st.randoms(use_true_random=False),
)
def test_whatever_comes_by_whichever_way_is_the_source_or_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    faults: list[Fault],
    rate: float,
    segment: int,
    chance: random.Random,
) -> None:
    case = Case(tmp_path_factory.mktemp("store"), *version(seed, files=12, changed=5, size=30_000), segment=segment)
    for path in chance.sample(sorted(case.holds), chance.randrange(3)):
        case.holds[path] = chance.randbytes(len(case.holds[path]))  # on every server
    held = list(case.store.list())
    for gone in chance.sample(held, chance.randrange(len(held))):
        (case.store.root / gone.sha256[:2] / gone.sha256).unlink()
    sources = Sources(case.holds, **{f"s{number}": fault for number, fault in enumerate(faults)})
    for name in sources.names:
        if chance.random() < 0.3:
            sources.breaks_off[name] = chance.randrange(200_000)
    try:
        case.bring(sources, Link(rate=rate, latency_s=chance.random() / 10))
    except (TrustError, TransferError):
        pass
    else:
        case.check()
    contents = {package_file(path, data).sha256: data for path, data in case.new_contents.items()}
    for file in case.store.list():
        if file.sha256 in contents:
            assert b"".join(case.store.read(file.sha256, file.length)) == contents[file.sha256]
    assert not list(case.store.root.glob("*/.incoming-*"))


def test_a_bundle_of_other_versions_is_refused(update: Case) -> None:
    stranger = Case(update.store.root / "stranger", *version(9))
    path = bundle_path(update.new.sha256, update.old.sha256)
    update.holds[path] = next(iter(stranger.patches.values()))
    brought = update.bring(Sources(update.holds, a=honest))
    update.check()
    assert [(each.source, each.code) for each in brought.complaints if each.about == path] == [("a", "trust.content")]


def test_an_older_listing_without_files_offers_nothing(update: Case) -> None:
    wanted = Wanted(update.new.files, update.new, (Version(Listing("0" * 64, ()), "0.9"),))
    sources = Sources(update.holds, a=honest)
    bring(wanted, update.store, ["a"], sources, SLOW)
    update.check()
