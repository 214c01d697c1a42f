"""What scripts rely on: with --json every verb writes one JSON document, and exit codes mean what their table says."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from pcm.cli.main import root, run
from pcm.distribution.mirror import Mirrored
from pcm.model.assignment import State
from pcm.protocol.admin_content import ContentStats, ContentTask, DistributionDetail, DistributionView, Retried
from pcm.protocol.report import Outcome
from tests.integration.cli.conftest import Pcm, ServedSite
from tests.integration.cli.test_orders import enrol, post_signed
from tests.integration.cli.test_publishing import write_package
from tests.unit.cli.test_setup_file import make

# scripts for a shell, and a server that runs until it is stopped: they write no documents
NO_DOCUMENT = {"completion", "site serve"}


def all_verbs(command: click.Command = root, path: tuple[str, ...] = ()) -> set[str]:
    """`noun verb` of everything."""
    if not isinstance(command, click.Group):
        return {" ".join(path)}
    context = click.Context(command)
    found: set[str] = set()
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        found |= all_verbs(inner, (*path, name))
    return found


@pytest.fixture(scope="module")
def place(served: ServedSite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that the calls below need, and a published package `doc`."""
    folder = tmp_path_factory.mktemp("place")
    write_package(folder / "p", name="doc")
    write_package(folder / "other", name="doc2")
    (folder / "fresh").mkdir()
    (folder / "base.run").write_bytes(make())
    arguments = ["--site", served.folder, "package", "publish", folder / "p", "--keys", served.keys]
    assert run([str(a) for a in [*arguments, "--passphrase-file", served.passphrase_file]]) == 0
    return folder


MIRROR = "distribution mirror {url}/distribution {0}/stick"

# in this order: later calls build on earlier ones; {0}: the place, {keys}: offline keys and their passphrase
CALLS = [
    "status",
    "site status",
    "site init {0}/new-site --url http://127.0.0.1:1 --single-key --passphrase-file {pass} --keys {0}/new-keys",
    "key init team-extra --keys {keys} --passphrase-file {pass}",
    "key status",
    "key add team-extra {keys}/team-extra.json --in {0}/ceremony",
    "key status --in {0}/ceremony",
    "key rotate team-main team-main {keys}/team-extra.json --in {0}/c2",
    "key revoke team-main --all --in {0}/c3",
    "key renew root --in {0}/c5",
    "key policy --spread 1h --in {0}/c4",
    "key sign --in {0}/c4 --keys {keys} --passphrase-file {pass} -y",
    "key publish --in {0}/c4 -y",
    "package new {0}/fresh --name fresh --platform linux-any",
    "package lint {0}/p",
    "package create {0}/p",
    "package publish {0}/other --dry-run --keys {keys} --passphrase-file {pass} --team main",
    "package publish {0}/other --keys {keys} --passphrase-file {pass} --team main",
    "package refresh --keys {keys} --passphrase-file {pass} --team main",
    "package list",
    "package show doc",
    "package show doc 1.10",
    "package show doc --manifest",
    "package withdraw doc2 1.10 --keys {keys} --passphrase-file {pass} --team main -y",
    "group create g pc-json",
    "group list",
    "group show g",
    "group change g --add pc-json -y",
    "group show all",
    "job plan doc -g g -p MODE=a",
    "job create doc -g g -p MODE=a --dry-run",
    "job create doc -g g -p MODE=a",
    "job list",
    "job show {job}",
    "job cancel {job} -y",
    "job create doc -g g --program uninstall",
    "job approve {job} --approver ada --keys {keys} --passphrase-file {pass} -y",
    "job cancel {job} -y",
    "job watch {job} --timeout 1m --every 1s",
    "group create empty",
    "group delete empty -y",
    "client list",
    "client list --gap",
    "client show pc-json",
    "client why pc-json",
    "client token",
    "client token --out {0}/token",
    "client kit",
    "client kit --out {0}/kit",
    "client installer --base {0}/base.run --out {0}/setup.run",
    "client approve pc-waits2 --fingerprint {fingerprint}",
    "client resume --all -y",
    "client accept-ledger pc-json -y",
    "client revoke pc-waits2 -y",
    "content stats",
    "content verify",
    "content gc --dry-run",
    "content gc -y",
    "content task",
    "distribution list",
    "distribution show site",
    "distribution retry site",
    MIRROR,
    "audit",
    "token create t",
    "token create t2 --out {0}/t2",
    "token list",
    "token revoke {token} -y",
    "context add lab --site {site}",
    "context list",
    "context use lab",
    "context remove lab -y",
]

# what is in the documents of those that look after content: its type, and something that is true of it
HELD: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "content stats": (ContentStats, lambda told: told.versions >= 1 and told.objects >= 1),
    "content verify": (ContentTask, lambda told: told.verified[0].objects >= 1 and not told.verified[0].damaged),
    "content gc --dry-run": (ContentTask, lambda told: (told.kind, told.dry_run, told.running) == ("gc", True, False)),
    "content gc -y": (
        ContentTask,
        lambda told: not told.dry_run and [each.server for each in told.cleared] == ["home"],
    ),
    "content task": (ContentTask, lambda told: told.kind == "gc" and not told.dry_run and told.ended is not None),
    "distribution list": (list[DistributionView], lambda told: [each.name for each in told] == ["site"]),
    "distribution show site": (
        DistributionDetail,
        lambda told: told.server.home and told.deliveries[0].package == "doc",
    ),
    "distribution retry site": (Retried, lambda told: told.rows >= 0),
    MIRROR: (
        dict[str, int],
        lambda told: set(told) == set(Mirrored._fields) and told["copied"] > 0 and not told["removed"],
    ),
}


def test_every_verb_writes_one_json_document(pcm: Pcm, served: ServedSite, place: Path) -> None:
    client = enrol(pcm, served, "pc-json")
    waits = enrol(pcm, served, "pc-waits2", token=False)
    fill = {
        "keys": served.keys, "pass": served.passphrase_file, "site": served.folder, "url": served.url,
        "fingerprint": waits.client_id,
    }  # fmt: skip
    for ledger in ({"ledger_total": 1, "ledger_head": "a" * 64}, {}):  # it had one entry, and has none now
        post_signed(f"{served.url}/logon/reports", client.report("lab", **ledger), client)
    called = set()
    for line in CALLS:
        arguments = line.format(place, **{"job": "", "token": "", **fill}).split()
        answer = pcm("--json", *arguments)
        assert answer.code == 0, (line, answer.out, answer.err)
        document = json.loads(answer.out)
        if line in HELD:
            kind, holds = HELD[line]
            assert holds(msgspec.convert(document, kind)), (line, answer.out)
        if line.startswith("job create") and "id" in document:
            fill["job"] = document["id"]
        if line == "job cancel {job} -y" and document["counts"].get("cancelling"):
            outcome = Outcome(
                f"{fill['job']}.{client.client_id[:12]}", str(fill["job"]), 1, State.WITHDRAWN, datetime.now(UTC)
            )
            post_signed(f"{served.url}/logon/reports", client.report("lab", outcomes=(outcome,)), client)
        if line == "token create t":
            fill["token"] = document["id"]
        called.add(" ".join(arguments[: 1 if arguments[0] in {"status", "audit"} else 2]))
    assert called == all_verbs() - NO_DOCUMENT


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("status",), 0),
        (("status", "--help"), 0),
        (("group", "delete", "all", "--yes"), 1),
        (("group", "create", "bad/name"), 1),
        (("client", "resume"), 2),
        (("client", "resume", "pc", "--all"), 2),
        (("status", "--nonsense"), 2),
        (("nonsense",), 2),
        (("job", "create", "doc"), 2),
        (("job", "watch", "j0000000000"), 3),
        (("client", "why", "nobody"), 3),
        (("client", "approve", "nobody", "-y"), 3),
        (("client", "resume", "nobody"), 3),
        (("token", "revoke", "0" * 32, "-y"), 3),
        (("package", "show", "nothing"), 3),
        (("status", "--token-file", "{open}"), 4),
        (("status", "--token-file", "{wrong}"), 4),
        (("group", "create", "x", "--token-file", "{viewer}"), 4),
        (("status", "-s", "http://127.0.0.1:1", "--token-file", "{viewer}"), 5),
    ],
)
def test_exit_codes_mean_what_their_table_says(pcm: Pcm, tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    files = {name: tmp_path / name for name in ("open", "wrong", "viewer")}
    pcm("token", "create", "v", "--out", files["viewer"])
    for name in ("open", "wrong"):
        files[name].write_text("a.b.c")
        files[name].chmod(0o644 if name == "open" else 0o600)
    filled = [text.format(**files) for text in arguments]
    answer = pcm(*filled)
    assert answer.code == code, answer.err
    assert (not answer.err) == (code == 0)
    if code in {1, 3, 4, 5}:
        told = pcm(*filled, "--json")
        assert told.code == code
        assert json.loads(told.err)["error"]["code"]


def test_a_second_server_on_the_same_folder_is_refused(served: ServedSite) -> None:
    command = [sys.executable, "-m", "pcm.cli.main", "site", "serve", str(served.folder), "--listen", "127.0.0.1:0"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert f"by process {served.process.pid}" in second.stderr
    assert "[store.in_use]" in second.stderr
    assert served.process.poll() is None
