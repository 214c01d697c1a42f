"""Protected folders, durable small files, safe removal, the instance lock (KB Q181118, Q191328, Q189809, Q140928)."""

import contextlib
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pcm.model.errors import MachineError, StoreError
from pcm.service.machine.durable import pinned, set_mode, write_atomically
from pcm.service.machine.posix.beneath import best_opener, open_by_components, open_by_kernel
from pcm.service.machine.posix.instance import FileLock
from pcm.service.machine.posix.protected import ProtectedFolder, check_protected, open_protected
from pcm.service.machine.posix.removal import empty_tree, remove_tree


def codes(path: Path) -> list[str]:
    return [problem.code for problem in check_protected(path)]


def test_q181118_a_folder_of_ours_below_a_sticky_one_is_protected(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True, mode=0o755)
    assert codes(place) == []
    os.close(open_protected(place))


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
def test_q191328_an_ancestor_others_can_write_to_is_named(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    (tmp_path / "a").chmod(mode)
    problems = check_protected(place)
    if mode == 0o1777 and os.geteuid() == 0:
        assert problems == [], "sticky, and root's"
    else:
        assert [(problem.code, problem.path) for problem in problems] == [("writable", str(tmp_path / "a"))]
        assert f"{mode:04o}" in problems[0].message


def test_a_sticky_folder_is_no_protected_place_itself(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert codes(tmp_path) == ["writable"]


@pytest.mark.needs("root")
def test_an_ancestor_of_somebody_else_is_named(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    os.chown(tmp_path / "a", 65534, -1)
    assert codes(place) == ["owner"]
    with pytest.raises(MachineError, match="65534"):
        open_protected(place)


def test_links_missing_parts_and_relative_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert codes(tmp_path / "link") == ["symlink"]
    assert codes(tmp_path / "none" / "deeper") == ["missing"]
    assert codes(Path("relative")) == ["relative"]
    assert codes(tmp_path / "real" / ".." / "real") == ["relative"]
    assert "symlink" in codes(tmp_path / "link" / "below")


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    (tmp_path / "a").chmod(0o770)
    place.chmod(0o702)
    assert codes(place) == ["writable", "writable"]


def test_a_folder_that_is_held_is_looked_at_each_time(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    with contextlib.closing(ProtectedFolder(place)) as held:
        first = held.descriptor()
        assert held.descriptor() == first
        (tmp_path / "a").chmod(0o777)
        with pytest.raises(MachineError, match="0777"):
            held.descriptor()
        (tmp_path / "a").chmod(0o755)
        assert os.path.samestat(os.fstat(held.descriptor()), place.stat())
        (tmp_path / "a").rename(tmp_path / "moved")
        place.mkdir(parents=True)
        assert os.path.samestat(os.fstat(held.descriptor()), place.stat()), "the one that bears the name now"
        (tmp_path / "a").rename(tmp_path / "again")
        (tmp_path / "a").symlink_to(tmp_path / "again")
        with pytest.raises(MachineError, match="symbolic link"):
            held.descriptor()
        (tmp_path / "a").unlink()
        with pytest.raises(MachineError, match="cannot be looked at"):
            held.descriptor()


def test_a_file_is_no_folder_to_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError):
        open_protected(tmp_path / "file")


def test_the_kernels_way_is_chosen_where_it_works() -> None:
    folder = os.open("/", os.O_RDONLY)
    try:
        os.close(open_by_kernel(folder, ("etc",), os.O_RDONLY))
        assert best_opener() is open_by_kernel
    except OSError:
        assert best_opener() is open_by_components
    finally:
        os.close(folder)


def test_q140928_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "state"
    versions = [bytes([number]) * 50_000 for number in range(2)]
    write_atomically(path, versions[0])
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for version in versions:
                write_atomically(path, version)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(300):
            assert path.read_bytes() in versions
    finally:
        stop.set()
        writer.join()
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_written_file_has_the_asked_mode_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        write_atomically(tmp_path / "a", b"x")
        write_atomically(tmp_path / "b", b"x", mode=0o644)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o644


def test_a_link_under_the_name_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "state").symlink_to(victim)
    write_atomically(tmp_path / "state", b"new")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "state").read_bytes() == b"new"


@pytest.mark.needs("root")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=True)
    try:
        write_atomically(tmp_path / "state", b"old")
        with pytest.raises(StoreError) as refused:
            write_atomically(tmp_path / "state", b"x" * 200_000)
        assert refused.value.code == "store.full"
        assert (tmp_path / "state").read_bytes() == b"old"
        assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as refused:
        write_atomically(tmp_path / "none" / "state", b"x")
    assert refused.value.code == "machine.write"


@pytest.fixture
def folder(tmp_path: Path) -> object:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_removal_takes_everything_and_follows_nothing(tmp_path: Path, folder: int) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").touch()
    (tree / "a" / "b" / "link").symlink_to(outside)
    (tree / "link").symlink_to(outside / "precious")
    os.mkfifo(tree / "fifo")
    remove_tree(folder, "tree")
    assert not tree.exists()
    assert (outside / "precious").exists()


def test_emptying_takes_everything_but_the_folder_itself(tmp_path: Path, folder: int) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").touch()
    (top / "link").symlink_to(outside)
    before = top.stat().st_ino
    empty_tree(folder, "top")
    assert (list(top.iterdir()), top.stat().st_ino, (outside / "kept").exists()) == ([], before, True)
    empty_tree(folder, "nothing")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        empty_tree(folder, name)
        assert not os.path.lexists(tmp_path / name), "what is no folder goes itself"
    assert (outside / "kept").exists()


def test_removing_a_link_takes_the_link(tmp_path: Path, folder: int) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "tree").symlink_to("outside")
    remove_tree(folder, "tree")
    assert (tmp_path / "outside").exists()
    assert not (tmp_path / "tree").is_symlink()


def test_removing_what_is_not_there_is_fine(folder: int) -> None:
    remove_tree(folder, "tree")


def test_a_tree_deeper_than_there_are_descriptors_is_removed(tmp_path: Path, folder: int) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    current = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=current)
        deeper = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = deeper
    os.close(current)
    remove_tree(folder, "tree")
    assert not top.exists()


@pytest.mark.needs("root")
def test_what_is_mounted_inside_is_not_emptied(tmp_path: Path, folder: int) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    inside = tmp_path / "tree" / "a" / "mounted"
    inside.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(outside), str(inside)], check=True)
    try:
        with pytest.raises(MachineError) as refused:
            remove_tree(folder, "tree")
        assert refused.value.code == "machine.mounted"
        assert (outside / "precious").exists()
    finally:
        subprocess.run(["umount", str(inside)], check=True)
    remove_tree(folder, "tree")
    assert not (tmp_path / "tree").exists()
    assert (outside / "precious").exists()


def test_one_instance_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "pcmsvc.lock"
    with FileLock.take(path):
        with pytest.raises(MachineError, match=str(os.getpid())) as refused:
            FileLock.take(path)
        assert refused.value.code == "machine.already_running"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    FileLock.take(path).release()


@pytest.mark.needs("root")
def test_a_lock_of_somebody_else_says_who_may(tmp_path: Path) -> None:
    path = Path("/run/pcm-test-lock")
    path.touch(0o600)
    try:
        os.seteuid(65534)
        with pytest.raises(MachineError, match="Only administrators") as refused:
            FileLock.take(path)
        assert refused.value.code == "machine.rights"
    finally:
        os.seteuid(0)
        path.unlink()


def test_the_lock_ends_with_its_holder_and_is_not_inherited(tmp_path: Path) -> None:
    path = tmp_path / "pcmsvc.lock"
    script = (
        "import sys, subprocess; from pathlib import Path; from pcm.service.machine.posix.instance import FileLock; "
        "lock = FileLock.take(Path(sys.argv[1])); child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL); "
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
    )
    assert holder.stdout is not None
    sleeper = int(holder.stdout.readline())
    try:
        with pytest.raises(MachineError, match=str(holder.pid)):
            FileLock.take(path)
        holder.kill()
        holder.communicate()
        FileLock.take(path).release()
    finally:
        os.kill(sleeper, 9)


def test_a_link_or_a_fifo_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError):
        FileLock.take(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_permissions_are_not_given_to_what_a_link_leads_to(tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.write_text("")
    others.chmod(0o640)
    (tmp_path / "link").symlink_to(others)
    set_mode(tmp_path / "link", 0o777)
    assert others.stat().st_mode & 0o7777 == 0o640
    set_mode(others, 0o600)
    assert others.stat().st_mode & 0o7777 == 0o600


def test_what_was_looked_at_is_what_is_changed_although_another_file_stands_there_by_then(tmp_path: Path) -> None:
    place, secret = tmp_path / "place", tmp_path / "secret"
    place.write_text("")
    secret.write_text("")
    secret.chmod(0o600)
    with pinned(place) as (held, _):
        place.rename(tmp_path / "away")
        place.symlink_to(secret)
        held.chmod(0o644)
    assert secret.stat().st_mode & 0o7777 == 0o600
    assert (tmp_path / "away").stat().st_mode & 0o7777 == 0o644
