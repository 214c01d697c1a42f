"""A client whose site lets clients share content, as its shipped unit binds it: the server for peers runs there, and has no rights."""

import secrets
from pathlib import Path

import msgspec
import pytest

from pcm.site import configuration
from tests.e2e.booted_host import BootedHost
from tests.e2e.hosts import PROOF, Client, Site, wait_for

pytestmark = pytest.mark.needs("nspawn")


def test_the_bound_service_serves_peers_by_a_process_without_rights(
    nspawn_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with BootedHost(nspawn_base) as host:
        host.boot()
        site = Site(tmp_path_factory.mktemp("site"), host.gateway)
        now = configuration.read(site.folder)
        configuration.write(
            site.folder, msgspec.structs.replace(now, content=msgspec.structs.replace(now.content, peers=True))
        )
        site.serve()
        try:
            client = Client(host, site)
            client.enrol()
            client.start()
            files = {"run": f"#!/bin/sh\necho run >>{PROOF}/shared.runs\n", "data": secrets.token_hex(1_500_000)}
            site.publish("shared", "[run]", files=files)
            client.settle(site.order("shared"))
            assert client.proof("shared.runs") == "run\n", client.log()
            wait_for(lambda: ":8441" in host.shell("ss -ltn"), "nobody listens for peers", more=client.log)
            shown = host.shell(
                "cat $(grep -l [p]cm.peers.server /proc/[0-9]*/cmdline 2>/dev/null | sed s/cmdline/status/)"
            )
            status = dict(line.split(":\t", 1) for line in shown.splitlines() if ":\t" in line)
            assert "0" not in status["Uid"].split()
            assert status["Seccomp"] == "2"
            assert int(status["CapEff"], 16) == 0
        finally:
            site.stop()
