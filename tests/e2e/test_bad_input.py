"""Whatever people, servers, disks and clocks do wrong, through the real programs: a clear message, the right exit code, no trace of
ours, and nothing half-done. (`fleet.call` fails on any trace.)
"""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pcm.testing.hostile_server import MISBEHAVIOURS
from tests.e2e.fleet import NOW, Client, Site, call, eventually, served_site

DONE, REFUSED, USAGE, NOT_FOUND, NOT_ALLOWED, UNREACHABLE, ALREADY_RUNNING = range(7)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with served_site() as made:
        made.make_package("tool")
        yield made


@pytest.fixture(scope="module")
def client(site: Site) -> Client:
    made = site.enrol("pc")
    assert made.once()["problem"] is None
    return made


# --- packages --------------------------------------------------------------------------------------------------------------------

HEAD = "name: bad\nversion: '1'\nplatforms: [linux-any]\n"
RUN = "programs:\n  install: {command: [./setup]}\n"
# text; line and column; what the message names
MISTAKES = {
    "syntax": (HEAD + "programs: [\n", (5, 1), "package.yaml"),
    "tab": (HEAD + "\tprograms: {}\n", (4, 1), "tab"),
    "missing key": ("name: bad\nplatforms: [linux-any]\n" + RUN, (1, 1), "version"),
    "unknown key": (HEAD + "progams: {}\n" + RUN, (4, 1), "progams"),
    "twice": (HEAD + "name: again\n" + RUN, (4, 1), "name"),
    "wrong type": (HEAD.replace("[linux-any]", "linux-any") + RUN, (3, 12), "platforms"),
    "bad name": (HEAD.replace("name: bad", "name: ../Bad") + RUN, (1, 7), "name"),
    "bad platform": (HEAD.replace("linux-any", "beos-any") + RUN, (3, 13), "platforms[0]"),
    "shell line": (HEAD + "programs:\n  install: {command: ./setup --quiet}\n", (5, 22), "programs.install.command"),
    "unknown parameter": (HEAD + "programs:\n  install: {command: [./setup, '{MODE}']}\n", (5, 32), "MODE"),
    "path upwards": (HEAD + RUN.replace("{", "{working_directory: ../up, "), (5, 32), "working_directory"),
    "reserved path": (HEAD + RUN.replace("{", "{working_directory: con, "), (5, 32), "working_directory"),
    "path from nowhere": (HEAD + RUN.replace("{", "{detect: {file: etc/passwd}, "), (5, 28), "is not absolute"),
    "key of a later version": ("icon: logo.png\n" + HEAD + RUN, (1, 1), "does not do this yet"),
    "a return without a health check": (
        HEAD + RUN.replace("{", "{rollback_to: install, "),
        (5, 12),
        "need a health check",
    ),
    "bad duration": (HEAD + "programs:\n  install: {command: [./setup], timeout: soon}\n", (5, 42), "timeout"),
    "no programs": (HEAD, (1, 1), "programs"),
}


def directory(tmp_path: Path, text: str) -> Path:
    made = tmp_path / "bad"
    made.mkdir()
    (made / "package.yaml").write_text(text)
    (made / "setup").write_text("#!/bin/sh\n")
    (made / "setup").chmod(0o755)
    return made


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_in_a_description_is_shown_where_it_stands(site: Site, tmp_path: Path, mistake: str) -> None:
    text, (line, column), named = MISTAKES[mistake]
    made = directory(tmp_path, text)
    answer = site.pcm("package", "publish", made, code=REFUSED)
    assert f"{made}/package.yaml:{line}:{column}: " in answer.err, answer.err
    assert named in answer.err
    assert "bad" not in [each["name"] for each in site.json("package", "list")]


def test_a_mistake_ends_the_real_program_well(site: Site, tmp_path: Path) -> None:
    made = directory(tmp_path, HEAD + "progams: {}\n")
    answer = site.pcm("package", "create", made, code=REFUSED, process=True)
    assert ":4:1: " in answer.err
    assert "programs" in answer.err
    assert site.pcm("package", "create", made, "--nonsense", code=USAGE, process=True).out == ""


def test_missing_and_colliding_files_are_named(site: Site, tmp_path: Path) -> None:
    assert "nowhere" in site.pcm("package", "publish", tmp_path / "nowhere", code=NOT_FOUND, process=True).err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "package.yaml" in site.pcm("package", "publish", empty, code=NOT_FOUND).err
    made = directory(tmp_path, HEAD + RUN.replace("./setup", "./absent"))
    assert "absent" in site.pcm("package", "publish", made, code=REFUSED).err
    (tmp_path / "two").mkdir()
    made = directory(tmp_path / "two", HEAD.replace("[linux-any]", "[linux-any, windows-any]") + RUN)
    (made / "Setup").write_text("other")
    collision = site.pcm("package", "publish", made, code=REFUSED).err
    assert "setup" in collision
    assert "Setup" in collision
    (made / "Setup").unlink()
    for name in ("nul.txt", "a:b", "dot.", "back\\slash"):
        (made / name).write_text("x")
        assert name.split("\\")[0] in site.pcm("package", "publish", made, code=REFUSED).err
        (made / name).unlink()
    assert "bad" not in [each["name"] for each in site.json("package", "list")], "nothing half-done"


# --- enrolment -------------------------------------------------------------------------------------------------------------------


def check_nothing_configured(client: Client) -> None:
    assert not list((client.home / "etc").glob("*")), "nothing half-done"
    assert client.pcmsvc("once", code=REFUSED).err.endswith("[not_enrolled]\n")
    assert client.pcmsvc_json("status", code=1)["enrolled"] is False


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("--expires-in", "1s"), "expired"), (("--host", "elsewhere"), "another name"), ((), "not known")],
    ids=["expired", "of-another-host", "wrong"],
)
def test_a_token_that_does_not_count_enrols_nobody(site: Site, arguments: tuple[str, ...], says: str) -> None:
    token = site.json("client", "token", *arguments)["token"] if arguments else "00" * 32
    if "expired" in says:
        time.sleep(1.1)
    computer = Client(site, site.folder / f"token-{says.replace(' ', '-')}")
    refused = computer.pcmsvc("enroll", "--kit", site.kit(), "--token", token, code=NOT_ALLOWED)
    assert says in refused.err
    check_nothing_configured(computer)
    # the same computer, with a good one
    good = site.json("client", "token")["token"]
    computer.pcmsvc("enroll", "--kit", site.kit(), "--token", good)
    assert computer.pcmsvc_json("status")["enrolled"] is True
    another = Client(site, site.folder / f"second-{says.replace(' ', '-')}")
    assert "already" in another.pcmsvc("enroll", "--kit", site.kit(), "--token", good, code=NOT_ALLOWED).err


def test_a_kit_that_is_none_enrols_nobody(site: Site, tmp_path: Path) -> None:
    computer = Client(site, site.folder / "kitless")
    computer.pcmsvc("enroll", "--kit", tmp_path / "absent", code=NOT_FOUND)
    computer.pcmsvc("enroll", code=USAGE)
    for number, content in enumerate(
        (b"", b"{", b"[" * 100_000, b"\xff\xfe", b"x" * 300_000, b'{"type":"pcm.manifest"}')
    ):
        kit = tmp_path / str(number)
        kit.write_bytes(content)
        assert computer.pcmsvc("enroll", "--kit", kit, code=REFUSED).err.startswith("pcmsvc: ")
    check_nothing_configured(computer)


def test_a_site_that_does_not_answer_enrols_nobody(site: Site) -> None:
    computer = Client(site, site.folder / "lonely")
    kit = site.kit()
    for how in ("gone", "redirect", "garbage", "broken", "short"):
        site.front.answers["/logon/enroll"] = MISBEHAVIOURS[how]
        refused = computer.pcmsvc("enroll", "--kit", kit, "--token", "00" * 32, code=UNREACHABLE)
        assert "Nothing was configured" in refused.err
    site.front.be_honest()
    check_nothing_configured(computer)


# --- servers ---------------------------------------------------------------------------------------------------------------------

LYING = {
    "short": (UNREACHABLE, "transfer.truncated"),
    "short-chunk": (UNREACHABLE, "transfer.truncated"),
    "reset": (UNREACHABLE, "transfer.unreachable"),
    "reset-in-body": (REFUSED, "trust.endless_data"),
    "two-lengths": (UNREACHABLE, "transfer.protocol"),
    "huge-length": (REFUSED, "trust.endless_data"),
    "endless": (REFUSED, "trust.endless_data"),
    "endless-chunks": (REFUSED, "trust.endless_data"),
    "redirect": (UNREACHABLE, "transfer.redirected"),
    "redirect-permanent": (UNREACHABLE, "transfer.redirected"),
    "garbage": (UNREACHABLE, "transfer.protocol"),
    "long-header": (UNREACHABLE, "transfer.protocol"),
    "gone": (UNREACHABLE, "transfer.unreachable"),
    "broken": (UNREACHABLE, "transfer.server_error"),
    "forbidden": (NOT_ALLOWED, "transfer.refused"),
    "silent": (UNREACHABLE, "transfer.timeout"),
}


@pytest.mark.parametrize("lie", LYING)
def test_a_lying_or_slow_server_is_named_and_nothing_runs(site: Site, client: Client, lie: str) -> None:
    exit_code, code = LYING[lie]
    before = site.ran()
    site.order("tool", "--program", "again", group=client.home.name)
    site.front.answers[f"/logon/clients/{client.client_id}/timestamp.json"] = MISBEHAVIOURS[lie]
    problem = client.once(code=exit_code)["problem"]
    assert problem["code"].startswith(code), problem
    assert "127.0.0.1" in problem["message"] or code.startswith("trust."), problem
    assert site.ran() == before
    site.front.be_honest()
    assert client.once()["problem"] is None
    assert site.ran() == [*before, "tool 1.0 again"]


def test_an_unreachable_site_is_named_by_every_program(site: Site, client: Client) -> None:
    site.stop()
    try:
        told = site.pcm("status", code=None, process=True)
        assert told.code == UNREACHABLE or "502" in told.err, told
        assert client.once(code=UNREACHABLE)["problem"]["code"].startswith("transfer.")
        client.pcmsvc("list")
    finally:
        site.serve()
    assert client.once()["problem"] is None


# --- this computer ---------------------------------------------------------------------------------------------------------------


def test_two_services_at_once(site: Site, client: Client) -> None:
    with client.running():
        second = client.pcmsvc("run", code=ALREADY_RUNNING)
        assert "already running" in second.err
        assert client.pcmsvc_json("status")["enrolled"] is True, "asking is allowed"
        blocked = eventually(lambda: client.pcmsvc("once", code=None))
        assert blocked.code in (DONE, ALREADY_RUNNING)
    assert client.once()["problem"] is None


def check_wrong_clock(site: Site, client: Client, ago: timedelta, options: Mapping[str, Any]) -> None:
    before = site.ran()
    job = site.order("tool", "--program", "again", group=client.home.name)
    refused = client.once(code=None, **options)
    behind = ago > NOW
    assert refused["problem"]["code"] == ("trust.clock" if behind else "transfer.refused"), refused
    assert "clock" in refused["problem"]["message"], "it says what is wrong"
    assert site.ran() == before, "nothing new runs"
    assert any("set the clock" in each["reason"].lower() for each in client.pcmsvc_json("status")["refusals"])
    assert client.once()["problem"] is None, "the clock is right again"
    assert site.ran() == [*before, "tool 1.0 again"]
    assert site.job_states(job) == {client.client_id: "succeeded"}


@pytest.mark.parametrize("days", [1, -1], ids=["behind", "ahead"])
def test_a_clock_that_is_wrong_by_a_day(site: Site, client: Client, days: int) -> None:
    ago = timedelta(days=days)
    check_wrong_clock(site, client, ago, {"ago": ago})


@pytest.fixture(scope="module")
def faketime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that gives a whole process another clock; fetched, not installed."""
    folder = tmp_path_factory.mktemp("faketime")
    fetched = subprocess.run(
        ["apt-get", "download", "libfaketime"], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    if fetched.returncode:
        pytest.skip(f"apt does not give libfaketime: {fetched.stderr.strip()[-200:]}")
    subprocess.run(["dpkg", "-x", next(folder.glob("*.deb")), folder / "root"], check=True)
    return next((folder / "root").rglob("libfaketime.so.1"))


@pytest.mark.needs("apt")
@pytest.mark.parametrize("days", [1, -1], ids=["behind", "ahead"])
def test_a_whole_process_with_a_wrong_clock(site: Site, client: Client, faketime: Path, days: int) -> None:
    own = {"LD_PRELOAD": str(faketime), "FAKETIME": f"{-days:+d}d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    check_wrong_clock(site, client, timedelta(days=days), own)


@pytest.mark.needs("root")
def test_a_full_disk(site: Site) -> None:
    home = site.folder / "small"
    home.mkdir()
    if call(["mount", "-t", "tmpfs", "-o", "size=12m,mode=0755", "tmpfs", home]).code:
        pytest.skip("this machine does not let root mount a file system")
    try:
        computer = site.enrol("small")
        assert computer.once()["problem"] is None
        large = site.write_package("large")
        (large / "data").write_bytes(os.urandom(20 * 2**20))
        site.publish(large)
        before = site.ran()
        job = site.order("large", group="small")
        computer.once(code=None)
        item = computer.item(job)
        assert item["code"] == "store.disk_full", item
        assert "free" in item["reason"]
        assert site.ran() == before
        assert not list((home / "var" / "staging").iterdir()), "nothing half-done"
        row = site.json("job", "show", job)["assignments"]["items"][0]
        assert row["code"] == "store.disk_full", "the administrator sees it"

        filler = home / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (65536, 4096, 512, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue
        full = computer.pcmsvc("once", "--json", code=None)
        assert full.code in (DONE, REFUSED), full
        filler.unlink()
        call(["mount", "-o", "remount,size=200m", home])
        assert computer.once()["problem"] is None
        assert site.ran() == [*before, "large 1.0 install quick"]
        assert site.job_states(job) == {computer.client_id: "succeeded"}
    finally:
        call(["umount", home])
