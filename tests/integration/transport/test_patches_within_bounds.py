"""Patches that were made to explode, undone by a real transfer process: a code, bounded memory, and the next one works."""

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from pcm.content.bundle_index import MAX_BASE, MAX_PLAIN
from pcm.content.patches import pack_bsdiff
from pcm.model.errors import TransferError
from pcm.transport.client import TransferClient
from pcm.transport.hardening import MEMORY
from pcm.transport.source import Extent
from tests.transfer_process import start_process

MEBI = 1 << 20


@pytest.fixture
def part(tmp_path: Path) -> Iterator[int]:
    file = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT, 0o600)
    yield file
    os.close(file)


def undone(client: TransferClient, part: int, kind: str, packed: bytes, base: bytes, plain_length: int) -> bytes:
    os.ftruncate(part, 0)
    os.pwrite(part, packed + base, 0)
    extents = (Extent(part, 0, len(packed)), [Extent(part, len(packed), len(base))])
    return b"".join(client.unpack(kind, *extents, plain_length))


def peak(process_id: int, field: str) -> int:
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


def test_the_largest_unit_fits_into_its_memory(part: int) -> None:
    chance = random.Random(5)
    base = chance.randbytes(MAX_BASE)
    half = MAX_PLAIN // 2
    plain = base[-half:] + chance.randbytes(1000) + base[: half - 1000]
    prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    parameters = zstandard.ZstdCompressionParameters(
        window_log=25, enable_ldm=True, compression_level=3, write_content_size=True
    )
    packed = zstandard.ZstdCompressor(dict_data=prefix, compression_params=parameters).compress(plain)
    process, channel = start_process()
    client = TransferClient(lambda: channel)
    assert undone(client, part, "zstd", packed, base, len(plain)) == plain
    assert peak(process.pid, "VmPeak") < MEMORY
    assert peak(process.pid, "VmHWM") < 128 * MEBI
    client.close()


BOMBS = {
    # a frame that tells another length than it has; one that tells none; one that wants a window of 2 GiB
    "told too short": ("zstd", zstandard.ZstdCompressor().compress(bytes(1 << 28))),
    "told nothing": ("zstd", zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 28))),
    "a wide window": ("zstd", b"\x28\xb5\x2f\xfd\x80\xa8" + struct.pack("<I", 1000) + b"\x03\0\0"),
    "frames after frames": ("zstd", zstandard.ZstdCompressor().compress(bytes(1000)) * 100),
    "skippable": ("zstd", b"\x50\x2a\x4d\x18\xff\xff\xff\xff" + bytes(100)),
    "counts that overflow": ("bsdiff", b"\xff" * 64),
    "no patch": ("bsdiff", bytes(1000)),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_has_a_code_and_costs_little(part: int, name: str) -> None:
    kind, packed = BOMBS[name]
    process, channel = start_process()
    client = TransferClient(lambda: channel)
    client.protections()
    before = peak(process.pid, "VmHWM")
    with pytest.raises(TransferError) as caught:
        undone(client, part, kind, packed, b"base", 1000)
    assert caught.value.code in ("transfer.damaged", "transfer.too_long")
    assert peak(process.pid, "VmHWM") - before < 40 * MEBI
    assert undone(client, part, "raw", b"still there", b"", 11) == b"still there"
    client.close()


def test_a_patch_with_flipped_bits_is_another_patch_or_none(part: int) -> None:
    chance = random.Random(11)
    base = chance.randbytes(40_000)
    plain = base[:10_000] + b"in between" + bytes(byte ^ 3 for byte in base[10_000:])
    patch = pack_bsdiff(plain, base)
    assert patch is not None
    process, channel = start_process()
    client = TransferClient(lambda: channel)
    assert undone(client, part, "bsdiff", patch, base, len(plain)) == plain
    for _ in range(60):
        flipped = bytearray(patch)
        for _ in range(chance.randrange(1, 4)):
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        try:
            assert len(undone(client, part, "bsdiff", bytes(flipped), base, len(plain))) == len(plain)
        except TransferError as error:
            assert error.code in ("transfer.damaged", "transfer.too_long")
    assert process.poll() is None
    client.close()
