"""The service's local account: root, or a named account with an administrator's rights by its unit's policy (the article's first
requirement; the second one, reading the servers, is tried in `test_shares`)."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.booted_host import BootedHost
from tests.e2e.hosts import PROOF, Client, served_site

pytestmark = pytest.mark.needs("nspawn")

DROP_IN = "/etc/systemd/system/pcmsvc.service.d/account.conf"
POWERS = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_KILL CAP_SETGID CAP_SETUID CAP_SYS_PTRACE"


def name_account(client: Client, powers: str) -> None:
    client.host.shell("id pcm-admin >/dev/null 2>&1 || useradd --system pcm-admin")
    path = client.host.path(DROP_IN)
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"[Service]\nUser=pcm-admin\nAmbientCapabilities={powers}\n")
    client.host.shell("systemctl daemon-reload")


def test_a_named_account_installs_what_root_installs_if_its_unit_gives_it_the_rights(
    boot_host: Callable[[], BootedHost], tmp_path: Path
) -> None:
    host = boot_host()
    with served_site(tmp_path, host.gateway) as site:
        client = Client(host, site)
        client.enrol()
        name_account(client, "CAP_CHOWN CAP_KILL")
        answer = host.run("systemctl", "start", "pcmsvc", check=False)
        assert answer.returncode != 0
        assert "which is not root and lacks CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SETGID, CAP_SETUID" in client.log()

        name_account(client, POWERS)
        host.shell("systemctl reset-failed pcmsvc; mkdir --mode=755 /srv/secured")
        client.start()
        assert host.shell("systemctl show --property=User --value pcmsvc").strip() == "pcm-admin"
        site.publish(
            "secured", "[run]", files={"run": f"#!/bin/sh\nid -u >/srv/secured/who\necho run >>{PROOF}/runs\n"}
        )
        client.settle(site.order("secured"))
        assert host.path("/srv/secured/who").read_text() == "0\n"
        assert client.proof("runs") == "run\n"
        assert "secured" in client.pcmapp("list")  # whoever sits here believes that it is the service
        told = {each["name"]: each for each in json.loads(client.pcmsvc("check", "--json").stdout)["requirements"]}
        assert all(each["holds"] for each in told.values()), told

        host.shell("systemctl restart pcmsvc")  # systemd gives the runtime folder to the account again
        assert client.pcmsvc("check", check=False).returncode == 0


def test_powers_that_a_unit_takes_from_root_are_named(boot_host: Callable[[], BootedHost], tmp_path: Path) -> None:
    host = boot_host()
    with served_site(tmp_path, host.gateway) as site:
        client = Client(host, site)
        client.enrol()
        check = ("/usr/bin/python3", "-m", "pcm.service.main", "check", "--json")
        answer = host.run(*check, check=False, properties=("CapabilityBoundingSet=~CAP_CHOWN CAP_FOWNER",))
        told = {each["name"]: each for each in json.loads(answer.stdout)["requirements"]}
        assert answer.returncode != 0
        assert told["administrator rights"]["message"] == "this is root, but without CAP_CHOWN, CAP_FOWNER"
        assert "CapabilityBoundingSet" in told["administrator rights"]["remedy"]
