"""Programs that run as a user, on a real host where people are logged on: in their session, with their rights, out of their hands."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pcm.service.machine.linux.user_unit import TASKS_MAX
from tests.e2e.booted_host import BootedHost
from tests.e2e.logged_on import Desk

pytestmark = pytest.mark.needs("nspawn")

SETTING = """
import json, os, subprocess, sys, threading, time
from pathlib import Path
from pcm.service.machine.interface import Launch
from pcm.service.machine.linux.computer import LinuxMachine
machine = LinuxMachine()
runs = Path("/var/lib/pcm-runs")
runs.mkdir(mode=0o700, exist_ok=True)
def launch(script, run_as="alice", timeout_s=20, **more):
    run_id = os.urandom(16).hex()
    return Launch(run_id, ("/bin/sh", "-c", script), Path("/"), runs / run_id / "output", timeout_s, run_as, grace_s=0.5, **more)
def finish(running):
    ended = running.wait()
    machine.forget(running.reference)
    return [ended.exit_code, ended.signal, ended.timed_out, ended.output_tail.decode(), ended.output_bytes, ended.survivors_left]
"""


class End(NamedTuple):
    """How a program ended."""

    exit_code: int | None
    signal: int | None
    timed_out: bool
    output: str
    output_bytes: int
    survivors: int

    @property
    def variables(self) -> dict[str, str]:
        """What `env -0` printed."""
        return dict(entry.split("=", 1) for entry in self.output.split("\0") if "=" in entry)


@pytest.fixture(scope="module")
def desk(nspawn_base: Path) -> Iterator[Desk]:
    with BootedHost(nspawn_base) as host:
        host.boot()
        made = Desk(host)
        made.add("alice", "bob", "carol")
        host.shell("usermod --append --groups audio alice; echo 'alice hard nofile 2000' >>/etc/security/limits.conf")
        made.log_on("alice")
        made.log_on("bob")
        yield made


def told(desk: Desk, script: str) -> list[object]:
    answer: list[object] = json.loads(desk.host.python("-c", SETTING + script).stdout)
    return answer


def run(desk: Desk, script: str, more: str = "") -> End:
    return End(*told(desk, f"print(json.dumps(finish(machine.start(launch({script!r}, {more})))))"))  # type: ignore[arg-type]


def test_it_runs_in_the_users_session_with_the_users_rights(desk: Desk) -> None:
    alice = desk.number("alice")
    end = run(
        desk,
        "id -un; id -Gn; umask; sed -n 's/^0:://p' /proc/self/cgroup; grep NoNewPrivs /proc/self/status; ulimit -Hn; "
        "readlink /proc/self/fd/0; echo $XDG_RUNTIME_DIR; busctl --user --no-pager list >/dev/null && echo bus; "
        "echo kept >$XDG_RUNTIME_DIR/mine; systemctl --user is-system-running --wait; echo again >/dev/stderr",
    )
    lines = end.output.splitlines()
    assert lines[:3] == ["alice", "alice audio", "0022"]
    assert lines[3].startswith(f"/user.slice/user-{alice}.slice/pcm-run-")
    assert lines[4:] == ["NoNewPrivs:\t1", "2000", "/dev/null", f"/run/user/{alice}", "bus", "running", "again"]
    assert desk.host.shell(f"cat /run/user/{alice}/mine") == "kept\n"


def test_no_signal_is_ignored_and_nothing_else_is_open(desk: Desk) -> None:
    end = run(desk, "grep -E '^Sig(Blk|Ign)' /proc/self/status; cd /proc/self/fd; echo *")
    blocked, ignored, opened = end.output.splitlines()
    assert int(blocked.split()[1], 16) & ~(0b11 << 31) == 0
    assert int(ignored.split()[1], 16) & ~(0b11 << 31) == 0
    assert set(opened.split()) <= {"0", "1", "2", "3"}


def test_it_has_the_environment_of_the_users_own_manager(desk: Desk) -> None:
    evil = "LD_PRELOAD=/home/alice/evil.so PCM_JOB=forged PATH=/home/alice/bin NOTIFY_SOCKET=/x HOME=/root USER=root SHELL=/x"
    own = "EDITOR=ed LANG=fr_FR.UTF-8 DISPLAY=:7 WAYLAND_DISPLAY=wayland-7 XAUTHORITY=/tmp/authority SECRET=only-hers"
    desk.as_user("alice", f"systemctl --user set-environment {own} {evil} 'TWO=a  b\"$HOME'")
    try:
        hidden = run(desk, "env -0").variables
        shown = run(desk, "env -0; ls -d /tmp/of-the-session", "on_screen=True")
        public = told(
            desk,
            """
running = machine.start(launch("sleep 2"))
unit = subprocess.run(["systemctl", "show", f"pcm-run-{running.reference.run_id}"], capture_output=True, text=True).stdout
finish(running)
print(json.dumps([unit]))
""",
        )
    finally:
        names = " ".join(entry.partition("=")[0] for entry in f"{own} {evil}".split())
        desk.as_user("alice", f"systemctl --user unset-environment TWO {names}")
    assert hidden["EDITOR"] == "ed"
    assert hidden["LANG"] == "fr_FR.UTF-8"
    assert hidden["TWO"] == 'a  b"$HOME'
    assert hidden["HOME"] == "/home/alice"
    assert hidden["USER"] == hidden["LOGNAME"] == "alice"
    assert hidden["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert hidden["DBUS_SESSION_BUS_ADDRESS"] == f"unix:path=/run/user/{desk.number('alice')}/bus"
    assert not {"LD_PRELOAD", "PCM_JOB", "NOTIFY_SOCKET", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY"} & hidden.keys()
    assert shown.variables["DISPLAY"] == ":7"
    assert shown.variables["WAYLAND_DISPLAY"] == "wayland-7"
    assert shown.variables["XAUTHORITY"] == "/tmp/authority"
    assert "only-hers" not in str(public), "a unit's settings are public"


def test_a_program_sets_its_own_variables_over_the_users(desk: Desk) -> None:
    desk.as_user("alice", "systemctl --user set-environment EDITION=hers LANG=fr_FR.UTF-8")
    try:
        seen = run(desk, "env -0", "environment={'EDITION': 'signed', 'LANG': 'C'}").variables
    finally:
        desk.as_user("alice", "systemctl --user unset-environment EDITION LANG")
    assert (seen["EDITION"], seen["LANG"]) == ("signed", "C")


def test_what_shows_windows_sees_the_sessions_own_temporary_files_and_others_do_not(desk: Desk) -> None:
    desk.host.shell("echo cookie >/tmp/of-the-session; chmod 644 /tmp/of-the-session")
    assert run(desk, "cat /tmp/of-the-session", "on_screen=True").output == "cookie\n"
    assert run(desk, "cat /tmp/of-the-session").exit_code == 1
    run(desk, "echo x >/tmp/left")
    assert desk.host.run("test", "-e", "/tmp/left", check=False).returncode == 1


def test_an_account_that_may_not_log_on_is_named(desk: Desk) -> None:
    desk.host.shell("id dave >/dev/null 2>&1 || useradd --create-home --expiredate 2020-01-01 dave")
    script = """
from pcm.model.errors import MachineError
try:
    machine.start(launch("echo ran", "dave"))
except MachineError as error:
    print(json.dumps([error.code]))
"""
    assert told(desk, script) == ["machine.account"]
    assert desk.host.shell("systemctl list-units --all --no-legend 'pcm-run-*'").strip() == ""


@pytest.mark.parametrize("code", [0, 3, 200, 203, 216, 217, 224, 243, 255])
def test_whatever_a_program_ends_with_at_once_is_its_own(desk: Desk, code: int) -> None:
    assert run(desk, f"exit {code}").exit_code == code


def test_two_users_programs_run_at_once_each_in_its_own_session(desk: Desk) -> None:
    script = """
both = [machine.start(launch("id -un; echo $XDG_RUNTIME_DIR; sleep 1; busctl --user status >/dev/null && echo bus", user))
        for user in ("alice", "bob")]
print(json.dumps([finish(running)[3].split() for running in both]))
"""
    assert told(desk, script) == [[user, f"/run/user/{desk.number(user)}", "bus"] for user in ("alice", "bob")]


def test_somebody_who_is_not_logged_on_has_no_session_and_gets_none_by_a_run(desk: Desk) -> None:
    script = """
running = machine.start(launch("env -0; sleep 1", "carol"))
time.sleep(0.5)
people = sorted(session.user for session in machine.sessions())
print(json.dumps([people, finish(running)[3]]))
"""
    people, output = told(desk, script)
    assert people == ["alice", "bob"]
    assert "XDG_RUNTIME_DIR" not in str(output)
    assert "LANG=C.UTF-8" in str(output)
    assert "carol" not in desk.host.shell("loginctl list-sessions --no-legend")


def test_it_gains_no_rights(desk: Desk) -> None:
    desk.host.shell("cp /usr/bin/id /usr/local/bin/suid-id; chmod 4755 /usr/local/bin/suid-id")
    outside = desk.as_user("alice", "/usr/local/bin/suid-id -un")
    assert outside == "root\n", "the trap does not work"
    assert run(desk, "/usr/local/bin/suid-id -un").output == "alice\n"


def test_its_user_may_end_it_and_that_is_all_that_she_can_do_to_it(desk: Desk) -> None:
    killed = told(
        desk,
        """
running = machine.start(launch("exec sleep 20"))
unit = f"pcm-run-{running.reference.run_id}"
act = lambda script, user="alice": subprocess.run(
    ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "/bin/sh", "-c", script], capture_output=True).returncode
kills = [act(f"systemctl --no-ask-password {verb} {unit}") for verb in ("stop", "kill", "restart")]
kills.append(act(f"systemctl --no-ask-password set-property {unit} TasksMax=1"))
process = subprocess.run(["systemctl", "show", "-P", "MainPID", unit], capture_output=True, text=True).stdout.strip()
away = f"/sys/fs/cgroup/user.slice/user-$(id -u).slice/user@$(id -u).service/cgroup.procs"
assert act(f"test -w {away}") == 0
kills.append(act(f"echo {process} >{away}"))
kills.append(act(f"kill -9 {process}", "bob"))
still = machine.find_again(running.reference) is not None
assert act(f"kill -9 {process}") == 0
print(json.dumps([kills, still, finish(running)]))
""",
    )
    refused, still, end = killed
    assert 0 not in refused, "she commanded the system's unit"  # type: ignore[operator]
    assert still
    assert (End(*end).exit_code, End(*end).signal) == (None, 9)  # type: ignore[misc]


@pytest.mark.parametrize("trick", ["silent", "flood", "nonsense", "absent", "link"])
def test_a_manager_that_misbehaves_costs_its_user_the_variables_and_nothing_else(desk: Desk, trick: str) -> None:
    alice = desk.number("alice")
    desk.host.path("/usr/local/bin/trick").write_text(TRICK)
    desk.host.shell("chmod 755 /usr/local/bin/trick")
    place = f"/run/user/{alice}/systemd"
    desk.as_user("alice", "systemctl --user set-environment OF_THE_SESSION=1")
    desk.host.shell(f"mv {place}/private {place}/kept")
    if trick == "link":
        desk.as_user("alice", f"ln -s /run/systemd/private {place}/private")
    elif trick != "absent":
        unit = "systemd-run -q --collect --unit=trick -p User=alice"
        desk.host.shell(f"{unit} python3 /usr/local/bin/trick {trick} {place}/private; sleep 0.5")
    try:
        end = run(desk, "echo started; env")
    finally:
        desk.host.shell(
            f"systemctl stop trick 2>/dev/null || :; rm -f {place}/private; mv {place}/kept {place}/private"
        )
        desk.as_user("alice", "systemctl --user unset-environment OF_THE_SESSION")
    assert end.exit_code == 0
    assert end.output.startswith("started\n")
    assert "OF_THE_SESSION" not in end.output


TRICK = """
import os, socket, sys, time
trick, path = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
while True:
    connection, _ = listener.accept()
    try:
        if trick == "silent":
            time.sleep(30)
        if trick == "nonsense":
            connection.sendall(os.urandom(4096))
        if trick == "flood":
            connection.sendall(b"OK 0123\\r\\nAGREE_UNIX_FD\\r\\n")
            while True:
                connection.sendall(b"l\\4\\0\\1" + (1 << 20).to_bytes(4, "little") + bytes(8) + bytes(1 << 20))
    except OSError:
        pass
"""


def test_no_shell_of_the_users_is_started_and_no_file_of_hers_is_read(desk: Desk) -> None:
    trap = shlex.quote("touch /tmp/trapped-alice")
    files = ".profile .bash_profile .bashrc .bash_login .pam_environment .xsessionrc"
    desk.as_user("alice", f"cd; for file in {files}; do echo {trap} >$file; done")
    desk.host.shell("mv /home/alice /home/alice.kept; ln -s /root /home/alice")  # a home that leads elsewhere
    try:
        end = run(desk, "echo $HOME; ls $HOME || echo refused; cd /")
    finally:
        desk.host.shell("rm /home/alice; mv /home/alice.kept /home/alice")
    assert end.output.splitlines()[0] == "/home/alice"
    assert "refused" in end.output
    assert desk.host.run("test", "-e", "/tmp/trapped-alice", check=False).returncode == 1


def test_its_output_and_its_processes_have_bounds(desk: Desk) -> None:
    noisy = run(desk, "head -c 30000000 /dev/zero | tr '\\0' x; echo end", "output_limit_bytes=100000")
    assert (noisy.exit_code, noisy.output_bytes) == (0, 30_000_004)
    assert noisy.output.endswith("end\n")
    bomb = "b() { (setsid sh -c 'sleep 1000' &) ; }; for i in $(seq 150); do b; done; trap '' TERM; while :; do sleep 1; done"
    ended = run(desk, bomb, "timeout_s=4")
    assert (ended.timed_out, ended.survivors) == (True, 0)
    assert desk.host.shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 100[0]' || :").strip() == "0"
    script = """
running = machine.start(launch("sleep 1"))
limit = subprocess.run(["systemctl", "show", "-P", "TasksMax", f"pcm-run-{running.reference.run_id}"],
                       capture_output=True, text=True).stdout
finish(running)
print(json.dumps([int(limit)]))
"""
    assert told(desk, script) == [TASKS_MAX]


def test_a_worker_that_dies_loses_no_result(desk: Desk) -> None:
    begun = """
wanted = launch("echo begun; sleep 2; echo done; exit 5")
reference = machine.reference_of(wanted)
machine.start(wanted, reference)
(runs / "reference").write_text(json.dumps(reference.to_json()))
os.kill(os.getpid(), 9)
"""
    desk.host.python("-c", SETTING + begun, check=False)
    script = """
from pcm.service.machine.interface import RunReference
found = machine.find_again(RunReference.from_json(json.loads((runs / "reference").read_text())))
print(json.dumps(finish(found)))
"""
    end = End(*told(desk, script))  # type: ignore[arg-type]
    assert (end.exit_code, end.output) == (5, "begun\ndone\n")


def test_logging_off_does_not_end_it_and_is_seen(desk: Desk) -> None:
    desk.log_on("carol")
    end = told(
        desk,
        """
running = machine.start(launch("sleep 3; echo finished", "carol"))
before = sorted(session.user for session in machine.sessions())
subprocess.run(["systemctl", "stop", "desk-carol"])
time.sleep(1)
after = sorted(session.user for session in machine.sessions())
print(json.dumps([before, after, finish(running)[:4]]))
""",
    )
    assert end == [["alice", "bob", "carol"], ["alice", "bob"], [0, None, False, "finished\n"]]


def test_who_must_not_be_disturbed_is_seen(desk: Desk) -> None:
    ask = "print(json.dumps(machine.engaged(machine.sessions())))"
    assert told(desk, ask) == [[], False]
    desk.host.shell(
        "systemd-run -q --collect --unit=talk systemd-inhibit --what=idle --who=Slides --why=Talk sleep 600; sleep 0.5"
    )
    assert told(desk, ask) == [["presentation"], False]
    desk.host.shell(
        "systemctl stop talk; systemd-run -q --unit=talk systemd-inhibit --what=idle --mode=delay sleep 600 || :"
    )
    assert told(desk, ask) == [[], False]
    desk.host.shell("systemctl stop talk || :")


def test_a_locked_screen_is_seen_and_a_text_terminal_has_none(desk: Desk) -> None:
    ask = "print(json.dumps(machine.engaged(machine.sessions())))"
    desk.log_on("carol", kind="x11")
    try:
        assert told(desk, ask) == [[], False]
        session = desk.session_of("carol")
        path = desk.host.shell(
            f"loginctl show-session {session} -P Id >/dev/null; busctl --list tree org.freedesktop.login1"
        )
        assert "/org/freedesktop/login1/session/" in path
        name = (
            f"/org/freedesktop/login1/session/_3{session}"
            if session[0].isdigit()
            else f"/org/freedesktop/login1/session/{session}"
        )
        desk.host.shell(
            f"systemd-run -q --wait --pipe -p User=carol busctl call org.freedesktop.login1 {name} "
            "org.freedesktop.login1.Session SetLockedHint b true"
        )
        assert told(desk, ask) == [[], True]
    finally:
        desk.log_off("carol")


@pytest.mark.parametrize("kind", ["greeter", "background", "lock-screen"])
def test_a_session_that_is_no_persons_counts_for_nobody(desk: Desk, kind: str) -> None:
    desk.log_on("carol", session=kind)
    try:
        assert told(desk, "print(json.dumps(sorted(session.user for session in machine.sessions())))") == [
            "alice",
            "bob",
        ]
    finally:
        desk.log_off("carol")
