"""A setup file taken apart and put together: lengths and hashes fit, and damage never gets a kit."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.cli.setup_file import read_setup, with_length
from pcm.model.errors import RequestError

HEAD = (Path(__file__).resolve().parents[3] / "packaging" / "setup" / "head.sh").read_text()
ARCHIVE = b"\x1f\x8b archive \0\n" * 50


def make(archive: bytes = ARCHIVE) -> bytes:
    head = HEAD
    values = {
        "VERSION": "1.2.3",
        "MACHINE": "x86_64",
        "PAYLOAD_BYTES": str(len(archive)),
        "PAYLOAD_SHA256": hashlib.sha256(archive).hexdigest(),
    }
    for name, value in values.items():
        head = head.replace(f"@{name}@", value)
    assert head.count("@") == head.count('"$@"') + head.count("@HEAD_BYTES@") * 2 + 0
    return with_length(head) + archive


def test_what_was_made_is_read() -> None:
    setup = read_setup(make(), "s")
    assert (setup.version, setup.machine, setup.archive, setup.kit) == ("1.2.3", "x86_64", ARCHIVE, b"")


@given(st.binary(min_size=1, max_size=3000), st.text(max_size=80))
def test_a_preset_setup_is_whole_and_can_be_preset_again(kit: bytes, told: str) -> None:
    preset = read_setup(read_setup(make(), "s").preset(kit, told), "s")
    assert (preset.archive, preset.kit) == (ARCHIVE, kit)
    again = read_setup(preset.preset(b"other", "client of site lab"), "s")
    assert (again.archive, again.kit) == (ARCHIVE, b"other")
    assert "\nKIT_TOLD='client of site lab'\n" in again.head


@given(st.text(max_size=200))
def test_no_words_get_out_of_their_quotes(told: str) -> None:
    head = read_setup(make(), "s").preset(b"kit", told).decode("latin-1")
    [line] = [line for line in head.split("\n") if line.startswith("KIT_TOLD=")]
    assert line.count("'") == 2
    assert line.endswith("'")
    assert "$" not in line


@given(st.integers(0, len(make()) - 1), st.integers(1, 255))
def test_no_flipped_byte_of_the_archive_goes_unseen(at: int, change: int) -> None:
    data = bytearray(make())
    if at < len(data) - len(ARCHIVE):
        at = len(data) - 1 - at % len(ARCHIVE)
    data[at] ^= change
    with pytest.raises(RequestError, match="its archive is not what it was made with"):
        read_setup(bytes(data), "s")


@pytest.mark.parametrize("cut", [0, 1, 20, 500])
def test_a_file_that_is_not_complete_is_refused(cut: int) -> None:
    data = make()
    with pytest.raises(RequestError) as caught:
        read_setup(data[: len(data) - 1 - cut], "s")
    assert caught.value.code == "request.setup"


@given(st.binary(max_size=400))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read_setup(data, "s")
    assert caught.value.code == "request.setup"


def test_a_kit_that_was_changed_is_refused() -> None:
    data = bytearray(read_setup(make(), "s").preset(b"kit", "site"))
    data[-1] ^= 1
    with pytest.raises(RequestError, match="its kit is not"):
        read_setup(bytes(data), "s")


@pytest.mark.parametrize("extra", range(0, 1200, 37))
def test_the_head_knows_its_own_length_however_long_it_is(extra: int) -> None:
    head = f"HEAD_BYTES=@HEAD_BYTES@\n{'#' * extra}"
    made = with_length(head)
    assert int(made.split(b"\n")[0].removeprefix(b"HEAD_BYTES=")) == len(made)
