"""The main job on a real host: dpkg installs a real package as root with nobody logged on, out of every user's reach.

The package's own script stops half-way until the test has looked at the computer in the middle of the run.
"""

import json
import shlex
from dataclasses import dataclass
from typing import Any

import pytest

from pcm.service.machine.commands import SEARCH_PATH
from tests.e2e.hosts import ALREADY_RUNNING, PROOF, Answer, Client, Site, build_deb

pytestmark = pytest.mark.needs("nspawn")

NOT_ALLOWED = 4
POSTINST = f"""\
echo "postinst $1"
echo "id $(id -u) $(id -G)"
echo "cgroup $(sed -n 's/^0:://p' /proc/self/cgroup)"
echo "stdin $(readlink /proc/self/fd/0)"
echo "sessions $(loginctl list-sessions --no-legend | wc -l)"
env | sed 's/^/env /'
echo "secret of the output"
echo mine >/tmp/of-the-run
touch {PROOF}/half-way
for _ in $(seq 600); do test ! -e {PROOF}/go || exit 0; sleep 0.05; done
exit 1
"""
FILES = {
    "/usr/bin/pcm-proof": "#!/bin/sh\necho proven\n",
    "/usr/share/pcm-proof/data": "data\n",
    "/etc/pcm-proof.conf": "setting=1\n",
}
ALLOWED = "cat /etc/pcm-proof.conf"
LOOK_AT_THE_NETWORK_SIDE = """
import json, pathlib, sys
found = []
for status in pathlib.Path("/proc").glob("[0-9]*/status"):
    fields = dict(line.split(":\\t", 1) for line in status.read_text().splitlines() if ":\\t" in line)
    if fields["PPid"].strip() == sys.argv[1]:
        found.append([fields[name].split() for name in ("Uid", "Groups", "CapPrm", "CapInh", "CapAmb", "NoNewPrivs")])
print(json.dumps(found))
"""


@dataclass
class Seen:
    """What there was to see in the middle of the run, and what the site knew at its end."""

    forbidden: Answer
    network_side: list[list[list[str]]]
    second_service: Answer
    second_worker: Answer
    unit: str
    listed: str
    job: str
    known: dict[str, Any]

    @property
    def run(self) -> str:
        return str(self.known["results"][0]["run"])

    def told(self, topic: str) -> list[str]:
        """What the program itself said about a topic."""
        lines = self.known["results"][0]["output_tail"].splitlines()
        return [line.removeprefix(f"{topic} ") for line in lines if line.startswith(f"{topic} ")]


@pytest.fixture(scope="module")
def seen(hosted: tuple[Site, Client], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    site, client = hosted
    deb = build_deb(tmp_path_factory.mktemp("deb"), "pcm-proof", "1.2-3", FILES, {"postinst": POSTINST})
    command = f"[dpkg, --install, {deb.name}]"
    site.publish("pcm-proof", command, debs=(deb,), detect="{dpkg: pcm-proof, version: '= 1.2-3'}")
    job = site.order("pcm-proof")
    client.begin(job, f"{PROOF}/half-way")
    (run,) = client.host.shell("ls /var/lib/pcm/staging").split()
    worker = str(client.process("pcmsvc"))
    seen = Seen(
        forbidden=client.as_alice("/bin/sh", "-c", attempts(run, worker)),
        network_side=json.loads(client.host.run("/usr/bin/python3", "-c", LOOK_AT_THE_NETWORK_SIDE, worker).stdout),
        second_service=client.pcmsvc("run", check=False),
        second_worker=client.pcmsvc("once", check=False),
        unit=client.host.shell(f"systemctl show -P Type -P ExitType -P ActiveState pcm-run-{run}"),
        listed=client.pcmapp("list"),
        job=job,
        known={},
    )
    client.host.path(f"{PROOF}/go").touch()
    seen.known = client.settle(job)
    return seen


def attempts(run: str, worker: str) -> str:
    """A script that says which of these worked: one may, the others must not."""
    staged, output = f"/var/lib/pcm/staging/{run}", f"/var/lib/pcm/runs/{run}/output"
    everything = [
        ALLOWED,
        "echo evil >>/usr/bin/pcm-proof",
        "rm -f /usr/share/pcm-proof/data",
        "touch /usr/bin/intruder",
        "echo evil >>/etc/pcm-proof.conf",
        "ls /var/lib/pcm",
        f"ls {staged}",
        f"echo evil >>{staged}/pcm-proof_1.2-3_all.deb",
        f"touch {staged}/intruder",
        f"cat {output}",
        "cat /var/lib/pcm/identity.pem",
        "cat /var/lib/pcm/state.db",
        "touch /etc/pcm/intruder",
        "echo evil >>/etc/pcm/packages.root.json",
        "rm -f /run/pcm/pcmsvc.sock",
        "cat /tmp/of-the-run",
        f"kill -9 {worker}",
        f"cat /proc/{worker}/environ",
        f"systemctl --no-ask-password stop pcm-run-{run}",
        "systemctl --no-ask-password stop pcmsvc",
    ]
    return "\n".join(f"if ( {each} ) >/dev/null 2>&1; then echo {shlex.quote(each)}; fi" for each in everything)


def test_dpkg_installs_as_root_with_nobody_logged_on(seen: Seen, site: Site, client: Client) -> None:
    (result,) = seen.known["results"]
    assert (result["exit_code"], result["detected"]) == (0, True)
    assert seen.told("postinst") == ["configure"]
    assert seen.told("id") == ["0 0"]
    assert seen.told("sessions") == ["0"]
    assert client.host.run("/usr/bin/pcm-proof").stdout == "proven\n"
    owners = client.host.run("stat", "-c", "%U:%G %a", *FILES).stdout.split("\n")
    assert owners == ["root:root 755", "root:root 644", "root:root 644", ""]
    told = site.pcm("job", "show", seen.job)
    assert "succeeded" in told
    assert client.host.name in told
    assert client.host.shell("ls /var/lib/pcm/staging") == ""


def test_q125934_the_program_sees_the_documented_environment_and_no_other(seen: Seen) -> None:
    variables = dict(line.partition("=")[::2] for line in seen.told("env"))
    its_own = {"PWD", "OLDPWD", "SHLVL", "_"}
    by_dpkg = {name for name in variables if name.startswith("DPKG_")}
    staged = f"/var/lib/pcm/staging/{seen.run}"
    assert {name: value for name, value in variables.items() if name not in by_dpkg | its_own} == {
        "PATH": ":".join(SEARCH_PATH),
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "PCM_RUN_ID": seen.run,
        "PCM_JOB": seen.job,
        "PCM_PACKAGE": "pcm-proof",
        "PCM_VERSION": "1.0",
        "PCM_PROGRAM": "install",
        "PCM_PACKAGE_DIRECTORY": staged,
    }
    assert seen.told("stdin") == ["/dev/null"]


def test_the_program_is_a_transient_service_of_its_own(seen: Seen, client: Client) -> None:
    assert seen.told("cgroup") == [f"/system.slice/pcm-run-{seen.run}.service"]
    assert seen.unit.split() == ["exec", "cgroup", "active"]
    assert client.host.shell("systemctl list-units --all --no-legend 'pcm-run-*'") == ""


def test_q189809_q181118_an_ordinary_user_changes_nothing_and_reads_no_secret(seen: Seen, client: Client) -> None:
    assert seen.forbidden.stdout.splitlines() == [ALLOWED], seen.forbidden.stderr
    assert client.host.run("dpkg", "--verify", "pcm-proof").stdout == ""
    # a user's own program passes through the first two to its package; nobody can list them
    modes = {"": "711", "/staging": "711", "/metadata": "700", "/runs": "700", "/store": "700"}
    found = client.host.run("stat", "-c", "%U:%G %a", *(f"/var/lib/pcm{name}" for name in modes)).stdout
    assert found.splitlines() == [f"root:root {mode}" for mode in modes.values()]
    shown = client.pcmapp("show", "pcm-proof")
    assert "secret of the output" not in shown
    refused = client.as_alice("/usr/bin/python3", "-m", "pcm.service.main", "sync")
    assert refused.returncode == NOT_ALLOWED, refused.stdout + refused.stderr


def test_q164657_an_ordinary_user_sees_what_happens(seen: Seen, client: Client) -> None:
    assert "running" in seen.listed.lower()
    listed = client.pcmapp("list")
    (line,) = [line for line in listed.splitlines() if line.strip().startswith("pcm-proof 1.0 ")]
    assert " done " in line
    assert "its work was found done" in client.pcmapp("show", "pcm-proof")


def test_the_network_side_has_an_account_of_its_own_and_no_rights(seen: Seen) -> None:
    (transfer,) = seen.network_side
    users, groups, *capabilities, no_new_rights = transfer
    assert len(set(users)) == 1
    assert 61184 <= int(users[0]) <= 65519
    assert set(groups) <= {users[0]}
    assert [int(mask, 16) for (mask,) in capabilities] == [0, 0, 0]
    assert no_new_rights == ["1"]


def test_q165147_a_second_service_refuses_to_start(seen: Seen) -> None:
    assert seen.second_service.returncode == ALREADY_RUNNING
    assert "another PCM service is already running" in seen.second_service.stderr
    assert seen.second_worker.returncode == ALREADY_RUNNING
    assert "only one may run on a computer. [machine.already_running]" in seen.second_worker.stderr


def test_every_requirement_holds_on_an_ordinary_computer(seen: Seen, client: Client) -> None:
    assert seen.known
    checked = client.pcmsvc("check", check=False)
    assert checked.returncode == 0, checked.stdout


def test_q178662_the_service_is_up_although_no_server_answers(seen: Seen, site: Site, client: Client) -> None:
    with site.silent():
        client.host.reboot()
        assert client.host.run("systemctl", "is-active", "pcmsvc").stdout == "active\n"
        assert "pcm-proof" in client.pcmapp("list")
    assert seen.known
