"""What one run leaves to the next is as good as new, or it is not taken over."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.model.errors import MachineError
from pcm.service.machine.here import this_machine
from pcm.service.machine.interface import Ended
from pcm.service.machine.posix import spare
from pcm.service.machine.posix.kept_result import keep_result, kept_result, remove_result
from pcm.service.machine.posix.temporary import holds_little, make_temporary, remove_temporary

ONE, TWO = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    place = tmp_path / "runs"
    for name in (ONE, TWO):
        (place / name).mkdir(parents=True, mode=0o700)
    place.chmod(0o700)
    return place


@pytest.fixture
def folder(runs: Path) -> Iterator[int]:
    descriptor = os.open(runs, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def temporary(runs: Path, run: str) -> Path:
    return Path(make_temporary(runs / run, run, os.geteuid(), os.getegid()))


def test_a_folder_for_temporary_files_serves_one_run_after_the_other_and_is_empty_for_each(runs: Path) -> None:
    first = temporary(runs, ONE)
    identity = first.stat().st_ino
    (first / "left" / "behind").mkdir(parents=True)
    remove_temporary(runs / ONE, ONE, os.geteuid())
    assert not first.exists()
    second = temporary(runs, TWO)
    assert (second, second.stat().st_ino, list(second.iterdir())) == (runs / TWO / "tmp", identity, [])
    assert oct(second.stat().st_mode & 0o7777) == "0o700"
    remove_temporary(runs / TWO, TWO, os.geteuid())
    remove_temporary(runs / TWO, TWO, os.geteuid())


def test_two_runs_never_share_one(runs: Path) -> None:
    temporary(runs, ONE)
    remove_temporary(runs / ONE, ONE, os.geteuid())
    first, second = temporary(runs, ONE), temporary(runs, TWO)
    assert first.stat().st_ino != second.stat().st_ino
    (second / "kept").touch()
    remove_temporary(runs / ONE, ONE, os.geteuid())
    assert (second / "kept").exists()


def spoil_mode(place: Path) -> None:
    place.chmod(0o755)


def spoil_list(place: Path) -> None:
    os.setxattr(place, "user.pcm", b"x")


def spoil_folder(place: Path) -> None:
    (place / "inside").mkdir()


def spoil_owner(place: Path) -> None:
    os.chown(place, 65534, -1)


def put_link(place: Path) -> None:
    place.rmdir()
    place.symlink_to("/")


def put_file(place: Path) -> None:
    place.rmdir()
    place.touch()


@pytest.mark.needs("root")
@pytest.mark.parametrize("spoil", [spoil_mode, spoil_list, spoil_folder, spoil_owner, put_link, put_file])
def test_what_is_not_as_it_was_made_is_not_taken_over(runs: Path, spoil: object) -> None:
    temporary(runs, ONE)
    remove_temporary(runs / ONE, ONE, os.geteuid())
    left = runs / spare.FOLDER
    assert left.is_dir()
    spoil(left)  # type: ignore[operator]
    made = temporary(runs, TWO)
    status = made.lstat()
    assert (oct(status.st_mode), status.st_uid, list(made.iterdir()), os.listxattr(made)) == ("0o40700", 0, [], [])
    assert Path("/").is_dir()


def test_nothing_is_kept_where_others_can_write(runs: Path) -> None:
    runs.chmod(0o777)
    temporary(runs, ONE)
    remove_temporary(runs / ONE, ONE, os.geteuid())
    ended = Ended(0, None, False, b"", 0, 0.1, 0)
    keep_result(runs / ONE, ended)
    assert kept_result(runs / ONE) == ended
    remove_result(runs / ONE)
    assert sorted(path.name for path in runs.iterdir()) == [ONE, TWO]


def test_a_kept_result_is_the_runs_own_however_long_the_last_one_was(runs: Path) -> None:
    long = Ended(7, None, True, b"x" * 8192, 9000, 1.5, 3)
    short = Ended(None, 9, False, b"", 0, 0.1, 0)
    for name, ended in ((ONE, long), (TWO, short), (ONE, long)):
        assert kept_result(runs / name) is None
        keep_result(runs / name, ended)
        assert kept_result(runs / name) == ended
        remove_result(runs / name)
        assert kept_result(runs / name) is None
        remove_result(runs / name)


def test_two_kept_results_stand_beside_each_other(runs: Path) -> None:
    one, two = Ended(1, None, False, b"", 0, 0.1, 0), Ended(2, None, False, b"", 0, 0.1, 0)
    keep_result(runs / ONE, one)
    remove_result(runs / ONE)
    keep_result(runs / ONE, one)
    keep_result(runs / TWO, two)  # of a detection's command, before the program's own is journalled
    assert (kept_result(runs / ONE), kept_result(runs / TWO)) == (one, two)


def test_a_package_directory_is_left_to_the_next_run_empty(tmp_path: Path) -> None:
    machine, root = this_machine(), tmp_path / "staging"
    root.mkdir(mode=0o700)
    first = machine.stage(root, ONE)
    (first.path / "left" / "behind").mkdir(parents=True)
    first.close()
    machine.release_staged(root, ONE)
    identity = (root / ONE).stat().st_ino
    second = machine.stage(root, TWO)
    assert ([path.name for path in root.iterdir()], second.path.stat().st_ino) == ([TWO], identity)
    second.verify([])
    second.close()
    machine.release_staged(root, TWO)
    machine.remove_spare(root)
    machine.remove_spare(root)
    assert list(root.iterdir()) == []


@pytest.mark.needs("root")
@pytest.mark.parametrize("spoil", [spoil_mode, spoil_list, spoil_folder, spoil_owner, put_link, put_file])
def test_a_package_directory_that_is_not_as_it_was_made_is_made_anew(tmp_path: Path, spoil: object) -> None:
    machine, root = this_machine(), tmp_path / "staging"
    root.mkdir(mode=0o700)
    machine.stage(root, ONE).close()
    machine.release_staged(root, ONE)
    spoil(root / ONE)  # type: ignore[operator]
    made = machine.stage(root, TWO)
    made.verify([])
    status = made.path.lstat()
    assert ([path.name for path in root.iterdir()], oct(status.st_mode), status.st_uid) == ([TWO], "0o40700", 0)
    assert os.listxattr(made.path) == []
    made.close()


@pytest.mark.needs("root")
def test_what_a_user_could_read_is_left_to_nobody(tmp_path: Path) -> None:
    machine, root = this_machine(), tmp_path / "staging"
    root.mkdir(mode=0o711)
    machine.stage(root, ONE, machine.account("65534")).close()
    machine.release_staged(root, ONE)
    assert list(root.iterdir()) == []


def test_a_run_never_gets_a_package_directory_that_is_there_already(tmp_path: Path) -> None:
    machine, root = this_machine(), tmp_path / "staging"
    root.mkdir(mode=0o700)
    with contextlib.closing(machine.stage(root, ONE)) as first:
        (first.path / "file").touch()
        with pytest.raises(MachineError, match="already there"):
            machine.stage(root, ONE)
        machine.stage(root, TWO).close()
        machine.release_staged(root, TWO)
        with pytest.raises(MachineError, match="already there"):
            machine.stage(root, ONE)
        assert (first.path / "file").exists()


def test_a_spare_that_was_swept_away_is_missed_by_nobody(tmp_path: Path) -> None:
    machine, root = this_machine(), tmp_path / "staging"
    root.mkdir(mode=0o700)
    machine.stage(root, ONE).close()
    machine.release_staged(root, ONE)
    machine.remove_staged(root, ONE)
    machine.stage(root, TWO).close()
    assert [path.name for path in root.iterdir()] == [TWO]


@pytest.mark.parametrize(("files", "folders", "little"), [(1, 0, True), (0, 1, False), (400, 0, False)])
def test_what_takes_long_to_remove_is_known_before(
    tmp_path: Path, runs: Path, files: int, folders: int, little: bool
) -> None:
    machine, root = this_machine(), tmp_path / "staging"
    root.mkdir(mode=0o700)
    with contextlib.closing(machine.stage(root, ONE)) as staging:
        for place in (staging.path, temporary(runs, ONE)):
            for number in range(files):
                (place / f"a-name-of-some-length-{number}").touch()
            for number in range(folders):
                (place / str(number)).mkdir()
        assert staging.holds_little() is little
        assert holds_little(runs / ONE, ONE, os.geteuid()) is little
    assert holds_little(runs / "none", TWO, os.geteuid())
