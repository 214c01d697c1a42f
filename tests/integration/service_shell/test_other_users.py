"""What somebody who is no administrator may see and ask for: the kernel says who asks, and nothing in the line can change it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pcm.model.program import Program
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.integration.service_shell.test_supervisor import Resident

pytestmark = pytest.mark.needs("root")

_ASK = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.settimeout(30)
s.connect(f"/proc/self/fd/{sys.argv[1]}/pcmsvc.sock")
s.sendall(sys.argv[2].encode() + b"\\n")
answer = b""
while not answer.endswith(b"\\n"):
    piece = s.recv(65536)
    if not piece:
        break
    answer += piece
sys.stdout.buffer.write(answer)
"""


@pytest.fixture
def resident(client: Client, offers: dict[str, str]) -> Iterator[Resident]:
    running = Resident(client)
    yield running
    running.stop()


def as_nobody(resident: Resident, **request: Any) -> Any:
    folder = os.open(resident.client.places.runtime, os.O_RDONLY)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK, str(folder), json.dumps(request)],
            check=True,
            capture_output=True,
            pass_fds=(folder,),
            timeout=60,
        )
    finally:
        os.close(folder)
    return json.loads(done.stdout)


@pytest.fixture
def offers(site: StaticSite, client: Client, marker: Path) -> dict[str, str]:
    """Optional programs: for everybody, for another user, and one that no user may ask for."""
    private = Program(argv=("setup.sh",))
    free = site.package(marker)
    reserved = site.package(marker, name="reserved", release=1)
    locked = site.package(marker, name="locked", release=1, programs={"install": private})
    orders = [
        client.mandatory(manifest, number=number, purpose="optional", mandatory_after=None, allowed_users=users)
        for number, (manifest, users) in enumerate(((free, None), (reserved, ("anna",)), (locked, None)), start=1)
    ]
    site.order(client.client_id, orders)
    client.once()
    return {order.package: order.id for order in orders}


def test_a_user_sees_what_concerns_that_user(resident: Resident, offers: dict[str, str]) -> None:
    seen = {item["package"]: item for item in as_nobody(resident, verb="list")["items"]}
    assert set(seen) == {"viewer", "locked"}
    assert seen["viewer"]["can_run"]
    assert not seen["locked"].get("can_run", False)
    for verb in ("details", "why", "run"):
        assert as_nobody(resident, verb=verb, id=offers["reserved"])["code"] == "not_found"


def test_a_user_may_ask_for_what_is_offered_and_only_the_service_runs_it(
    resident: Resident, offers: dict[str, str], marker: Path
) -> None:
    assert as_nobody(resident, verb="run", id=offers["locked"])["code"] == "not_allowed"
    assert as_nobody(resident, verb="run", id=offers["viewer"])["answer"] == "accepted"
    resident.wait_until(marker.exists)
    assert marker.stat().st_uid == 0
    resident.wait_until(lambda: resident.client.items()["viewer"]["state"] == "succeeded")
    assert resident.client.items()["viewer"]["requested_by"] == "nobody"
    assert as_nobody(resident, verb="run", id=offers["viewer"])["code"] == "not_allowed"
    assert marker.read_text() == "installed\n"


def test_what_belongs_to_administrators_is_refused(resident: Resident, offers: dict[str, str]) -> None:
    assert as_nobody(resident, verb="sync")["code"] == "not_allowed"
    assert as_nobody(resident, verb="sync", user="root")["code"] == "protocol.malformed"


def test_q189809_a_user_reads_the_ledger_but_neither_state_nor_key(
    resident: Resident, offers: dict[str, str], client: Client
) -> None:
    assert as_nobody(resident, verb="ledger")["answer"] == "ledger"
    for path in (client.places.identity, client.places.database, client.places.metadata):
        assert not os.access(path, os.R_OK, effective_ids=True) or os.geteuid() == 0
        probe = f"import os; os.setuid(65534); open({str(path)!r})"
        assert subprocess.run([sys.executable, "-c", probe], check=False, capture_output=True).returncode != 0
