"""Restarts of a real host: asked for by programs, chosen by people, forced, put off, and cut short by power failures.

Each program notes every run of its own, so that a second one would show; the host counts its boots; what the site got is what counts.
"""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pcm.service import faults
from tests.e2e.booted_host import BOOT_SECONDS, PYTHONPATH, BootedHost
from tests.e2e.hosts import KIT, PROOF, Answer, Client, Site, served_site, wait_for
from tests.e2e.logged_on import Desk

pytestmark = pytest.mark.needs("nspawn")

NEEDS_RESTART, RESTARTING = 3010, 1641
RUN = f"#!/bin/sh\necho run >>{PROOF}/$PCM_PACKAGE.runs\ntouch {PROOF}/$PCM_PACKAGE.done\n"
HOME = "/srv/pcm"
FAULT = "/etc/pcm-fault"
AFTER_THE_BOOT = ("restart.settled", "recovery.restarted")
BEFORE_IT_GOES_DOWN = [point for point in faults.POINTS if point.startswith("restart.") and point not in AFTER_THE_BOOT]
FINAL = {"succeeded", "failed", "unknown"}
ASK_IT = (
    "import sys; sys.path[:0] = {path!r}.split(':')\n"
    "from pcm.service.machine.linux.power import restart\n"
    "restart('a test wants it', ignore_inhibitors={force})\n"
)


SCREEN = """#!/usr/bin/python3
import os
ours, theirs = os.openpty()
with open("/run/screen-name", "w") as file:
    file.write(os.ttyname(theirs))
with open("/run/screen", "wb", buffering=0) as file:
    while True:
        file.write(os.read(ours, 1000))
"""


class Trial(Client):
    """A client in a folder of its own, whose service may restart the host, and dies where `FAULT` says."""

    def __init__(self, host: BootedHost, site: Site) -> None:
        super().__init__(host, site)
        unit = host.path("/etc/systemd/system/pcmsvc.service")
        text = unit.read_text()
        for shipped, tried in (
            ("pcm.service.main run\n", f"pcm.service.main --home {HOME} run\n"),
            ("=/etc/pcm/client.json\n", f"={HOME}/etc/client.json\n"),
            ("=/etc/pcm /var/lib/pcm\n", f"={HOME}\n"),
            ("[Service]\n", f"[Service]\nEnvironmentFile=-{FAULT}\n"),
        ):
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, tried)
        unit.write_text(text)
        host.shell(f"mkdir {HOME}; touch {HOME}/may-restart")

    def enrol(self) -> None:
        """Enrol with a one-time token, read from standard input."""
        token = json.loads(self._site.pcm("client", "token", "--json"))["token"]
        self.pcmsvc("enroll", "--kit", KIT, "--token", str(token))

    def pcmsvc(self, *arguments: str, check: bool = True) -> Answer:
        """Type a `pcmsvc` command as this computer's administrator."""
        return self.host.run("/usr/bin/python3", "-m", "pcm.service.main", "--home", HOME, *arguments, check=check)

    def begin_to_die_at(self, point: str, name: str) -> str:
        """Start the service with an order that it carries out at its first check, and dies of; the job's id."""
        if not self.host.is_up():  # the test before has left it so
            self.host.kill_power()
            self.host.boot()
        self.host.shell("systemctl stop pcmsvc")
        self.die_at(point)
        job = order(self._site, name)
        wait_for(lambda: is_told(self._site, job), f"{job} in the instruction file")
        self.host.shell("systemctl start pcmsvc", check=False)  # it checks at once, and may take the host down
        return job

    def die_at(self, point: str) -> None:
        """From now on every check of the service dies there; '': nowhere."""
        self.host.path(FAULT).write_text(f"PCM_FAULT={point}\n" if point else "")


@pytest.fixture(scope="module")
def tried(nspawn_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Trial]]:
    folder = tmp_path_factory.mktemp("trial")
    with BootedHost(nspawn_base) as host, served_site(folder, host.gateway) as site:
        host.boot()
        trial = Trial(host, site)
        trial.enrol()
        trial.start()
        yield site, trial


def order(site: Site, name: str, code: int = NEEDS_RESTART, *, more: str = "", **fields: Any) -> str:
    """Publish a package whose program ends with this code, and order it on all clients; the job's id."""
    codes = f"exit_codes: {{restart: [{NEEDS_RESTART % 256}], restarting: [{RESTARTING % 256}]}}"
    script = f"{RUN}{more}\nexit {code % 256}\n"
    site.publish(name, f"[run]\n    {codes}", files={"run": script}, detect=f"{{file: {PROOF}/{name}.done}}")
    body = json.dumps({"order": {"package": name, "group": "all", **fields}, "dry_run": False}).encode()
    asking = urllib.request.Request(
        f"{site.url}/v1/jobs",
        data=body,
        headers={
            "Authorization": f"Bearer {(site.folder / 'admin.token').read_text().strip()}",
            "Content-Type": "application/json",
        },
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(asking, timeout=30) as answer:
        return str(json.load(answer)["id"])


def is_told(site: Site, job: str) -> bool:
    """Whether the job stands in an instruction file already."""
    files = (site.folder / "logon" / "clients").glob("*/*.instructions.json")
    return any(job in file.read_text() for file in files)


def state_of(site: Site, client: Client, job: str) -> str:
    return site.states(job).get(client.host.name, "offered")


def reach(site: Site, client: Client, job: str, *states: str) -> None:
    """Have the service ask its site now, until the site knows that the job came to one of these states."""
    wait_for(lambda: is_told(site, job), f"{job} in the instruction file")
    client.pcmsvc("sync")
    wait_for(lambda: state_of(site, client, job) in states, f"{job}: {states}", more=client.log)


def require_done_once(site: Site, client: Client, name: str, job: str, code: str = "restarted") -> None:
    """One run, one result, complete, and nothing more comes of it."""
    wait_for(lambda: state_of(site, client, job) in FINAL, f"the end of {job}", more=client.log)
    known = site.job(job)
    [assignment] = [each for each in known["assignments"]["items"] if each["host_name"] == client.host.name]
    assert (assignment["state"], assignment["code"]) == ("succeeded", code)
    [result] = known["results"]
    assert (result["exit_code"], result["detected"]) == (result["exit_code"], True)
    assert result["exit_class"] in {"restart", "restarting"}
    boots = client.host.boots
    wait_for(lambda: client.pcmsvc("once", check=False).returncode == 0, "one more look")
    assert client.proof(f"{name}.runs") == "run\n"
    assert client.host.boots == boots
    assert client.host.is_on(), "it restarts again"
    assert wanted(client) is None


def wanted(client: Client) -> dict[str, Any] | None:
    """The restart that is wanted, as the service shows it."""
    status = json.loads(client.pcmsvc("status", "--json").stdout)
    found: dict[str, Any] | None = status.get("standing", {}).get("restart")
    return found


def shown(client: Client) -> dict[str, Any]:
    """The same, once there is one."""
    return wait_for(lambda: wanted(client), "a restart that is wanted") or {}


def see_restart(client: Client, typed: Answer | None = None, patience_s: float = BOOT_SECONDS) -> None:
    """Wait for the restart, and for the host to be up again; `typed` is what should have caused it, and may have been cut off by it."""
    try:
        client.host.wait_for_restart(patience_s)
    except AssertionError as error:
        error.add_note(f"{'' if typed is None else typed.stdout + typed.stderr}\n{client.log()}")
        raise


@pytest.fixture
def client(hosted: tuple[Site, Client]) -> Client:
    """The client of `hosted`, up, with nobody logged on, and no restart wanted, whatever the test before has left."""
    client = hosted[1]
    here = "ls /run/systemd/sessions 2>/dev/null || :"
    if not client.host.is_up() or client.host.shell(here).strip() or wanted(client) is not None:
        client.host.kill_power()
        client.host.boot()
    return client


def test_q164329_nobody_logged_on_one_restart_for_two_programs(site: Site, client: Client) -> None:
    boots = client.host.boots
    client.host.shell("systemctl stop pcmsvc")
    names = ("first", "second")
    jobs = [order(site, name) for name in names]
    for job in jobs:
        wait_for(lambda job=job: is_told(site, job), f"{job} in the instruction file")  # type: ignore[misc]
    boot_id = client.host.shell("cat /proc/sys/kernel/random/boot_id")
    client.host.shell("systemctl start pcmsvc", check=False)  # it checks at once
    see_restart(client)
    assert client.host.shell("cat /proc/sys/kernel/random/boot_id") != boot_id
    for name, job in zip(names, jobs, strict=True):
        require_done_once(site, client, name, job)
    assert client.host.boots == boots + 1


def test_never_waits_for_whoever_restarts_it(site: Site, client: Client) -> None:
    boots = client.host.boots
    job = order(site, "never", restart_policy="never")
    reach(site, client, job, "restart_pending")
    it = shown(client)
    assert (it["policy"], it["packages"]) == ("never", ["never 1.0"])
    assert client.host.is_on()
    client.host.reboot()
    require_done_once(site, client, "never", job)
    assert client.host.boots == boots + 1


def test_whoever_is_logged_on_is_asked_and_chooses(site: Site, client: Client) -> None:
    boots = client.host.boots
    desk = Desk(client.host)
    desk.log_on("alice")
    job = order(site, "asking")
    reach(site, client, job, "restart_pending")
    it = shown(client)
    assert (it["policy"], it.get("due")) == ("ask", None)
    assert "asking 1.0" in client.pcmapp("restart")
    stranger = client.host.run("/usr/bin/python3", "-m", "pcm.app.main", "restart", "--now", user="nobody", check=False)
    assert stranger.returncode != 0, "who is not logged on decided"
    assert client.host.boots == boots
    see_restart(client, client.as_alice("/usr/bin/python3", "-m", "pcm.app.main", "restart", "--now"))
    require_done_once(site, client, "asking", job)
    assert client.host.boots == boots + 1


def test_q187287_whoever_is_at_a_terminal_reads_that_a_restart_is_wanted(site: Site, client: Client) -> None:
    boots = client.host.boots
    client.host.path("/root/screen").write_text(SCREEN)
    client.host.shell("systemd-run --quiet --unit=screen /usr/bin/python3 /root/screen")
    terminal = wait_for(lambda: client.host.shell("cat /run/screen-name || :").strip(), "a terminal")
    at_it = f"-p PAMName=login -p User=alice -p TTYPath={terminal} -p StandardInput=tty -E XDG_SESSION_TYPE=tty"
    client.host.shell(f"systemd-run --quiet --unit=at-it {at_it} -E XDG_SESSION_CLASS=user sleep 600")
    wait_for(lambda: Desk(client.host).session_of("alice"), "alice logged on")
    job = order(site, "told")
    wait_for(lambda: is_told(site, job), "the order")
    client.pcmsvc("sync")
    wait_for(lambda: "*** told 1.0 needs a restart." in client.host.shell("cat /run/screen"), "a line on the terminal")
    client.host.shell("systemctl stop at-it", check=False)  # that she has gone is noticed
    see_restart(client, client.check_soon())
    require_done_once(site, client, "told", job)
    assert client.host.boots == boots + 1


def test_it_comes_once_whoever_was_asked_has_gone(site: Site, client: Client) -> None:
    boots = client.host.boots
    desk = Desk(client.host)
    desk.log_on("alice")
    job = order(site, "patient")
    reach(site, client, job, "restart_pending")
    assert shown(client)["policy"] == "ask"
    assert client.host.is_on()
    client.host.shell("systemctl stop desk-alice", check=False)  # that she has gone is noticed
    see_restart(client, client.check_soon())
    require_done_once(site, client, "patient", job)
    assert client.host.boots == boots + 1


def test_q135584_forced_announced_put_off_within_the_budget_and_then_it_comes(site: Site, client: Client) -> None:
    boots = client.host.boots
    desk = Desk(client.host)
    desk.log_on("alice")
    job = order(site, "forced", restart_policy="force", deferral={"times": 1, "max_s": 45})
    reach(site, client, job, "restart_pending")
    assert "It restarts at" in shown(client)["reason"]
    client.pcmapp("restart", "--later")
    later = shown(client)
    assert (later.get("deferrals_left", 0), later["deferred_until"] <= later["latest"]) == (0, True)
    again = client.as_alice("/usr/bin/python3", "-m", "pcm.app.main", "restart", "--later")
    assert again.returncode != 0, "it was put off beyond its budget"
    assert client.host.is_on()
    see_restart(client, patience_s=300)
    require_done_once(site, client, "forced", job)
    assert client.host.boots == boots + 1


def test_a_program_that_restarts_the_computer_itself_is_left_to_do_so(site: Site, client: Client) -> None:
    boots = client.host.boots
    itself = "systemd-run --quiet --on-active=5 --timer-property=AccuracySec=100ms systemctl reboot"
    job = order(site, "itself", RESTARTING, more=itself)
    wait_for(lambda: is_told(site, job), "the order")
    see_restart(client, client.check_soon())
    require_done_once(site, client, "itself", job)
    assert client.host.boots == boots + 1


def test_q171070_whoever_holds_the_computer_up_is_named_and_waited_for(site: Site, client: Client) -> None:
    boots = client.host.boots
    hold = "systemd-inhibit --what=shutdown --mode=block --who=backup --why='saving everything' sleep 600"
    client.host.shell(f"systemd-run --quiet --unit=holder {hold}")
    wait_for(lambda: "backup" in client.host.shell("systemd-inhibit --list --no-legend"), "the lock")
    job = order(site, "held")
    reach(site, client, job, "restart_pending")
    wait_for(
        lambda: "backup (saving everything)" in shown(client)["reason"], "the name of who holds it up", more=client.log
    )
    assert client.host.is_on()
    client.host.shell("systemctl stop holder", check=False)  # it is looked for again by itself, at any moment
    see_restart(client, client.check_soon())
    require_done_once(site, client, "held", job)
    assert client.host.boots == boots + 1


def test_power_fails_while_the_host_goes_down(site: Site, client: Client) -> None:
    boots = client.host.boots
    slow = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/sleep 60\n"
    client.host.path("/run/systemd/system").mkdir(parents=True, exist_ok=True)
    client.host.path("/etc/systemd/system/slow.service").write_text(slow)
    client.host.shell("systemctl daemon-reload; systemctl start slow")
    job = order(site, "downward")
    wait_for(lambda: is_told(site, job), "the order")
    typed = client.check_soon()
    is_stopping = lambda: "stopping" in client.host.look("systemctl", "is-system-running")  # noqa: E731
    wait_for(is_stopping, "the way down", more=lambda: typed.stderr + client.log())
    client.host.kill_power()
    client.host.boot()
    require_done_once(site, client, "downward", job)
    assert client.host.boots == boots + 1, "the power failure was restart enough"


@pytest.mark.parametrize("point", BEFORE_IT_GOES_DOWN)
def test_q158644_power_fails_before_the_restart(tried: tuple[Site, Trial], point: str) -> None:
    site, trial = tried
    name = point.replace(".", "-")
    boots = trial.host.boots
    job = trial.begin_to_die_at(point, name)
    wait_for(lambda: died(trial) or not trial.host.is_on(), f"death at {point}", more=trial.log)
    trial.die_at("")
    trial.host.kill_power()
    trial.host.boot()
    require_done_once(site, trial, name, job)
    assert trial.host.boots == boots + 1, "one boot is restart enough, whoever caused it"


@pytest.mark.parametrize("point", AFTER_THE_BOOT)
def test_q164887_power_fails_after_the_restart(tried: tuple[Site, Trial], point: str) -> None:
    site, trial = tried
    name = point.replace(".", "-")
    boots = trial.host.boots
    job = trial.begin_to_die_at(point, name)
    see_restart(trial)
    wait_for(lambda: died(trial), f"death at {point}", more=trial.log)
    trial.die_at("")
    trial.host.kill_power()
    trial.host.boot()
    require_done_once(site, trial, name, job)
    assert trial.host.boots == boots + 2


def died(trial: Trial) -> bool:
    """Whether a check was killed in this boot."""
    said = trial.host.look("journalctl", "--no-pager", "--boot", "--unit=pcmsvc")
    return "a check ended with code -9" in said


def test_a_computer_restarts_without_logind_too(client: Client) -> None:
    boots = client.host.boots
    script = ASK_IT.format(path=PYTHONPATH, force=False)
    alone = f"systemctl stop dbus.socket dbus.service; exec /usr/bin/python3 -c {json.dumps(script)}"
    client.host.path("/root/alone").write_text(f"#!/bin/sh\n{alone}\n".replace("\\n", "\n"))
    client.host.shell("systemd-run --quiet --on-active=3 --timer-property=AccuracySec=100ms /bin/sh /root/alone")
    see_restart(client)
    assert client.host.boots == boots + 1


def test_force_heeds_nobody_who_holds_the_computer_up(client: Client) -> None:
    hold = "systemd-inhibit --what=shutdown --mode=block --who=backup --why=saving sleep 600"
    client.host.shell(f"systemd-run --quiet --unit=holder {hold}")
    wait_for(lambda: "backup" in client.host.shell("systemd-inhibit --list --no-legend"), "the lock")
    heeding = client.host.run("/usr/bin/python3", "-c", ASK_IT.format(path=PYTHONPATH, force=False), check=False)
    assert "kept from restarting by backup (saving)" in heeding.stderr
    client.host.run("/usr/bin/python3", "-c", ASK_IT.format(path=PYTHONPATH, force=True), check=False)
    see_restart(client)
