"""Carrying content through real transfer processes: rates that change in the middle, bundles that lie, memory that stays small."""

import contextlib
import hashlib
import io
import random
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import zstandard

from pcm.content.assembly import Wanted, bring
from pcm.content.bundle_index import Listing, bundle_path, write_head
from pcm.content.bundles import Version
from pcm.content.client_store import ClientStore
from pcm.content.objects import object_path, pack
from pcm.content.parts import Parts
from pcm.content.ways import Link
from pcm.model.content_policy import ContentPolicy, RateHours
from pcm.model.errors import TransferError
from pcm.model.package import PackageFile
from pcm.service.content_carrier import ContentCarrier
from pcm.service.content_limits import METERED, Limits
from pcm.transport.client import TransferClient
from tests.content_sources import bundle_of, listing_of, objects_of
from tests.range_server import RangeServer, range_server
from tests.transfer_process import open_process

DATA = random.Random(8).randbytes(1_500_000)
FILE = PackageFile("large", len(DATA), hashlib.sha256(DATA).hexdigest())
OBJECT = b"".join(pack(io.BytesIO(DATA), len(DATA)))
NOON = datetime(2026, 1, 5, 12)


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with range_server() as served:
        yield served


@contextlib.contextmanager
def carrier_with(limits: Limits) -> Iterator[ContentCarrier]:
    client = TransferClient(open_process)
    with ContentCarrier(client, lambda: TransferClient(open_process), limits) as carrier:
        yield carrier
    client.close()


UNLIMITED = Limits(ContentPolicy(), lambda: NOON, lambda: False)


class Day:
    """A policy of two rates, and a clock that jumps from the one to the other in the middle."""

    def __init__(self) -> None:
        self.reading = NOON.replace(hour=17, minute=59)
        self.seconds = 0.0
        policy = ContentPolicy(rate=300_000, hours=(RateHours(start="18:00", end="24:00", rate=0),))
        self.limits = Limits(policy, lambda: self.reading, lambda: False, lambda: self.seconds)

    def evening(self) -> None:
        self.reading += timedelta(minutes=2)
        self.seconds += 60


@pytest.mark.parametrize("way", ["object", "range"])
def test_another_rate_holds_in_the_middle_and_it_goes_on_where_it_was(
    server: RangeServer, tmp_path: Path, way: str
) -> None:
    day, path = Day(), object_path(FILE.sha256)
    server.files[f"/{path}"] = (OBJECT, '"one"')
    server.on_sent = lambda sent: day.evening() if 400_000 < sent < 420_000 else None
    began = time.monotonic()
    with carrier_with(day.limits) as carrier, Parts(tmp_path).open(path) as part:
        if way == "object":
            assert b"".join(carrier.fetch_object(server.url, FILE, part)) == DATA
        else:
            carrier.fetch_range(server.url, path, part, len(OBJECT))
        assert part.end == len(OBJECT)
        assert part.path.read_bytes() == OBJECT
    assert time.monotonic() - began < 1_500_000 / 300_000  # at the first rate it would have taken so long
    assert len(server.asked) >= 2
    assert all(int(asked.removeprefix("bytes=").split("-")[0]) > 0 for asked in server.asked[1:])


def test_nothing_is_asked_for_while_the_policy_is_to_wait(server: RangeServer, tmp_path: Path) -> None:
    limits = Limits(ContentPolicy(metered="wait"), lambda: NOON, lambda: True)
    with carrier_with(limits) as carrier, pytest.raises(TransferError) as caught:
        b"".join(carrier.fetch_object(server.url, FILE, None))
    assert caught.value.code == METERED
    assert server.asked == []
    store = ClientStore(tmp_path)
    with carrier_with(limits) as carrier, pytest.raises(TransferError) as caught:
        bring(Wanted((FILE,)), store, [server.url], carrier)
    assert caught.value.code == METERED


OLD = {f"file{number}": random.Random(number).randbytes(60_000) for number in range(8)}
NEW = {name: data[:30_000] + b"changed" + data[30_000:] for name, data in OLD.items()}
LISTINGS = listing_of(NEW, "new"), listing_of(OLD, "old")
PATCHES = bundle_of(LISTINGS[0], NEW, LISTINGS[1], OLD)
PATH, BUNDLE = next(iter(PATCHES.items()))


def bomb() -> bytes:
    """An index of a few bytes that claims to be four megabytes, and would be."""
    packed = zstandard.compress(bytes(4 << 20))
    return write_head(len(packed), 4 << 20) + packed


LIES = {
    "a page": b"<html>Please log in to this hotel's network</html>" * 40,
    "an empty one": b"",
    "cut in its head": BUNDLE[:11],
    "cut in its index": BUNDLE[:40],
    "cut in its units": BUNDLE[:-300],
    "a bomb for an index": bomb(),
    "an index beyond all bounds": write_head((1 << 32) - 1, (1 << 32) - 1) + BUNDLE[16:],
    "bits flipped in its index": BUNDLE[:30] + bytes([BUNDLE[30] ^ 64]) + BUNDLE[31:],
    "bits flipped in a unit": BUNDLE[:-100] + bytes([BUNDLE[-100] ^ 64]) + BUNDLE[-99:],
    "that of other versions": next(iter(bundle_of(listing_of(OLD, "x"), OLD, LISTINGS[0], NEW).values())),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_bundle_that_lies_is_named_and_the_files_come_all_the_same(
    server: RangeServer, tmp_path: Path, lie: str
) -> None:
    new, old = LISTINGS
    assert bundle_path(new.sha256, old.sha256) == PATH
    server.files = {f"/{path}": (data, '"a"') for path, data in objects_of(NEW).items()}
    server.files[f"/{PATH}"] = (LIES[lie], '"a"')
    store = ClientStore(tmp_path)
    for file in old.files:
        store.add(file.sha256, file.length, (OLD[file.path],), "before")
    wanted = Wanted(new.files, new, (Version(Listing(*old), "1.0"),))
    with carrier_with(UNLIMITED) as carrier:
        brought = bring(wanted, store, [server.url], carrier, Link(rate=1e5))
    for file in new.files:
        assert b"".join(store.read(file.sha256, file.length)) == NEW[file.path]
    assert {each.source for each in brought.complaints} == {server.url}
    assert all(each.code.startswith(("trust.", "transfer.")) for each in brought.complaints)
