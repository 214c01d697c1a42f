"""Which old file a new file is made from."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.content.base_finding import changed_files, find_bases, masked
from pcm.content.bundle_index import Listing
from pcm.model.package import PackageFile


def listing(*files: tuple[str, int, str]) -> Listing:
    return Listing(
        "0" * 64, [PackageFile(path, size, hashlib.sha256(text.encode()).hexdigest()) for path, size, text in files]
    )


def found(new: Listing, old: Listing) -> dict[str, str]:
    return {new.files[one].path: old.files[other].path for one, other in find_bases(new, old).items()}


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("usr/lib/app.so", "usr/lib/app.so"),
        ("lib/modules/6.1.0-56-amd64/net/xt.ko", "lib/modules/6.1.0-55-amd64/net/xt.ko"),
        ("lib/libicudata.so.74.1", "lib/libicudata.so.73"),
        ("lib/python3.12/x.py", "lib/python3.11/x.py"),
        ("site/main.3fa9b2c1.js", "site/main.99e0aa12.js"),
        ("moved/to/app.exe", "app.exe"),
        ("App-2.0.1.msi", "App-1.9.msi"),
        ("renamed.dll", "oldname.dll"),
    ],
)
def test_the_old_file_is_found(new: str, old: str) -> None:
    others = [("else/" + "x" * 9 + ".txt", 1000, "0"), ("app", 1000, "1")]
    assert found(listing((new, 1010, "b")), listing(*others, (old, 1000, "a"))) == {new: old}


def test_the_path_goes_before_the_name_and_the_length_decides_among_equals() -> None:
    old = listing(("a/x.so", 10, "1"), ("b/x.so", 500, "2"), ("c/x.so", 90, "3"))
    assert found(listing(("b/x.so", 12, "n"), ("d/x.so", 80, "m"), ("e/x.so", 9999, "o")), old) == {
        "b/x.so": "b/x.so", "d/x.so": "c/x.so", "e/x.so": "b/x.so",
    }  # fmt: skip


def test_what_is_like_nothing_has_no_base() -> None:
    old = listing(("a.txt", 1000, "1"), ("empty.bin", 0, "2"))
    assert found(listing(("b.png", 1000, "n"), ("c.txt", 2000, "m"), ("empty.bin", 5, "o")), old) == {}


def test_what_is_there_or_empty_or_there_twice_is_not_asked_for_again() -> None:
    old = listing(("a", 5, "same"), ("b", 5, "other"))
    new = listing(("z", 5, "same"), ("b", 6, "fresh"), ("c", 6, "fresh"), ("d", 0, "nothing"))
    assert changed_files(new, old) == [1]
    assert find_bases(new, old) == {1: 1}


def test_masks() -> None:
    assert masked("lib/6.1.0-55-amd64/a1.ko") == masked("lib/6.12.3-amd64/a22.ko") == "lib/0-amd0/a0.ko"
    assert masked("facade.js") == "facade.js"  # hex letters alone are a word


_FILES = st.lists(
    st.tuples(st.text("ab/.0", min_size=1, max_size=6), st.integers(0, 50), st.sampled_from("uvwxyz")), max_size=8
)


@given(_FILES, _FILES)
def test_only_what_is_wanted_gets_a_base_that_is_there(
    new: list[tuple[str, int, str]], old: list[tuple[str, int, str]]
) -> None:
    after, before = listing(*new), listing(*old)
    bases = find_bases(after, before)
    assert set(bases) <= set(changed_files(after, before))
    assert all(before.files[number].length for number in bases.values())
    assert list(bases) == sorted(bases)
