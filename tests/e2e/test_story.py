"""The way of one package command, from the packager to the secured folder and back, through the real programs: on SQLite and PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.testing.hostile_server import MISBEHAVIOURS
from tests.e2e.fleet import Client, Site, eventually, served_site


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    database = None if request.param == "sqlite" else request.getfixturevalue("postgresql_server").create_database()
    with served_site(database) as made:
        yield made
        assert made.pcm("audit").code == 0, "the chain of audit rows holds"


@pytest.fixture
def client(site: Site, request: pytest.FixtureRequest) -> Client:
    return site.enrol(request.node.originalname.replace("_", "-")[:60])


def test_one_package_command(site: Site, tmp_path: Path) -> None:
    directory = site.write_package("spine", program=", detect: {file: " + str(site.counter) + "}")
    created = site.pcm("package", "create", directory, process=True)
    assert "[./setup" in created.text or "./setup" in created.text
    published = site.pcm("package", "publish", directory, process=True)
    assert "Published spine 1.0, release 1, by team main: 1 file" in published.text

    token = site.pcm("client", "token", "--json", process=True).json["token"]
    assert token.isalnum(), "no command line takes it for an option"
    site.pcm("client", "kit", "--out", tmp_path / "kit.json", process=True)
    client = Client(site, site.folder / "spine-pc")
    enrolled = client.pcmsvc(
        "enroll", "--kit", tmp_path / "kit.json", "--token", "-", "--json", given=f"{token}\n"
    ).json
    assert enrolled["state"] == "enrolled"
    again = Client(site, site.folder / "second-use").pcmsvc(
        "enroll", "--kit", tmp_path / "kit.json", "--token", token, code=None
    )
    assert again.code == 4, again
    assert not (site.folder / "second-use" / "etc" / "client.json").exists(), "nothing half-done"

    site.pcm("group", "create", "spine", client.client_id, process=True)
    planned = site.pcm("job", "plan", "spine", "--group", "spine", "--json", process=True).json
    assert (planned["included"], planned["argv"]) == (1, ["./setup", "install", "quick"])
    assert site.json("job", "list") == []
    job = site.pcm("job", "create", "spine", "--group", "spine", "-p", "MODE=slow", "--json", process=True).json["id"]
    client.wait_for(job)
    before = site.pcm("job", "show", job, process=True).text
    assert "succeeded" not in before

    assert client.once()["problem"] is None
    assert site.ran() == ["spine 1.0 install slow"]
    shown = site.pcm("job", "show", job, "--json", process=True).json
    assert shown["job"]["state"] == "done"
    assert shown["results"][0]["exit_code"] == 0
    assert shown["results"][0]["detected"] is True
    assert "spine 1.0 done" in shown["results"][0]["output_tail"]
    detail = site.pcm("client", "show", client.client_id, "--json", process=True).json
    assert detail["assignments"][0]["state"] == "succeeded"
    assert detail["refusals"] == []
    half = site.pcm("client", "why", client.client_id, "--job", job, process=True).text
    assert "succeeded" in half
    assert "succeeded" in client.pcmsvc("why", job).text
    assert client.item(job)["state"] == "succeeded"
    assert "spine" in client.pcmsvc("list").text
    (entry,) = client.pcmsvc_json("ledger")["entries"]
    assert entry["argv"][0].endswith("/setup")
    assert (entry["job"], entry["exit_code"], entry["state"]) == (job, 0, "succeeded")
    client.pcmsvc("ledger", "verify")

    # what is there already is not installed once more (KB: detection before and after)
    second = site.order("spine", group="spine")
    client.once()
    assert site.job_states(second) == {client.client_id: "already_installed"}
    assert len(site.ran()) == 1


def test_a_user_asks_for_an_optional_program(site: Site, client: Client) -> None:
    site.make_package("offered")
    job = site.order("offered", "--optional", group=client.home.name)
    before = site.ran()
    client.once()
    item = client.item(job)
    assert (item["state"], item["code"], item["can_run"]) == ("waiting", "wait.request", True)
    assert site.ran() == before, "nobody has asked yet"
    with client.running():
        assert "offered" in client.pcmapp("list").out
        assert "./setup install" in client.pcmapp("show", "offered").text
        client.pcmapp("install", "offered", "--wait")
        assert site.ran() == [*before, "offered 1.0 install quick"]
        eventually(lambda: site.job_states(job) == {client.client_id: "succeeded"})
        assert "offered" in client.pcmapp("history").out
        assert client.pcmapp("install", "no-such-thing", code=3).out == ""
    assert client.pcmapp("list", code=5).out == "", "nobody answers any more"


def test_a_cancelled_job_is_shown_as_open_until_the_client_confirms(site: Site, client: Client) -> None:
    site.make_package("regretted")
    job = site.order("regretted", "--optional", group=client.home.name)
    client.once()
    assert client.item(job)["can_run"]
    site.pcm("job", "cancel", job, "--yes", process=True)
    assert site.json("job", "show", job)["job"]["state"] == "cancelling"
    assert site.job_states(job) == {client.client_id: "cancelling"}
    client.wait_for(job, gone=True)
    client.once()
    assert eventually(lambda: site.json("job", "show", job)["job"]["state"]) == "cancelled"
    assert client.client_id not in [c for c, state in site.job_states(job).items() if state == "cancelling"]
    assert job not in [each["job"] for each in client.pcmsvc_json("list")["items"] if each.get("can_run")]
    assert not [line for line in site.ran() if line.startswith("regretted")]


def test_a_withdrawn_version_is_refused_and_dropped(site: Site, client: Client) -> None:
    site.make_package("faulty")
    job = site.order("faulty", "--optional", group=client.home.name)
    client.once()
    assert client.item(job)["can_run"]
    site.pcm("package", "withdraw", "faulty", "1.0", "--yes", process=True)
    # the logon server is out of order: the client still has the order, and a user asks for it
    site.front.answers[f"/logon/clients/{client.client_id}/timestamp.json"] = MISBEHAVIOURS["busy"]
    with client.running():
        client.pcmapp("install", "faulty")
        eventually(lambda: client.item(job)["state"] == "refused")
    assert client.item(job)["code"] == "trust.unsigned_program"
    assert "trust.unsigned_program" in client.why(job)
    row = eventually(lambda: site.json("job", "show", job)["assignments"]["items"][0])
    assert (row["state"], row["code"]) == ("refused", "trust.unsigned_program")
    assert not [line for line in site.ran() if line.startswith("faulty")]

    site.front.be_honest()
    client.wait_for(job, gone=True)
    client.once()
    assert not [line for line in site.ran() if line.startswith("faulty")]
    assert site.pcm("job", "create", "faulty", "--group", "all", code=None).code in (1, 3)


def test_a_second_version_replaces_the_first_and_never_the_other_way(site: Site, client: Client) -> None:
    site.make_package("grown", "1.0")
    site.order("grown", group=client.home.name)
    client.once()
    site.make_package("grown", "2.0", more="min_release: 2\n")
    job = site.order("grown", group=client.home.name)
    client.once()
    assert site.job_states(job) == {client.client_id: "succeeded"}
    back = site.order("grown", "--version", "1.0", group=client.home.name)
    client.once()
    assert [line for line in site.ran() if line.startswith("grown")] == [
        "grown 1.0 install quick",
        "grown 2.0 install quick",
    ]
    assert client.item(back)["code"] == "trust.downgrade"
    assert site.job_states(back) == {client.client_id: "refused"}


def test_an_uninstall_waits_for_two_approvers(site: Site, client: Client) -> None:
    site.make_package("dangerous")
    site.order("dangerous", group=client.home.name)
    client.once()
    group = ("--group", client.home.name)
    job: str = site.json("job", "create", "dangerous", "--program", "uninstall", *group)["id"]
    told = site.json("job", "show", job)["job"]
    assert (told["state"], told["approvals_needed"], told["approvals_given"]) == ("waiting_for_approval", 2, 0)

    def uninstalled() -> list[str]:
        return [line for line in site.ran() if line == "dangerous 1.0 uninstall"]

    site.pcm("job", "approve", job, "--approver", "ada", "--yes", process=True)
    again = site.pcm("job", "approve", job, "--approver", "ada", "--yes", code=None)
    told = site.json("job", "show", job)["job"]
    assert (told["state"], told["approvals_given"]) == ("waiting_for_approval", 1), again
    client.once()
    assert uninstalled() == []
    assert "approv" in site.pcm("job", "show", job).text
    assert "approv" in site.pcm("client", "why", client.client_id, "--job", job).text

    site.pcm("job", "approve", job, "--approver", "bob", "--yes", process=True)
    client.wait_for(job)
    client.once()
    assert uninstalled() == ["dangerous 1.0 uninstall"]
    assert site.job_states(job) == {client.client_id: "succeeded"}


def test_a_computer_waits_until_its_fingerprint_is_approved(site: Site) -> None:
    client = Client(site, site.folder / "waiting")
    enrolled = client.pcmsvc_json("enroll", "--kit", site.kit())
    assert enrolled["state"] == "pending"
    shown = site.json("client", "show", enrolled["client_id"])
    assert shown["client"]["state"] == "pending"
    assert client.once()["problem"] is None, "waiting is no failure"
    assert not client.folder.exists(), "it has no instructions"

    wrong = site.pcm("client", "approve", enrolled["client_id"], "--fingerprint", "0000 0000", code=None, process=True)
    assert wrong.code == 1
    assert site.json("client", "show", enrolled["client_id"])["client"]["state"] == "pending"
    site.pcm("client", "approve", enrolled["client_id"], "--fingerprint", enrolled["fingerprint"], process=True)
    client.wait_for("")
    site.make_package("welcome")
    site.pcm("group", "create", "welcomed", client.client_id)
    site.clients.append(client)
    job = site.order("welcome", group="welcomed")
    assert client.once()["problem"] is None
    assert site.job_states(job) == {client.client_id: "succeeded"}


def test_a_revoked_client_reads_and_reports_nothing_more(site: Site, client: Client) -> None:
    client.once()
    site.pcm("client", "revoke", client.client_id, "--yes", process=True)
    site.clients.remove(client)
    before = site.ran()
    refused = client.once(code=4)
    assert refused["problem"]["code"] == "transfer.refused"
    assert site.ran() == before
