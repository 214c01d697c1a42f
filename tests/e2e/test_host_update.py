"""The client updates itself on a real booted host: by its own site's package, on trial, with builds that are broken and one that works."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.booted_host import BootedHost
from tests.e2e.client_packages import NEWER, Built, build, one, snapshot
from tests.e2e.hosts import PROOF, Site, served_site, wait_for
from tests.e2e.packaged_host import KIT, PackagedClient
from tools.packages.tree import source_version

pytestmark = [pytest.mark.needs("nspawn", "packages"), pytest.mark.timeout(900)]

TRIAL = "45s"
PATIENCE_S = 180.0
UNIT = "packaging/systemd/pcmsvc.service"
DOES_NOT_START = "98.0.0"
DOES_NOT_REACH = "98.1.0"


class Damage(NamedTuple):
    """What makes a build a broken one: a piece of its code, and what stands there instead."""

    file: str
    right: str
    wrong: str


DAMAGES = {
    DOES_NOT_START: Damage(
        "src/pcm/service/main.py",
        "def _run(_parsed: argparse.Namespace, places: Places) -> int:\n",
        "def _run(_parsed: argparse.Namespace, places: Places) -> int:\n    return 1\n",
    ),
    DOES_NOT_REACH: Damage(
        "src/pcm/service/sources.py",
        'clients/{self._identity.client_id}/timestamp.json")',
        'clients/{self._identity.client_id}/timestamps.json")',
    ),
}


class Lab(NamedTuple):
    """A site, a client of it that came as a package, and setups of newer versions by version."""

    site: Site
    client: PackagedClient
    setups: dict[str, Path]

    def order(self, version: str, then: str = "") -> str:
        """Have the site update its clients as it installs anything else; the job's id. `then`: what the program does after."""
        setup = self.setups[version]
        package = f"pcm-client-{version.replace('.', '-')}"
        described = f'name: {package}\nversion: "{version}"\nplatforms: [linux-any]\nprograms:\n  install:\n'
        described += "    command: [run]\n    timeout: 5m\n"
        script = f"#!/bin/sh\nset -e\nsh ./{setup.name} --trial {TRIAL}\n{then}"
        self.site.publish_described(described, package, files={"run": script}, debs=(setup,))
        return self.site.order(package)

    def status(self) -> dict[str, Any]:
        """What `pcmsvc status` says, once there is one that can say it."""
        said = self.client.pcmsvc("status", "--json", check=False).stdout
        status: dict[str, Any] = json.loads(said) if said else {}
        return status

    def comes_into_use(self, version: str) -> None:
        """Wait until a version is in use."""
        wait_for(lambda: self.client.version() == version, f"version {version}", PATIENCE_S)

    def trial_ends(self) -> None:
        """Wait until nobody watches any more."""
        wait_for(lambda: not self.client.host.path("/opt/pcm/trial.json").exists(), "the end of the trial", PATIENCE_S)
        unit = self.client.host.path("/etc/systemd/system/pcm-watch.service")
        wait_for(lambda: not unit.exists(), "the end of what watches")

    def is_told(self, version: str) -> bool:
        """Whether the site knows that this version had to go."""
        refusals = json.loads(self.site.pcm("client", "show", self.client.host.name, "--json")).get("refusals", [])
        return any(each["code"] == "update.returned" and version in each["reason"] for each in refusals)


def broken(folder: Path, version: str) -> Path:
    """The setup of a version with its damage, built as every other one."""
    damage, source = DAMAGES[version], folder / f"source-{version}"
    snapshot(source)
    text = (source / damage.file).read_text()
    assert text.count(damage.right) == 1
    (source / damage.file).write_text(text.replace(damage.right, damage.wrong))
    with (source / UNIT).open("a") as unit:
        unit.write(f"# of version {version}\n")
    build(source, folder / version, "--version", version, "--format", "run", "--format", "deb")
    return one(folder / version, "*.run")


@pytest.fixture(scope="module")
def lab(nspawn_base: Path, client_packages: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    setups = {version: broken(folder, version) for version in DAMAGES} | {NEWER: client_packages.newer_setup()}
    with BootedHost(nspawn_base, bare=True) as host, served_site(folder, host.gateway) as site:
        host.boot()
        client = PackagedClient(host, site)
        put = client.type("dpkg", "--install", client.bring(client_packages.deb(), "client.deb"))
        assert put.returncode == 0, put.stdout + put.stderr
        client.pcmsvc("install", "--kit", KIT, "--token", site.token())
        wait_for(host.path("/var/lib/pcm/last-contact").exists, "first contact")
        yield Lab(site, client, setups)


def test_q168463_a_version_whose_service_does_not_start_goes_by_itself(lab: Lab) -> None:
    who, started = lab.client.client_id(), lab.order(DOES_NOT_START)
    lab.client.check_soon()
    lab.comes_into_use(DOES_NOT_START)
    lab.comes_into_use(source_version())
    lab.trial_ends()
    lab.client.settle(started)
    wait_for(lambda: lab.is_told(DOES_NOT_START), "what the site is told", PATIENCE_S)
    assert (lab.client.client_id(), lab.client.unmet(), lab.client.mess()) == (who, set(), [])
    update = lab.status()["update"]
    assert (update["state"], update["old"], update["new"]) == ("returned", source_version(), DOES_NOT_START)
    assert "does not stay up" in update["why"]
    shown = lab.client.pcmsvc("status").stdout
    assert f"{DOES_NOT_START} did not work here; {source_version()} is back since" in shown


def test_q168463_a_package_of_such_a_version_leaves_the_one_in_use_and_is_no_trouble_to_the_system(lab: Lab) -> None:
    deb = lab.client.bring(one(lab.setups[DOES_NOT_START].parent, "*.deb"), "broken.deb")
    put = lab.client.type("dpkg", "--install", deb)
    assert put.returncode == 0, put.stdout + put.stderr
    assert f"Version {DOES_NOT_START} was here and did not work" in put.stdout
    assert (lab.client.version(), lab.client.unmet()) == (source_version(), set())
    unit = lab.client.host.shell("cat $(systemctl show -P FragmentPath pcmsvc)")
    assert f"# of version {DOES_NOT_START}" not in unit

    again = lab.client.type("/opt/pcm/package/bin/pcmsvc", "install", "--again", "--trial", TRIAL)
    assert again.returncode == 1, again.stdout  # its service could not be started
    lab.comes_into_use(source_version())
    lab.trial_ends()
    assert lab.client.type("dpkg", "--configure", "-a").returncode == 0
    wait_for(lambda: lab.client.unmet() == set(), "everything as it must be")
    unit = lab.client.host.shell("cat $(systemctl show -P FragmentPath pcmsvc)")
    assert f"# of version {DOES_NOT_START}" not in unit


def test_q168463_a_version_that_does_not_reach_its_site_goes_although_the_power_fails_meanwhile(lab: Lab) -> None:
    job = lab.order(DOES_NOT_REACH)
    lab.client.check_soon()
    lab.comes_into_use(DOES_NOT_REACH)
    wait_for(lambda: lab.status().get("update", {}).get("state") == "trial", "the trial", PATIENCE_S)
    assert "is on trial until" in lab.client.pcmsvc("status").stdout
    watcher = lab.client.host.shell("systemctl show -P MainPID pcm-watch")
    assert lab.client.host.shell(f"readlink /proc/{watcher.strip()}/exe").startswith(
        f"/opt/pcm/versions/{source_version()}/"
    )
    lab.client.host.shell(f"kill -9 {watcher}")
    unpacked = lab.client.host.path("/opt/pcm")  # a setup that a power failure cuts off cannot tidy up
    wait_for(lambda: not list(unpacked.glob(".setup.*")), "the end of the setup")
    lab.client.host.kill_power()
    lab.client.host.boot()
    assert lab.client.version() == DOES_NOT_REACH
    assert lab.client.host.shell("systemctl is-active pcm-watch") == "active\n"
    lab.client.host.shell("systemctl kill --signal=KILL pcm-watch")
    lab.comes_into_use(source_version())
    lab.trial_ends()
    lab.client.settle(job)
    wait_for(lambda: lab.is_told(DOES_NOT_REACH), "what the site is told", PATIENCE_S)
    assert lab.client.unmet() == set()

    again = lab.client.type("sh", lab.client.bring(lab.setups[DOES_NOT_REACH], "again.run"))
    assert again.returncode == 1
    assert f"Version {DOES_NOT_REACH} was here, and version {source_version()} had to come back." in again.stderr
    assert lab.client.version() == source_version()


def test_q168463_a_version_that_works_stays_and_the_program_that_brought_it_is_reported(lab: Lab) -> None:
    """By the new version itself: the worker that began it dies, and the program goes on in its own unit."""
    job = lab.order(NEWER, f"touch {PROOF}/held\nwhile ! test -e {PROOF}/go; do sleep 0.05; done\n")
    lab.client.check_soon()
    wait_for(lab.client.host.path(f"{PROOF}/held").exists, "the end of the setup", PATIENCE_S)
    assert lab.client.version() == NEWER
    worker = lab.client.process("pcmsvc")
    began_it = f"/opt/pcm/versions/{source_version()}/bin/python3.11\n"
    assert lab.client.host.shell(f"readlink /proc/{worker}/exe") == began_it
    lab.client.host.shell(f"kill -9 {worker}; touch {PROOF}/go")
    known = lab.client.settle(job)
    assert known["results"][0]["exit_code"] == 0, known
    lab.trial_ends()
    assert (lab.client.version(), lab.client.unmet(), lab.client.mess()) == (NEWER, set(), [])
    assert "update" not in lab.status()
    confirmed = json.loads(lab.client.host.path("/var/lib/pcm/confirmed.json").read_text())
    assert confirmed["version"] == NEWER
    lab.client.host.reboot()
    assert lab.client.version() == NEWER
    assert lab.client.host.shell("systemctl list-unit-files --no-legend 'pcm-watch*' || :") == ""
    wait_for(lambda: lab.client.unmet() == set(), "everything as it must be")
