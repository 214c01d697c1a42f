"""What a program sees: its arguments, environment, folders and files (kb-regressions, section D). The same under every back end."""

import os
import stat
from pathlib import Path

import pytest

from pcm.model.errors import MachineError
from pcm.service.machine.interface import Launch
from tests.contract.machine.conftest import Runs

PRINT_ENVIRONMENT = ("/usr/bin/env", "-0")
NASTY = [
    "",
    " ",
    "two words",
    "$HOME",
    "${PATH}",
    "$$",
    "%n",
    "%%",
    "`id`",
    "$(id)",
    ";",
    "&& x",
    "*",
    "'",
    '"',
    "\\",
    "a\nb",
    "-",
    "é€",
]


def test_q166245_every_argument_arrives_as_it_was_written(runs: Runs) -> None:
    ended = runs.run("/usr/bin/printf", "%s\\0", *NASTY)
    assert ended.output_tail.decode().split("\0")[:-1] == NASTY


def test_q166245_a_program_may_lie_anywhere(runs: Runs, tmp_path: Path) -> None:
    program = tmp_path / "$HOME ${PATH} $$ %n 'x' a=b" / "set up"
    program.parent.mkdir()
    program.write_bytes(Path("/bin/sh").read_bytes())
    program.chmod(0o755)
    ended = runs.run(str(program), "-c", 'echo "$0"; readlink /proc/$$/exe', working_directory=program.parent)
    assert ended.output_tail.decode() == f"{program}\n{program}\n"


def test_q125934_the_environment_is_exactly_the_documented_one(runs: Runs) -> None:
    os.environ["PCM_TEST_LEAK"] = "must not arrive"
    try:
        launch = runs.launch(
            *PRINT_ENVIRONMENT, environment={"EDITION": "two words $HOME %n"}, context={"PCM_PACKAGE": "editor"}
        )
        ended = runs.start(launch).wait()
    finally:
        del os.environ["PCM_TEST_LEAK"]
    seen = dict(entry.split("=", 1) for entry in ended.output_tail.decode().split("\0")[:-1])
    temporary = seen.pop("TMPDIR")
    assert Path(temporary).is_absolute()
    account = {name: seen.pop(name) for name in ("HOME", "USER", "LOGNAME", "SHELL")}
    assert account["USER"] == account["LOGNAME"]
    assert seen == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PCM_RUN_ID": launch.run_id,
        "PCM_PACKAGE": "editor",
        "EDITION": "two words $HOME %n",
    }


@pytest.mark.parametrize("value", ["", "tab\there", "line\nbreak", "é€", "a=b", "'\"\\"])
def test_unusual_values_arrive_unchanged(runs: Runs, value: str) -> None:
    ended = runs.run(*PRINT_ENVIRONMENT, environment={"VALUE": value})
    assert f"VALUE={value}".encode() in ended.output_tail.split(b"\0")


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "PCM_RUN_ID", "PCM_X", "PATH", "TMPDIR", "A B", ""])
def test_a_program_cannot_set_what_the_service_sets(runs: Runs, name: str) -> None:
    with pytest.raises(MachineError) as refused:
        runs.start(runs.launch("/bin/true", environment={name: "x"}))
    assert refused.value.code == "machine.environment"


def test_q138245_the_working_directory_is_the_given_one(runs: Runs, tmp_path: Path) -> None:
    place = tmp_path / "with space $HOME %n"
    place.mkdir()
    assert runs.run("/bin/pwd", working_directory=place).output_tail.decode() == f"{place}\n"


def test_a_missing_working_directory_is_told_before_anything_runs(runs: Runs, tmp_path: Path) -> None:
    launch = runs.launch("/bin/true", working_directory=tmp_path / "none")
    with pytest.raises(MachineError) as refused:
        runs.start(launch)
    assert refused.value.code == "machine.working_directory"
    assert not launch.output_path.exists()


def test_stdin_is_empty_and_nothing_else_is_open(runs: Runs, tmp_path: Path) -> None:
    secret = os.open(tmp_path / "secret", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(secret, True)
    try:
        ended = runs.shell("readlink /proc/self/fd/0; cd /proc/self/fd; echo *")
    finally:
        os.close(secret)
    # the shell that lists them has 0, 1, 2, and none for the folder: globbing closes it again, but it shows while it is read
    first, second = ended.output_tail.decode().splitlines()
    assert first == "/dev/null"
    assert set(second.split()) <= {"0", "1", "2", "3"}


def test_files_are_for_their_owner_alone_by_default(runs: Runs, tmp_path: Path) -> None:
    runs.shell(f"umask; touch {tmp_path}/file; mkdir {tmp_path}/folder")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


def test_no_signal_is_ignored_or_blocked(runs: Runs) -> None:
    ended = runs.run("/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    words = ended.output_tail.split()
    assert words[::2] == [b"SigBlk:", b"SigIgn:"]
    # 32 and 33 are the C library's own: posix_spawn ignores them in a child, and no program can tell
    internal = 0b11 << 31
    assert [int(mask, 16) & ~internal for mask in words[1::2]] == [0, 0]


def test_temporary_files_are_private_and_taken_away(runs: Runs) -> None:
    launch = runs.launch(
        "/bin/sh", "-c", 'mkdir -p "$TMPDIR/a/b" && echo x > "$TMPDIR/a/b/c" && stat -c %u "$TMPDIR/a/b/c"; mktemp'
    )
    ended = runs.start(launch).wait()
    assert ended.exit_code == 0
    made = Path(ended.output_tail.decode().splitlines()[-1])
    runs.processes.forget(runs.processes.reference_of(launch))
    assert not made.exists()
    assert sorted(path.name for path in launch.output_path.parent.iterdir()) == ["output"]


def test_two_runs_do_not_share_their_temporary_folder(runs: Runs) -> None:
    runs.shell("touch $TMPDIR/mark")
    assert runs.shell("ls -A $TMPDIR").output_tail == b""


def test_a_missing_program_is_an_error_that_names_it(runs: Runs) -> None:
    with pytest.raises(MachineError, match="/nowhere/setup") as refused:
        runs.start(runs.launch("/nowhere/setup"))
    assert refused.value.code == "machine.program_not_found"


def test_what_is_not_executable_is_an_error(runs: Runs, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("echo hello\n")
    with pytest.raises(MachineError) as refused:
        runs.start(runs.launch(str(plain)))
    assert refused.value.code == "machine.not_executable"


@pytest.mark.parametrize("content", ["#!/nowhere/sh\n", "#!\n"])
def test_a_script_without_its_interpreter_is_an_error(runs: Runs, tmp_path: Path, content: str) -> None:
    script = tmp_path / "script"
    script.write_text(content)
    script.chmod(0o755)
    with pytest.raises(MachineError) as refused:
        runs.start(runs.launch(str(script)))
    assert refused.value.code in {"machine.program_not_found", "machine.not_executable"}


def test_after_a_failed_start_another_program_can_run(runs: Runs) -> None:
    with pytest.raises(MachineError):
        runs.start(runs.launch("/nowhere/setup"))
    assert runs.shell("exit 0").exit_code == 0


def test_a_run_is_never_started_twice(runs: Runs) -> None:
    launch = runs.launch("/bin/true")
    runs.start(launch).wait()
    with pytest.raises(MachineError) as refused:
        runs.processes.start(launch)
    assert refused.value.code == "machine.run_folder"


def test_a_run_folder_that_others_can_write_to_is_refused(runs: Runs) -> None:
    launch = runs.launch("/bin/true")
    launch.output_path.parent.mkdir()
    launch.output_path.parent.chmod(0o777)
    with pytest.raises(MachineError) as refused:
        runs.start(launch)
    assert refused.value.code == "machine.run_folder"


def test_a_link_in_place_of_the_output_is_not_followed(runs: Runs, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    launch = runs.launch("/bin/echo", "overwritten")
    launch.output_path.parent.mkdir(mode=0o700)
    launch.output_path.symlink_to(victim)
    with pytest.raises(MachineError):
        runs.start(launch)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "../../etc"},
        {"run_id": ""},
        {"run_id": "ABCDEF0123456789"},
        {"argv": ()},
        {"argv": ("relative",)},
        {"argv": ("/bin/echo", "a\0b")},
        {"timeout_s": 0},
        {"working_directory": Path("here")},
    ],
)
def test_a_malformed_launch_is_refused(runs: Runs, change: dict[str, object]) -> None:
    launch: Launch = runs.launch("/bin/true")._replace(**change)  # type: ignore[arg-type]
    with pytest.raises(MachineError) as refused:
        runs.processes.reference_of(launch)
    assert refused.value.code == "machine.launch"


@pytest.mark.needs("users")
def test_q172872_a_program_runs_as_the_user_it_says(runs: Runs) -> None:
    ended = runs.shell("id -u; id -G; touch $TMPDIR/mine && ls -ld $TMPDIR | cut -c1-10", run_as="nobody")
    assert ended.output_tail.decode().split("\n")[0] == "65534"
    assert "0" not in ended.output_tail.decode().split("\n")[1].split()
    assert ended.exit_code == 0


@pytest.mark.needs("users")
def test_a_user_of_one_run_cannot_write_where_the_service_does(runs: Runs, tmp_path: Path) -> None:
    place = tmp_path / "staged"
    place.mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and folder != Path("/"):
            folder.chmod(0o755)
    (place / "setup").write_text("#!/bin/sh\n")
    ended = runs.shell(f"touch {place}/planted; echo evil > {place}/setup; rm {place}/setup; :", run_as="65534")
    assert ended.exit_code == 0
    assert [path.name for path in place.iterdir()] == ["setup"]
    assert (place / "setup").read_text() == "#!/bin/sh\n"


def test_an_unknown_user_is_an_error(runs: Runs) -> None:
    with pytest.raises(MachineError) as refused:
        runs.start(runs.launch("/bin/true", run_as="nobody-of-that-name"))
    assert refused.value.code == "machine.account"
