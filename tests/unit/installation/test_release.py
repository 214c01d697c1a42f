"""What a version says it consists of: each thing that differs is named, and no description leads outside."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import MachineError
from pcm.service.installation.release import DESCRIPTION, mend_modes, read_release, tree_problems
from tests.unit.installation.making import make_tree

DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda tree: (tree / "lib/code.py").unlink(), "lib/code.py is missing."),
    "changed": (lambda tree: (tree / "lib/code.py").write_text("odec\n"), "lib/code.py was changed."),
    "longer": (lambda tree: (tree / "lib/code.py").write_text("code\n\n"), "lib/code.py was changed."),
    "not executable": (lambda tree: (tree / "bin/python3.11").chmod(0o644), "bin/python3.11 has mode 0644."),
    "executable": (lambda tree: (tree / "lib/code.py").chmod(0o755), "lib/code.py has mode 0755."),
    "writable": (lambda tree: (tree / "lib/code.py").chmod(0o664), "lib/code.py (mode 0664) can be changed by others."),
    "open folder": (lambda tree: (tree / "lib").chmod(0o777), "lib (mode 0777) can be changed by others."),
    "open description": (lambda tree: (tree / DESCRIPTION).chmod(0o666), "(mode 0666) can be changed by others."),
    "added": (lambda tree: (tree / "lib/more.py").touch(), "lib/more.py does not belong there."),
    "added link": (lambda tree: (tree / "lib/away").symlink_to("/etc"), "lib/away does not belong there."),
    "link instead": (lambda tree: replace_by_link(tree / "lib/code.py"), "lib/code.py is no file."),
    "pipe": (lambda tree: replace_by_pipe(tree / "lib/code.py"), "lib/code.py is no file."),
}


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_q181118_q191328_each_difference_is_named(tmp_path: Path, damage: str) -> None:
    release = make_tree(tmp_path / "tree", "1.0")
    assert tree_problems(tmp_path / "tree", release) == []
    do, told = DAMAGES[damage]
    do(tmp_path / "tree")
    assert any(told in problem for problem in tree_problems(tmp_path / "tree", release))


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name.startswith(("writable", "open", "not", "exec"))])
def test_modes_are_mended_and_contents_are_not(tmp_path: Path, damage: str) -> None:
    tree = tmp_path / "tree"
    release = make_tree(tree, "1.0")
    (tree / "lib/deep/er.py").write_text("other\n")
    DAMAGES[damage][0](tree)
    mend_modes(tree, release)
    assert tree_problems(tree, release) == [f"{tree}/lib/deep/er.py was changed."]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", ""])
def test_a_description_that_leads_outside_is_refused(tmp_path: Path, path: str) -> None:
    tree = tmp_path / "tree"
    make_tree(tree, "1.0")
    described = json.loads((tree / DESCRIPTION).read_text())
    described["files"][0]["path"] = path
    (tree / DESCRIPTION).write_text(json.dumps(described))
    with pytest.raises(MachineError, match="names a file outside") as caught:
        read_release(tree)
    assert caught.value.code == "installation.damaged"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"type": "pcm.release", "spec": "2.0"}', '{"type": "other", "spec": "1.0"}']
)
def test_a_damaged_description_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / DESCRIPTION).write_text(text)
    with pytest.raises(MachineError, match=r"release\.json is damaged") as caught:
        read_release(tmp_path)
    assert caught.value.code == "installation.damaged"


def test_a_missing_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="No such file"):
        read_release(tmp_path)


@given(st.binary(max_size=200))
def test_no_description_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / DESCRIPTION).write_bytes(data)
    with pytest.raises(MachineError):
        read_release(folder)
