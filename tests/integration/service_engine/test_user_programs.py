"""A program that is signed to run as a user: it sees its own package, and of everything else the service keeps, nothing."""

import hashlib
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.package import PackageFile
from pcm.model.program import Program
from pcm.service.machine.here import this_machine
from pcm.service.places import create_places, find_places
from pcm.service.plan import Presence
from pcm.service.runner import drain
from tests.integration.service_engine.trivial import Client
from tests.integration.service_shell.static_site import shared_folder

pytestmark = pytest.mark.needs("root", "users")

ADA, BOB = 61300, 61301  # numbers without names

# what the program finds out; `try` prints its name if the command succeeds although it must not
PROBE = """#!/bin/sh
try() { name=$1; shift; ( "$@" ) >/dev/null 2>&1 && echo "LEAK $name"; }
echo "I am $(id -u):$(id -g), groups $(id -G)"
cat notes/readme
state=$1
for file in state.db state.db-wal identity.pem floors.json; do
    [ -n "$(stat -c %n $state/$file 2>/dev/null)" ] && echo "there: $file"
    try "read $file" cat $state/$file
done
try "list the state" ls $state
try "list staging" ls $state/staging
try "read another run's file" cat $state/staging/other/setup
try "enter another run's folder" ls $state/staging/other
try "list outputs" ls $state/runs
try "read its own output file" cat $state/runs/$PCM_RUN_ID/output
try "enter the store" ls $state/store
try "enter the metadata" ls $state/metadata
try "make a file" touch new
try "make a file deeper" touch notes/new
try "write" sh -c 'echo x >> setup'
try "write through proc" sh -c 'exec 3<setup; echo x >> /proc/self/fd/3'
try "remove" rm -f notes/readme
try "rename" mv notes away
try "change rights" chmod 777 .
try "change the list" chmod u+w notes/readme
try "make a folder in staging" mkdir $state/staging/mine
try "link into staging" ln -s /etc/passwd $state/staging/link
try "give it a second name" ln setup /tmp/pcm-second-name-$PCM_RUN_ID
"""


@pytest.fixture
def client() -> Iterator[Client]:
    """In a folder that everybody can pass through, as /var/lib is; with the modes of a real installation."""
    with shared_folder() as folder:
        made = Client(
            folder,
            {"install": Program(argv=("setup", str(folder / "var")), run_as="user", timeout_s=20)},
            setup=PROBE.encode(),
        )
        readme = b"only for whom it is\n"
        digest = hashlib.sha256(readme).hexdigest()
        made.content[digest] = readme
        made.manifest = replace(
            made.manifest, files=(*made.manifest.files, PackageFile("notes/readme", len(readme), digest))
        )
        create_places(find_places(folder))
        (folder / "var" / "identity.pem").write_text("secret")
        (folder / "var" / "identity.pem").chmod(0o600)
        yield made
        made.close()


def output_of(client: Client) -> str:
    [record] = client.context.journal.records()
    [run] = client.context.history.runs(record.id, 1)
    assert run.result is not None, record
    return run.result.output_tail


def check_as(client: Client, user: int) -> None:
    drain(client.context, lambda _: replace(client.situation(), presence=Presence((str(user),), str(user))))


def test_q172872_it_runs_as_the_user_and_reads_its_package_and_nothing_else(client: Client) -> None:
    other = this_machine().stage(client.context.staging, "other", this_machine().account(str(BOB)))
    [setup, _] = client.manifest.files
    other.add(setup, [PROBE.encode()])
    other.close()
    client.take_in(client.instruction())
    # a check sweeps what no run uses; here another run of another user stands beside this one
    object.__setattr__(client.context, "machine", Keeping(client))
    check_as(client, ADA)
    assert output_of(client).splitlines() == [
        f"I am {ADA}:{ADA}, groups {ADA}",
        "only for whom it is",
        "there: state.db",
        "there: state.db-wal",
        "there: identity.pem",
        "there: floors.json",
    ]
    [record] = client.context.journal.records()
    assert not [path for path in client.context.staging.iterdir() if path.name != "other"]
    assert record.state is Stage.FAILED  # the last probe failed, as it must
    assert all(
        stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in (client.home / "var").iterdir() if path.is_file()
    )


def test_nobody_but_that_user_reads_it_not_even_who_shares_the_group(client: Client) -> None:
    staging = client.context.machine.stage(client.context.staging, "ab" * 16, client.context.machine.account(str(ADA)))
    for file in client.manifest.files:
        staging.add(file, [client.content[file.sha256]])
    staging.verify(client.manifest.files)

    def read(user: int, group: int) -> int:
        command = ["/bin/cat", f"{staging.path}/notes/readme"]
        return subprocess.run(
            command, user=user, group=group, extra_groups=[0], capture_output=True, check=False, cwd="/"
        ).returncode

    assert [read(ADA, BOB), read(BOB, ADA), read(BOB, BOB)] == [0, 1, 1]
    staging.close()
    client.context.machine.remove_staged(client.context.staging, "ab" * 16)
    assert not staging.path.exists()


def test_it_waits_for_a_user_and_never_runs_as_an_administrator(client: Client) -> None:
    client.take_in(client.instruction())
    drain(client.context, client.situation)
    [record] = client.context.journal.records()
    assert (record.state, record.code, record.reason) == (
        Stage.WAITING,
        "wait.presence",
        "It runs as a user: it is waiting for a user to log on.",
    )
    check_as(client, 0)  # as if nobody had told the planner what user 0 is
    [record] = client.context.journal.records()
    assert (record.code, client.context.history.runs(record.id, 1)) == ("machine.account", [])
    assert list(client.context.staging.iterdir()) == []


class Keeping:
    """This machine, but for sweeping: another client's run would be one of the same client's here."""

    def __init__(self, client: Client) -> None:
        self._machine = client.machine

    def __getattr__(self, name: str) -> object:
        return getattr(self._machine, name)

    def remove_staged(self, root: Path, run_id: str) -> None:
        """Leave `other` alone."""
        if run_id != "other":
            self._machine.remove_staged(root, run_id)
