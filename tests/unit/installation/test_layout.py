"""Versions beside each other: placed whole, switched in one step, collected when nobody needs them."""

import stat
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import MachineError, PcmError, RequestError
from pcm.model.versions import compare_versions
from pcm.service.installation.layout import (
    Layout,
    collect,
    current_version,
    link,
    own_tree,
    place,
    present_versions,
    switch,
)
from pcm.service.installation.release import DESCRIPTION, tree_problems
from tests.unit.installation.making import make_tree


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "opt").mkdir()
    return Layout(tmp_path)


def put(layout: Layout, *versions: str) -> None:
    for version in versions:
        source = layout.root / "from" / version
        place(layout, source, make_tree(source, version))


def test_a_version_is_placed_and_switched_to(layout: Layout) -> None:
    source = layout.root / "from"
    release = make_tree(source, "1.0")
    assert place(layout, source, release) == len(release.files)
    assert current_version(layout) is None
    switch(layout, "1.0")
    assert current_version(layout) == "1.0"
    assert layout.current.is_symlink()
    assert str(layout.current.readlink()) == "versions/1.0"  # relative: it fits an image too
    assert tree_problems(layout.version("1.0"), release) == []


def test_placing_again_does_nothing_and_keeps_every_file(layout: Layout) -> None:
    source = layout.root / "from"
    release = make_tree(source, "1.0")
    place(layout, source, release)
    before = {path: path.stat().st_ino for path in layout.versions.rglob("*")}
    assert place(layout, source, release) == 0
    assert {path: path.stat().st_ino for path in layout.versions.rglob("*")} == before


@pytest.mark.parametrize("damage", ["gone", "changed", "mode", "folder", "link"])
def test_placing_mends_what_differs_without_touching_a_file_in_use(layout: Layout, damage: str) -> None:
    source = layout.root / "from"
    release = make_tree(source, "1.0")
    place(layout, source, release)
    victim = layout.version("1.0") / "lib" / "code.py"
    in_use = (layout.version("1.0") / "lib" / "deep" / "er.py").open("rb")
    victim.unlink()
    if damage == "changed":
        victim.write_text("cuckoo")
    elif damage == "mode":
        victim.write_bytes((source / "lib" / "code.py").read_bytes())
        victim.chmod(0o666)
    elif damage == "folder":
        victim.mkdir()
        (victim / "x").touch()
    elif damage == "link":
        victim.symlink_to("/etc/passwd")
    with in_use:
        assert place(layout, source, release) == 1
        assert in_use.read() == b"deeper\n"
    assert tree_problems(layout.version("1.0"), release) == []


def test_placing_removes_what_does_not_belong_there(layout: Layout) -> None:
    source = layout.root / "from"
    release = make_tree(source, "1.0")
    place(layout, source, release)
    (layout.version("1.0") / "lib" / "sneaked.py").touch()
    (layout.version("1.0") / "lib" / "away").symlink_to("/etc")
    place(layout, source, release)
    assert tree_problems(layout.version("1.0"), release) == []
    assert Path("/etc").is_dir()


def test_nothing_is_taken_from_a_tree_that_is_not_what_it_says(layout: Layout) -> None:
    source = layout.root / "from"
    release = make_tree(source, "1.0")
    (source / "lib" / "code.py").write_text("cuckoo")
    with pytest.raises(MachineError, match=r"code\.py was changed") as caught:
        place(layout, source, release)
    assert caught.value.code == "installation.damaged"
    assert present_versions(layout) == []
    with pytest.raises(RequestError):
        switch(layout, "1.0")


def test_half_a_version_does_not_count(layout: Layout) -> None:
    put(layout, "1.0", "2.0")
    switch(layout, "1.0")
    (layout.version("2.0") / DESCRIPTION).unlink()
    assert present_versions(layout) == ["1.0"]
    with pytest.raises(RequestError, match=r"Version 2\.0 is not in"):
        switch(layout, "2.0")
    assert current_version(layout) == "1.0"


@pytest.mark.parametrize("version", ["", ".", "..", "../1", "a/b", "-1", "1\n", "x" * 65, "1..2", "1\0"])
def test_a_version_is_never_a_way_out(layout: Layout, version: str) -> None:
    with pytest.raises(RequestError):
        layout.version(version)


def test_a_link_that_leads_elsewhere_is_no_version(layout: Layout, tmp_path: Path) -> None:
    put(layout, "1.0")
    for leads_to in ("/tmp", "versions/9", "../opt/pcm/versions/1.0", "versions", "versions/1.0/lib"):
        link(layout.current, leads_to)
        assert current_version(layout) is None
    link(layout.current, "versions/1.0")
    assert current_version(layout) == "1.0"
    assert [path.name for path in layout.program.iterdir() if path.name.startswith(".")] == []


def test_a_switch_that_fails_leaves_the_old_version_in_use(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    put(layout, "1.0", "2.0")
    switch(layout, "1.0")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PcmError) as caught:
        switch(layout, "2.0")
    assert caught.value.code == "store.full"
    assert current_version(layout) == "1.0"
    assert sorted(path.name for path in layout.program.iterdir()) == ["current", "versions"]


def test_collecting_keeps_the_current_one_the_one_before_and_those_in_use(layout: Layout) -> None:
    put(layout, "1.0", "1.1", "1.2", "1.10", "2.0")
    switch(layout, "1.10")
    (layout.versions / ".new").touch()
    assert collect(layout, {"1.0"}) == [".new", "1.1", "2.0"]
    assert present_versions(layout) == ["1.0", "1.2", "1.10"]
    assert collect(layout, set()) == ["1.0"]
    assert collect(layout, set()) == []


def test_nothing_is_collected_where_no_version_is_in_use(layout: Layout) -> None:
    put(layout, "1.0", "2.0")
    assert collect(layout, set()) == []


def test_files_of_a_version_are_links_to_those_that_were_brought(layout: Layout) -> None:
    put(layout, "1.0")
    first, second = (path / "lib" / "code.py" for path in (layout.root / "from" / "1.0", layout.version("1.0")))
    assert first.samefile(second)
    assert stat.S_IMODE(second.stat().st_mode) == 0o644


def test_a_checkout_is_no_installation() -> None:
    assert own_tree() is None


@given(st.lists(st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}", fullmatch=True), unique_by=str))
def test_versions_are_in_their_order_whatever_their_names(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    layout = Layout(tmp_path_factory.mktemp("order"))
    for name in names:
        folder = layout.version(name)
        folder.mkdir(parents=True)
        (folder / DESCRIPTION).touch()
    found = present_versions(layout)
    assert set(found) == set(names)
    assert all(compare_versions(one, other) <= 0 for one, other in pairwise(found))
