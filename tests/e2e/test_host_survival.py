"""What a real host does to a run: trees that outlive their first process, power cuts and kills at the worst moments.

Each program notes every run of its own, so that a second one would show; what the site got is what counts.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hosts import PROOF, Client, Site, wait_for

pytestmark = pytest.mark.needs("nspawn")

DAEMON = """#!/usr/bin/python3
import os, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.closerange(0, 3)
with open("{proof}/{name}.pid", "w") as file:
    file.write(str(os.getpid()))
time.sleep({seconds})
with open("/proc/self/cgroup") as file:
    cgroup = file.read()
with open("{proof}/{name}.done", "w") as file:
    file.write(cgroup)
"""
BEGIN = f"#!/bin/sh\necho before; echo run >>{PROOF}/$PCM_PACKAGE.runs\ntouch {PROOF}/$PCM_PACKAGE.begun\n"
WAIT = f"while ! test -e {PROOF}/$PCM_PACKAGE.go; do sleep 0.05; done\necho after; touch {PROOF}/$PCM_PACKAGE.done\n"


def done_by(name: str) -> str:
    """Detection of what `WAIT` and `DAEMON` do at their end."""
    return f"{{file: {PROOF}/{name}.done}}"


def order(site: Site, name: str, script: str, *, detect: str = "", timeout: str = "1m") -> str:
    site.publish(name, "[run]", files={"run": script}, detect=detect, timeout=timeout)
    return site.order(name)


def let_go(client: Client, name: str) -> None:
    client.host.path(f"{PROOF}/{name}.go").touch()
    wait_for(client.host.path(f"{PROOF}/{name}.done").exists, f"the end of {name}")


def the_only(known: dict[str, Any], kind: str) -> dict[str, Any]:
    entries = known["results"] if kind == "results" else known[kind]["items"]
    assert len(entries) == 1, entries
    entry: dict[str, Any] = entries[0]
    return entry


def require_one_run(site: Site, client: Client, name: str, job: str) -> dict[str, Any]:
    """One run, one report of it, one entry in the ledger, and no leavings; and it stays so after one more look."""
    # the service's own worker may be at it still
    wait_for(lambda: client.pcmsvc("once", check=False).returncode == 0, "one more look")
    assert client.proof(f"{name}.runs") == "run\n"
    ledger = json.loads(client.pcmsvc("ledger", "--json").stdout)
    assert [entry["job"] for entry in ledger["entries"]].count(job) == 1
    assert client.host.shell("systemctl list-units --all --no-legend 'pcm-run-*'") == ""
    left = "ls /var/lib/pcm/staging; find /var/lib/pcm/runs -mindepth 2 ! -name output"
    assert client.host.shell(left) == "", "nothing but outputs stays"
    return the_only(site.job(job), "results")


def test_q128612_done_means_that_the_control_group_is_empty(site: Site, client: Client) -> None:
    script = DAEMON.format(proof=PROOF, name="daemon", seconds=1.5)
    known = client.settle(order(site, "daemon", script, detect=done_by("daemon")))
    result = the_only(known, "results")
    assert (the_only(known, "assignments")["state"], result["detected"]) == ("succeeded", True)
    took = datetime.fromisoformat(result["ended"]) - datetime.fromisoformat(result["started"])
    assert took.total_seconds() >= 1.5
    assert f"/pcm-run-{result['run']}.service" in client.proof("daemon.done"), "the daemon was no part of the run"


def test_q214448_the_time_limit_ends_the_whole_control_group(site: Site, client: Client) -> None:
    script = DAEMON.format(proof=PROOF, name="hanging", seconds=600)
    known = client.settle(order(site, "hanging", script, timeout="1s"))
    result = the_only(known, "results")
    assert (the_only(known, "assignments")["code"], result["timed_out"]) == ("run.timed_out", True)
    assert not client.host.shell(f"test ! -e /proc/{client.proof('hanging.pid')}")
    assert client.host.shell("systemctl list-units --all --no-legend 'pcm-run-*'") == ""
    assert client.proof("hanging.done") == ""


@pytest.mark.parametrize(
    ("name", "before_the_cut", "detected", "state"),
    [
        ("cut-done", f"touch {PROOF}/cut-done.done", True, "succeeded"),
        ("cut-undone", ":", False, "failed"),
        ("cut-untold", ":", None, "unknown"),
    ],
)
def test_q158644_q164887_a_power_cut_during_a_run_is_settled_by_detection(
    site: Site, client: Client, name: str, before_the_cut: str, detected: bool | None, state: str
) -> None:
    detect = "" if detected is None else done_by(name)
    script = BEGIN.replace("touch", f"{before_the_cut}\ntouch") + "sleep 300\n"
    job = order(site, name, script, detect=detect)
    client.begin(job, f"{PROOF}/{name}.begun")
    boot_id = client.host.shell("cat /proc/sys/kernel/random/boot_id")
    client.host.kill_power()
    client.host.boot()
    assert client.host.shell("cat /proc/sys/kernel/random/boot_id") != boot_id
    assignment = the_only(client.settle(job), "assignments")
    assert (assignment["state"], assignment["code"]) == (state, "run.interrupted")
    result = require_one_run(site, client, name, job)
    assert (result["exit_code"], result["detected"]) == (None, detected)


def test_q175652_power_fails_between_the_end_of_a_run_and_its_record(site: Site, client: Client) -> None:
    job = order(site, "unrecorded", BEGIN + WAIT, detect=done_by("unrecorded"))
    client.begin(job, f"{PROOF}/unrecorded.begun")
    client.host.shell(f"kill -STOP {client.process('pcmsvc')}")
    let_go(client, "unrecorded")
    units = "systemctl list-units --all --no-legend --plain 'pcm-run-*'"
    wait_for(lambda: " exited " in client.host.shell(units), "the end of the unit")
    client.host.kill_power()
    client.host.boot()
    assignment = the_only(client.settle(job), "assignments")
    assert (assignment["state"], assignment["code"]) == ("succeeded", "run.interrupted")
    assert require_one_run(site, client, "unrecorded", job)["exit_code"] is None


def test_q164877_power_fails_between_the_record_of_a_result_and_its_report(site: Site, client: Client) -> None:
    job = order(site, "unreported", BEGIN + WAIT)
    client.begin(job, f"{PROOF}/unreported.begun")
    with site.silent():
        let_go(client, "unreported")
        wait_for(lambda: client.items()["unreported"]["state"] == "succeeded", "the result, stored here")
        client.host.kill_power()
        client.host.boot()
    assert the_only(client.settle(job), "assignments")["state"] == "succeeded"
    result = require_one_run(site, client, "unreported", job)
    assert (result["exit_code"], result["output_tail"]) == (0, "before\nafter\n")


def test_a_service_that_is_started_anew_leaves_the_running_program_alone(site: Site, client: Client) -> None:
    job = order(site, "kept", BEGIN + WAIT)
    client.begin(job, f"{PROOF}/kept.begun")
    worker = client.process("pcmsvc")
    client.host.shell("systemctl restart pcmsvc")
    assert client.process("pcmsvc") == worker
    let_go(client, "kept")
    assert the_only(client.settle(job), "assignments")["state"] == "succeeded"
    assert require_one_run(site, client, "kept", job)["output_tail"] == "before\nafter\n"


@pytest.mark.parametrize("victims", [("pcmsvc",), ("supervisor",), ("supervisor", "pcmsvc")])
def test_a_killed_service_finds_its_program_again(site: Site, client: Client, victims: tuple[str, ...]) -> None:
    name = "-".join(["killed", *victims])
    job = order(site, name, BEGIN + WAIT)
    client.begin(job, f"{PROOF}/{name}.begun")
    before = {lock: client.process(lock) for lock in ("supervisor", "pcmsvc")}
    client.host.shell("kill -9 " + " ".join(str(before[victim]) for victim in victims))
    if "supervisor" in victims:
        wait_for(lambda: client.process("supervisor") != before["supervisor"], "systemd's new supervisor")
    assert " running " in client.host.shell("systemctl list-units --no-legend --plain 'pcm-run-*'")
    let_go(client, name)
    assert the_only(client.settle(job), "assignments")["state"] == "succeeded"
    result = require_one_run(site, client, name, job)
    assert (result["exit_code"], result["output_tail"]) == (0, "before\nafter\n")


@pytest.mark.parametrize(
    ("name", "rest"),
    [("restarting", "sleep 60"), ("restarting-well", "trap 'exit 143' TERM; sleep 60 & wait")],
)
def test_q158644_a_setup_that_restarts_the_computer_is_judged_after_the_restart(
    site: Site, client: Client, name: str, rest: str
) -> None:
    """Shutting down ends the program, and what it began is complete only once the computer is up again."""
    restart = f"touch /run/not-yet {PROOF}/{name}.done; systemctl --no-block reboot; {rest}\n"
    detect = f"{{all: [{done_by(name)}, {{not: {{file: /run/not-yet}}}}]}}"
    job = order(site, name, BEGIN + restart, detect=detect)
    client.begin(job, f"{PROOF}/{name}.done")
    wait_for(lambda: not Path(f"/proc/{client.host.leader}").exists(), "the end of the host")
    client.host.kill_power()
    client.host.boot()
    assignment = the_only(client.settle(job), "assignments")
    assert (assignment["state"], assignment["code"]) == ("succeeded", "run.interrupted")
    assert require_one_run(site, client, name, job)["detected"] is True
