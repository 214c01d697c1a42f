"""Step 10 on a real host with systemd: the contract suite of process trees, and what only systemd can do."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.booted_host import PYTHONPATH, ROOT, BootedHost

pytestmark = pytest.mark.needs("nspawn")

SETTING = """
import json, os, subprocess, sys, time
from pathlib import Path
from pcm.service.machine.interface import Launch, RunReference
from pcm.service.machine.linux.computer import LinuxMachine
machine = LinuxMachine()
runs = Path("/var/lib/pcm-runs")
runs.mkdir(mode=0o700, exist_ok=True)
def launch(run_id, script, timeout_s=20):
    return Launch(run_id, ("/bin/sh", "-c", script), Path("/"), runs / run_id / "output", timeout_s, grace_s=0.5)
def tell(ended):
    print(json.dumps([ended.exit_code, ended.timed_out, ended.output_tail.decode()]))
"""


@pytest.fixture(scope="module")
def host(nspawn_base: Path) -> Iterator[BootedHost]:
    with BootedHost(nspawn_base, {ROOT / "tests": "/opt/pcm/tests"}) as made:
        made.boot()
        yield made


def answer(host: BootedHost, script: str) -> list[object]:
    told: list[object] = json.loads(host.python("-c", SETTING + script).stdout)
    return told


def test_the_contract_of_process_trees_holds_under_systemd(host: BootedHost) -> None:
    suite = ["-m", "pytest", "/opt/pcm/tests/contract/machine", "-k", "systemd", "-q", "-p", "no:cacheprovider"]
    # not below /tmp: programs have one of their own there
    done = host.run(
        "/usr/bin/python3",
        *suite,
        "--basetemp=/var/lib/pcm-tests",
        check=False,
        timeout=300,
        environment={"PYTHONPATH": f"{PYTHONPATH}:/opt/pcm", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout[-8000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed.group(1)) >= 70, "systemd's back end was not among the tested ones"
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("verb", ["daemon-reexec", "daemon-reload"])
def test_a_run_outlives_a_systemd_that_replaces_itself(host: BootedHost, verb: str) -> None:
    script = f"""
run_id = "aa" * 8 + "{verb}".encode().hex()
running = machine.start(launch(run_id, "echo '$HOME %n'; sleep 1.5; echo still here; exit 5"))
subprocess.run(["systemctl", "{verb}"])
state = subprocess.run(["systemctl", "show", "-P", "LoadState", f"pcm-run-{{run_id}}"], capture_output=True, text=True).stdout
assert state == "loaded\\n", state
tell(running.wait())
machine.forget(running.reference)
"""
    assert answer(host, script) == [5, False, "$HOME %n\nstill here\n"]


def test_without_any_worker_the_time_limit_still_holds(host: BootedHost) -> None:
    begun = """
reference = machine.reference_of(launch("bb" * 8, "echo begun; (setsid sleep 60 &) ; sleep 60", 1.0))
machine.start(launch("bb" * 8, "echo begun; (setsid sleep 60 &) ; sleep 60", 1.0), reference)
Path("/var/lib/pcm-runs/reference").write_text(json.dumps(reference.to_json()))
os.kill(os.getpid(), 9)
"""
    host.python("-c", SETTING + begun, check=False)
    ended = """
time.sleep(5)
assert subprocess.run(["systemctl", "is-failed", "-q", "pcm-run-" + "bb" * 8]).returncode == 0
found = machine.find_again(RunReference.from_json(json.loads(Path("/var/lib/pcm-runs/reference").read_text())))
tell(found.wait())
machine.forget(found.reference)
"""
    # what it wrote when nobody read it is lost with it: systemd lets go of the pipe of a unit that it ended itself
    assert answer(host, ended)[:2] == [None, True]
    assert host.shell("systemctl list-units --all --no-legend 'pcm-run-*'").strip() == ""


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_a_program_that_somebody_stopped_is_told_apart_from_one_that_ended(host: BootedHost, verb: str) -> None:
    script = f"""
run_id = "ee" * 8 + "{verb}".encode().hex()
running = machine.start(launch(run_id, "echo begun; (setsid sleep 60 &) ; sleep 60"))
time.sleep(0.3)
subprocess.Popen(["systemctl", "{verb}", f"pcm-run-{{run_id}}"])
ended = running.wait()
machine.forget(running.reference)
print(json.dumps([ended.ended_by, ended.exit_code, ended.signal, ended.output_tail.decode(), ended.duration_s < 10]))
"""
    # `systemctl kill` sends a signal as `kill` does; only `stop` takes the unit away from us
    assert answer(host, script) == (
        ["stopped", None, None, "begun\n", True] if verb == "stop" else ["", None, 15, "begun\n", True]
    )


def test_an_installer_may_leave_a_service_running(host: BootedHost) -> None:
    """A daemon that is a unit of its own is no part of the run (under the subreaper it would be)."""
    script = """
tell(machine.start(launch("cc" * 8, "systemd-run -q --unit=left-behind sleep 600; echo installed", 10)).wait())
"""
    assert answer(host, script) == [0, False, "installed\n"]
    assert host.run("systemctl", "is-active", "left-behind").stdout == "active\n"


def test_nothing_of_systemds_own_reaches_the_program(host: BootedHost) -> None:
    host.shell("systemctl set-environment SITE_SECRET=1 LD_PRELOAD=/evil.so LANG=fr_FR")
    try:
        script = 'ended = machine.start(launch("dd" * 8, "env")).wait(); tell(ended)'
        _, _, output = answer(host, script)
    finally:
        host.shell("systemctl unset-environment SITE_SECRET LD_PRELOAD LANG")
    names = {line.split("=", 1)[0] for line in str(output).splitlines()}
    # PWD is the shell's own
    assert names - {"PWD"} == {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "PCM_RUN_ID"}
    assert "LANG=C.UTF-8" in str(output)


def test_sessions_of_logged_on_users_are_seen(host: BootedHost) -> None:
    host.shell("id alice >/dev/null 2>&1 || useradd -m alice")
    look = SETTING + "print(json.dumps([[s.user, s.active, s.remote] for s in machine.sessions()]))"
    assert json.loads(host.python("-c", look).stdout) == []
    session = ["PAMName=login", "User=alice", "Environment=XDG_SESSION_CLASS=user XDG_SESSION_TYPE=tty"]
    options = " ".join(f"-p '{entry}'" for entry in session)
    host.shell(f"systemd-run -q --unit=desk {options} sleep 600")
    seen = host.python("-c", "import time; time.sleep(0.5)\n" + look)
    assert [entry[0] for entry in json.loads(seen.stdout)] == ["alice"]
    host.shell("systemctl stop desk")
