"""One job, two computers: each gets what fits it, and the site says why the other one did not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.booted_host import BootedHost
from tests.e2e.hosts import PROOF, Client, served_site, wait_for

pytestmark = pytest.mark.needs("nspawn")

SCRIPT = f"#!/bin/sh\necho run >>{PROOF}/$PCM_PACKAGE.runs\n"


def test_q156250_q156270_a_package_for_another_platform_is_not_applicable(
    boot_host: Callable[[], BootedHost], tmp_path: Path
) -> None:
    ours, other = boot_host(), boot_host()
    with served_site(tmp_path, ours.gateway) as site:
        new, old = Client(ours, site), Client(other, site, ("Personality=x86",))
        for client in (new, old):
            client.enrol()
            client.start()
        site.publish("sixty-four", "[run]", files={"run": SCRIPT}, platform="linux-x86_64")
        site.publish("everywhere", "[run]", files={"run": SCRIPT})
        one, both = site.order("sixty-four"), site.order("everywhere")
        for client in (new, old):
            client.settle(both)
        wait_for(lambda: "offered" not in site.states(one).values(), "the end of the job")
        assert site.states(one) == {ours.name: "succeeded", other.name: "not_applicable"}
        assert site.states(both) == {ours.name: "succeeded", other.name: "succeeded"}
        assert (new.proof("sixty-four.runs"), old.proof("sixty-four.runs")) == ("run\n", "")
        why = next(each for each in site.job(one)["assignments"]["items"] if each["host_name"] == other.name)
        assert why["reason"] == "the package is for linux-x86_64, not linux-i686"
        assert "linux-i686" in site.pcm("job", "show", one)
