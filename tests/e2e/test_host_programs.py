"""The programs of a package on a real host: a real Debian package installed, damaged, repaired, upgraded, returned from, removed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.booted_host import BootedHost
from tests.e2e.hosts import PROOF, Client, Site, build_deb, served_site, wait_for

pytestmark = pytest.mark.needs("nspawn")

TOOL = "#!/bin/sh\necho tool {}\n"
WORKS = TOOL + "exit 0\n"
BROKEN = TOOL + f"echo asked >>{PROOF}/health.asked\nexit 1\n"
DETECT = "{all: [{dpkg: pcm-tool, version: '= %s'}, {file: /usr/bin/pcm-tool}]}"
FIRST = f"""\
name: tool
version: "1.0"
platforms: [linux-any]
programs:
  install:
    command: [dpkg, -i, ./pcm-tool_1.0_all.deb]
    detect: {DETECT % "1.0"}
  repair:
    command: [dpkg, -i, ./pcm-tool_1.0_all.deb]
    detect: {DETECT % "1.0"}
  uninstall:
    command: [dpkg, --purge, pcm-tool]
    detect: {{not: {{dpkg: pcm-tool}}}}
    approvals: 0
"""
SECOND = f"""\
name: tool
version: "2.0"
platforms: [linux-any]
programs:
  install:
    command: [dpkg, -i, ./pcm-tool_2.0_all.deb]
    detect: {DETECT % "2.0"}
    health: {{command: [/usr/bin/pcm-tool], installed_when: exit_zero}}
    health_within: 2s
    rollback_to: back
  back:
    command: [./back]
    detect: {DETECT % "1.0"}
"""
BACK = f"#!/bin/sh\nset -e\necho back >>{PROOF}/back.runs\ndpkg -i ./pcm-tool_1.0_all.deb\n"


@pytest.fixture(scope="module")
def lab(nspawn_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Client, Path]]:
    folder = tmp_path_factory.mktemp("lab")
    with BootedHost(nspawn_base) as host, served_site(folder, host.gateway) as site:
        host.boot()
        client = Client(host, site)
        client.enrol()
        client.start()
        (folder / "new").mkdir()
        first = build_deb(
            folder, "pcm-tool", "1.0", {"/usr/bin/pcm-tool": WORKS.format(1), "/etc/pcm-tool.conf": "a\n"}, {}
        )
        second = build_deb(
            folder / "new", "pcm-tool", "2.0", {"/usr/bin/pcm-tool": BROKEN.format(2), "/etc/pcm-tool.conf": "a\n"}, {}
        )
        site.publish_described(FIRST, "tool-1", debs=(first,))
        site.publish_described(SECOND, "tool-2", debs=(first, second), files={"back": BACK})
        yield site, client, folder


def ended(site: Site, client: Client, job: str) -> dict[str, Any]:
    [assignment] = client.settle(job)["assignments"]["items"]
    known: dict[str, Any] = assignment
    return known


def installed(client: Client) -> str:
    """What dpkg says: status and version; nothing if it knows no such package."""
    script = "dpkg -s pcm-tool 2>/dev/null | sed -n 's/^Status: //p; s/^Version: //p'"
    return " ".join(client.host.shell(script, check=False).split())


def release_here(client: Client) -> tuple[int | None, int]:
    """What the service knows of the package: the release that is here, and the newest that ever was."""
    script = "import sqlite3, json; print(json.dumps(sqlite3.connect('/var/lib/pcm/state.db').execute("
    script += "\"SELECT installed, release FROM releases WHERE package = 'tool'\").fetchone()))"
    here, newest = json.loads(client.host.python("-c", script).stdout)
    return here, newest


def test_a_package_is_installed_repaired_and_taken_away_again(lab: tuple[Site, Client, Path]) -> None:
    site, client, _ = lab
    assert ended(site, client, site.order("tool", "--version", "1.0"))["state"] == "succeeded"
    assert (installed(client), release_here(client)) == ("install ok installed 1.0", (1, 1))
    again = site.order("tool", "--version", "1.0")
    assert ended(site, client, again)["state"] == "already_installed"
    # damaged: the package manager believes that it is there, the file is not
    client.host.shell("rm /usr/bin/pcm-tool")
    assert ended(site, client, site.order("tool", "--version", "1.0", "--program", "repair"))["state"] == "succeeded"
    assert client.host.run("/usr/bin/pcm-tool").stdout == "tool 1\n"
    # nothing is wrong: a repair runs all the same
    whole = site.order("tool", "--version", "1.0", "--program", "repair")
    assert ended(site, client, whole)["state"] == "succeeded"
    assert len(site.job(whole)["results"]) == 1
    gone = site.order("tool", "--version", "1.0", "--program", "uninstall")
    assert ended(site, client, gone)["state"] == "succeeded"
    assert installed(client) == ""
    assert client.host.shell("ls /etc/pcm-tool.conf 2>&1 || true").endswith("No such file or directory\n")
    assert release_here(client) == (None, 1)
    assert (
        ended(site, client, site.order("tool", "--version", "1.0", "--program", "uninstall"))["state"]
        == "already_installed"
    )
    ran = [entry["program"] for entry in json.loads(client.pcmsvc("ledger", "--json").stdout)["entries"]]
    assert ran == ["install", "repair", "repair", "uninstall"]


def test_a_version_that_works_badly_is_returned_from_and_the_old_one_works(lab: tuple[Site, Client, Path]) -> None:
    site, client, _ = lab
    client.host.shell(f"rm -f {PROOF}/back.runs {PROOF}/health.asked")
    assert ended(site, client, site.order("tool", "--version", "1.0"))["state"] == "succeeded"
    job = site.order("tool", "--version", "2.0")
    known = ended(site, client, job)
    assert (known["state"], known["code"]) == ("failed", "health.failed")
    assert known["reason"].endswith("[rollback.done]")
    assert (installed(client), release_here(client)) == ("install ok installed 1.0", (1, 1))
    assert client.host.run("/usr/bin/pcm-tool").stdout == "tool 1\n"
    assert client.proof("back.runs") == "back\n"
    assert len(client.proof("health.asked").splitlines()) >= 2, "it was given its time"
    assert len(site.job(job)["results"]) == 2
    ledger = json.loads(client.pcmsvc("ledger", "--json").stdout)["entries"]
    assert [(entry["program"], entry["state"]) for entry in ledger if entry["job"] == job] == [
        ("install", "failed"),
        ("back", "succeeded"),
    ]
    # what was there before can be ordered as before
    assert ended(site, client, site.order("tool", "--version", "1.0", "--program", "repair"))["state"] == "succeeded"


@pytest.mark.parametrize("moment", ["health.asked", "back.runs"])
def test_power_fails_while_it_is_looked_at_or_returned_from_and_it_returns_once(
    lab: tuple[Site, Client, Path], moment: str
) -> None:
    site, client, _ = lab
    assert ended(site, client, site.order("tool", "--version", "1.0"))["state"] in {"succeeded", "already_installed"}
    client.host.shell(f"rm -f {PROOF}/back.runs {PROOF}/health.asked")
    job = site.order("tool", "--version", "2.0")
    client.begin(job, f"{PROOF}/{moment}")
    client.host.kill_power()
    client.host.boot()
    known = ended(site, client, job)
    assert (known["state"], known["code"]) == ("failed", "health.failed")
    assert client.proof("back.runs") == "back\n"
    if moment == "health.asked":
        assert known["reason"].endswith("[rollback.done]")
        assert installed(client) == "install ok installed 1.0"
    else:
        # it was cut off: whether its work is done is for detection to say, and it is not run a second time
        assert "[rollback." in known["reason"]
    client.host.shell("dpkg --configure --pending; dpkg --force-all --purge pcm-tool || true")
    wait_for(lambda: client.pcmsvc("once", check=False).returncode == 0, "one more look")
    assert client.proof("back.runs") == "back\n"


def test_a_users_program_that_is_in_the_way_is_closed_and_one_of_that_name_elsewhere_waited_for(
    lab: tuple[Site, Client, Path],
) -> None:
    site, client, _ = lab
    description = f"""\
name: editor
version: "1.0"
platforms: [linux-any]
programs:
  install:
    command: [./setup]
    detect: {{file: {PROOF}/editor.done}}
    blocking_processes: [lab-editor]
"""
    site.publish_described(description, "editor", files={"setup": f"#!/bin/sh\ntouch {PROOF}/editor.done\n"})
    client.host.shell("cp /usr/bin/sleep /usr/local/bin/lab-editor")
    client.host.shell("systemd-run --quiet --unit=editor --uid=alice /usr/local/bin/lab-editor 600")
    waits = site.order("editor")
    wait_for(lambda: client.pcmsvc("sync") and site.states(waits)[client.host.name] == "waiting", "that it waits")
    assert client.items()["editor"]["code"] == "wait.blocking"
    assert client.host.shell("systemctl is-active editor") == "active\n"
    closes = site.order("editor", "--blocking", "close", "--countdown", "5s")
    assert ended(site, client, closes)["state"] == "succeeded"
    assert client.host.shell("systemctl is-active editor || true", check=False) == "inactive\n"
    assert ended(site, client, waits)["state"] in {"succeeded", "already_installed"}
