"""Folders that somebody else has prepared: a `--home` with links in it, a state folder that points elsewhere."""

import os
import stat
from pathlib import Path

import pytest

from pcm.model.errors import MachineError
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.places import create_places, find_places, find_problems


@pytest.mark.parametrize("name", ["var", "etc", "run"])
def test_nothing_is_made_or_changed_through_a_link(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    victim.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    (home / name).symlink_to(victim)
    with pytest.raises(MachineError) as refused:
        create_places(find_places(home))
    assert refused.value.code == "machine.unprotected"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o755
    assert list(victim.iterdir()) == []


def test_a_linked_home_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "real")
    with pytest.raises(MachineError):
        create_places(find_places(tmp_path / "home"))
    assert list((tmp_path / "real").iterdir()) == []


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", ["metadata", "store", "staging", "runs"])
def test_a_folder_of_the_state_that_belongs_to_somebody_else_is_named(tmp_path: Path, name: str) -> None:
    places = find_places(tmp_path)
    create_places(places)
    assert find_problems(places, LinuxMachine()) == []
    os.chown(places.state / name, 65534, 65534)
    [problem] = find_problems(places, LinuxMachine())
    assert (problem.path, problem.code) == (str(places.state / name), "owner")


@pytest.mark.needs("root")
def test_every_place_that_code_comes_from_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m` in a folder of somebody else's puts that folder into the search path, of every worker too."""
    places = find_places(tmp_path / "home")
    create_places(places)
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    os.chown(hostile, 65534, 65534)
    monkeypatch.syspath_prepend(str(hostile))
    assert [problem.path for problem in find_problems(places, LinuxMachine())] == [str(hostile)]


def test_a_key_that_is_a_dangling_link_is_named(tmp_path: Path) -> None:
    places = find_places(tmp_path)
    create_places(places)
    places.identity.symlink_to(tmp_path / "nowhere")
    assert "symlink" in {problem.code for problem in find_problems(places, LinuxMachine())}
