"""The self-extracting setup on real booted hosts: made for a site by `pcm client installer`, run as root, run again, run newer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.booted_host import BootedHost
from tests.e2e.client_packages import NEWER, Built
from tests.e2e.hosts import PROOF, Site, served_site, wait_for
from tests.e2e.packaged_host import PackagedClient
from tools.packages.tree import source_version

pytestmark = [pytest.mark.needs("nspawn", "packages"), pytest.mark.timeout(600)]

NOT_ALLOWED = 4
WAIT = f"""\
#!/bin/sh
touch {PROOF}/$PCM_PACKAGE.begun
while ! test -e {PROOF}/$PCM_PACKAGE.go; do sleep 0.05; done
echo $PCM_PACKAGE >>{PROOF}/ends
"""


@pytest.fixture(scope="module")
def hosted(
    nspawn_base: Path, client_packages: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, PackagedClient]]:
    """A host with the preset setups of a site in /root: `setup.run` with a token, and `newer.run` without."""
    folder = tmp_path_factory.mktemp("lab")
    with BootedHost(nspawn_base, bare=True) as host, served_site(folder, host.gateway) as site:
        host.boot()
        client = PackagedClient(host, site)
        setup, newer = folder / "setup.run", folder / "newer.run"
        site.pcm(
            "client",
            "installer",
            "--base",
            str(client_packages.setup()),
            "--out",
            str(setup),
            "--token",
            "--host",
            host.name,
        )
        site.pcm("client", "installer", "--base", str(client_packages.newer_setup()), "--out", str(newer))
        assert (setup.stat().st_mode & 0o777, newer.stat().st_mode & 0o777) == (0o700, 0o755)
        client.bring(setup)
        client.bring(newer)
        yield site, client


@pytest.fixture
def site(hosted: tuple[Site, PackagedClient]) -> Site:
    return hosted[0]


@pytest.fixture
def client(hosted: tuple[Site, PackagedClient]) -> PackagedClient:
    return hosted[1]


def untouched(client: PackagedClient) -> bool:
    return client.host.shell("ls -d /opt/pcm /etc/pcm /var/lib/pcm /usr/bin/pcmsvc 2>/dev/null || :") == ""


def test_it_explains_and_verifies_itself_without_rights(client: PackagedClient) -> None:
    client.host.shell("cp /root/setup.run /home/alice/setup.run; chmod 644 /home/alice/setup.run")
    shown = client.as_alice("/bin/sh", "/home/alice/setup.run", "--help")
    assert shown.returncode == 0
    assert "client of site lab, with a token for one computer until" in shown.stdout
    assert client.as_alice("/bin/sh", "/home/alice/setup.run", "--version").stdout == f"{source_version()}\n"
    verified = client.as_alice("/bin/sh", "/home/alice/setup.run", "--verify")
    assert (verified.returncode, " is whole: " in verified.stdout) == (0, True), verified.stderr
    refused = client.as_alice("/bin/sh", "/home/alice/setup.run")
    assert refused.returncode == NOT_ALLOWED
    assert "only an administrator can set the client up. Run it with: sudo sh /home/alice/setup.run" in refused.stderr
    client.host.shell("rm /home/alice/setup.run")
    assert untouched(client)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("truncate -s -1 {file}", "not complete"),
        ("echo >>{file}", "more than it was made with"),
        ("printf x | dd of={file} bs=1 seek=9000000 conv=notrunc status=none", "its archive is not"),
        (
            "size=$(stat -c %s {file}); printf x | dd of={file} bs=1 seek=$((size - 40)) conv=notrunc status=none",
            "its kit is not",
        ),
    ],
)
def test_a_damaged_file_does_nothing(client: PackagedClient, damage: str, told: str) -> None:
    client.host.shell("cp /root/setup.run /root/damaged.run; " + damage.format(file="/root/damaged.run"))
    answer = client.type("sh", "/root/damaged.run")
    client.host.shell("rm /root/damaged.run")
    assert answer.returncode == 1
    assert told in answer.stderr
    assert "Nothing was changed." in answer.stderr
    assert untouched(client)


def test_it_unpacks_nothing_where_others_may_write(client: PackagedClient) -> None:
    client.host.shell("chmod o+w /opt")
    answer = client.type("sh", "/root/setup.run")
    client.host.shell("chmod o-w /opt; rmdir /opt/pcm 2>/dev/null || :")
    assert answer.returncode == 1
    assert "/opt is not a folder that root alone may change" in answer.stderr


def test_another_kind_of_computer_is_refused(client: PackagedClient) -> None:
    answer = client.type("setarch", "i686", "sh", "/root/setup.run")
    assert answer.returncode == 1
    assert "this client is for x86_64, and this computer is i686" in answer.stderr
    assert untouched(client)


def test_from_nothing_to_a_client_then_newer_in_place_while_a_program_runs(client: PackagedClient, site: Site) -> None:
    planned = client.type("sh", "/root/setup.run", "--dry-run")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "would be: site lab is asked" in planned.stdout
    assert untouched(client)

    first = client.type("sh", "/root/setup.run")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "this computer is a client of site lab" in first.stdout
    assert (client.unmet(), client.version(), client.mess()) == (set(), source_version(), [])
    assert (
        client.host.shell("stat -c '%U:%G %a' /opt/pcm /etc/systemd/system/pcmsvc.service")
        == "root:root 755\nroot:root 644\n"
    )
    who = client.client_id()

    again = client.type("sh", "/root/setup.run")  # its token is used up, and is not needed
    assert again.returncode == 0, again.stdout + again.stderr
    assert client.client_id() == who

    site.publish("slow", "[run]", files={"run": WAIT})
    job = site.order("slow")
    client.begin(job, f"{PROOF}/slow.begun")
    worker = client.process("pcmsvc")
    refused = client.type("pcmsvc", "remove")
    assert "A program runs here now" in refused.stderr
    newer = client.type("sh", "/root/newer.run")
    assert newer.returncode == 0, newer.stdout + newer.stderr
    assert f"version {NEWER} is in use instead of {source_version()}" in newer.stdout
    assert client.process("pcmsvc") == worker  # it was left alone, and so was the tree that it runs from
    assert set(client.host.shell("ls /opt/pcm/versions").split()) == {NEWER, source_version()}
    client.host.path(f"{PROOF}/slow.go").touch()
    known = client.settle(job)
    assert known["results"][0]["exit_code"] == 0
    assert client.proof("ends") == "slow\n"
    assert (client.client_id(), client.version(), client.unmet(), client.mess()) == (who, NEWER, set(), [])
    # its own file says the version; the site learns it with the next report
    assert f"Service version: {NEWER}" in client.pcmsvc("status").stdout

    older = client.type("sh", "/root/setup.run")
    assert older.returncode == 1
    assert f"Version {NEWER} is here, which is newer than {source_version()}. Nothing was changed." in older.stderr
    assert (client.version(), client.mess()) == (NEWER, [])

    site.publish("slower", "[run]", files={"run": WAIT})
    later = site.order("slower")
    client.begin(later, f"{PROOF}/slower.begun")
    client.host.shell("systemd-run --quiet --unit=removal /usr/bin/pcmsvc remove --wait")
    wait_for(lambda: "inactive" in client.host.shell("systemctl is-active pcmsvc || :"), "the end of the service")
    assert client.host.shell("systemctl is-active removal") == "active\n"  # it waits for the program
    client.host.path(f"{PROOF}/slower.go").touch()
    wait_for(lambda: "inactive" in client.host.shell("systemctl is-active removal || :"), "the end of the removal")
    assert client.proof("ends") == "slow\nslower\n"
    left = "ls -d /opt/pcm /usr/bin/pcmsvc /etc/systemd/system/pcmsvc.service /run/pcm 2>/dev/null || :"
    assert client.host.shell(left) == ""
    assert client.host.shell("find /usr/share -name '*pcmsvc*'") == ""

    back = client.type("sh", "/root/newer.run")
    assert back.returncode == 0, back.stdout + back.stderr
    assert (client.client_id(), client.unmet()) == (who, set())
    assert client.settle(later)["results"][0]["exit_code"] == 0  # the result outlived the removal
    gone = client.type("pcmsvc", "remove", "--purge")
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert untouched(client)
    assert client.host.shell("getent passwd _pcm || :") == ""


def test_a_used_token_is_an_honest_error_and_approval_a_way_out(client: PackagedClient, site: Site) -> None:
    """After the purge: another computer, as far as the site knows, with a setup whose token was used."""
    answer = client.type("sh", "/root/setup.run")
    assert answer.returncode == NOT_ALLOWED, answer.stdout + answer.stderr
    assert "This enrolment token was used already; each is for one computer" in answer.stderr
    assert client.host.shell("ls /etc/pcm; systemctl is-active pcmsvc || :") == "inactive\n"
    assert client.mess() == []

    waiting = client.type("sh", "/root/newer.run")
    assert waiting.returncode == 0, waiting.stdout + waiting.stderr
    assert "an administrator has to approve this computer there" in waiting.stdout
    site.pcm("client", "approve", client.client_id(), "--yes")
    client.host.shell("systemctl restart pcmsvc")
    site.publish("proof", "[run]", files={"run": f"#!/bin/sh\nid -u >{PROOF}/by\n"})
    assert client.settle(site.order("proof"))["results"][0]["exit_code"] == 0
    assert client.unmet() == set()


def test_a_client_that_came_as_a_package_goes_on_with_the_newer_setup(
    nspawn_base: Path, client_packages: Built, tmp_path: Path
) -> None:
    with BootedHost(nspawn_base, bare=True) as host, served_site(tmp_path, host.gateway) as site:
        host.boot()
        client = PackagedClient(host, site)
        deb, run = client.bring(client_packages.deb(), "client.deb"), client.bring(client_packages.newer_setup())
        client.host.run("dpkg", "--install", deb, timeout=180)
        client.pcmsvc("install", "--kit", "/root/kit.json", "--token", site.token())
        who = client.client_id()
        assert client.type("sh", run).returncode == 0
        assert (client.client_id(), client.version(), client.unmet()) == (who, NEWER, set())
        kept = client.type("dpkg", "--install", deb)
        assert kept.returncode == 0, kept.stderr
        assert f"Version {NEWER} is here, which is newer than {source_version()}: it stays." in kept.stdout
        assert (client.version(), client.unmet()) == (NEWER, set())
        assert client.type("dpkg", "--purge", "pcm-client").returncode == 0
        assert untouched(client)
