"""Groups, jobs, approvals, clients, tokens and the audit log, as an administrator works with them on a real site."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from pcm.model.assignment import State
from pcm.protocol import codec
from pcm.protocol.enrolment import read_configuration
from pcm.protocol.report import Outcome, RunResult
from pcm.testing.small_site import SmallClient
from pcm.transport.signing import sign_request
from tests.integration.cli.conftest import Answer, Pcm, ServedSite
from tests.integration.cli.test_publishing import publish, write_package

ESCAPE = "\x1b]0;owned\x07\x1b[31m\u202e"


def post_signed(url: str, body: bytes, client: SmallClient) -> None:
    """Send what a client's service would send."""
    headers = sign_request("POST", url, body, client.key, client.client_id, datetime.now(UTC))
    with urlopen(Request(url, data=body, headers=headers, method="POST"), timeout=10) as answer:
        assert answer.status in {200, 202}


def enrol(pcm: Pcm, served: ServedSite, host: str, *, token: bool = True) -> SmallClient:
    """Enrol a client, with a token or into the queue."""
    client = SmallClient(host_name=host)
    given = pcm("client", "token", "--host", host).out.strip() if token else None
    post_signed(f"{served.url}/logon/enroll", codec.encode(client.wish("lab", given)), client)
    return client


def answer_json(answer: Answer) -> dict[str, object]:
    assert answer.code == 0, answer.err
    value: dict[str, object] = json.loads(answer.out)
    return value


@pytest.fixture(scope="module")
def hello(served: ServedSite, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A published package with an optional install and an uninstall that wants two approvals."""
    folder = write_package(tmp_path_factory.mktemp("hello") / "p")
    from pcm.cli.main import run  # noqa: PLC0415 - a module's fixture has no `pcm`

    arguments = ["--site", served.folder, "package", "publish", folder, "--keys", served.keys]
    assert run([str(a) for a in [*arguments, "--passphrase-file", served.passphrase_file]]) == 0
    return "hello"


def test_a_job_goes_from_order_to_result(pcm: Pcm, served: ServedSite, hello: str) -> None:
    client = enrol(pcm, served, "pc-job")
    assert pcm("group", "create", "pilots", "pc-job").code == 0
    plan = pcm("job", "plan", hello, "-g", "pilots", "-p", "MODE=b")
    assert "1 included, 0 left out" in plan.out
    assert "./setup b" in plan.out
    assert json.loads(pcm("job", "list", "--json").out) == []
    job = str(answer_json(pcm("job", "create", hello, "-g", "pilots", "-p", "MODE=b", "--json"))["id"])
    waiting = pcm("job", "watch", job, "--timeout", "1s", "--every", "1s")
    assert waiting.code == 1
    assert "job.unfinished" in waiting.err

    now = datetime.now(UTC)
    result = RunResult(
        "0a" * 16, now, now, 7, "failed", output_tail=f"setup says {ESCAPE}no\nand stops\n", output_bytes=20
    )
    name = f"{job}.{client.client_id[:12]}"
    outcome = Outcome(name, job, 1, State.FAILED, now, "run.failed", f"It failed. {ESCAPE}", result)
    url = f"{served.url}/logon/reports"
    report = client.report("lab", outcomes=(outcome,))
    post_signed(url, report, client)

    shown = pcm("job", "show", job)
    assert shown.code == 0
    assert "pc-job" in shown.out
    assert "failed" in shown.out
    assert "and stops" in shown.out
    watched = pcm("job", "watch", job)
    assert watched.code == 1
    assert "job.failed" in watched.err
    for answer in (
        shown, watched, pcm("job", "show", job, "--json"), pcm("job", "show", job, "-o", "yaml"), pcm("client", "show", "pc-job"),
        pcm("client", "why", "pc-job", "--job", job), pcm("job", "show", job, "--output-of", "pc-job"),
    ):  # fmt: skip
        assert not set("\x1b\x07\u202e") & set(answer.out + answer.err), "no foreign escape reaches a terminal"
    tail = json.loads(pcm("job", "show", job, "--json").out)["results"][0]["output_tail"]
    assert tail == result.output_tail, "programs get every byte"
    assert pcm("job", "show", job, "--output-of", "nobody").code == 3


def test_dangerous_jobs_wait_for_their_approvers(pcm: Pcm, served: ServedSite, hello: str) -> None:
    enrol(pcm, served, "pc-approve")
    pcm("group", "create", "few", "pc-approve")
    created = pcm("job", "create", hello, "-g", "few", "--program", "uninstall")
    assert created.code == 0
    assert "waits for 2 approvals" in created.out
    job = created.out.split()[1].rstrip(":")
    arguments = ("job", "approve", job, "--keys", served.keys, "--passphrase-file", served.passphrase_file)
    unasked = pcm(*arguments, "--approver", "ada")
    assert unasked.code == 1
    assert f"run uninstall of {hello}" in unasked.err
    first = pcm(*arguments, "--approver", "ada", "--yes")
    assert first.code == 0
    assert "1 more needed" in first.out
    assert pcm(*arguments, "--approver", "carol", "--yes").code == 3
    second = pcm(*arguments, "--approver", "bob", "--yes")
    assert f"Job {job} may run now" in second.out
    cancelled = pcm("job", "cancel", job, "--yes")
    assert cancelled.code == 0
    assert "uninstall of hello" in cancelled.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--optional", "--mandatory-after", "+1h"), "job.contradiction"),
        (("--mandatory-after", "+1h", "--offer-after", "+2h"), "job.contradiction"),
        (("--expires-after", "2020-01-01T00:00Z"), "job.contradiction"),
        (("--param", "MODE=c"), "is not one of a, b"),
        (("--param", "OTHER=c"), "this program takes MODE"),
        (("--defer-times", "3"), "--defer-times without --defer-for: say for how long"),
        (("--no-notify", "--countdown", "5m"), "a countdown (--countdown) that nobody is shown (--notify)"),
        (("--recurs", "FREQ=SOMETIMES"), "--recurs: FREQ must be one of"),
        (("--after", "j0000000000"), "`pcm job list` shows what there is"),
        (("--program", "repair"), "repair"),
        (("--version", "9"), "lists what it has"),
    ],
)
def test_contradictions_are_refused_with_the_reason(
    pcm: Pcm, served: ServedSite, hello: str, arguments: tuple[str, ...], says: str
) -> None:
    host = "pc-refused"
    if pcm("client", "show", host).code == 3:
        enrol(pcm, served, host)
        pcm("group", "create", "refused", host)
    answer = pcm("job", "create", hello, "-g", "refused", *arguments)
    assert answer.code in {1, 3}
    assert says in answer.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("job", "show", "j0000000000"), ("job", "create", "nothing", "-g", "all"), ("job", "plan", "hello", "-g", "nobody"),
        ("client", "show", "nobody"), ("client", "revoke", "nobody"), ("group", "show", "nobody"), ("package", "show", "nope"),
        ("group", "create", "x", "nobody"), ("package", "show", "hello", "99"), ("job", "cancel", "../../v1/site"),
    ],
)  # fmt: skip
def test_what_is_not_there_ends_with_three(pcm: Pcm, hello: str, arguments: tuple[str, ...]) -> None:
    assert hello
    answer = pcm(*arguments)
    assert answer.code == 3, answer.err
    assert answer.err.startswith("not found:")


def test_a_waiting_computer_is_let_in_by_its_fingerprint(pcm: Pcm, served: ServedSite) -> None:
    enrol(pcm, served, "pc-waits", token=False)
    assert "pc-waits" in pcm("client", "list", "--state", "pending").out
    shown = pcm("client", "show", "pc-waits").out
    fingerprint = re.search(r"fingerprint +(.+)", shown)
    assert fingerprint
    wrong = pcm("client", "approve", "pc-waits", "--fingerprint", "0000 1111")
    assert wrong.code == 1
    assert "not the computer that you mean" in wrong.err
    assert "[client.fingerprint]" in wrong.err
    assert pcm("client", "approve", "pc-waits").code == 1, "nobody to ask"
    assert pcm("client", "approve", "pc-waits", "--fingerprint", fingerprint.group(1)).code == 0
    assert "enrolled" in pcm("client", "show", "pc-waits").out
    revoked = pcm("client", "revoke", "pc-waits", "--yes")
    assert revoked.code == 0
    assert "its key stops counting" in revoked.err
    assert "pc-waits" in pcm("client", "list", "--state", "revoked").out


def test_groups_change_and_go(pcm: Pcm, served: ServedSite) -> None:
    first, second = enrol(pcm, served, "pc-g1"), enrol(pcm, served, "pc-g2")
    assert pcm("group", "create", "desk", first.client_id[:16]).code == 0
    assert pcm("group", "change", "desk", "--add", "pc-g2", "--remove", "pc-g1", "--yes").code == 0
    shown = json.loads(pcm("group", "show", "desk", "--json").out)
    assert shown["clients"] == [second.client_id]
    assert "pc-g2" in pcm("group", "show", "desk").out
    assert pcm("group", "create", "desk").code == 1
    assert pcm("group", "delete", "desk").code == 1
    assert pcm("group", "delete", "desk", "--yes").code == 0
    assert pcm("group", "show", "desk").code == 3
    assert pcm("group", "delete", "all", "--yes").code == 1


def test_tokens_reach_as_far_as_their_role(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    file = tmp_path / "viewer.token"
    assert pcm("token", "create", "ci", "--role", "viewer", "--out", file).code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert pcm("status", "--token-file", file).code == 0
    refused = pcm("group", "create", "mine", "--token-file", file)
    assert refused.code == 4
    assert "role viewer" in refused.err
    listed = pcm("token", "list")
    assert file.read_text().strip() not in listed.out
    name = next(one["id"] for one in json.loads(pcm("token", "list", "--json").out) if one["name"] == "ci")
    assert pcm("token", "revoke", name, "--yes").code == 0
    assert pcm("status", "--token-file", file).code == 4
    file.write_text("not.a.token\n")
    answer = pcm("status", "--token-file", file)
    assert answer.code == 4
    assert "unauthenticated" in answer.err


def test_the_kit_is_what_clients_read(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    file = tmp_path / "kit.json"
    assert pcm("client", "kit", "--out", file).code == 0
    kit = read_configuration(file.read_bytes())
    assert kit.site == "lab"
    pinned = (served.keys / "pinned" / "packages.root.json").read_text()
    assert json.loads(kit.packages_root) == json.loads(pinned)
    assert pcm("client", "kit").out.encode() == file.read_bytes()


def test_everything_is_in_the_audit_log(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    publish(pcm, served, write_package(tmp_path / "p", name="audited"))
    shown = pcm("audit")
    assert shown.code == 0
    assert "audited 1.10" in shown.out
    assert "broken" not in shown.err
    rows = json.loads(pcm("audit", "--limit", "3", "--json").out)
    assert len(rows) == 3
    assert rows[0]["prev_sha256"] == rows[1]["sha256"]


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
@pytest.mark.parametrize(
    "arguments",
    [("status",), ("site", "status"), ("package", "list"), ("group", "list"), ("job", "list"), ("client", "list"), ("audit",), ("key", "status"), ("token", "list")],
)  # fmt: skip
def test_every_list_shows_in_every_form(pcm: Pcm, hello: str, arguments: tuple[str, ...], output: str) -> None:
    assert hello
    answer = pcm(*arguments, "-o", output)
    assert answer.code == 0
    assert answer.err == ""
    assert answer.out.strip()
    if output == "json":
        json.loads(answer.out)
