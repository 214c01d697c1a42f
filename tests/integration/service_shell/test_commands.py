"""`pcmsvc` for administrators, and for those who are none: the ledger's proof, a pause, exit codes, and 80 columns."""

import json
import os
import pty
import select
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pcm.model.program import Program
from pcm.service import pausing
from pcm.service.state import State
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.unit.trust.simulated import utc_now


@pytest.fixture
def ran(site: StaticSite, client: Client, marker: Path) -> Client:
    """Two programs ran: one of them failed, and has a long name."""
    bad = {"install": Program(argv=("/bin/sh", "-c", "echo no; exit 7"))}
    long = site.package(marker, name="a-package-whose-name-goes-on-and-on", release=1, files=(), programs=bad)
    site.order(client.client_id, [client.mandatory(site.package(marker), number=1), client.mandatory(long, number=2)])
    client.once(code=None)
    return client


def at_terminal(columns: int, *command: str) -> str:
    """What a command prints on a terminal of this width."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=follower,
        stderr=follower,
        stdin=follower,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm"},
    ) as process:
        os.close(follower)
        shown = b""
        while process.poll() is None or select.select([leader], [], [], 0)[0]:
            try:
                shown += os.read(leader, 65_536)
            except OSError:
                break
    os.close(leader)
    return shown.decode()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", ["list", "log", "ledger", "status"])
def test_what_is_listed_fits_the_screen(ran: Client, command: str, columns: int) -> None:
    shown = at_terminal(columns, "pcm.service.main", "--home", str(ran.home), command)
    lines = shown.splitlines()
    assert len(lines) > 3
    addresses = [line for line in lines if "file://" in line]  # a path of the tests is as long as it is
    assert max(len(line) for line in lines if line not in addresses) <= columns, shown


def rewrite(client: Client) -> None:
    connection = sqlite3.connect(client.places.database)
    with connection:
        connection.execute("UPDATE ledger SET body = CAST(replace(body, 'viewer', 'editor') AS BLOB) WHERE seq = 1")
    connection.close()


def test_the_ledgers_proof_is_one_line_and_a_broken_one_names_the_entry(ran: Client) -> None:
    shown = ran.run("ledger", "verify").stdout.splitlines()
    assert shown[0] == "2 entries, the chain holds. Its head:"
    assert len(shown[1]) == 64
    assert ran.answer("ledger", "verify")["total"] == 2
    rewrite(ran)
    broken = ran.run("ledger", "verify", code=1)
    assert "Entry 1 was changed after it was written. [ledger.changed]" in broken.stderr
    assert "from entry 1 on" in broken.stderr
    told = ran.answer("ledger", "verify", code=1)
    assert told["broken_at"] == 1
    assert [each["first"] for each in told["breaks"]] == [1]


def test_what_the_site_was_told_proves_a_chain_that_was_hashed_anew(
    ran: Client, site: StaticSite, marker: Path
) -> None:
    """The report waits here, for this logon server is a folder: what it says counts already."""
    connection = sqlite3.connect(ran.places.database)
    with connection:
        connection.execute("DELETE FROM ledger WHERE seq = 2")
    connection.close()
    [found] = ran.answer("ledger", "verify", code=1)["breaks"]
    assert (found["first"], found["last"], found["code"]) == (2, 2, "ledger.shorter")


def test_a_pause_holds_new_work_until_resume_and_says_so_everywhere(
    site: StaticSite, client: Client, marker: Path
) -> None:
    site.order(client.client_id, [client.mandatory(site.package(marker))])
    assert "Nothing more begins until" in client.run("pause", "--for", "2h").stdout
    client.once()
    assert not marker.exists()
    item = client.items()["viewer"]
    assert (item["state"], item["code"]) == ("waiting", "wait.paused")
    assert "root" in client.answer("status")["standing"]["pause"]["by"]
    assert "Paused:" in client.run("status").stdout
    assert "wait.paused" in client.run("why", item["id"]).stdout
    assert client.answer("resume")["accepted"]
    client.once()
    assert marker.read_text() == "installed\n"
    assert "pause" not in client.answer("status").get("standing", {})


def test_a_pause_ends_by_itself(site: StaticSite, client: Client, marker: Path) -> None:
    site.order(client.client_id, [client.mandatory(site.package(marker))])
    with State.open(client.places.state, utc_now()) as state:
        pausing.pause(state, "root", utc_now(), utc_now())
    client.once()
    assert marker.exists()


@pytest.mark.parametrize("span", ["", "2", "h", "2w", "-1h", "0m", "999999h", "٢h"])
def test_no_span_is_a_usage_mistake(client: Client, site: StaticSite, span: str) -> None:
    site.order(client.client_id, [])
    refused = client.run("pause", f"--for={span}", code=2)
    assert "90m, 2h or 3d" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.needs("root")
def test_what_only_administrators_may_read_is_refused_as_such(ran: Client) -> None:
    for folder in (ran.home.parent, *ran.home.parent.parents):
        if folder.stat().st_mode & 0o005 == 0:
            folder.chmod(folder.stat().st_mode | 0o005)
    ran.home.chmod(0o755)
    code = (
        "import os, sys; from pcm.service import main as service; import pcm.service.log, pcm.service.check; "
        "os.setgid(65534); os.setuid(65534); sys.exit(service.main(sys.argv[1:]))"
    )
    for command in (["log"], ["log", "j0000000001"], ["pause"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "--home", str(ran.home), *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == (4 if command[0] == "log" else 5), (command, done.stderr)


@pytest.mark.parametrize("command", ["run", "check"])
def test_an_interpreter_that_cannot_be_reached_is_named(client: Client, site: StaticSite, command: str) -> None:
    site.order(client.client_id, [])
    code = "import sys; from pcm.service.main import main; sys.executable = '/nowhere/python'; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "--home", str(client.home), command],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 1
    assert ("/nowhere/python" in done.stderr) if command == "run" else ("NO   network side" in done.stdout)


def test_the_status_of_a_computer_that_is_nobodys_client_is_no_success(tmp_path: Path) -> None:
    """A script that asks whether a computer is managed believes the exit code."""

    def status(*options: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "pcm.service.main", "--home", str(tmp_path / "home"), "status", *options)
        return subprocess.run(command, capture_output=True, text=True, check=False)

    asked = status()
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "pcmsvc install --kit FILE" in asked.stderr
    assert "[not_enrolled]" in asked.stderr
    asked = status("--json")
    assert asked.returncode == 1
    assert json.loads(asked.stdout)["enrolled"] is False


def test_a_package_is_a_name_for_why_and_log(ran: Client, site: StaticSite) -> None:
    """As for pcmapp; a name that fits several is answered with them, each with the id to say."""
    long = "a-package-whose-name-goes-on-and-on"
    by_id = ran.answer("list")["items"]
    (meant,) = [each["id"] for each in by_id if each["package"] == long]
    assert ran.answer("why", long)["id"] == meant
    assert ran.run("log", long).stdout == "no\n"
    assert ran.answer("log", long)["instruction"] == meant
    assert ran.run("names").stdout.split() == sorted({each["package"] for each in by_id})
    again = site.package(ran.home / "other", name=long, version="2.0", release=2, files=())
    site.order(ran.client_id, [ran.mandatory(again, number=7), ran.mandatory(again, number=8)])
    ran.once(code=None)
    several = ran.run("why", long, code=1)
    assert "[request.ambiguous]" in several.stderr
    assert sum(each["id"] in several.stderr for each in ran.answer("list")["items"]) >= 2
    assert "not_found" in ran.run("why", "nobody-has-this", code=3).stderr
