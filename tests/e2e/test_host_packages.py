"""The client as a package, on real booted hosts: installed, enrolled, damaged and mended, upgraded, removed, purged."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.booted_host import BootedHost
from tests.e2e.client_packages import Built
from tests.e2e.hosts import PROOF, Site, served_site, wait_for
from tests.e2e.packaged_host import CURRENT, KIT, PackagedClient

pytestmark = [pytest.mark.needs("nspawn", "packages"), pytest.mark.timeout(600)]

NOT_ALLOWED = 4
PROOF_SCRIPT = f"#!/bin/sh\nid -u >{PROOF}/by\n"
WAIT = f"#!/bin/sh\ntouch {PROOF}/begun\nwhile ! test -e {PROOF}/go; do sleep 0.05; done\necho end >>{PROOF}/ends\n"
BEFORE_ENROLMENT = {"enrolled", "key", "pinned roots"}


@pytest.fixture(scope="module")
def hosted(
    nspawn_base: Path, client_packages: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, PackagedClient]]:
    """A host with the .deb, enrolled; what went wrong on the way is looked at as well."""
    with (
        BootedHost(nspawn_base, bare=True) as host,
        served_site(tmp_path_factory.mktemp("lab"), host.gateway) as site,
    ):
        host.boot()
        client = PackagedClient(host, site)
        said = client.type("dpkg", "--install", client.bring(client_packages.deb(), "client.deb"))
        assert said.returncode == 0, said.stdout + said.stderr
        assert "Not yet a client of a site: pcmsvc install --kit FILE --token TOKEN" in said.stdout
        yield site, client


@pytest.fixture(scope="module")
def site(hosted: tuple[Site, PackagedClient]) -> Site:
    return hosted[0]


@pytest.fixture(scope="module")
def client(hosted: tuple[Site, PackagedClient]) -> PackagedClient:
    """Enrolled, after two tokens that were not good."""
    site, client = hosted
    assert client.unmet() == BEFORE_ENROLMENT
    wrong = client.type("pcmsvc", "install", "--kit", KIT, "--token", "-", words="not-a-token\n")
    assert wrong.returncode == NOT_ALLOWED
    assert "This enrolment token is not known here" in wrong.stderr
    assert "Ask the site's administrator for a new token (pcm client token)" in wrong.stderr
    assert client.host.shell("ls /etc/pcm") == ""
    assert client.host.shell("systemctl is-active pcmsvc || :") == "inactive\n"
    assert client.unmet() == BEFORE_ENROLMENT - {"key"}
    token = site.token()
    done = client.type("pcmsvc", "install", "--kit", KIT, "--token", "-", words=f"{token}\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert client.unmet() == set()
    return client


def test_q174938_q190832_a_wrong_token_is_told_and_leaves_nothing_behind(client: PackagedClient) -> None:
    """The fixture saw it happen, on a fresh host; afterwards the right one was taken."""
    assert client.requirements()["enrolled"]["message"] == "client of site lab"


def test_it_installs_software_for_a_site_and_shows_it(client: PackagedClient, site: Site) -> None:
    site.publish("proof", "[run]", files={"run": PROOF_SCRIPT})
    job = site.order("proof")
    known = client.settle(job)
    assert known["results"][0]["exit_code"] == 0, known
    assert client.proof("by") == "0\n"
    assert "proof" in client.pcmapp("list")
    assert client.pcmsvc("check").returncode == 0


def test_q169476_q173786_installing_and_mending_what_is_well_changes_nothing(client: PackagedClient) -> None:
    before = client.host.shell("find /opt/pcm /etc/pcm /usr/bin/pcm* -printf '%p %i %m %u %T@\\n' | sort")
    process = client.host.shell("systemctl show -P MainPID pcmsvc")
    for command in (["install"], ["repair"], ["install", "--kit", KIT, "--dry-run"], ["install"]):
        done = client.pcmsvc(*command, "--json")
        told = json.loads(done.stdout)
        assert told["done"] == (["client of site lab: servers are those of the kit"] if "--kit" in command else [])
    assert client.host.shell("find /opt/pcm /etc/pcm /usr/bin/pcm* -printf '%p %i %m %u %T@\\n' | sort") == before
    assert client.host.shell("systemctl show -P MainPID pcmsvc") == process


def test_the_service_is_bound_as_its_unit_says(client: PackagedClient) -> None:
    supervisor = client.host.shell("systemctl show -P MainPID pcmsvc").strip()
    status = client.host.shell(f"cat /proc/{supervisor}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    bound = {0, 1, 2, 3, 5, 6, 7, 19}  # CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER KILL SETGID SETUID SYS_PTRACE
    assert int(fields["CapBnd"], 16) == sum(1 << number for number in bound)
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    mounts = client.host.shell(f"cat /proc/{supervisor}/mounts")
    options = {line.split()[1]: line.split()[3].split(",")[0] for line in mounts.splitlines()}
    assert (options["/"], options["/var/lib/pcm"], options["/etc/pcm"], options["/run/pcm"]) == ("ro", "rw", "rw", "rw")
    told = client.host.shell("systemd-analyze security --no-pager pcmsvc.service | tail -n 1")
    assert float(told.split(":")[1].split()[0]) <= 3.2, told


DAMAGES = {
    "a file is missing": ("rm {tree}/lib/python3.11/ssl.py", "program files"),
    "all may write a module": ("chmod o+w {tree}/lib/python3.11/site-packages/pcm/service/main.py", "program files"),
    "the interpreter is somebody's": ("chown 1000 {tree}/bin/python3.11", "program files"),
    "something was added": ("touch {tree}/lib/python3.11/site-packages/sneaked.py", "program files"),
    "a folder above may be changed": ("chmod 777 /opt", "program files"),
    "a command leads elsewhere": ("ln -sfn /bin/true /usr/bin/pcmapp", "commands"),
    "no network account": ("userdel _pcm", "network account"),
    "others look into the store": ("chmod 755 /var/lib/pcm/store", "folders"),
    "the unit was changed": ("echo >>/usr/lib/systemd/system/pcmsvc.service", "service definition"),
    "not at boot": ("systemctl disable --quiet pcmsvc", "service at boot"),
    "stopped": ("systemctl stop pcmsvc", "service"),
}
ALSO = {  # what else names the same damage: the one requirement that no installation is needed for
    "the interpreter is somebody's": {"protected folders"},
    "a folder above may be changed": {"protected folders"},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_q174648_q173785_each_damage_is_named_and_then_mended(client: PackagedClient, damage: str) -> None:
    script, name = DAMAGES[damage]
    who = client.client_id()
    client.host.shell(script.format(tree=f"/opt/pcm/versions/{client.version()}"))
    assert client.unmet() == {name} | ALSO.get(damage, set())
    told = json.loads(client.pcmsvc("repair", "--dry-run", "--json", check=False).stdout)
    assert [each.split(":")[0] for each in told["done"]] == [name]
    assert client.unmet() == {name} | ALSO.get(damage, set())
    mended = client.type("pcmsvc", "repair")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert client.unmet() == set()
    assert client.client_id() == who


def test_q181118_q191328_folders_that_others_can_change_are_named_and_taken_back(client: PackagedClient) -> None:
    """Whoever owns them could become administrator: nothing runs until then."""
    client.host.shell("chown alice /etc/pcm /var/lib/pcm; chmod g+w /etc/pcm/client.json")
    assert {"folders", "protected folders"} <= client.unmet()
    refused = client.pcmsvc("once", check=False)
    assert "machine.unprotected" in refused.stderr
    assert client.pcmsvc("repair").returncode == 0
    assert client.unmet() == set()
    assert (
        client.host.shell("stat -c '%U %a' /etc/pcm /var/lib/pcm /etc/pcm/client.json")
        == "root 755\nroot 711\nroot 644\n"
    )


def test_q181118_a_configuration_that_others_could_write_is_set_aside_until_there_is_a_kit(
    site: Site, client: PackagedClient
) -> None:
    who = client.client_id()
    client.host.shell("chown alice /etc/pcm/client.json")
    assert "trusted files" in client.unmet()
    refused = client.type("pcmsvc", "repair")
    assert refused.returncode == 1, refused.stdout + refused.stderr
    assert "installation.untrusted" in refused.stderr
    assert client.host.shell("stat -c %U /etc/pcm/client.json.untrusted-1") == "alice\n"
    client.pcmsvc("install", "--kit", KIT, "--token", site.token())
    assert (client.unmet(), client.client_id()) == (set(), who)
    client.host.shell("rm /etc/pcm/*.untrusted-1")


def test_content_that_was_changed_is_named_and_comes_back_with_the_package(client: PackagedClient) -> None:
    client.host.shell(f"echo '# more' >>{CURRENT}/lib/python3.11/site-packages/pcm/service/log.py")
    assert client.unmet() == {"program files"}
    refused = client.type("pcmsvc", "repair")
    assert refused.returncode == 1
    assert "log.py was changed" in refused.stderr + refused.stdout
    again = client.type("dpkg", "--install", "/root/client.deb")
    assert again.returncode == 0, again.stdout + again.stderr
    assert client.unmet() == set()


def test_a_disabled_service_stays_disabled_when_the_package_is_installed_again(client: PackagedClient) -> None:
    client.host.shell("systemctl disable --now --quiet pcmsvc")
    client.type("dpkg", "--install", "/root/client.deb")
    assert client.unmet() == {"service at boot", "service"}
    client.pcmsvc("repair")


def test_nobody_but_an_administrator_installs(client: PackagedClient) -> None:
    for command in ("install", "repair", "remove"):
        refused = client.as_alice("/usr/bin/pcmsvc", command)
        assert refused.returncode == NOT_ALLOWED, refused.stdout + refused.stderr
        assert "Only an administrator can do this; use sudo. Nothing was changed." in refused.stderr
    forbidden = client.as_alice(
        "/bin/sh", "-c", f"echo >>{CURRENT}/bin/pcmsvc || touch {CURRENT}/x || rm /usr/bin/pcmsvc"
    )
    assert forbidden.returncode != 0
    assert client.unmet() == set()


def test_it_is_not_removed_while_a_program_runs_and_comes_back_as_itself(client: PackagedClient, site: Site) -> None:
    who = client.client_id()
    site.publish("slow", "[run]", files={"run": WAIT})
    job = site.order("slow")
    client.begin(job, f"{PROOF}/begun")
    refused = client.type("dpkg", "--remove", "pcm-client")
    assert refused.returncode != 0
    assert "A program runs here now" in refused.stderr
    assert client.host.shell("systemctl is-active pcmsvc") == "active\n"
    asked = client.pcmsvc("remove", check=False)
    assert "apt-get remove pcm-client" in asked.stderr
    client.host.path(f"{PROOF}/go").touch()
    assert client.settle(job)["results"][0]["exit_code"] == 0
    assert client.proof("ends") == "end\n"

    removed = client.type("dpkg", "--remove", "pcm-client")
    assert removed.returncode == 0, removed.stdout + removed.stderr
    left = "ls -d /opt/pcm /usr/bin/pcmsvc /usr/bin/pcmapp /run/pcm /etc/systemd/system/pcmsvc.service /usr/lib/systemd/system/pcmsvc.service"
    assert client.host.shell(f"{left} 2>/dev/null || :") == ""
    assert client.host.shell("systemctl list-unit-files --no-legend 'pcm*' || :") == ""
    assert "identity.pem" in client.host.shell("ls /var/lib/pcm")

    assert client.type("dpkg", "--install", "/root/client.deb").returncode == 0
    assert client.unmet() == set()
    assert client.client_id() == who
    wait_for(lambda: "proof" in client.pcmapp("history"), "history from before")


def test_purging_leaves_nothing_but_what_programs_installed(client: PackagedClient) -> None:
    purged = client.type("dpkg", "--purge", "pcm-client")
    assert purged.returncode == 0, purged.stdout + purged.stderr
    found = client.host.shell("find / -xdev -name '*pcm*' -not -path '/root/*' -not -name 'ipcm*'")
    # journald's and dpkg's own memory is theirs
    assert [each for each in found.split() if not each.startswith(("/var/log", "/var/lib/dpkg"))] == []
    assert client.host.shell("getent passwd _pcm || :") == ""
    assert client.proof("by") == "0\n"
    again = client.type("dpkg", "--purge", "pcm-client")
    assert again.returncode == 0


def test_the_rpm_installs_into_an_image_that_then_boots_as_a_client(
    nspawn_base: Path, client_packages: Built, tmp_path: Path
) -> None:
    """With rpm's own scripts, in a system that is not running; then a real boot, an enrolment, a program, and the removal."""
    with BootedHost(nspawn_base, bare=True) as host, served_site(tmp_path, host.gateway) as site:
        disk = str(host.path("/"))
        host.path("/client.rpm").write_bytes(client_packages.rpm().read_bytes())
        rpm = ["rpm", "--root", disk, "--nodeps"]
        put = subprocess.run([*rpm, "--install", f"{disk}/client.rpm"], capture_output=True, text=True, check=False)
        assert put.returncode == 0, put.stdout + put.stderr
        host.path("/client.rpm").unlink()
        host.boot()
        client = PackagedClient(host, site)
        assert client.unmet() == BEFORE_ENROLMENT
        client.pcmsvc("install", "--kit", KIT, "--token", site.token())
        site.publish("proof", "[run]", files={"run": PROOF_SCRIPT})
        assert client.settle(site.order("proof"))["results"][0]["exit_code"] == 0
        assert client.unmet() == set()
        host.shut_down()
        gone = subprocess.run([*rpm, "--erase", "pcm-client"], capture_output=True, text=True, check=False)
        assert gone.returncode == 0, gone.stdout + gone.stderr
        left = ("/opt/pcm", "/usr/bin/pcmsvc", "/usr/lib/systemd/system/pcmsvc.service")
        assert [path for path in left if host.path(path).exists() or host.path(path).is_symlink()] == []
        assert host.path("/var/lib/pcm/identity.pem").exists()
        links = list(host.path("/etc/systemd/system").rglob("pcmsvc.service"))
        assert links == []
